//! Configurations that have to be refused, each with its exact message, and the oddities that are accepted.

use jet_frontend::{LayerKind, ModelConfig};
use serde_json::{Value, json};

/// A model with one layer of each kind.
fn good() -> Value {
    json!({
        "architectures": ["JetNemotronForCausalLM"], "model_type": "jet_nemotron", "hidden_size": 64,
        "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 512, "layer_types": ["jet", "attn", "swa"],
        "efficient_attention_config": {
            "jet": {
                "conv_size": 4, "dconv_generator_reduction": 8, "dconv_implementation": "triton",
                "expand_v": 2.6666666667, "head_dim": 24, "mode": "chunk", "norm_eps": "1e-5", "num_heads": 2
            },
            "swa": {"window_size": 16}
        },
        "hidden_act": "silu", "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "rope_scaling": null,
        "max_position_embeddings": 32768, "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 0,
        "torch_dtype": "bfloat16", "initializer_range": 0.02, "use_cache": true, "use_mrope": false,
        "auto_map": {"AutoConfig": "x"}, "attention_dropout": 0.0, "max_window_layers": 3,
        "transformers_version": "4.51.3", "pad_token_id": 0
    })
}

const JET: &str = "/efficient_attention_config/jet";

/// `good()` with some values replaced; a path ends in a key, and a missing value removes it.
fn changed(changes: &[(&str, Option<Value>)]) -> String {
    let mut config = good();
    for (path, value) in changes {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let map = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => map.insert(key.to_string(), value.clone()),
            None => map.shift_remove(key),
        };
    }
    config.to_string()
}

fn message(text: &str) -> String {
    match ModelConfig::parse(text.as_bytes(), "config.json") {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => problems.to_string(),
    }
}

/// One change each: the path, the value put there, and the message.
#[test]
fn one_unfit_field() {
    let size = "expected an integer from 1 to 16777216";
    let table: &[(&str, Value, &str)] = &[
        ("/hidden_act", json!("gelu"), "hidden_act: found \"gelu\", expected \"silu\""),
        (
            "/rope_scaling",
            json!({"rope_type": "yarn", "factor": 4}),
            "rope_scaling: found {\"rope_type\":\"yarn\",\"factor\":4}, expected null",
        ),
        ("/rope_scaling", json!(2), "rope_scaling: found 2, expected null"),
        (
            "/rope_parameters",
            json!({"rope_theta": 1e4}),
            "rope_parameters: found {\"rope_theta\":10000.0}, expected rope_theta and no rope_scaling",
        ),
        ("/use_mrope", json!(true), "use_mrope: found true, expected false"),
        ("/use_sliding_window", json!(true), "use_sliding_window: found true, expected false"),
        (
            "/quantization_config",
            json!({"quant_method": "awq"}),
            "quantization_config: found {\"quant_method\":\"awq\"}, expected null",
        ),
        (
            "/layer_types",
            json!(["jet", "attn", "mamba"]),
            "layer_types[2]: found \"mamba\", expected \"jet\", \"attn\" or \"swa\"",
        ),
        ("/layer_types", json!(["jet", "attn", 3]), "layer_types[2]: found 3, expected \"jet\", \"attn\" or \"swa\""),
        ("/layer_types", json!(["jet", "attn"]), "layer_types: found 2 layers, expected num_hidden_layers = 3"),
        ("/layer_types", json!("jet"), "layer_types: found \"jet\", expected a list of \"jet\", \"attn\" and \"swa\""),
        ("/num_hidden_layers", json!(0), "num_hidden_layers: found 0, expected an integer from 1 to 4096"),
        ("/hidden_size", json!(0), &format!("hidden_size: found 0, {size}")),
        ("/hidden_size", json!(-64), &format!("hidden_size: found -64, {size}")),
        ("/hidden_size", json!("64"), &format!("hidden_size: found \"64\", {size}")),
        ("/hidden_size", json!(64.5), &format!("hidden_size: found 64.5, {size}")),
        ("/intermediate_size", json!(u64::MAX), &format!("intermediate_size: found 18446744073709551615, {size}")),
        ("/vocab_size", json!(1e30), &format!("vocab_size: found 1e+30, {size}")),
        (
            "/num_key_value_heads",
            json!(3),
            "num_key_value_heads: found 3, expected a divisor of num_attention_heads = 4",
        ),
        (
            "/num_attention_heads",
            json!(6),
            "num_attention_heads: found 6, expected a divisor of hidden_size = 64 where head_dim is not given",
        ),
        ("/head_dim", json!(15), "head_dim: found 15, expected an even number for the rotary embedding's pairs"),
        (
            "/head_dim",
            json!(16777216),
            "head_dim: found num_attention_heads * head_dim = 67108864, expected at most 16777216",
        ),
        ("/rms_norm_eps", json!(-1e-6), "rms_norm_eps: found -1e-6, expected a positive number"),
        ("/rms_norm_eps", json!(0), "rms_norm_eps: found 0, expected a positive number"),
        ("/rms_norm_eps", json!(1e-60), "rms_norm_eps: found 1e-60, expected a positive number"),
        ("/rms_norm_eps", json!("1e-6"), "rms_norm_eps: found \"1e-6\", expected a positive number"),
        ("/rope_theta", json!(true), "rope_theta: found true, expected a positive number"),
        ("/tie_word_embeddings", json!(1), "tie_word_embeddings: found 1, expected true or false"),
        (
            "/max_position_embeddings",
            json!([]),
            "max_position_embeddings: found [], expected an integer from 1 to 2147483647",
        ),
        ("/eos_token_id", json!("</s>"), "eos_token_id: found \"</s>\", expected a token id or a list of token ids"),
        ("/eos_token_id", json!([0, -1]), "eos_token_id: found [0,-1], expected a token id or a list of token ids"),
        (
            "/efficient_attention_config",
            json!([]),
            "efficient_attention_config: found [], expected an object\n\
             config.json: efficient_attention_config.swa: missing, expected an object with window_size, because \
             there are swa layers\n\
             config.json: efficient_attention_config.jet: missing, expected an object, because there are jet layers",
        ),
    ];
    for (path, value, expected) in table {
        let text = changed(&[(path, Some(value.clone()))]);
        assert_eq!(message(&text), format!("config.json: {expected}"), "{path} = {value}");
    }
}

#[test]
fn one_unfit_field_of_the_mixers() {
    let table: &[(&str, Value, &str)] = &[
        ("jet/num_heads", json!(0), "found 0, expected an integer from 1 to 16777216"),
        ("jet/head_dim", json!(null), "missing, expected an integer from 1 to 16777216"),
        ("jet/conv_size", json!(257), "found 257, expected an integer from 1 to 256"),
        ("jet/norm_eps", json!("tiny"), "found \"tiny\", expected a positive number"),
        ("jet/norm_eps", json!("-1e-5"), "found \"-1e-5\", expected a positive number"),
        ("jet/expand_v", json!(-2), "found -2, expected a positive number"),
        (
            "jet/expand_v",
            json!(2.6),
            "found 2.6, expected a ratio that makes head_dim * expand_v an integer (it is 62.400000000000006)",
        ),
        (
            "jet/expand_v",
            json!(0.001),
            "found 0.001, expected a ratio that makes head_dim * expand_v an integer (it is 0.024)",
        ),
        ("jet/expand_v", json!(1000000), "found num_heads * head_dim * expand_v = 48000000, expected at most 16777216"),
        ("jet/dconv_generator_reduction", json!(7), "found 7, expected a divisor of the value size 128"),
        ("jet/mode", json!(1), "found 1, expected a string"),
        ("jet/use_gate", json!(false), "unknown field (found false)"),
        ("swa/window_size", json!(0), "found 0, expected an integer from 1 to 2147483647"),
        ("swa/window_size", json!(null), "missing, expected an integer from 1 to 2147483647"),
    ];
    for (path, value, expected) in table {
        let text = changed(&[(&format!("/efficient_attention_config/{path}"), Some(value.clone()))]);
        let origin = format!("config.json: efficient_attention_config.{}", path.replace('/', "."));
        assert_eq!(message(&text), format!("{origin}: {expected}"), "{path} = {value}");
    }
}

#[test]
fn required_fields() {
    let size = "an integer from 1 to 16777216";
    let table = [
        ("model_type", "\"jet_nemotron\""),
        ("hidden_size", size),
        ("intermediate_size", size),
        ("vocab_size", size),
        ("num_attention_heads", size),
        ("num_key_value_heads", size),
        ("num_hidden_layers", "an integer from 1 to 4096"),
        ("max_position_embeddings", "an integer from 1 to 2147483647"),
        ("rms_norm_eps", "a positive number"),
        ("rope_theta", "a positive number"),
        ("tie_word_embeddings", "true or false"),
        ("layer_types", "a list of \"jet\", \"attn\" and \"swa\""),
    ];
    for (field, expected) in table {
        let text = changed(&[(&format!("/{field}"), None)]);
        assert_eq!(message(&text), format!("config.json: {field}: missing, expected {expected}"));
    }
}

/// Another architecture is one problem, however many of its fields are unfit too.
#[test]
fn another_architecture() {
    let text = changed(&[("/model_type", Some(json!("qwen2"))), ("/hidden_size", None)]);
    assert_eq!(message(&text), "config.json: model_type: found \"qwen2\", expected \"jet_nemotron\"");
}

#[test]
fn all_problems_at_once() {
    let text = changed(&[
        ("/hidden_act", Some(json!("relu"))),
        ("/rope_scaling", Some(json!({"type": "linear"}))),
        ("/hidden_size", None),
        (&format!("{JET}/conv_size"), Some(json!("4"))),
        (&format!("{JET}/norm_eps"), Some(json!(0))),
    ]);
    assert_eq!(
        message(&text),
        "config.json: hidden_act: found \"relu\", expected \"silu\"\n\
         config.json: rope_scaling: found {\"type\":\"linear\"}, expected null\n\
         config.json: hidden_size: missing, expected an integer from 1 to 16777216\n\
         config.json: efficient_attention_config.jet.conv_size: found \"4\", expected an integer from 1 to 256\n\
         config.json: efficient_attention_config.jet.norm_eps: found 0, expected a positive number"
    );
}

#[test]
fn not_a_json_object() {
    let table = [
        ("", "not valid JSON: EOF while parsing a value at line 1 column 0"),
        ("{\"model_type\": \n", "not valid JSON: EOF while parsing a value at line 2 column 0"),
        ("[1, 2]", "found [1,2], expected a JSON object"),
        ("\"jet_nemotron\"", "found \"jet_nemotron\", expected a JSON object"),
    ];
    for (text, expected) in table {
        assert_eq!(message(text), format!("config.json: {expected}"));
    }
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(message(&deep), "config.json: not valid JSON: recursion limit exceeded at line 1 column 128");
}

#[test]
fn absurd_products_of_sizes() {
    let text = changed(&[
        ("/hidden_size", Some(json!(1 << 24))),
        ("/intermediate_size", Some(json!(1 << 24))),
        ("/vocab_size", Some(json!(1 << 24))),
    ]);
    assert_eq!(message(&text), "config.json: found 4503608200536644 parameters, expected at most 17592186044416");
}

#[test]
fn what_is_read() {
    let config = ModelConfig::parse(good().to_string().as_bytes(), "config.json").unwrap();
    assert_eq!(config.layers, [LayerKind::Jet, LayerKind::Attn, LayerKind::Swa { window: 16 }]);
    assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim), (4, 2, 16));
    let jet = config.jet.as_ref().unwrap();
    assert_eq!((jet.value_dim, jet.key_total(), jet.value_total(), jet.generator_hidden), (64, 48, 128, 16));
    assert_eq!((jet.norm_eps, config.rms_norm_eps), (1e-5, 1e-6));
    assert_eq!(config.warnings(), []);
    assert_eq!(config.inv_freq()[..2], [1.0, 0.177_827_94]);
}

/// Unknown fields and odd ids are accepted with a note; `default` rope scaling and a list of ids are ordinary.
#[test]
fn notes() {
    let text = changed(&[
        ("/logit_scale", Some(json!(2))),
        ("/eos_token_id", Some(json!([0, 600]))),
        ("/rope_scaling", Some(json!({"rope_type": "default"}))),
        ("/head_dim", Some(json!(32))),
        ("/efficient_attention_config/gla", Some(json!({}))),
    ]);
    let config = ModelConfig::parse(text.as_bytes(), "config.json").unwrap();
    assert_eq!((config.head_dim, config.eos_token_ids.as_slice()), (32, &[0, 600][..]));
    let notes: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "config.json: efficient_attention_config.gla: unknown field, ignored",
            "config.json: eos_token_id: found 600, which is not below vocab_size = 512",
            "config.json: logit_scale: unknown field, ignored (found 2)",
        ]
    );
}

/// Parameter counts of the official models.
#[test]
fn official_sizes() {
    for (case, parameters) in [("full-2b", 1_964_806_208), ("full-4b", 3_960_424_768), ("tiny-a", 405_840)] {
        let path = format!("{}/../tests/golden/{case}/config.json", env!("CARGO_MANIFEST_DIR"));
        let config = ModelConfig::read(path.as_ref()).unwrap();
        assert_eq!(config.parameter_count(), parameters, "{case}");
    }
}

/// No text makes the reader panic: every prefix, and every byte changed to a few others.
#[test]
fn damaged_text() {
    let text = good().to_string().into_bytes();
    for end in 0..text.len() {
        assert!(ModelConfig::parse(&text[..end], "config.json").is_err(), "cut at {end}");
    }
    for i in 0..text.len() {
        for byte in [b'0', b'9', b'"', b'{', b'-', 0, 0xff] {
            let mut damaged = text.clone();
            damaged[i] = byte;
            let _ = ModelConfig::parse(&damaged, "config.json").map(|config| config.tensors().len());
        }
    }
}
