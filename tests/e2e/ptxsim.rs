//! GPU code without a GPU: whole models through the simulator of PTX text, against the values of the official code; `cuda.rs` does the same
//! through the driver's interface.

use crate::args;
use crate::support::*;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What they are compiled for: every GPU, the one whose code runs where an artifact holds both first.
pub const GPUS: [&str; 2] = ["sm_90a", "sm_80"];

/// A golden model for a GPU.
pub fn compiled(folder: &Path, case: &str, target: &str) -> PathBuf {
    let limits = ["--max-context", "256", "--max-batch", "8", "--prefill-chunk", "64"];
    compile(folder, &golden(case), &[&limits[..], &["--target", target, "--no-cubin"]].concat())
}

/// What the official code itself deviates by in bf16, half as much again: products round their operands to bf16.
fn tolerance_of_bf16(case: &str) -> f64 {
    meta(case)["tolerance"]["bf16_rel_l2_outputs"].as_f64().expect("a tolerance for bf16")
}

/// Every value but the greedy choices, which differ where two logits are nearer than bf16 can tell.
pub fn matches(mut jetc: Command, device: &str, artifact: &Path, case: &str, more: &[&str]) {
    let (tolerance, reference) = (tolerance_of_bf16(case), golden(case).join("io.safetensors"));
    let args = args!["compare", artifact, reference, "--json", "--device", device];
    let said = Said::of(jetc.args(args).args(more).output().expect("the binary starts"));
    assert!(said.code == Some(0) || said.code == Some(1), "{case} {more:?}\n{}\n{}", said.stdout, said.stderr);
    let report = said.json();
    let keys = report["keys"].as_array().unwrap();
    let mut compared = 0;
    for key in keys.iter().filter(|k| !k["key"].as_str().unwrap().ends_with("greedy_ids")) {
        let error = key["relative_l2"].as_f64().unwrap_or(f64::INFINITY);
        assert!(error <= tolerance, "{case} {more:?} {}: {error:e} > {tolerance:e}\n{key}", key["key"]);
        compared += 1;
    }
    assert!(compared > 10, "{case}: {compared} keys");
}

macro_rules! cases {
    ($($test:ident $case:literal $(, $more:expr)*;)*) => {$(
        #[test]
        fn $test() {
            for target in GPUS {
                let folder = folder();
                let artifact = compiled(folder.path(), $case, target);
                matches(jetc(), "ptxsim", &artifact, $case, &[]);
                $(matches(jetc(), "ptxsim", &artifact, $case, &$more);)*
            }
        }
    )*};
}
cases! {
    every_kind_of_layer "tiny-a";
    ragged_batches "tiny-b", ["--together"];
    short_prompts_and_chunks "tiny-c-mix", ["--chunks", "2,3,7", "--together"];
    small_norms "tiny-d-eps";
}

/// The code does not run on a CPU, and says so.
#[test]
fn a_cpu_refuses_it_by_name() {
    let folder = folder();
    let artifact = compile(folder.path(), &golden("tiny-c-attn"), &["--backend", "ptx", "--max-context", "256"]);
    let said = run(args!["run", artifact, "--ids", "1,2", "-n", "1"]);
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    GPUS.iter().for_each(|gpu| assert!(said.stderr.contains(&format!("{gpu} needs a cuda device")), "{}", said.stderr));
    let said = run(args!["run", artifact, "--ids", "1,2,3", "-n", "4", "--temp", "0", "--device", "ptxsim"]).ok();
    assert_eq!(said.stdout.trim().split(',').count(), 4, "{}", said.stdout);
}
