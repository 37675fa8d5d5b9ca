//! model.toml and the files beside the weights: what is read, and the exact message of every refusal.

use jet_frontend::model_toml::parse;
use jet_frontend::{AddedToken, ModelSpec, Sidecar, WeightFormat, WeightsAt, WeightsFile};
use serde_json::json;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn message(text: &str) -> String {
    match parse(text, "model.toml", Path::new("base")) {
        Ok(spec) => panic!("accepted: {spec:?}"),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn every_key() {
    let text = r#"
        [model]
        source = "hf"
        [compile]
        targets = ["x86-64-v3", "sm_80"]
        backend = "cranelift"
        max_context = 32_768
        max_batch = 8
        prefill_chunk = 0x200
        activations = "f32"
        weights = "bf16"
        weights_file = "external"
        [generation]
        do_sample = true
        temperature = 0.7
        top_k = 40
        top_p = 1
        min_p = 0.0
        repetition_penalty = 1.1
        max_new_tokens = 100
        stop_strings = ["\n\n"]
        eos_token_id = [1, 2]
    "#;
    let spec = parse(text, "model.toml", Path::new("base")).unwrap();
    assert_eq!(spec.config, Path::new("base/hf/config.json"));
    assert_eq!(spec.weights, WeightsAt::Directory(PathBuf::from("base/hf")));
    let compile = &spec.compile;
    assert_eq!(compile.targets.as_deref(), Some(&["x86-64-v3".to_string(), "sm_80".to_string()][..]));
    assert_eq!((compile.max_context, compile.max_batch, compile.prefill_chunk), (Some(32768), Some(8), Some(512)));
    assert_eq!((compile.backend.as_deref(), compile.activations.as_deref()), (Some("cranelift"), Some("f32")));
    assert_eq!((compile.weights, compile.weights_file), (Some(WeightFormat::Bf16), Some(WeightsFile::External)));
    assert_eq!(
        spec.generation.to_json(),
        json!({
            "do_sample": true, "temperature": 0.7, "top_k": 40, "top_p": 1.0, "min_p": 0.0,
            "repetition_penalty": 1.1, "max_new_tokens": 100, "stop_strings": ["\n\n"], "eos_token_id": [1, 2]
        })
    );
}

#[test]
fn synthetic_weights() {
    let spec =
        parse("model.config = 'a/c.json'\nmodel.weights.synthetic = 3", "model.toml", Path::new("base")).unwrap();
    assert_eq!(spec.config, Path::new("base/a/c.json"));
    assert_eq!((spec.weights, spec.directory), (WeightsAt::Synthetic { seed: 3 }, PathBuf::from("base/a")));
    let spec = parse("[model]\nsource = '/x'\nweights = { synthetic = 9 }", "model.toml", Path::new("base")).unwrap();
    assert_eq!(spec.config, Path::new("/x/config.json"));
    assert_eq!(spec.weights, WeightsAt::Synthetic { seed: 9 });
    let spec =
        parse("model = { config = 'c.json', weights = { synthetic = 3 } }", "model.toml", Path::new("")).unwrap();
    assert_eq!((spec.config, spec.directory), (PathBuf::from("c.json"), PathBuf::from(".")));
}

#[test]
fn refusals() {
    let size = "expected an integer from 1 to 2147483647";
    let table: &[(&str, &str)] = &[
        ("", "1: model: found neither source nor config, expected one of them"),
        ("\n[model]\n", "2: model: found neither source nor config, expected one of them"),
        ("[model]\nsource = \"a\"\nconfig = \"b\"", "1: model: found source and config, expected one of them"),
        ("[model]\nconfig = \"b\"", "1: model: found config without weights, expected weights = { synthetic = SEED }"),
        ("[model]\nsource = 3", "2: model.source: found 3, expected a string that is not empty"),
        ("[model]\nsource = \"\"", "2: model.source: found \"\", expected a string that is not empty"),
        (
            "[model]\nsource = \"a\"\nweights = \"random\"",
            "3: model.weights: found \"random\", expected { synthetic = SEED } with an integer that is not negative",
        ),
        (
            "[model]\nsource = \"a\"\nweights = { synthetic = -1 }",
            "3: model.weights: found {\"synthetic\":-1}, expected { synthetic = SEED } with an integer that is not \
             negative",
        ),
        (
            "[model]\nsource = \"a\"\nweights = { synthetic = 1, seed = 2 }",
            "3: model.weights: found {\"seed\":2,\"synthetic\":1}, expected { synthetic = SEED } with an integer that \
             is not negative",
        ),
        ("[model]\nsource = \"a\"\npath = 1", "3: unknown key model.path, expected one of source, config, weights"),
        ("model = 3", "1: model: found 3, expected a section [model]"),
        (
            "[model]\nsource = \"a\"\n[Compile]\n",
            "3: unknown section [Compile], expected [model], [compile] or [generation]",
        ),
        (
            "[model]\nsource = \"a\"\n[compile]\nmax_ctx = 1",
            "4: unknown key compile.max_ctx, expected one of targets, backend, max_context, max_batch, prefill_chunk, \
             activations, weights, weights_file",
        ),
        (
            "[model]\nsource = \"a\"\n[generation]\ntemp = 1",
            "4: unknown key generation.temp, expected one of do_sample, temperature, top_k, top_p, min_p, \
             repetition_penalty, max_new_tokens, stop_strings, eos_token_id",
        ),
        (
            "[model]\nsource = \"a\"\n[generation]\ntemperature = 0",
            "4: generation.temperature: found 0, expected a positive number (do_sample = false is greedy)",
        ),
        (
            "[model]\nsource = \"a\"\n[generation]\ntop_p = 1.5",
            "4: generation.top_p: found 1.5, expected a number from 0 to 1",
        ),
        (
            "[model]\nsource = \"a\"\n[generation]\nmin_p = nan",
            "4: generation.min_p: found \"nan\", expected a number from 0 to 1",
        ),
        (
            "[model]\nsource = \"a\"\n[generation]\ntop_k = -1",
            "4: generation.top_k: found -1, expected an integer from 0 to 4294967295",
        ),
        (
            "[model]\nsource = \"a\"\n[generation]\nstop_strings = [\"\"]",
            "4: generation.stop_strings: found [\"\"], expected a list of strings that are not empty",
        ),
        (
            "[model]\nsource = \"a\"\n[generation]\ndo_sample = \"yes\"",
            "4: generation.do_sample: found \"yes\", expected true or false",
        ),
        (
            "[model]\nsource = \"a\"\n[generation]\neos_token_id = 2024-01-01",
            "4: generation.eos_token_id: found \"2024-01-01\", expected a token id or a list of token ids",
        ),
        ("[model]\nsource = \"a\" \"b\"", "2: not valid TOML: unexpected key or value, expected newline, `#`"),
        ("[model]\nsource = \"a\"\nsource = \"b\"", "3: not valid TOML: duplicate key"),
        (&format!("{}1", "a.".repeat(10_000)), "1: not valid TOML: "),
    ];
    for (text, expected) in table {
        let message = message(text);
        if expected.ends_with(": ") {
            assert!(message.starts_with(&format!("model.toml:{expected}")), "{message}");
        } else {
            assert_eq!(message, format!("model.toml:{expected}"), "{text}");
        }
    }
    for (line, expected) in [
        ("max_context = 0", format!("max_context: found 0, {size}")),
        ("max_batch = \"8\"", format!("max_batch: found \"8\", {size}")),
        ("prefill_chunk = 1.5", format!("prefill_chunk: found 1.5, {size}")),
        ("max_context = 99999999999999999999", format!("max_context: found \"99999999999999999999\", {size}")),
        ("targets = []", "targets: found [], expected a list of target names".to_string()),
        ("targets = \"sm_80\"", "targets: found \"sm_80\", expected a list of target names".to_string()),
        ("targets = [1]", "targets: found [1], expected a list of target names".to_string()),
        ("backend = true", "backend: found true, expected a string that is not empty".to_string()),
        ("activations = 32", "activations: found 32, expected a string that is not empty".to_string()),
        ("weights = \"int4\"", "weights: found \"int4\", expected \"f32\", \"bf16\", \"q8\" or \"q4\"".to_string()),
        ("weights_file = \"no\"", "weights_file: found \"no\", expected \"embed\" or \"external\"".to_string()),
    ] {
        let text = format!("[model]\nsource = \"a\"\n\n[compile]\n{line}\n");
        assert_eq!(message(&text), format!("model.toml:5: compile.{expected}"));
    }
}

/// Several problems come in the order of their lines, and a key that cannot be read is not called missing too.
#[test]
fn all_problems_in_order() {
    let text = "[generation]\ntop_k = \"x\"\n[model]\nsource = 1\n[compile]\nmax_batch = 0\nfoo = 1\n[other]\n";
    let lines: Vec<String> = message(text).lines().map(|line| line[..22].to_string()).collect();
    let expected = [
        "model.toml:2: generatio",
        "model.toml:4: model.sou",
        "model.toml:6: compile.m",
        "model.toml:7: unknown k",
        "model.toml:8: unknown s",
    ];
    assert_eq!(lines, expected.map(|line| line[..22].to_string()));
}

/// No text makes the reader panic.
#[test]
fn damaged_text() {
    let text = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/austen-jet/model.toml")).unwrap();
    for i in 0..text.len() {
        for byte in [b'"', b'[', b'=', b'\n', b'-', b'0', b'{', b'.'] {
            let mut damaged = text.clone();
            damaged[i] = byte;
            if let Ok(damaged) = std::str::from_utf8(&damaged) {
                let _ = parse(damaged, "model.toml", Path::new(""));
            }
        }
        if let Ok(cut) = std::str::from_utf8(&text[..i]) {
            let _ = parse(cut, "model.toml", Path::new(""));
        }
    }
}

/// The example as a user opens it: by its model.toml and by its directory.
#[test]
fn the_example() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/austen-jet");
    for source in [directory.join("model.toml"), directory.clone()] {
        let spec = ModelSpec::open(&source).unwrap();
        let config = spec.read_config().unwrap();
        assert_eq!(config.parameter_count(), 4_012_644);
        let weights = spec.open_weights(&config).unwrap();
        assert_eq!(weights.info("model.embed_tokens.weight").unwrap().shape, [2048, 192]);
        let sidecar = spec.read_sidecar().unwrap();
        let text = "<|endoftext|>".to_string();
        assert_eq!(sidecar.added_tokens, [AddedToken { id: 0, content: text.clone(), special: true }]);
        assert_eq!((sidecar.bos_token.clone(), sidecar.eos_token.clone()), (None, Some(text)));
        assert_eq!((sidecar.eos_token_ids(&config), sidecar.added_token("<|im_end|>")), (vec![0], None));
        assert_eq!(sidecar.warnings(), []);
        let from_toml = source.ends_with("model.toml");
        assert_eq!(sidecar.generation.temperature, from_toml.then_some(0.7));
    }
}

#[test]
fn sources_that_are_none() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().display().to_string();
    let message = |source: &Path| ModelSpec::open(source).unwrap_err().to_string();
    assert_eq!(message(directory.path()), format!("{path}: found no config.json in the directory, expected one"));
    std::fs::write(directory.path().join("model.json"), b"{}").unwrap();
    assert_eq!(
        message(&directory.path().join("model.json")),
        format!(
            "{path}/model.json: found another kind of file, expected a model.toml or a directory with a config.json"
        )
    );
    std::fs::write(directory.path().join("model.toml"), b"[model]\n\xff").unwrap();
    assert_eq!(
        message(directory.path()),
        format!("{path}: found no config.json in the directory, expected one (there is a model.toml to name)")
    );
    assert_eq!(
        message(&directory.path().join("model.toml")),
        format!("{path}/model.toml: cannot read: stream did not contain valid UTF-8")
    );
    assert_eq!(
        message(&directory.path().join("x")),
        format!("{path}/x: cannot read: No such file or directory (os error 2)")
    );
}

/// A directory with one sidecar file.
fn sidecar(name: &str, text: &str) -> Result<Sidecar, String> {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join(name), text).unwrap();
    Sidecar::read(directory.path()).map_err(|e| e.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

#[test]
fn sidecar_refusals() {
    let table = [
        ("tokenizer.json", "{", "not valid JSON: EOF while parsing an object at line 1 column 1"),
        ("tokenizer.json", "{}", "model: found nothing, expected an object"),
        (
            "tokenizer.json",
            "{\"model\": {}, \"added_tokens\": [{\"id\": -1}]}",
            "added_tokens[0]: found {\"id\":-1}, expected a token with id and content",
        ),
        ("tokenizer_config.json", "[]", "found [], expected a JSON object"),
        ("tokenizer_config.json", "{\"eos_token\": 3}", "eos_token: found 3, expected a token's text"),
        (
            "tokenizer_config.json",
            "{\"chat_template\": [{\"name\": \"tools\", \"template\": \"\"}]}",
            "chat_template: found [{\"name\":\"tools\",\"template\":\"\"}], expected a template or a list with one named \
             \"default\"",
        ),
        (
            "tokenizer_config.json",
            "{\"added_tokens_decoder\": {\"x\": {\"content\": \"a\"}}}",
            "added_tokens_decoder.x: found {\"content\":\"a\"}, expected an id with a token's content",
        ),
        (
            "tokenizer_config.json",
            "{\"added_tokens_decoder\": []}",
            "added_tokens_decoder: found [], expected an object",
        ),
        ("generation_config.json", "{\"top_k\": 1.5}", "top_k: found 1.5, expected an integer from 0 to 4294967295"),
    ];
    for (name, text, expected) in table {
        assert_eq!(sidecar(name, text).unwrap_err(), format!("{name}: {expected}"));
    }
}

#[test]
fn sidecar_contents() {
    let config = "{\"chat_template\": [{\"name\": \"default\", \"template\": \"hello\"}], \
                  \"bos_token\": {\"content\": \"<s>\"}, \
                  \"added_tokens_decoder\": {\"7\": {\"content\": \"<|im_end|>\", \"special\": true}}}";
    let read = sidecar("tokenizer_config.json", config).unwrap();
    assert_eq!((read.chat_template.as_deref(), read.bos_token.as_deref()), (Some("hello"), Some("<s>")));
    assert_eq!(read.added_token("<|im_end|>"), Some(7));
    assert_eq!(sidecar("chat_template.jinja", "{{ x }}").unwrap().chat_template.as_deref(), Some("{{ x }}"));
    let licence = sidecar("LICENSE.txt", "as is").unwrap();
    assert_eq!(licence.licenses, [("LICENSE.txt".to_string(), b"as is".to_vec())]);
    let generation = sidecar("generation_config.json", "{\"num_beams\": 4, \"top_k\": null, \"top_p\": 0.5}").unwrap();
    assert_eq!(generation.generation.to_json(), json!({"top_p": 0.5}));
    let notes: Vec<String> = generation.warnings().iter().map(|note| note.message.clone()).collect();
    assert_eq!(notes, ["unknown setting, ignored (found 4)"]);
}
