//! Layers with the shapes of the 2B and 4B models in the simulator against the reference evaluation in f32, one of each kind and the
//! first one twice, since a layer behind the embedding norms its rows in another kernel than the others; a prompt in pieces and tokens one by one.
//! Mixers, MLPs and head are compared each on its own, from the artifact's residual stream, so that errors are known from the number of roundings.
//! And that these are the kernels of the full models, which no simulator could run.
//!
//! What is not covered: kernels that know the size of the vocabulary, which is small here (embedding, logits, argmax), and those that
//! take over in calls of more than eight sequences (`codegen/tests/kernels`, in other widths).

#![cfg(feature = "ptxsim")]

use jet_codegen::Activations;
use jet_codegen::targets::Target;
use jet_frontend::graph::model_graph;
use jet_frontend::{ModelConfig, ModelSpec, WeightFormat};
use jet_ir::Rounding;
use jet_runtime::jetbin::Phase;
use jet_runtime::{DeviceChoice, Model, OpenOptions, PtxSim, Session};
use jetc::compare::evaluated::Evaluated;
use jetc::compare::guided::{self, Sides};
use jetc::compare::judge::judge_columns;
use jetc::compare::tensors::Tensors;
use jetc::compare::tolerance::Tolerance;
use jetc::compile::{CompileRequest, Limits, Quiet, compile, select_few, select_phase, source_graph};
use jetc::selftest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Relative L2 error of normal numbers that are rounded to bf16; of numbers with evenly distributed logarithms it is 1.53e-3.
const ROUNDING: f64 = 1.66e-3;
/// How often a value is rounded between the residual stream that a part of the model reads and what the part gives: by its end, and in layers
/// with the delta rule. Roundings of different operands are independent, so that `n` of them make an error of `sqrt(n)` roundings. Where a factor
/// is a function of a rounded value that flattens its error (softmax, sigmoid), it counts in full.
const PARTS: [(&str, u32); 8] = [
    ("embedding", 0),
    // the rows; what is stored is f32
    ("conv_state", 1),
    // the rows, and the cache itself
    (".k", 2),
    (".v", 2),
    // the rows as `k`, `v` and as the kernels of `v`, the hidden values of their generator; in prefill `k`, `v` and the state as operands
    ("recurrent_state", 7),
    // rows as `q`, `k`, `v`, the cache twice, `q` and the softmax as operands, the results; or those of the state, rows as `q` and gate, the results
    (".mixer", 10),
    // the rows as gate and as up, and the product of these
    (".mlp", 3),
    ("logits", 1),
];
/// How much more than its roundings an error may be; found: 1.03 where their number is exact. One rounding more than three is 1.15.
const MARGIN: f64 = 1.1;
const LIMITS: Limits = Limits { max_context: 64, max_batch: 8, prefill_chunk: 8 };

/// The configuration of a model as it is.
fn full(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case).join("config.json")
}

/// A source with layers of each kind in the widths of a model, and few tokens.
fn source(folder: &Path, case: &str) -> PathBuf {
    let text = std::fs::read_to_string(full(case)).expect("a configuration");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    config["layer_types"] = json!(["jet", "jet", "attn", "swa"]);
    (config["num_hidden_layers"], config["vocab_size"]) = (json!(4), json!(256));
    for id in ["bos_token_id", "eos_token_id"] {
        config[id] = json!(0);
    }
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a file in a temporary folder");
    let text = "[model]\nconfig = \"config.json\"\nweights = { synthetic = 3 }\n";
    std::fs::write(folder.join("model.toml"), text).expect("a file in a temporary folder");
    folder.join("model.toml")
}

/// Compiles and runs the layers, holds every value against the reference, and gives the names of the kernels that ran.
fn ran(case: &str, target: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut request =
        CompileRequest { source: source(folder.path(), case), no_cubin: true, ..CompileRequest::default() };
    request.output = folder.path().join("model.jetbin");
    request.options.targets = Some(vec![target.into()]);
    let limits = [LIMITS.max_context, LIMITS.max_batch, LIMITS.prefill_chunk].map(|n| Some(n as usize));
    [request.options.max_context, request.options.max_batch, request.options.prefill_chunk] = limits;
    compile(&request, &mut Quiet).unwrap_or_else(|e| panic!("{e:#}"));
    let options = OpenOptions { device: DeviceChoice::PtxSim, ..OpenOptions::default() };
    let model = Model::open_with(&request.output, &options).expect("an artifact for a GPU");
    let gpu = PtxSim::new();
    let counts = gpu.counts();
    let mut session = Session::with_device(&model, Box::new(gpu), 2).expect("a session");
    let spec = ModelSpec::open(&request.source).expect("a source");
    let config = spec.read_config().expect("a configuration");
    let weights = spec.open_weights(&config).expect("weights");
    let graph = model_graph(&config, WeightFormat::Bf16).expect("a graph");
    let mut reference = Evaluated::new(&config, &graph, weights.as_ref(), 1);
    let found = selftest::request(&session).unwrap_or_else(|e| panic!("{e:#}")).1;
    let fed = (&found[0].prompt[..], &found[0].forced[..]);
    let sides = guided::both(&mut session, &mut reference, Rounding::default(), fed, &|| ());
    within_roundings(&sides.unwrap_or_else(|e| panic!("{e:#}")), &format!("{case} on {target}"));
    several_sequences(&mut session, &format!("{case} on {target}"));
    let counts = counts.lock().expect("no reader panicked");
    counts.kernels.keys().cloned().collect()
}

/// Holds what each part of the model made of the artifact's residual stream to the number of roundings in it.
fn within_roundings(sides: &Sides, what: &str) {
    let mut judged = 0;
    for (part, roundings) in PARTS {
        let of_part = |side: &Tensors| -> Tensors {
            side.iter()
                .filter(|(key, _)| key.ends_with(part))
                .map(|(key, values)| (key.clone(), values.clone()))
                .collect()
        };
        let tolerance = Tolerance::from(MARGIN * ROUNDING * f64::from(roundings).sqrt());
        let report = judge_columns(&of_part(&sides.reference), &of_part(&sides.ours), tolerance, tolerance.of_column());
        println!(
            "{what}, {part}: {} values, worst {:.2e} of {:.2e}",
            report.keys.len(),
            report.worst_relative_l2,
            report.tolerance
        );
        for key in &report.keys {
            assert!(
                key.passed,
                "{what}, {}: {:e} of {:e} {:?}",
                key.key, key.relative_l2, report.tolerance, key.problem
            );
        }
        assert!(!report.keys.is_empty(), "{what}: no value ends with {part}");
        judged += report.keys.len();
    }
    assert_eq!(judged, sides.reference.len(), "{what}: values that belong to one part each");
}

/// A step of several sequences, by the decode program for many, has the bits of steps of one, by that for few where there is one.
fn several_sequences(session: &mut Session, what: &str) {
    let prompts = [[3u32, 14, 15], [92, 65, 35]];
    let begin = |session: &mut Session| {
        for (sequence, prompt) in (0..).zip(&prompts) {
            session.reset(sequence).expect("a sequence");
            session.prefill(sequence, prompt).expect("a prompt");
        }
    };
    begin(session);
    session.decode(&[(0, 89), (1, 79)]).expect("a step");
    let together = [0, 1].map(|row| session.logits(row).expect("logits").to_vec());
    assert_ne!(together[0], together[1], "{what}: other sequences");
    begin(session);
    for (step, expected) in [(0, 89), (1, 79)].into_iter().zip(&together) {
        session.decode(&[step]).expect("a step");
        assert_eq!(session.logits(0).expect("logits"), expected, "{what}: sequence {} alone", step.0);
    }
}

/// Every kernel of all programs of a full model, and what shapes it.
fn kernels(case: &str, target: &str) -> BTreeMap<String, String> {
    let config = ModelConfig::read(&full(case)).unwrap_or_else(|e| panic!("{e}"));
    let graph = source_graph(&config, WeightFormat::Bf16).unwrap_or_else(|e| panic!("{e:#}"));
    let target = Target::named(target).expect("a target");
    let select =
        |phase| select_phase(&graph, LIMITS, target, (phase, Activations::F32)).unwrap_or_else(|e| panic!("{e:#}"));
    let [prefill, decode] = [Phase::Prefill, Phase::Decode].map(select);
    let few = select_few(&graph, LIMITS, target, &decode).unwrap_or_else(|e| panic!("{e:#}"));
    let built = [prefill, decode].into_iter().chain(few).flat_map(|program| program.built);
    built.flat_map(|b| b.chain().map(|b| (b.name.clone(), b.key.clone())).collect::<Vec<_>>()).collect()
}

/// The layers of a model compute what the reference does, with the kernels of the full model.
fn check(case: &str, target: &str) {
    let (ran, wanted) = (ran(case, target), kernels(case, target));
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| !ran.contains(name)).collect();
    for (name, key) in &missing {
        assert!(key.contains("151936"), "{case} on {target}: {name} did not run\n{key}");
    }
    println!("{case} on {target}: {} of {} kernels ran", wanted.len() - missing.len(), wanted.len());
    assert!(missing.len() <= 6 && wanted.len() >= 15, "{case} on {target}: {} of {}", missing.len(), wanted.len());
}

#[test]
fn layers_of_2b_on_sm_80() {
    check("full-2b", "sm_80");
}

#[test]
#[ignore = "a minute; the golden layers of the 2B run on sm_90a"]
fn layers_of_2b_on_sm_90a() {
    check("full-2b", "sm_90a");
}

#[test]
#[ignore = "a minute; on sm_80 decode is that of sm_90a"]
fn layers_of_4b_on_sm_80() {
    check("full-4b", "sm_80");
}

#[test]
fn layers_of_4b_on_sm_90a() {
    check("full-4b", "sm_90a");
}
