//! Cranelift: legal kernels to an object file, compiled on all processors, in the order given.

mod function;
mod shape;

use super::{EmitError, on_all_processors};
use crate::{
    kir::Kernel,
    link::ALIGNMENT,
    targets::{Backend, Target},
};
use cranelift::frontend::FunctionBuilderContext;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::Function;
use cranelift_codegen::isa::{self, OwnedTargetIsa, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, FinalizedMachReloc};
use cranelift_module::{Linkage, Module, ModuleReloc};
use cranelift_object::{ObjectBuilder, ObjectModule};

fn refused(subject: &str) -> impl Fn(&dyn std::fmt::Debug) -> EmitError {
    move |e| EmitError { subject: subject.into(), message: format!("{e:?}") }
}

/// The code of one function.
struct Code {
    bytes: Vec<u8>,
    relocations: Vec<FinalizedMachReloc>,
}

/// An object file with one exported function per kernel.
///
/// # Errors
/// If Cranelift refuses the target or a kernel.
pub fn emit(kernels: &[Kernel], target: &Target) -> Result<Vec<u8>, EmitError> {
    let isa = instruction_set(target)?;
    let scratch = || Ok(FunctionBuilderContext::new());
    let codes = on_all_processors(kernels, scratch, |scratch, k| compile_one(k, &*isa, scratch))?;
    let bug = refused(target.name);
    let builder = ObjectBuilder::new(isa, "kernels", cranelift_module::default_libcall_names());
    let mut module = ObjectModule::new(builder.map_err(|e| bug(&e))?);
    for (k, code) in kernels.iter().zip(&codes) {
        let bug = refused(&k.name);
        let signature = function::signature(module.isa().default_call_conv());
        let id = module.declare_function(&k.name, Linkage::Export, &signature).map_err(|e| bug(&e))?;
        if let Some(r) = code.relocations.first() {
            return Err(bug(r));
        }
        module.define_function_bytes(id, ALIGNMENT as u64, &code.bytes, &[] as &[ModuleReloc]).map_err(|e| bug(&e))?;
    }
    module.finish().emit().map_err(|e| bug(&e))
}

/// The Cranelift function of a kernel, as text.
///
/// # Errors
/// If Cranelift refuses the target.
pub fn clif(kernel: &Kernel, target: &Target) -> Result<String, EmitError> {
    let isa = instruction_set(target)?;
    Ok(function(kernel, &*isa, &mut FunctionBuilderContext::new()).display().to_string())
}

/// Cranelift for `target`. Without optimisation: at `speed` it hoists loads over multiply-adds and spills accumulators.
fn instruction_set(target: &Target) -> Result<OwnedTargetIsa, EmitError> {
    let bug = refused(target.name);
    let Backend::Cranelift { settings: features } = target.backend else {
        return Err(bug(&"found a target of another backend, expected one of Cranelift"));
    };
    let mut flags = settings::builder();
    for (name, value) in [("opt_level", "none"), ("is_pic", "true"), ("enable_verifier", "true")] {
        flags.set(name, value).map_err(|e| bug(&e))?;
    }
    let mut isa = isa::lookup_by_name(target.arch).map_err(|e| bug(&e))?;
    for feature in features {
        isa.enable(feature).map_err(|e| bug(&e))?;
    }
    isa.finish(settings::Flags::new(flags)).map_err(|e| bug(&e))
}

fn function(kernel: &Kernel, isa: &dyn TargetIsa, scratch: &mut FunctionBuilderContext) -> Function {
    let mut func = Function::new();
    func.signature = function::signature(isa.default_call_conv());
    function::emit(kernel, isa, &mut func, scratch);
    func
}

fn compile_one(kernel: &Kernel, isa: &dyn TargetIsa, scratch: &mut FunctionBuilderContext) -> Result<Code, EmitError> {
    let mut context = Context::for_function(function(kernel, isa, scratch));
    match context.compile(isa, &mut ControlPlane::default()) {
        Ok(code) => Ok(Code { bytes: code.code_buffer().to_vec(), relocations: code.buffer.relocs().to_vec() }),
        Err(e) => Err(refused(&kernel.name)(&e.inner)),
    }
}
