//! GPU code without a GPU: whole models through the simulator of PTX text, against the values of the official code; `cuda.rs` does the same
//! through the driver's interface.

use crate::args;
use crate::golden::block_checkpoint;
use crate::quantised::{changed, double};
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

/// Every value but the greedy choices, which differ where two logits are nearer than bf16 can tell; no tolerance is above the artifact's own.
pub fn matches(jetc: Command, device: &str, artifact: &Path, case: &str, more: &[&str]) {
    within(jetc, device, (artifact, &golden(case).join("io.safetensors")), tolerance_of_bf16(case), more);
}

/// The same for any artifact, reference and tolerance.
fn within(mut jetc: Command, device: &str, (artifact, reference): (&Path, &Path), tolerance: f64, more: &[&str]) {
    let case = reference.display();
    let args = args!["compare", artifact, reference, "--json", "--device", device];
    let said = Said::of(jetc.args(args).args(more).output().expect("the binary starts"));
    assert!(said.code == Some(0) || said.code == Some(1), "{case} {more:?}\n{}\n{}", said.stdout, said.stderr);
    let report = said.json();
    let keys = report["keys"].as_array().unwrap();
    let mut compared = 0;
    for key in keys.iter().filter(|k| !k["key"].as_str().unwrap().ends_with("_ids")) {
        let error = key["relative_l2"].as_f64().unwrap_or(f64::INFINITY);
        let tolerance = key["tolerance"].as_f64().expect("a tolerance").min(tolerance);
        assert!(error <= tolerance, "{case} {more:?} {}: {error:e} > {tolerance:e}\n{key}", key["key"]);
        compared += 1;
    }
    assert!(compared > 3, "{case}: {compared} keys");
}

/// The text says of each kernel what it computes, and whoever wants to read it can have it.
#[test]
fn the_code_of_a_target_can_be_read() {
    let folder = folder();
    let artifact = compiled(folder.path(), "tiny-c-mix", "sm_80");
    let text = run(args!["inspect", artifact, "--code", "sm_80"]).ok().stdout;
    assert!(text.starts_with(".version 7.8\n.target sm_80\n"), "{}", &text[..80]);
    let lines: Vec<&str> = text.lines().collect();
    let entries = (1..lines.len()).filter(|i| lines[*i].starts_with(".visible .entry "));
    let documented = entries.clone().filter(|i| lines[i - 1].starts_with("// "));
    assert!(entries.clone().count() > 10 && entries.count() == documented.count(), "{text}");
    assert!(text.contains("//   store(silu(dynamic_conv(bias(acc(_, [packed bf16["), "{text}");
    let said = run(args!["inspect", artifact, "--code", "x86-64-v3"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(2), "error: --code: found x86-64-v3, expected one of sm_80\n"));
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
    short_prompts_and_chunks "tiny-c-mix", ["--chunks", "2,3,7", "--together"], ["--chunks", "1,16"];
    small_norms "tiny-d-eps";
}

/// Each part of a model is held to the roundings in it: a gate of which 64 weights are twice as large shows in its MLP and nowhere else, an
/// error that the sum of all roundings hides.
#[test]
fn a_wrong_group_of_a_gate_is_found() {
    let (case, folder) = (golden("tiny-b"), folder());
    for target in GPUS {
        let artifact = compiled(folder.path(), "tiny-b", target);
        let against = |source: &Path| {
            let said = run(args!["verify", artifact, "--source", source, "--device", "ptxsim", "--json"]);
            let keys = said.json()["against_reference"]["keys"].as_array().unwrap().clone();
            let failed = keys.iter().filter(|k| k["passed"] == false);
            (keys.len(), failed.map(|k| k["key"].as_str().unwrap().to_string()).collect::<Vec<_>>(), said.code)
        };
        let (keys, failed, code) = against(&case);
        assert!(keys > 20 && failed.is_empty() && code == Some(0), "{target}: {failed:?} of {keys}");
        let source = changed(&case, ("model.layers.3.mlp.gate_proj.weight", 5), 0..64, double);
        assert_eq!(against(source.path()), (keys, vec!["layers.03.mlp".to_string()], Some(1)), "{target}");
    }
}

/// One layer at the size of the 2B model, 160 tokens at once and 4 one by one.
fn block(case: &str, target: &str) {
    let folder = folder();
    let (seed, model) = (meta(case)["seed"].as_u64().expect("a seed"), folder.path().join("checkpoint"));
    block_checkpoint(&golden(case).join("config.json"), seed, 164, &model);
    let limits = ["--max-context", "256", "--max-batch", "2", "--prefill-chunk", "160"];
    let artifact = compile(folder.path(), &model, &[&limits[..], &["--target", target]].concat());
    matches(jetc(), "ptxsim", &artifact, case, &[]);
}

#[test]
fn block_2b_jet() {
    block("block-2b-jet", "sm_90a");
}

#[test]
fn block_2b_attn() {
    block("block-2b-attn", "sm_80");
}

#[test]
fn block_2b_swa() {
    block("block-2b-swa", "sm_90a");
}

/// Logits of a trained model with operands rounded to bf16, relative to those of the official code in f32: an operand is off by 2^-9 at
/// most, in the mean by a third of that, which eight layers of two parts each add up like a random walk; twice that.
const AUSTEN: f64 = 2.0 * 4.0 / 512.0;

/// The example model, prompts in chunks and 64 steps of three sequences at once.
#[test]
fn the_example_model() {
    let folder = folder();
    let limits = ["--max-context", "512", "--max-batch", "4", "--prefill-chunk", "128"];
    let artifact = compile(folder.path(), &austen(), &[&limits[..], &["--backend", "ptx"]].concat());
    within(jetc(), "ptxsim", (&artifact, &austen().join("reference.safetensors")), AUSTEN, &["--together"]);
}

/// Counts instead of times: the weights are read by every call, states grow with the context, what takes too long is refused.
#[test]
fn a_benchmark_counts() {
    let folder = folder();
    let artifact = compiled(folder.path(), "tiny-c-mix", "sm_90a");
    let bench = |more: &[&str]| {
        let mut command = jetc();
        command.args(args!["bench", artifact, "--device", "ptxsim"]).args(more);
        Said::of(command.output().expect("the binary starts"))
    };
    let report = bench(&["-p", "20", "-n", "3", "-d", "0,40", "-b", "1,2", "-o", "json"]).ok().json();
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|r| r["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["pp20", "tg1", "tg1 b2", "pp20 @ d40", "tg1 @ d40", "tg1 b2 @ d40"]);
    let figure = |row: usize, key: &str| rows[row][key].as_f64().unwrap();
    for row in rows {
        let least = [("weight_bytes", 1e4), ("launches", 10.0), ("sectors_per_request", 1.0), ("roofline_us", 10.0)];
        least.iter().for_each(|(key, least)| assert!(row[key].as_f64().unwrap() >= *least, "{key}: {row}"));
    }
    assert!(figure(4, "state_bytes") > figure(1, "state_bytes") && figure(2, "state_bytes") > figure(1, "state_bytes"));
    let table = bench(&["-p", "0", "-n", "1"]).ok().stdout;
    assert!(table.starts_with("Counted in the simulator, nothing is timed;"), "{table}");
    assert_eq!(bench(&["-p", "0", "-n", "1", "-b", "1,2", "-o", "csv"]).ok().stdout.lines().count(), 3);
    let said = bench(&["-p", "1000"]);
    assert!(said.code == Some(2) && said.stderr.contains("the artifact's context is 256"), "{}", said.stderr);
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
