//! Other shapes and seeds than the golden data have: artifacts against the reference evaluation, op by op.

use crate::args;
use crate::support::*;
use serde_json::{Value, json};

/// A configuration with every size explicit; `change` edits it.
fn config(change: impl FnOnce(&mut Value)) -> Value {
    let mut config = json!({
        "model_type": "jet_nemotron", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97, "layer_types": ["jet", "swa", "attn"],
        "efficient_attention_config": {
            "jet": { "conv_size": 4, "dconv_generator_reduction": 8, "expand_v": 2, "head_dim": 12, "mode": "chunk",
                "norm_eps": "1e-5", "num_heads": 2 },
            "swa": { "window_size": 5 }
        },
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 64,
        "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 0
    });
    change(&mut config);
    config
}

/// Compiles and verifies against the reference evaluation.
fn agrees(name: &str, config: &Value, seed: u64, limits: &str) {
    let folder = folder();
    let path = folder.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let model = synthetic_model(folder.path(), &path, seed, limits);
    let artifact = compile(folder.path(), &model, &[]);
    let said = run(args!["verify", artifact, "--source", model, "--tolerance", "3e-5", "--json"]);
    assert_eq!(said.code, Some(0), "{name}\n{}\n{}", said.stdout, said.stderr);
    let report = said.json();
    assert!(report["against_reference"]["keys"].as_array().unwrap().len() > 3, "{name}");
}

const LIMITS: &str = "max_context = 48\nmax_batch = 3\nprefill_chunk = 7\n";

#[test]
fn seeds() {
    for seed in [1, 2, 0xffff_ffff_ffff] {
        agrees("seed", &config(|_| ()), seed, LIMITS);
    }
}

#[test]
fn an_untied_head_and_an_odd_vocabulary() {
    agrees("untied", &config(|c| (c["tie_word_embeddings"], c["vocab_size"]) = (json!(false), json!(131))), 3, LIMITS);
}

#[test]
fn convolutions_of_one_to_six_taps() {
    for taps in [1, 2, 3, 5, 6] {
        let change = |c: &mut Value| c["efficient_attention_config"]["jet"]["conv_size"] = json!(taps);
        agrees(&format!("{taps} taps"), &config(change), 4, LIMITS);
    }
}

#[test]
fn sizes_that_fill_no_vector() {
    let change = |c: &mut Value| {
        (c["hidden_size"], c["intermediate_size"]) = (json!(44), json!(37));
        (c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]) = (json!(3), json!(1), json!(10));
        let jet = &mut c["efficient_attention_config"]["jet"];
        (jet["head_dim"], jet["num_heads"], jet["expand_v"]) = (json!(9), json!(3), json!(1.3333333334));
        jet["dconv_generator_reduction"] = json!(4);
    };
    agrees("odd sizes", &config(change), 5, LIMITS);
}

#[test]
fn all_layers_of_one_kind() {
    for kind in ["jet", "attn", "swa"] {
        agrees(kind, &config(|c| c["layer_types"] = json!([kind, kind, kind])), 6, LIMITS);
    }
}

#[test]
fn windows_chunks_and_contexts_of_one() {
    let change = |c: &mut Value| c["efficient_attention_config"]["swa"]["window_size"] = json!(1);
    agrees("window 1", &config(change), 7, LIMITS);
    agrees("chunk 1", &config(|_| ()), 7, "max_context = 48\nmax_batch = 1\nprefill_chunk = 1\n");
    agrees("context 1", &config(|_| ()), 7, "max_context = 1\nmax_batch = 1\nprefill_chunk = 1\n");
}

#[test]
fn weights_in_f32() {
    agrees("f32", &config(|_| ()), 8, &format!("{LIMITS}weights = \"f32\"\n"));
}

#[test]
fn groups_of_query_heads() {
    for (heads, kv) in [(6, 1), (6, 2), (6, 3), (6, 6)] {
        let change = |c: &mut Value| (c["num_attention_heads"], c["num_key_value_heads"]) = (json!(heads), json!(kv));
        agrees(&format!("{heads}/{kv}"), &config(change), 9, LIMITS);
    }
}

/// Caches so long that one token reads them in parts, on windows and on everything.
#[test]
fn caches_in_parts() {
    let change = |c: &mut Value| {
        c["max_position_embeddings"] = json!(9000);
        c["efficient_attention_config"]["swa"]["window_size"] = json!(8500);
    };
    agrees("parts", &config(change), 10, "max_context = 9000\nmax_batch = 3\nprefill_chunk = 7\n");
    let folder = folder();
    let path = folder.path().join("config.json");
    std::fs::write(&path, config(change).to_string()).unwrap();
    let model = synthetic_model(folder.path(), &path, 10, "max_context = 9000\n");
    let artifact = compile(folder.path(), &model, &[]);
    let kernels = run(args!["inspect", artifact, "--kernels"]).ok().stdout;
    assert!(kernels.contains("attention_parts") && kernels.contains("attention_merge"), "{kernels}");
}
