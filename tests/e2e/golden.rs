//! The official model's values, recomputed by compiled artifacts.

use crate::args;
use crate::support::*;
use jet_codegen::targets;
use jet_frontend::ModelConfig;
use jet_frontend::synth::{Generator, input_rows};
use jet_frontend::tensor_writer::{TensorHeader, TensorWriter};
use jet_frontend::tensors::{EMBEDDING, TensorSpec};
use std::path::{Path, PathBuf};

/// Compiles a tiny case from its checkpoint, with room for all of its sequences at once.
fn tiny(folder: &Path, case: &str) -> PathBuf {
    compile(folder, &golden(case), &["--max-context", "256", "--max-batch", "8", "--prefill-chunk", "64"])
}

/// Compares with the case's file and its own tolerance; every key must pass.
fn matches(artifact: &Path, case: &str, more: &[&str]) {
    let tolerance = tolerance(case).to_string();
    let reference = golden(case).join("io.safetensors");
    let mut command = jetc();
    command.args(args!["compare", artifact, reference, "--json", "--tolerance", tolerance]).args(more);
    let said = Said::of(command.output().unwrap());
    assert_eq!(said.code, Some(0), "{case} {more:?}\n{}\n{}", said.stdout, said.stderr);
    let report = said.json();
    assert_eq!(report["passed"], true);
    let expected = measured_keys(&reference);
    let found: Vec<_> = report["keys"].as_array().unwrap().iter().map(|k| k["key"].as_str().unwrap()).collect();
    assert_eq!(found, expected, "{case}: every key of the file is compared");
}

/// The keys of a reference that hold results.
fn measured_keys(reference: &Path) -> Vec<String> {
    let inputs = ["input_ids", "chunks", "n_prefill", "layer_hidden_positions", "full_rows_positions"];
    let is_input = |key: &str| inputs.iter().any(|i| key.ends_with(i)) || key.ends_with("_indices");
    let tensors = jetc::compare::tensors::read(reference).unwrap();
    tensors.into_keys().filter(|key| !is_input(key)).collect()
}

/// One by one, as one ragged batch, and in pieces of every length that the convolution's four taps make special.
fn every_way(case: &str) {
    let folder = folder();
    let artifact = tiny(folder.path(), case);
    matches(&artifact, case, &[]);
    matches(&artifact, case, &["--together"]);
    for chunks in ["1", "2", "3", "7", "2,3,7"] {
        matches(&artifact, case, &["--chunks", chunks]);
        matches(&artifact, case, &["--chunks", chunks, "--together"]);
    }
    matches(&artifact, case, &["--threads", "1"]);
    matches(&artifact, case, &["--threads", "3", "--together"]);
}

macro_rules! tiny_cases {
    ($($test:ident $case:literal,)*) => {$(
        #[test]
        fn $test() {
            every_way($case);
        }
    )*};
}

tiny_cases! {
    tiny_a "tiny-a",
    tiny_b "tiny-b",
    tiny_c_jet "tiny-c-jet",
    tiny_c_attn "tiny-c-attn",
    tiny_c_mix "tiny-c-mix",
    tiny_d_eps "tiny-d-eps",
}

/// The cases above are compiled for the best target; here are the others that this build makes and this machine runs.
#[test]
fn tiny_cases_on_every_other_target() {
    let best = targets::defaults(None).unwrap()[0];
    for target in targets::runnable().filter(|t| *t != best) {
        for case in ["tiny-a", "tiny-b", "tiny-c-jet", "tiny-c-attn", "tiny-c-mix", "tiny-d-eps"] {
            let folder = folder();
            let limits = ["--max-context", "256", "--max-batch", "8", "--prefill-chunk", "64"];
            let target = ["--target", target.name];
            let artifact = compile(folder.path(), &golden(case), &[&limits[..], &target].concat());
            matches(&artifact, case, &[]);
            matches(&artifact, case, &["--chunks", "2,3,7", "--together"]);
        }
    }
}

/// With rounded operands of products the values are those of the official model in bf16, within its own distance from f32.
#[test]
fn tiny_cases_with_bf16_activations_on_every_target() {
    for target in targets::runnable() {
        for case in ["tiny-a", "tiny-b", "tiny-c-jet", "tiny-c-attn", "tiny-c-mix", "tiny-d-eps"] {
            let folder = folder();
            let limits = ["--max-context", "256", "--max-batch", "8", "--prefill-chunk", "64"];
            let options = ["--target", target.name, "--activations", "bf16"];
            let artifact = compile(folder.path(), &golden(case), &[&limits[..], &options].concat());
            let tolerance = meta(case)["tolerance"]["bf16_rel_l2_outputs"].to_string();
            let reference = golden(case).join("io.safetensors");
            run(args!["compare", artifact, reference, "--tolerance", tolerance]).ok();
            run(args!["compare", artifact, reference, "--tolerance", tolerance, "--chunks", "2,3,7", "--together"])
                .ok();
            // something is rounded: f32's tolerance is far off
            assert_eq!(run(args!["compare", artifact, reference, "--tolerance", "1e-4"]).code, Some(1), "{case}");
        }
    }
}

/// One decoder layer at the size of the 2B model: a model of one layer whose embedding table holds the input rows.
fn block(case: &str) {
    let folder = folder();
    let seed = meta(case)["seed"].as_u64().unwrap();
    let model = folder.path().join("checkpoint");
    block_checkpoint(&golden(case).join("config.json"), seed, 164, &model);
    let artifact =
        compile(folder.path(), &model, &["--max-context", "256", "--max-batch", "2", "--prefill-chunk", "64"]);
    matches(&artifact, case, &[]);
    matches(&artifact, case, &["--chunks", "64,64,7"]);
}

/// Writes a checkpoint of `config` under `seed` whose embedding is the generator's tensor "input" of `rows` rows.
pub fn block_checkpoint(config: &Path, seed: u64, rows: usize, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let text = std::fs::read_to_string(config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["vocab_size"] = rows.into();
    (json["bos_token_id"], json["eos_token_id"]) = (0.into(), 0.into());
    std::fs::write(folder.join("config.json"), json.to_string()).unwrap();
    let config = ModelConfig::read(&folder.join("config.json")).unwrap();
    let specs = config.tensors();
    let generators: Vec<_> = specs.iter().map(|spec| Generator::for_tensor(spec, seed)).collect();
    let header = |(spec, g): (&TensorSpec, &Generator)| {
        let dtype = g.dtype().element_type();
        TensorHeader { name: spec.name.clone(), dtype, shape: spec.shape.clone() }
    };
    let headers: Vec<_> = specs.iter().zip(&generators).map(header).collect();
    let mut writer = TensorWriter::create(&folder.join("model.safetensors"), headers.clone()).unwrap();
    for (tensor, generator) in headers.iter().zip(&generators) {
        let mut bytes = vec![0; tensor.bytes() as usize];
        generator.fill_bytes_parallel(0, &mut bytes);
        if tensor.name == EMBEDDING {
            let values = input_rows(seed, rows, tensor.shape[1]);
            // The generator has rounded the values to bf16: the upper halves are exact.
            bytes = values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
        }
        writer.append(&tensor.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn block_2b_jet() {
    block("block-2b-jet");
}

#[test]
fn block_2b_attn() {
    block("block-2b-attn");
}

#[test]
fn block_2b_swa() {
    block("block-2b-swa");
}

#[test]
fn a_wrong_value_is_found() {
    let folder = folder();
    let artifact = tiny(folder.path(), "tiny-c-mix");
    let mut tensors = jetc::compare::tensors::read(&golden("tiny-c-mix").join("io.safetensors")).unwrap();
    let array = tensors.get_mut("seq2.logits").unwrap();
    let jetc::compare::tensors::Data::F32(values) = &mut array.data else { panic!("logits are values") };
    values[77] += 0.01;
    let changed = folder.path().join("changed.safetensors");
    jetc::compare::tensors::write(&changed, &tensors).unwrap();
    let said = run(args!["compare", artifact, changed, "--json"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let failed: Vec<_> =
        said.json()["keys"].as_array().unwrap().iter().filter(|k| k["passed"] == false).cloned().collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["key"], "seq2.logits");
    assert!((failed[0]["max_abs"].as_f64().unwrap() - 0.01).abs() < 1e-4);
}

#[test]
fn saved_values_compare_equal_to_a_second_run() {
    let folder = folder();
    let artifact = tiny(folder.path(), "tiny-c-attn");
    let reference = golden("tiny-c-attn").join("io.safetensors");
    let saved = folder.path().join("ours.safetensors");
    run(args!["compare", artifact, reference, "--save", saved]).ok();
    let tensors = jetc::compare::tensors::read(&saved).unwrap();
    assert!(tensors.contains_key("seq0.decode_logits") && tensors.contains_key("seq3.final.layers.0.k"));
    // The same calls give the same bits, whatever the number of threads.
    run(args!["compare", artifact, saved, "--tolerance", "0", "--threads", "1"]).ok();
}
