//! Quantised weights end to end: kernels against the reference on what the codes stand for, quality of the example model, refusals.

use crate::args;
use crate::support::*;
use jet_codegen::targets;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const LIMITS: [&str; 6] = ["--max-context", "1024", "--max-batch", "4", "--prefill-chunk", "128"];

/// The target of the default backend.
fn portable() -> &'static str {
    targets::host().unwrap().name
}

fn austen_as(folder: &Path, weights: &str, target: &str) -> PathBuf {
    let out = folder.join(format!("{weights}-{target}.jetbin"));
    let mut command = jetc();
    command.arg("compile").arg(austen()).arg("-o").arg(&out).args(LIMITS).args([
        "--weights",
        weights,
        "--target",
        target,
    ]);
    Said::of(command.output().unwrap()).ok();
    out
}

/// The example model in bf16 on the default target, compiled once.
fn in_bf16() -> PathBuf {
    static COMPILED: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let compile = || {
        let folder = folder();
        let path = austen_as(folder.path(), "bf16", portable());
        (folder, path)
    };
    COMPILED.get_or_init(compile).1.clone()
}

fn quality(artifact: &Path) -> Value {
    let text = austen().join("heldout.txt");
    run(args!["quality", artifact, "--against", in_bf16(), "--text", text, "--json"]).ok().json()
}

/// Perplexity within `more` of bf16 (a share), KL divergence of the next token within `kl` nats, mean and 99.9 %.
fn is_close(artifact: &Path, more: f64, kl: (f64, f64)) {
    let quality = quality(artifact);
    let (against, number) = (&quality["against"], |v: &Value| v.as_f64().unwrap());
    let ratio = number(&quality["perplexity"]) / number(&against["perplexity"]);
    assert!((ratio - 1.0).abs() <= more, "{}: perplexity times {ratio}", artifact.display());
    let found = (number(&against["mean_kl"]), number(&against["kl_999"]));
    assert!(found.0 <= kl.0 && found.1 <= kl.1, "{}: divergence {found:?}", artifact.display());
    // rounding must leave a trace, or nothing was quantised
    assert!(found.0 > kl.0 / 10.0, "{}: divergence {found:?}", artifact.display());
}

/// On every target that this build makes and this machine runs. Measured: q8 6e-5 and 7e-4 nats, with activations in bytes twice that;
/// q4 5.4e-3 and 8.4e-2. The promise is 0.3 % and 4 % of perplexity.
#[test]
fn perplexity_and_divergence_of_the_example_model() {
    let folder = folder();
    for target in targets::runnable() {
        is_close(&austen_as(folder.path(), "q8", target.name), 0.003, (4e-4, 8e-3));
        is_close(&austen_as(folder.path(), "q4", target.name), 0.02, (9e-3, 0.2));
    }
}

/// The reference evaluates with the numbers that the codes stand for, so that rounding to codes is no part of the difference; where rows
/// are rounded to bytes, it does that too.
#[test]
fn kernels_agree_with_the_reference_on_the_codes() {
    let limits = ["--max-context", "128", "--max-batch", "4", "--prefill-chunk", "16"];
    for (target, weights) in targets::runnable().flat_map(|t| [(t, "q8"), (t, "q4")]) {
        for case in ["tiny-b", "tiny-c-mix"] {
            let folder = folder();
            let more = ["--weights", weights, "--target", target.name];
            let artifact = compile(folder.path(), &golden(case), &[&limits[..], &more].concat());
            let mut arguments = args!["verify", artifact, "--source", golden(case), "--json"].to_vec();
            if !jet_codegen::multiplies_bytes(target) {
                arguments.extend(args!["--tolerance", "3e-5"]);
            }
            let said = run(arguments);
            assert_eq!(said.code, Some(0), "{} {weights} {case}\n{}\n{}", target.name, said.stdout, said.stderr);
            assert!(said.json()["against_reference"]["keys"].as_array().unwrap().len() > 3);
        }
    }
}

#[test]
fn an_artifact_says_how_its_weights_are_stored() {
    let folder = folder();
    let artifact = austen_as(folder.path(), "q4", portable());
    let inspected = run(args!["inspect", artifact, "--json"]).ok().json();
    let compile = &inspected["recipe"]["compile"];
    assert_eq!(compile["weights"], "q4");
    let products = if jet_codegen::multiplies_bytes(targets::host().unwrap()) { "bytes" } else { "f32" };
    assert_eq!(compile["targets"][0]["quantised_products"], products);
    assert_eq!(compile["quantisation"]["matrices"], "q4");
    let dtypes = |part: &str| -> Vec<Value> {
        let weights = inspected["weights"].as_array().unwrap().iter();
        weights.filter(|w| w["name"].as_str().unwrap().contains(part)).map(|w| w["dtype"].clone()).collect()
    };
    let all = |part: &str, dtype: &str| {
        let found = dtypes(part);
        assert!(!found.is_empty() && found.iter().all(|d| d == dtype), "{part}: {found:?}");
    };
    all("down_proj", "q4");
    all("embed_tokens", "q8");
    all("w2.weight", "q8");
    all("a_proj", "bf16");
    all("norm.weight", "f32");
    assert_eq!(dtypes("embed_tokens").len(), 1, "a tied table is stored once");
    let said = run(args!["inspect", artifact]).ok().stdout;
    assert!(said.contains(": f32 ") && said.contains(", q4 "), "{said}");
    assert_eq!(
        run(args!["inspect", in_bf16(), "--json"]).ok().json()["recipe"]["compile"]["quantisation"],
        Value::Null
    );
}

/// A copy of a checkpoint in which columns of one row of a bf16 matrix went through `change`.
pub fn changed(
    source: &Path,
    (tensor, row): (&str, usize),
    columns: std::ops::Range<usize>,
    change: impl Fn(u16) -> u16,
) -> tempfile::TempDir {
    let folder = folder();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let found = &tensors[tensor];
    assert_eq!(found["dtype"], "BF16", "{tensor}");
    let number = |v: &Value| v.as_u64().unwrap() as usize;
    let first = 8 + header + number(&found["data_offsets"][0]) + 2 * row * number(&found["shape"][1]);
    for column in columns {
        let element = &mut bytes[first + 2 * column..][..2];
        element.copy_from_slice(&change(u16::from_le_bytes([element[0], element[1]])).to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    folder
}

/// Twice a number in bf16, zero for zero.
pub fn double(bits: u16) -> u16 {
    if bits & 0x7fff == 0 { bits } else { bits + 0x80 }
}

/// One group of 64 weights twice as large in the source: what one wrong scale of an artifact is. No other part of the model is blamed.
#[test]
fn a_wrong_scale_is_found() {
    let limits = ["--max-context", "128", "--max-batch", "4", "--prefill-chunk", "16"];
    let part = "layers.03.mlp";
    let faults = [
        ("mlp.down_proj", part),
        ("mlp.up_proj", part),
        // a gate is half of a product: the smallest error of all, 1.7e-2
        ("mlp.gate_proj", part),
        ("self_attn.o_proj", "layers.03.mixer"),
    ];
    for (target, weights) in targets::runnable().flat_map(|t| [(t, "q8"), (t, "q4")]) {
        let folder = folder();
        let more = ["--weights", weights, "--target", target.name];
        let artifact = compile(folder.path(), &golden("tiny-b"), &[&limits[..], &more].concat());
        for (tensor, part) in faults {
            let tensor = format!("model.layers.3.{tensor}.weight");
            let source = changed(&golden("tiny-b"), (&tensor, 5), 0..64, double);
            let said = run(args!["verify", artifact, "--source", source.path(), "--json"]);
            assert_eq!(said.code, Some(1), "{} {weights} {tensor}\n{}", target.name, said.stdout);
            let keys = said.json()["against_reference"]["keys"].as_array().unwrap().clone();
            let failed: Vec<_> = keys.iter().filter(|k| k["passed"] == false).map(|k| k["key"].clone()).collect();
            assert_eq!(failed, [part], "{} {weights} {tensor}", target.name);
        }
    }
}

#[test]
fn what_cannot_be_quantised_is_refused_by_name() {
    let name = "model.layers.3.mlp.up_proj.weight";
    let folder = changed(&austen(), (name, 2), 5..6, |_| 0x7f80);
    for weights in ["q8", "q4"] {
        let out = folder.path().join("out.jetbin");
        let said = run(args!["compile", folder.path(), "-o", out, "--weights", weights]);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        let expected =
            format!("{name}: row 2, column 5: found inf, expected a number of magnitude less than 1.1258999e15");
        assert!(said.stderr.contains(&expected), "{}", said.stderr);
        assert!(!out.exists());
    }
    let said = run(args!["compile", austen(), "-o", folder.path().join("out.jetbin"), "--weights", "q3"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("q8, q4"), "{}", said.stderr);
}
