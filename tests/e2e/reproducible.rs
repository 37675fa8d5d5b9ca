//! Same inputs, same bytes; and an interrupted compilation leaves nothing behind.

use crate::args;
use crate::support::*;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Copies the files of a directory.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn artifacts_are_equal_byte_for_byte() {
    let folder = folder();
    let limits = ["--max-context", "256", "--max-batch", "4", "--prefill-chunk", "64"];
    let (here, there) = (folder.path().join("a/model"), folder.path().join("another place/with a name"));
    copy(&golden("tiny-b"), &here);
    copy(&golden("tiny-b"), &there);
    let build = |source: &Path, name: &str, cores: &str| {
        let out = folder.path().join(name);
        // The number of cores that the process may use must not shape what it writes.
        let mut command = std::process::Command::new("taskset");
        command.args(["-c", cores, env!("CARGO_BIN_EXE_jetc")]);
        command.args(args!["compile", source, "-o", out]).args(limits).current_dir(source);
        Said::of(command.output().expect("taskset (util-linux) is there")).ok();
        std::fs::read(out).unwrap()
    };
    let first = build(&here, "1.jetbin", "0-1");
    assert!(first == build(&here, "2.jetbin", "0-1"), "compiled twice");
    assert!(first == build(&there, "3.jetbin", "0-1"), "compiled in another directory");
    assert!(first == build(&here, "4.jetbin", "0"), "compiled on one core");
}

#[test]
fn a_synthetic_model_equals_its_checkpoint() {
    let folder = folder();
    let config = golden("tiny-a").join("config.json");
    let limits = "max_context = 256\nmax_batch = 4\nprefill_chunk = 64\n";
    let model = synthetic_model(folder.path(), &config, 11, limits);
    let synthetic = compile(folder.path(), &model, &[]);
    let out = folder.path().join("checkpoint.jetbin");
    let checkpoint = golden("tiny-a");
    run(args!["compile", checkpoint, "-o", out, "--max-context", "256", "--max-batch", "4", "--prefill-chunk", "64"])
        .ok();
    let weights = |path: &Path| {
        let json = run(args!["inspect", path, "--json"]).ok().json();
        let section = json["sections"].as_array().unwrap().iter().find(|s| s["kind"] == "weight-data").unwrap().clone();
        section["blake3"].clone()
    };
    assert_eq!(weights(&synthetic), weights(&out), "the generator gives the weights of the file");
}

#[test]
fn layers_of_one_kind_share_their_kernels() {
    let folder = folder();
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(golden("tiny-a").join("config.json")).unwrap()).unwrap();
    let mut kernels = |layers: Vec<&str>| {
        config["num_hidden_layers"] = layers.len().into();
        config["layer_types"] = layers.into();
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let artifact =
            compile(folder.path(), &synthetic_model(folder.path(), &path, 1, ""), &["--target", "x86-64-v3,sm_80"]);
        let said = run(args!["inspect", artifact, "--json"]).ok().json();
        let count = |target: &Value| target["kernels"].as_array().unwrap().len();
        said["targets"].as_array().unwrap().iter().map(count).collect::<Vec<_>>()
    };
    let once = kernels(vec!["jet", "jet", "attn", "swa", "jet"]);
    let often = kernels(["jet", "attn", "swa"].repeat(6));
    assert!(once.iter().all(|n| *n > 10), "{once:?}");
    assert_eq!(once, often, "kernels of 5 and of 18 layers");
}

/// Starts a compilation that takes a while, ends it with a signal after `delay`, and lists what is left.
fn interrupted(signal: i32, delay: Duration) -> (Vec<String>, bool) {
    let folder = folder();
    let config = golden("block-2b-attn").join("config.json");
    let model = synthetic_model(folder.path(), &config, 1, "max_context = 256\n");
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let artifact = out.join("model.jetbin");
    let mut command = jetc();
    command.args(args!["compile", model, "-o", artifact]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(delay);
    // SAFETY: sends a signal to a child of ours that has not been waited for, so that its id is still its own.
    unsafe { libc::kill(child.id() as i32, signal) };
    let finished = child.wait().unwrap().success();
    let left = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    (left, finished)
}

#[test]
fn an_interrupted_compilation_leaves_nothing_behind() {
    let folder = folder();
    let config = golden("block-2b-attn").join("config.json");
    let model = synthetic_model(folder.path(), &config, 1, "max_context = 256\n");
    let start = Instant::now();
    compile(folder.path(), &model, &[]);
    let whole = start.elapsed();
    let mut caught = 0;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        // The first compilation can be several times slower than those after it: the delays end at a third of its time.
        for part in 1..8 {
            let (left, finished) = interrupted(signal, whole * part / 24);
            if finished {
                assert_eq!(left, ["model.jetbin"], "a compilation that was faster than the signal is complete");
            } else {
                caught += 1;
                assert!(left.is_empty(), "signal {signal} after {part}/24: {left:?}");
            }
        }
    }
    assert!(caught >= 6, "many of the 21 signals come before the end, found {caught}");
}

#[test]
fn a_failed_compilation_keeps_what_was_there() {
    let folder = folder();
    let artifact = folder.path().join("model.jetbin");
    std::fs::write(&artifact, "something of value").unwrap();
    let said = run(args!["compile", golden("tiny-a"), "-o", artifact, "--max-context", "0"]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert_eq!(std::fs::read_to_string(&artifact).unwrap(), "something of value");
}
