//! Checks with the full-size models: `scripts/heavy.sh` runs them. They take minutes, gigabytes of disk, and mean something in an optimised
//! build alone.
//!
//! Each test compiles a model with synthetic weights, holds compile time, size and memory against their limits, compares with the
//! golden values, and prints a benchmark.

use crate::args;
use crate::support::*;
use jet_codegen::targets;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Anonymous memory of a process may exceed what it states by this much: code, stacks, tables, the allocator.
const MARGIN_BYTES: u64 = 64 << 20;

/// What a child process did.
struct Measured {
    said: Said,
    elapsed: Duration,
    /// Largest anonymous memory seen, in bytes.
    peak_anonymous: u64,
}

/// Runs a command, looking at its anonymous memory every few milliseconds.
fn measured(command: &mut Command) -> Measured {
    let start = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let status = format!("/proc/{}/status", child.id());
    let waiting = std::thread::spawn(move || child.wait_with_output().expect("the command ends"));
    let mut peak_anonymous = 0;
    while !waiting.is_finished() {
        peak_anonymous = peak_anonymous.max(anonymous_bytes(&status).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = Said::of(waiting.join().expect("the thread only waits"));
    Measured { said, elapsed: start.elapsed(), peak_anonymous }
}

fn anonymous_bytes(status: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

fn mb(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

/// A folder under the target folder, which has the room that the system's temporary folder may lack.
fn roomy_folder() -> tempfile::TempDir {
    let heavy = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(heavy).expect("a folder under the target folder")
}

/// Compiles a checkpoint on disk: packing and writing without the generation of weights, as a user's own model is compiled.
fn compile_checkpoint(folder: &Path, case: &str) -> PathBuf {
    let (checkpoint, artifact) = (folder.join("checkpoint"), folder.join("model.jetbin"));
    let seed = meta(case)["seed"].as_u64().unwrap().to_string();
    let config = golden(case).join("config.json");
    let start = Instant::now();
    run(args!["synth", config, "--seed", seed, "-o", checkpoint]).ok();
    println!("{case}: checkpoint written in {:.1} s", start.elapsed().as_secs_f64());
    let limits = ["--max-context", "4096", "--max-batch", "4", "--prefill-chunk", "512"];
    let compiled = measured(jetc().args(args!["compile", checkpoint, "-o", artifact]).args(limits));
    compiled.said.ok();
    let parameters = meta(case)["n_params"].as_u64().unwrap();
    let size = std::fs::metadata(&artifact).unwrap().len();
    let ratio = size as f64 / (2 * parameters) as f64;
    println!(
        "{case}: compiled in {:.1} s, peak anonymous memory {}, artifact {} = {ratio:.4} x the weights in bf16",
        compiled.elapsed.as_secs_f64(),
        mb(compiled.peak_anonymous),
        mb(size),
    );
    // 2B: 90 s; a larger model in proportion.
    let limit = 90.0 * (parameters as f64 / 1.9648e9).max(1.0);
    assert!(compiled.elapsed.as_secs_f64() <= limit, "expected at most {limit:.0} s");
    assert!(compiled.peak_anonymous < 1_000_000_000, "expected less than 1 GB of anonymous memory");
    assert!(ratio <= 1.02, "expected an artifact of at most 1.02 x the weights");
    std::fs::remove_dir_all(&checkpoint).unwrap();
    artifact
}

/// Compares with the golden values and gives the report.
fn compared(artifact: &Path, case: &str, name: &str, tolerance: f64) -> Value {
    let reference = golden(case).join("io.safetensors");
    let said = run(args!["compare", artifact, reference, "--tolerance", tolerance.to_string(), "--json"]);
    let report = said.json();
    println!(
        "{name}: worst relative L2 {:.2e} (tolerance {tolerance}), worst top-1 {}",
        report["worst_relative_l2"].as_f64().unwrap(),
        report["worst_top1"],
    );
    assert_eq!(said.code, Some(0), "{}", said.stdout);
    report
}

fn compare_with_golden(artifact: &Path, case: &str) {
    let report = compared(artifact, case, case, tolerance(case));
    let greedy = report["keys"].as_array().unwrap().iter().find(|k| k["key"] == "seq0.greedy_ids").unwrap();
    assert_eq!(greedy["top1"], 1.0, "greedy ids are equal");
}

/// Memory of a run stays within what the artifact states.
fn check_memory(artifact: &Path, case: &str) {
    let facts = run(args!["inspect", artifact, "--json"]).ok().json();
    let programs = |field: &str| -> u64 {
        let all = facts["targets"].as_array().unwrap().iter().flat_map(|t| t["programs"].as_array().unwrap());
        all.map(|p| p[field].as_u64().unwrap()).max().unwrap()
    };
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    let slot = facts["targets"].as_array().unwrap().iter().filter_map(|t| t["slot_bytes"].as_u64()).max().unwrap();
    let stated = slot + programs("arena_bytes") + threads * programs("scratch_bytes");
    let ids = (0..48).map(|i| (i * 3001).to_string()).collect::<Vec<_>>().join(",");
    let ran = measured(jetc().args(args!["run", artifact, "--ids", ids, "-n", "8"]));
    println!("{case}: running takes {} of anonymous memory, stated {}", mb(ran.peak_anonymous), mb(stated));
    ran.said.ok();
    assert!(ran.peak_anonymous <= stated + MARGIN_BYTES, "expected at most {} more", mb(MARGIN_BYTES));
}

fn benchmark(artifact: &Path, case: &str, tests: &[&str]) {
    let said =
        Said::of(jetc().arg("bench").arg(artifact).args(tests).args(["-r", "2", "-o", "json"]).output().unwrap());
    let report = said.ok().json();
    let number = |v: &Value, field: &str| v[field].as_f64().unwrap();
    for row in report["rows"].as_array().unwrap() {
        println!(
            "{case}: {} {:.2} ± {:.2} tok/s, {:.0} % of {:.1} GB/s, {:.0} % of {:.0} GFLOP/s of 128-bit multiply-adds",
            row["test"].as_str().unwrap(),
            number(row, "avg_ts"),
            number(row, "stddev_ts"),
            100.0 * number(row, "read_share"),
            number(row, "read_gbps"),
            100.0 * number(&row["shares"], "f32_128"),
            number(&report["ceilings"]["arithmetic"], "f32_128"),
        );
    }
    let load = number(&report["load"], "load_ms");
    println!("{case}: load {load:.1} ms, first token after {:.1} ms", number(&report["load"], "first_token_ms"));
    assert!(load < 100.0, "expected a warm artifact to load in less than 100 ms");
}

#[test]
#[ignore = "minutes and gigabytes: scripts/heavy.sh runs it"]
fn full_2b() {
    let folder = roomy_folder();
    let artifact = compile_checkpoint(folder.path(), "full-2b");
    compare_with_golden(&artifact, "full-2b");
    check_memory(&artifact, "full-2b");
    benchmark(&artifact, "full-2b", &["-p", "128", "-n", "16"]);
}

/// The default target is above; here are the others, and all with rounded activations, which the golden values allow more.
#[test]
#[ignore = "minutes and gigabytes: scripts/heavy.sh runs it"]
fn full_2b_on_every_target() {
    let (folder, case) = (roomy_folder(), "full-2b");
    let limits = "max_context = 256\nprefill_chunk = 64\n";
    let seed = meta(case)["seed"].as_u64().unwrap();
    let model = synthetic_model(folder.path(), &golden(case).join("config.json"), seed, limits);
    let best = targets::defaults(None).unwrap()[0];
    let rounded = meta(case)["tolerance"]["bf16_rel_l2_outputs"].as_f64().unwrap();
    for target in targets::runnable() {
        for (activations, tolerance) in [("f32", tolerance(case)), ("bf16", rounded)] {
            if (target, activations) != (best, "f32") {
                let options = ["--target", target.name, "--activations", activations];
                let artifact = compile(folder.path(), &model, &options);
                compared(&artifact, case, &format!("{case}, {}, activations {activations}", target.name), tolerance);
            }
        }
    }
}

#[test]
#[ignore = "minutes and gigabytes: scripts/heavy.sh runs it"]
fn full_4b() {
    let folder = roomy_folder();
    let artifact = compile_checkpoint(folder.path(), "full-4b");
    compare_with_golden(&artifact, "full-4b");
    check_memory(&artifact, "full-4b");
}
