//! Layers with the shapes of the 2B and 4B models in the simulator against the reference evaluation in f32, one of each kind and the
//! first one twice, since a layer behind the embedding norms its rows in another kernel than the others; a prompt in pieces and tokens one by one.
//! Mixers, MLPs and head are compared each on its own, from the artifact's residual stream, so that errors are known from the number of roundings.
//! And that these are the kernels of the full models, which no simulator could run.
//!
//! The vocabulary is small, and so are batches. `every_kernel_..` (ignored: minutes each) run the rest as well: the head of the real vocabulary behind one
//! layer, and every kernel of the launch tables, whose rows must have the bits of a sequence alone; no kernel of a full model may be missing.

#![cfg(feature = "ptxsim")]

use jet_codegen::Activations;
use jet_codegen::targets::Target;
use jet_frontend::graph::model_graph;
use jet_frontend::{ModelConfig, ModelSpec, WeightFormat};
use jet_ir::Rounding;
use jet_runtime::jetbin::Phase;
use jet_runtime::{DeviceChoice, Model, OpenOptions, PtxSim, Session};
use jetc::compare::evaluated::Evaluated;
use jetc::compare::judge::Report;
use jetc::compare::tolerance::{FULL_WIDTH, Tolerance};
use jetc::compile::{CompileRequest, Limits, Quiet, compile, select_few, select_phase, source_graph};
use jetc::selftest;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What a model of these layers is cut into, by the ends of keys; caches only where there is attention.
const PARTS: [&str; 8] = ["embedding", "conv_state", ".k", ".v", "recurrent_state", ".mixer", ".mlp", "logits"];
const LIMITS: Limits = Limits { max_context: 64, max_batch: 8, prefill_chunk: 8 };
/// Limits with which launch tables have a kernel for any number of rows, and the plan of prompts is that of the default chunk.
const ROOM: Limits = Limits { max_context: 512, max_batch: 66, prefill_chunk: 512 };
/// Larger ones, whose kernels are those of [`ROOM`]. The plan of a chunk of 2048 has one other product in the 4B on `sm_80`.
const MOST: Limits = Limits { max_context: 65536, max_batch: 512, prefill_chunk: 512 };
/// Bytes of the simulated GPU: four layers of the 4B in bf16 with the states of as many sequences.
const MEMORY: u64 = 3 << 30;
/// Sequences of a step: for each kernel of a launch table one more than the one before takes.
const BATCHES: [u32; 4] = [2, 9, 33, 65];

/// A part of a model in its widths.
#[derive(Clone, Copy)]
struct Part {
    layers: &'static [&'static str],
    /// Words; those of the model if none are named.
    vocab: Option<usize>,
    limits: Limits,
}

const LAYERS: Part = Part { layers: &["jet", "jet", "attn", "swa"], vocab: Some(256), limits: LIMITS };
/// The smallest part with the head of the full model.
const HEAD: Part = Part { layers: &["jet"], vocab: None, limits: ROOM };

/// The configuration of a model as it is.
fn full(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case).join("config.json")
}

/// A source with some layers in the widths of a model.
fn source(folder: &Path, case: &str, part: Part) -> PathBuf {
    let text = std::fs::read_to_string(full(case)).expect("a configuration");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    (config["layer_types"], config["num_hidden_layers"]) = (json!(part.layers), json!(part.layers.len()));
    if let Some(vocab) = part.vocab {
        config["vocab_size"] = json!(vocab);
    }
    for id in ["bos_token_id", "eos_token_id"] {
        config[id] = json!(0);
    }
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a file in a temporary folder");
    let text = "[model]\nconfig = \"config.json\"\nweights = { synthetic = 3 }\n";
    std::fs::write(folder.join("model.toml"), text).expect("a file in a temporary folder");
    folder.join("model.toml")
}

/// Compiles and runs the layers, holds every value against the reference, and gives the names of the kernels that ran.
fn ran(case: &str, target: &str, part: Part) -> BTreeSet<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut request =
        CompileRequest { source: source(folder.path(), case, part), no_cubin: true, ..CompileRequest::default() };
    request.output = folder.path().join("model.jetbin");
    request.options.targets = Some(vec![target.into()]);
    let Limits { max_context, max_batch, prefill_chunk } = part.limits;
    let limits = [max_context, max_batch, prefill_chunk].map(|n| Some(n as usize));
    [request.options.max_context, request.options.max_batch, request.options.prefill_chunk] = limits;
    compile(&request, &mut Quiet).unwrap_or_else(|e| panic!("{e:#}"));
    let options = OpenOptions { device: DeviceChoice::PtxSim, ..OpenOptions::default() };
    let model = Model::open_with(&request.output, &options).expect("an artifact for a GPU");
    let gpu = PtxSim::with_memory(MEMORY);
    let counts = gpu.counts();
    let most = BATCHES.into_iter().filter(|n| *n <= max_batch).max().unwrap_or(1);
    let mut session = Session::with_device(&model, Box::new(gpu), most).expect("a session");
    let spec = ModelSpec::open(&request.source).expect("a source");
    let config = spec.read_config().expect("a configuration");
    let weights = spec.open_weights(&config).expect("weights");
    let graph = model_graph(&config, WeightFormat::Bf16).expect("a graph");
    let mut reference = Evaluated::new(&config, &graph, weights.as_ref(), 1);
    let (margin, rounding) = (Tolerance::of_roundings(FULL_WIDTH), Rounding::default());
    let report = selftest::against(&mut session, &mut reference, margin, rounding, &|| ());
    let what = format!("{case} on {target}");
    within_roundings(&report.unwrap_or_else(|e| panic!("{e:#}")), &what, part);
    for n in BATCHES.into_iter().filter(|n| *n <= max_batch) {
        several_sequences(&mut session, n, &what);
    }
    let counts = counts.lock().expect("no reader panicked");
    counts.kernels.keys().cloned().collect()
}

/// No part of the model has an error beyond that of its roundings, and no value belongs to no part.
fn within_roundings(report: &Report, what: &str, model: Part) {
    let mut judged = 0;
    let caches = model.layers.iter().any(|l| *l != "jet");
    for part in PARTS.into_iter().filter(|part| caches || ![".k", ".v"].contains(part)) {
        let keys: Vec<_> = report.keys.iter().filter(|k| k.key.ends_with(part)).collect();
        let worst = keys.iter().map(|k| k.relative_l2).fold(0.0, f64::max);
        let allowed = keys.first().unwrap_or_else(|| panic!("{what}: no value ends with {part}")).tolerance;
        println!("{what}, {part}: {} values, worst {worst:.2e} of {allowed:.2e}", keys.len());
        judged += keys.len();
    }
    assert_eq!(judged, report.keys.len(), "{what}: values that belong to one part each");
    for key in &report.keys {
        let (found, allowed) = (key.relative_l2, key.tolerance);
        assert!(key.passed, "{what}, {}: {found:e} of {allowed:e} {:?}", key.key, key.problem);
    }
}

/// A step of several sequences, by the decode program for many and the kernels for so many rows, has the bits of steps of one, by that for
/// few where there is one. The sequences are two in turns.
fn several_sequences(session: &mut Session, n: u32, what: &str) {
    let prompts = [[3u32, 14, 15], [92, 65, 35]];
    let next = [89u32, 79];
    // in a large batch prompts go the same way, token by token
    let stepwise = n > 2;
    let begin = |session: &mut Session, sequences: u32| {
        (0..sequences).for_each(|s| session.reset(s).expect("a sequence"));
        match stepwise {
            true => session.decode(&(0..sequences).map(|s| (s, prompts[s as usize % 2][0])).collect::<Vec<_>>()),
            false => (0..sequences).try_for_each(|s| session.prefill(s, &prompts[s as usize % 2])),
        }
        .expect("a prompt");
    };
    begin(session, n);
    session.decode(&(0..n).map(|s| (s, next[s as usize % 2])).collect::<Vec<_>>()).expect("a step");
    let together: Vec<Vec<f32>> = (0..n).map(|row| session.logits(row).expect("logits").to_vec()).collect();
    assert_ne!(together[0], together[1], "{what}: other sequences");
    begin(session, 2);
    for s in 0..2 {
        session.decode(&[(s, next[s as usize])]).expect("a step");
        let alone = session.logits(0).expect("logits");
        let equal = |row: &u32| together[*row as usize] == alone;
        let other = (0..n).filter(|row| row % 2 == s).find(|row| !equal(row));
        assert_eq!(other, None, "{what}, {n} sequences: row of a sequence that is not as it is alone");
    }
    session.argmax(0).expect("a choice");
}

/// Every kernel of all programs of a full model and of their launch tables, and what shapes it.
fn kernels(case: &str, target: &str, limits: Limits) -> BTreeMap<String, String> {
    let config = ModelConfig::read(&full(case)).unwrap_or_else(|e| panic!("{e}"));
    let graph = source_graph(&config, WeightFormat::Bf16).unwrap_or_else(|e| panic!("{e:#}"));
    let target = Target::named(target).expect("a target");
    let select =
        |phase| select_phase(&graph, limits, target, (phase, Activations::F32)).unwrap_or_else(|e| panic!("{e:#}"));
    let [prefill, decode] = [Phase::Prefill, Phase::Decode].map(select);
    let few = select_few(&graph, limits, target, &decode).unwrap_or_else(|e| panic!("{e:#}"));
    let built = [prefill, decode].into_iter().chain(few).flat_map(|program| program.built);
    built.flat_map(|b| b.chain().map(|b| (b.name.clone(), b.key.clone())).collect::<Vec<_>>()).collect()
}

/// The layers of a model compute what the reference does, with the kernels of the full model.
fn check(case: &str, target: &str) {
    let (ran, wanted) = (ran(case, target, LAYERS), kernels(case, target, LIMITS));
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| !ran.contains(*name)).collect();
    for (name, key) in &missing {
        assert!(key.contains("151936"), "{case} on {target}: {name} did not run\n{key}");
    }
    println!("{case} on {target}: {} of {} kernels ran", wanted.len() - missing.len(), wanted.len());
    assert!(missing.len() <= 6 && wanted.len() >= 15, "{case} on {target}: {} of {}", missing.len(), wanted.len());
}

/// Every kernel of a full model runs: its layers and its head, with batches for each kernel of the launch tables and a long prompt.
fn every_kernel(case: &str, target: &str) {
    let wanted = kernels(case, target, ROOM);
    let mut ran_somewhere = ran(case, target, Part { limits: ROOM, ..LAYERS });
    ran_somewhere.extend(ran(case, target, HEAD));
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| !ran_somewhere.contains(*name)).collect();
    println!("{case} on {target}: {} of {} kernels ran", wanted.len() - missing.len(), wanted.len());
    assert!(missing.is_empty(), "{case} on {target}: did not run: {missing:#?}");
}

/// What the checks run is what users get: limits beyond [`ROOM`] bring no other kernel.
#[test]
fn larger_limits_have_the_same_kernels() {
    for case in ["full-2b", "full-4b"] {
        for target in ["sm_80", "sm_90a"] {
            let [room, most] = [ROOM, MOST].map(|limits| kernels(case, target, limits));
            let other: Vec<_> = most.iter().filter(|(name, _)| !room.contains_key(*name)).collect();
            assert!(other.is_empty(), "{case} on {target}: {other:#?}");
        }
    }
}

#[test]
#[ignore = "five minutes (2B) or more, and 4 GB of memory"]
fn every_kernel_of_2b_on_sm_80() {
    every_kernel("full-2b", "sm_80");
}

#[test]
#[ignore = "five minutes (2B) or more, and 4 GB of memory"]
fn every_kernel_of_2b_on_sm_90a() {
    every_kernel("full-2b", "sm_90a");
}

#[test]
#[ignore = "five minutes (2B) or more, and 4 GB of memory"]
fn every_kernel_of_4b_on_sm_80() {
    every_kernel("full-4b", "sm_80");
}

#[test]
#[ignore = "five minutes (2B) or more, and 4 GB of memory"]
fn every_kernel_of_4b_on_sm_90a() {
    every_kernel("full-4b", "sm_90a");
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
