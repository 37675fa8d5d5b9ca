//! From kernels to bytes: the same bytes every time, complete diagnostics, and no object that would need a dynamic linker.

use cranelift::codegen::ir::{AbiParam, InstBuilder, UserFuncName, types::I64};
use cranelift::codegen::{isa, settings};
use cranelift::frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{DataDescription, FuncId, Linkage, Module};
use cranelift_object::{ObjectBuilder, ObjectModule};
use jet_codegen::kir::{Builder, F32, Index, Kernel, Op, Value, parse};
use jet_codegen::link::{ALIGNMENT, LinkError, flat_link};
use jet_codegen::{Error, compile, targets::TARGETS};

/// `y[i] = exp(c x[i])`, different for each `c`.
fn scaled_exp(name: &str, c: f32) -> Kernel {
    Builder::build(name, &TARGETS[0], |k| {
        let (x, y) = (k.input::<F32>("x"), k.output::<F32>("y"));
        k.items(16, false, |i| y.at(i * 8u32).store((x.at(i * 8u32).load(8) * c).exp()));
    })
}

fn several() -> Vec<Kernel> {
    (0..9).map(|i| scaled_exp(&format!("scaled_{i}"), i as f32 + 0.5)).collect()
}

#[test]
fn equal_kernels_give_equal_bytes() {
    for target in TARGETS.iter().filter(|t| t.backend.is_built() && !t.is_gpu()) {
        let first = compile(&several(), target).unwrap();
        assert_eq!(compile(&several(), target).unwrap(), first, "{}", target.name);
        assert_eq!(first.symbols.len(), 9);
        assert!(first.symbols.values().all(|at| at % ALIGNMENT == 0 && *at < first.bytes.len()));
    }
}

/// Code does not depend on its neighbours: a kernel alone is the same as the kernel among others.
#[test]
fn a_kernel_is_compiled_alike_in_any_company() {
    for target in TARGETS.iter().filter(|t| t.backend.is_built() && !t.is_gpu()) {
        let all = compile(&several(), target).unwrap();
        for k in several() {
            let alone = compile(std::slice::from_ref(&k), target).unwrap();
            let at = all.symbols[&k.name];
            assert_eq!(alone.bytes, all.bytes[at..at + alone.bytes.len()], "{} {}", target.name, k.name);
        }
    }
}

#[test]
fn no_kernels_give_no_bytes() {
    assert_eq!(compile(&[], &TARGETS[0]).unwrap(), Default::default());
}

#[test]
fn two_kernels_of_one_name_are_refused() {
    let error = compile(&[scaled_exp("a", 1.0), scaled_exp("a", 2.0)], &TARGETS[0]).unwrap_err();
    assert_eq!(error.to_string(), "two kernels are called a");
}

/// Faults of all kernels, not of the first one only.
#[test]
fn faults_are_collected() {
    let broken = |name: &str| {
        let mut k = scaled_exp(name, 1.0);
        k.body.insts.retain(|i| !matches!(i.op, Op::Const(_)));
        k
    };
    let Err(Error::Verify(faults)) = compile(&[broken("a"), scaled_exp("b", 1.0), broken("c")], &TARGETS[0]) else {
        panic!("expected faults")
    };
    let of = |name: &str| faults.iter().filter(|f| f.kernel == name).count();
    assert!(of("a") >= 2 && of("c") == of("a") && of("b") == 0, "{faults:?}");
    assert!(faults[0].message.contains("is used outside its scope"), "{}", faults[0]);
}

/// A yield of a value that does not exist, as a pass might leave it.
#[test]
fn undefined_values_are_named() {
    let mut k = scaled_exp("a", 1.0);
    let stray = k.fresh(jet_codegen::kir::Type::Vec(jet_codegen::kir::Elem::Index, 1));
    k.body.yields.push(stray);
    let Err(Error::Verify(faults)) = compile(&[k], &TARGETS[0]) else { panic!("expected faults") };
    let text: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        ["kernel a: %undefined is used outside its scope", "kernel a: a block yields (index), expected ()"]
    );
}

fn module() -> ObjectModule {
    let isa = isa::lookup_by_name("x86_64").unwrap().finish(settings::Flags::new(settings::builder())).unwrap();
    ObjectModule::new(ObjectBuilder::new(isa, "test", cranelift_module::default_libcall_names()).unwrap())
}

/// A function `name` that calls `callee`.
fn caller(module: &mut ObjectModule, name: &str, callee: FuncId) {
    let mut context = module.make_context();
    context.func.name = UserFuncName::default();
    context.func.signature.params.push(AbiParam::new(I64));
    let id = module.declare_function(name, Linkage::Export, &context.func.signature).unwrap();
    let callee = module.declare_func_in_func(callee, &mut context.func);
    let mut scratch = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut context.func, &mut scratch);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let argument = b.block_params(entry)[0];
    b.ins().call(callee, &[argument]);
    b.ins().return_(&[]);
    b.seal_all_blocks();
    b.finalize(module.target_config());
    module.define_function(id, &mut context).unwrap();
}

fn import(module: &mut ObjectModule, name: &str) -> FuncId {
    let mut signature = module.make_signature();
    signature.params.push(AbiParam::new(I64));
    module.declare_function(name, Linkage::Import, &signature).unwrap()
}

#[test]
fn an_undefined_symbol_is_refused() {
    let mut m = module();
    let callee = import(&mut m, "memcpy");
    caller(&mut m, "kernel", callee);
    let error = flat_link(&m.finish().emit().unwrap()).unwrap_err();
    assert!(matches!(error, LinkError::Undefined(_) | LinkError::Relocation(_)), "{error}");
}

#[test]
fn writable_data_is_refused() {
    let mut m = module();
    let id = m.declare_data("state", Linkage::Export, true, false).unwrap();
    let mut data = DataDescription::new();
    data.define(vec![1, 2, 3].into());
    m.define_data(id, &data).unwrap();
    let error = flat_link(&m.finish().emit().unwrap()).unwrap_err();
    assert!(matches!(error, LinkError::Writable(_)), "{error}");
}

#[test]
fn read_only_data_is_laid_out() {
    let mut m = module();
    let id = m.declare_data("table", Linkage::Export, false, false).unwrap();
    let mut data = DataDescription::new();
    data.define(vec![1, 2, 3].into());
    m.define_data(id, &data).unwrap();
    let blob = flat_link(&m.finish().emit().unwrap()).unwrap();
    assert_eq!(blob.bytes[blob.symbols["table"]..][..3], [1, 2, 3]);
}

#[test]
fn what_is_not_an_object_is_refused() {
    for bytes in [&b""[..], b"\x7fELF", &[0; 100]] {
        assert!(matches!(flat_link(bytes).unwrap_err(), LinkError::Malformed(_)));
    }
}

/// No text makes the parser, the printer or the verifier panic: every file of `tests/kir` is cut at each byte, and each byte is
/// replaced by some that matter.
#[test]
fn damaged_texts_are_refused_or_judged() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kir");
    let mut judged = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|e| e != "kir") {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        let cuts = (0..text.len()).map(|i| text[..i].to_string());
        let swaps = (0..text.len()).flat_map(|i| {
            let swapped = |b: u8| [&text[..i], std::str::from_utf8(&[b]).unwrap(), &text[i + 1..]].concat();
            b"%{}(),:=x09-\n".map(swapped)
        });
        for damaged in cuts.chain(swaps) {
            if let Ok((kernel, _)) = parse(&damaged) {
                let _ = (kernel.to_string(), jet_codegen::kir::verify(&kernel, Some(&TARGETS[0])));
                judged += 1;
            }
        }
    }
    assert!(judged > 1000, "only {judged} of the damaged texts could be read");
}

/// The builder is not needed to make values: ids are checked, too.
#[test]
fn operands_of_no_type_are_refused() {
    let mut k = Builder::build("a", &TARGETS[0], |k| k.output::<F32>("y").store(1.0));
    let count = k.types.len() as u32;
    k.body.insts.iter_mut().for_each(|i| i.args.iter_mut().for_each(|a| *a = Value(count + 7)));
    assert!(compile(&[k], &TARGETS[0]).is_err());
}

/// `Index` literals keep their sign and their size.
#[test]
fn literals_are_exact() {
    let k = Builder::build("a", &TARGETS[0], |k| {
        let n: jet_codegen::kir::V<Index> = k.count("n");
        k.output::<F32>("y").at(n * (-3i32) + 5_000_000_000usize).store(1.0);
    });
    let text = k.to_string();
    assert!(text.contains("index = const -3") && text.contains("0x12a05f200"), "{text}");
}
