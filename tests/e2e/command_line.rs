//! What the command line says to bad flags, bad files and bad requests: one line for each problem, the right exit code, no panic.

use crate::args;
use crate::support::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

struct Files {
    folder: tempfile::TempDir,
    /// A model without a tokenizer, context 64, batch 2.
    artifact: PathBuf,
    /// The example model, context 64.
    austen: PathBuf,
}

fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = folder();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        [&one, &two].into_iter().for_each(|f| std::fs::create_dir(f).unwrap());
        let limits = ["--max-context", "64", "--max-batch", "2", "--prefill-chunk", "16"];
        let artifact = compile(&one, &golden("tiny-a"), &limits);
        let austen = compile(&two, &austen(), &limits);
        Files { folder, artifact, austen }
    })
}

/// Runs and expects exit code 2 and, on stderr, exactly these lines.
fn refused(args: &[&str], expected: &str) {
    let said = run(args);
    assert_eq!((said.code, said.stderr.trim_end()), (Some(2), expected), "{args:?}");
    assert_eq!(said.stdout, "", "{args:?}: nothing on stdout");
}

/// Runs and expects exit code 2 and that clap names the problem.
fn bad_usage(args: &[&str], expected: &str) {
    let said = run(args);
    assert_eq!(said.code, Some(2), "{args:?}\n{}", said.stderr);
    assert!(said.stderr.contains(expected), "{args:?}\n{}", said.stderr);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn usage_that_the_parser_refuses() {
    bad_usage(&[], "Usage: jetc <COMMAND>");
    bad_usage(&["frobnicate"], "unrecognized subcommand 'frobnicate'");
    bad_usage(&["compile", "x"], "--output <OUTPUT>");
    bad_usage(&["compile", "x", "-o", "y", "--weights", "q3"], "invalid value 'q3' for '--weights <WEIGHTS>'");
    bad_usage(&["compile", "x", "-o", "y", "--weights-file", "cloud"], "invalid value 'cloud'");
    bad_usage(&["compile", "x", "-o", "y", "--max-context", "many"], "invalid value 'many' for '--max-context <N>'");
    bad_usage(&["run", "x", "-p", "a", "--ids", "1"], "cannot be used with '--ids");
    bad_usage(&["run", "x", "-i", "--ids", "1"], "cannot be used with");
    bad_usage(&["run", "x", "--ids", "1,b"], "invalid value 'b' for '--ids <N,N,..>'");
    bad_usage(&["run", "x", "-p", "a", "--system", "s"], "--interactive");
    bad_usage(&["run", "x", "-p", "a", "-n", "-3"], "unexpected argument '-3'");
    bad_usage(&["compare", "x"], "<REFERENCE>");
    bad_usage(&["compare", "x", "y", "--tolerance", "none"], "invalid value 'none'");
    bad_usage(&["bench", "x", "-r", "0"], "0 is not in 1..");
    bad_usage(&["bench", "x", "-o", "xml"], "invalid value 'xml'");
    bad_usage(&["quality", "x"], "--text <FILE>");
    bad_usage(&["quality", "x", "--text", "t", "--window", "1"], "1 is not in 2..");
    bad_usage(&["synth", "x"], "--output <OUTPUT>");
    bad_usage(&["synth", "x", "-o", "y", "--seed", "1.5"], "invalid value '1.5' for '--seed <SEED>'");
}

#[test]
fn requests_that_an_artifact_cannot_serve() {
    let Files { artifact, austen, folder } = files();
    let (artifact, austen) = (text(artifact), text(austen));
    refused(&["run", artifact], "error: nothing to continue: expected -p, --ids or -i");
    let no_tokenizer = "error: the artifact has no tokenizer, so it takes token ids only: expected --ids";
    refused(&["run", artifact, "-p", "hello"], no_tokenizer);
    refused(&["run", artifact, "-i"], no_tokenizer);
    refused(&["run", austen, "-i"], "error: the artifact has no chat template, so it cannot chat: expected -p");
    refused(&["run", austen, "-p", ""], "error: -p: found an empty prompt, expected one token at least");
    refused(&["run", artifact, "--ids", "1,512"], "error: token id 512, expected below 512");
    refused(
        &["run", artifact, "--ids", "1", "-c", "65"],
        "error: -c: found 65, expected 1 to the artifact's context of 64",
    );
    refused(
        &["run", artifact, "--ids", "1", "-c", "0"],
        "error: -c: found 0, expected 1 to the artifact's context of 64",
    );
    let long = vec!["1"; 64].join(",");
    refused(&["run", artifact, "--ids", &long], "error: found 64 tokens, expected less than the context of 64");
    refused(&["run", artifact, "--ids", "1", "--temp=-1"], "error: temperature is -1, expected a number above 0");
    refused(&["run", artifact, "--ids", "1", "--top-p", "2"], "error: top_p is 2, expected 0 to 1");
    refused(&["run", artifact, "--ids", "1", "--min-p=-0.5"], "error: min_p is -0.5, expected 0 to 1");
    refused(
        &["run", artifact, "--ids", "1", "--repeat-penalty", "0"],
        "error: repetition_penalty is 0, expected a number above 0",
    );
    refused(
        &["run", artifact, "--ids", "1", "--stop", ""],
        "error: --stop: found an empty text, expected one character at least",
    );
    refused(&["bench", artifact, "-p", "0", "-n", "0"], "error: nothing to measure: -p and -n are both 0");
    refused(&["bench", artifact, "-p", "65"], "error: pp65: 65 tokens, the artifact's context is 64");
    refused(
        &["bench", artifact, "-p", "4294967295", "-d", "1"],
        "error: pp4294967295 @ d1: 4294967296 tokens, the artifact's context is 64",
    );
    refused(
        &["bench", artifact, "-p", "0", "-n", "8", "-d", "60"],
        "error: tg8 @ d60: 68 tokens, the artifact's context is 64",
    );
    refused(&["bench", artifact, "-p", "8", "-n", "8", "-b", "3"], "error: -b: found 3, expected 1 to 2");
    refused(&["bench", artifact, "-p", "8", "-n", "8", "-b", "0"], "error: -b: found 0, expected 1 to 2");
    let missing = folder.path().join("missing.txt");
    refused(
        &["quality", austen, "--text", text(&missing)],
        &format!("error: {}: cannot read: No such file or directory (os error 2)", missing.display()),
    );
    let short = folder.path().join("short.txt");
    std::fs::write(&short, "a").unwrap();
    refused(
        &["quality", austen, "--text", text(&short)],
        &format!("error: {}: found 1 tokens, expected 2 at least", short.display()),
    );
    std::fs::write(folder.path().join("long.txt"), "It is a truth").unwrap();
    let long = folder.path().join("long.txt");
    refused(
        &["quality", austen, "--text", text(&long)],
        "error: --window: found 512, expected at most the artifact's context of 64",
    );
    refused(
        &["quality", austen, "--text", text(&long), "--window", "16", "--against", artifact],
        &format!("error: {artifact}: found a vocabulary of 512, expected 2048"),
    );
}

#[test]
fn references_that_do_not_fit() {
    let Files { artifact, folder, .. } = files();
    let artifact = text(artifact);
    let reference = golden("tiny-a").join("io.safetensors");
    let reference = text(&reference);
    refused(&["compare", artifact, reference], "error: seq0: found 107 tokens, expected at most the context of 64");
    refused(&["compare", artifact, reference, "--tolerance=-1"], "error: --tolerance: found -1, expected 0 or more");
    refused(
        &["compare", artifact, reference, "--chunks", "3,0"],
        &format!("error: {reference}: seq0: chunks: expected lengths of at least 1"),
    );
    refused(
        &["compare", artifact, "/nonexistent.safetensors"],
        "error: /nonexistent.safetensors: cannot open: No such file or directory (os error 2)",
    );
    let weights = golden("tiny-a").join("model.safetensors");
    refused(
        &["compare", artifact, text(&weights)],
        &format!("error: {}: model: expected input_ids, or layer_out of a single layer", weights.display()),
    );
    let other = golden("tiny-c-jet").join("io.safetensors");
    refused(
        &["compare", artifact, text(&other), "--together"],
        "error: seq3: found 143 tokens, expected at most the context of 64",
    );
    let mut tensors = jetc::compare::tensors::read(&other).unwrap();
    tensors.retain(|key, _| ["seq0", "seq1", "seq2"].iter().any(|s| key.starts_with(s)));
    let three = folder.path().join("three.safetensors");
    jetc::compare::tensors::write(&three, &tensors).unwrap();
    refused(
        &["compare", artifact, text(&three), "--together"],
        "error: --together: found 3 sequences, expected at most the artifact's batch of 2",
    );
}

#[test]
fn sources_that_cannot_be_compiled() {
    let out = folder();
    let target = out.path().join("x.jetbin");
    let target = text(&target);
    let source = golden("tiny-a");
    let source = text(&source);
    let compile = |more: &[&str], expected: &str| {
        refused(&[&["compile", source, "-o", target][..], more].concat(), expected);
        assert!(!Path::new(target).exists());
    };
    compile(&["--max-context", "0"], "error: max_context: found 0, expected 1 to 16777216");
    compile(&["--max-batch", "0"], "error: max_batch: found 0, expected 1 to 4096");
    compile(&["--prefill-chunk", "0"], "error: prefill_chunk: found 0, expected 1 to 65536");
    compile(
        &["--max-context", "0", "--max-batch", "99999"],
        "error: max_context: found 0, expected 1 to 16777216\nerror: max_batch: found 99999, expected 1 to 4096",
    );
    compile(&["--activations", "f16"], "error: activations: found `f16`, expected f32 or bf16");
    refused(
        &["compile", "/nonexistent", "-o", target],
        "error: /nonexistent: cannot read: No such file or directory (os error 2)",
    );
    let empty = out.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refused(
        &["compile", text(&empty), "-o", target],
        &format!("error: {}: found no config.json in the directory, expected one", empty.display()),
    );
    refused(
        &["compile", source, "-o", "/nonexistent/x.jetbin"],
        "error: /nonexistent/x.jetbin: No such file or directory (os error 2)",
    );
    bad_usage(&["compile", source, "-o", target, "--target", "z80"], "targets: found `z80`, expected some of ");
    bad_usage(&["compile", source, "-o", target, "--target", "aarch64,aarch64"], "targets: `aarch64` is named twice");
    bad_usage(
        &["compile", source, "-o", target, "--backend", "gcc"],
        "backend: found `gcc`, expected cranelift or mlir",
    );
    let other = ["compile", source, "-o", target, "--backend", "cranelift", "--target", "znver4"];
    bad_usage(&other, "targets: `znver4` is made by the backend mlir, expected targets of cranelift");
    if !cfg!(feature = "mlir") {
        let absent = "backend: this build of jetc has no `mlir`, expected one with the cargo feature `mlir`";
        bad_usage(&["compile", source, "-o", target, "--backend", "mlir"], absent);
    }
    let existing = golden("tiny-a").join("model.safetensors");
    refused(
        &["synth", source, "-o", source],
        &format!("error: {}: exists already; expected a directory without weights", existing.display()),
    );
}

#[test]
fn files_that_are_not_or_no_longer_artifacts() {
    let Files { artifact, folder, .. } = files();
    let good = std::fs::read(artifact).unwrap();
    let path = folder.path().join("bad.jetbin");
    let with = |bytes: &[u8], expected: &str| {
        std::fs::write(&path, bytes).unwrap();
        for command in [&["inspect"][..], &["verify"], &["bench"]] {
            let said = run([command, &[text(&path)]].concat());
            assert_eq!(said.code, Some(2), "{}", said.stderr);
            assert!(said.stderr.contains(expected), "{expected}: {}", said.stderr);
        }
    };
    with(b"", "not a jetbin artifact: 0 bytes");
    with(b"GGUF is another format that people try", "not a jetbin artifact");
    with(&good[..good.len() / 2], "bytes found");
    with(&good[..100], "bad.jetbin");
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 64;
        bytes
    };
    with(&changed(8), "format version 65.4 found, this build reads 1.0 to 1.4");
    with(&changed(10), "format version 1.68 found, this build reads 1.0 to 1.4");
    with(&changed(40), "hash");
    with(&changed(good.len() - 1), "hash");
    // A changed weight does not keep the artifact from opening; verify finds it.
    let json = run(args!["inspect", artifact, "--json"]).ok().json();
    let sections = json["sections"].as_array().unwrap();
    let data = sections.iter().find(|s| s["kind"] == "weight-data").unwrap();
    let at = data["offset"].as_u64().unwrap() + data["bytes"].as_u64().unwrap() / 2;
    std::fs::write(&path, changed(at as usize)).unwrap();
    run(args!["inspect", path]).ok();
    let said = run(args!["verify", path, "--json"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.json()["weights_problem"].as_str().unwrap().contains("hash"), "{}", said.stdout);
}

#[test]
fn weights_in_a_second_file_belong_to_their_artifact() {
    let folder = folder();
    let limits = ["--max-context", "64", "--max-batch", "2", "--prefill-chunk", "16", "--weights-file", "external"];
    let artifact = compile(folder.path(), &golden("tiny-a"), &limits);
    let weights = artifact.with_extension("weights");
    let ids = ["--ids", "1,2,3", "-n", "4"];
    let whole = run([&["run", text(&files().artifact)][..], &ids].concat()).ok();
    let split = || run([&["run", text(&artifact)][..], &ids].concat());
    assert_eq!(split().ok().stdout, whole.stdout);
    let good = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &good[..good.len() - 1]).unwrap();
    let said = split();
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("external weights"), "{}", said.stderr);
    std::fs::remove_file(&weights).unwrap();
    let said = split();
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("model.weights") && said.stderr.contains("No such file"), "{}", said.stderr);
}

#[test]
fn an_artifact_for_another_machine_is_refused_with_the_reason() {
    let folder = folder();
    let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86-64-v3" };
    let artifact = compile(folder.path(), &golden("tiny-c-attn"), &["--max-context", "64", "--target", other]);
    run(args!["inspect", artifact]).ok();
    let said = run(args!["run", artifact, "--ids", "1"]);
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert!(said.stderr.contains(other) && said.stderr.contains("this machine is"), "{}", said.stderr);
}

#[test]
fn an_artifact_for_two_machines_runs_on_this_one() {
    let folder = folder();
    let limits = ["--max-context", "64", "--max-batch", "2", "--prefill-chunk", "16"];
    let targets = ["--target", "aarch64,x86-64-v3"];
    let artifact = compile(folder.path(), &golden("tiny-a"), &[&limits[..], &targets].concat());
    let text = |path: &Path| run(args!["run", path, "--ids", "1,2,3", "-n", "8"]).ok().stdout;
    assert_eq!(text(&artifact), text(&files().artifact));
    let (here, there) = if cfg!(target_arch = "x86_64") { ("x86-64-v3", "aarch64") } else { ("aarch64", "x86-64-v3") };
    let asked = |target: &str| run(args!["run", artifact, "--ids", "1,2,3", "-n", "8", "--use-target", target]);
    assert_eq!(asked(here).ok().stdout, text(&artifact));
    let refused = |target: &str, reason: &str| {
        let said = asked(target);
        assert_eq!(said.code, Some(3), "{target}");
        assert!(said.stderr.contains(reason), "{target}: {}", said.stderr);
    };
    refused(there, &format!("{there} is for "));
    refused("i386", &format!("{here} is not the one that was asked for"));
}
