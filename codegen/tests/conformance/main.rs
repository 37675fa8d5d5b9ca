//! What kernels mean, case by case, on the engine of every target: `x86-64-v3/control::carried_values_swap`. An
//! engine that is not here is reported as ignored.

#[path = "../emulator/mod.rs"]
mod emulator;
#[path = "../loader/mod.rs"]
mod loader;

mod bounds;
mod control;
mod engine;
mod lanes;
mod math;
mod matvec;
mod memory;
mod table;

use engine::Engine;
use jet_codegen::kir::{Builder, F32, I32, Index, Kernel, Ptr, V};
use jet_codegen::targets;
use libtest_mimic::{Arguments, Trial};

/// A case of one file; it panics if the engine is wrong.
type Case = (&'static str, fn(&Engine));

fn main() {
    let files = [
        ("control", control::CASES),
        ("lanes", lanes::CASES),
        ("memory", memory::CASES),
        ("table", table::CASES),
        ("math", math::CASES),
        ("matvec", matvec::CASES),
    ];
    let mut trials = vec![];
    for (engine, _) in Engine::all() {
        for (file, cases) in files {
            for (name, case) in cases {
                trials.push(trial(engine, file, name, *case));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn trial(engine: &'static str, file: &str, name: &str, case: fn(&Engine)) -> Trial {
    let find = move || Engine::all().into_iter().find(|(e, _)| *e == engine).and_then(|(_, found)| found);
    let missing = find().is_none();
    let run = move || {
        case(&find().ok_or("the engine is not here")?);
        Ok(())
    };
    Trial::test(format!("{engine}/{file}::{name}"), run).with_ignored_flag(missing)
}

/// Lists the cases of a file.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub const CASES: &[crate::Case] = &[$((stringify!($name), $name)),*];
    };
}
use cases;

/// A kernel of no particular name.
fn kernel(body: impl for<'k> FnOnce(&'k Builder)) -> Kernel {
    Builder::build("case", &targets::TARGETS[0], body)
}

/// f32 in, f32 out.
fn floats(
    e: &Engine,
    x: &[f32],
    n: usize,
    body: impl for<'k> FnOnce(&'k Builder, Ptr<'k, F32>, Ptr<'k, F32>),
) -> Vec<f32> {
    e.run(x, n, &[], kernel(|k| body(k, k.input("x"), k.output("y"))))
}

/// Counts in, the low 32 bits of subscripts out.
fn indices<const N: usize>(
    e: &Engine,
    counts: [u64; N],
    body: impl for<'k> FnOnce(&'k Builder, [V<'k, Index>; N]) -> Vec<V<'k, Index>>,
) -> Vec<i32> {
    let mut results = 0;
    let k = kernel(|k| {
        let (_, y) = (k.input::<F32>("x"), k.output::<I32>("y"));
        let out = body(k, std::array::from_fn(|i| k.count(&format!("n{i}"))));
        results = out.len();
        out.iter().enumerate().for_each(|(i, v)| y.at(i).store(v.to_i32()));
    });
    e.run(&[0f32], results, &counts, k)
}
