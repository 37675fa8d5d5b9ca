//! A decode step and a prompt of layers with the shapes of the 2B model in the simulator, counted: bytes that move between memory and the
//! multiprocessors against the fewest possible, sectors, conflicts of banks, launches.
//!
//! The fewest: every weight once whatever the batch, a recurrent state read and written once, of the convolution's ring three rows
//! read and one written, every cached key and value read once. Activations stay in the second-level cache, and have bounds of their own.
//! What is counted: the sectors of 32 bytes of every request to matrices of weights and to states, each time that it is requested, so
//! that a weight that two tiles of rows read counts twice. Vectors (norms, biases: 70 KB) stay in the cache like activations.

#![cfg(feature = "ptxsim")]

use jet_codegen::targets::Target;
use jet_runtime::jetbin::{Arg, DType, Domain, Phase, StepView};
use jet_runtime::{Counters, Counts, DeviceChoice, Model, OpenOptions, PtxSim, Session};
use jetc::compile::{CompileRequest, Quiet, compile};
use jetc::counted::count;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// One layer of recurrence and one of attention in the real width; the vocabulary is small, which changes the head alone.
fn config() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/full-2b/config.json");
    let text = std::fs::read_to_string(path).expect("the configuration of the 2B model");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    config["layer_types"] = json!(["jet", "attn"]);
    config["num_hidden_layers"] = json!(2);
    config["vocab_size"] = json!(4096);
    for id in ["bos_token_id", "eos_token_id"] {
        config[id] = json!(0);
    }
    config
}

/// Sizes of the model, as its configuration states them.
struct Sizes {
    hidden: u64,
    mlp: u64,
    vocab: u64,
    q: u64,
    kv: u64,
    jet_heads: u64,
    dk: u64,
    dv: u64,
    taps: u64,
    generator: u64,
}

const SIZES: Sizes = Sizes {
    hidden: 1536,
    mlp: 8960,
    vocab: 4096,
    q: 1536,
    kv: 256,
    jet_heads: 12,
    dk: 96,
    dv: 256,
    taps: 4,
    generator: 384,
};

impl Sizes {
    /// Matrices of weights in bytes, bf16.
    fn weights(&self) -> u64 {
        let values = self.jet_heads * self.dv;
        let inputs = self.hidden * (2 * self.jet_heads * self.dk + 2 * values + 2 * self.jet_heads + self.generator);
        let jet = inputs + self.taps * values * self.generator + values * self.hidden;
        let attention = self.hidden * (self.q + 2 * self.kv) + self.q * self.hidden;
        let matrices = jet + attention + 2 * 3 * self.hidden * self.mlp + self.vocab * self.hidden;
        2 * matrices
    }

    /// States of a sequence, read and written, in bytes: matrix and ring f32, the cache of `context` tokens bf16.
    fn states(&self, context: u64) -> u64 {
        let matrix = 2 * self.jet_heads * self.dk * self.dv;
        let ring = self.taps * self.jet_heads * self.dv;
        4 * (matrix + ring) + 2 * (context + 1) * 2 * self.kv
    }
}

fn artifact(folder: &Path, config: &Value, context: usize, chunk: usize) -> PathBuf {
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a file in a temporary folder");
    let text = "[model]\nconfig = \"config.json\"\nweights = { synthetic = 1 }\n";
    std::fs::write(folder.join("model.toml"), text).expect("a file in a temporary folder");
    let mut request = CompileRequest { source: folder.join("model.toml"), ..CompileRequest::default() };
    request.output = folder.join("model.jetbin");
    request.options.backend = Some("ptx".into());
    (request.options.max_context, request.options.max_batch) = (Some(context), Some(64));
    request.options.prefill_chunk = Some(chunk);
    compile(&request, &mut Quiet).unwrap_or_else(|e| panic!("{e:#}"));
    request.output
}

/// The second step of `batch` sequences.
fn second_step(artifact: &Path, target: &str, batch: u32) -> Counts {
    step_after(artifact, target, &vec![1; batch as usize])
}

/// A step of sequences that hold so many tokens.
fn step_after(artifact: &Path, target: &str, prompts: &[u32]) -> Counts {
    let options = OpenOptions { device: DeviceChoice::PtxSim, target: Some(target.into()), ..OpenOptions::default() };
    let model = Model::open_with(artifact, &options).expect("an artifact for a GPU");
    let gpu = PtxSim::new();
    let counts = gpu.counts();
    let batch = prompts.len() as u32;
    let mut session = Session::with_device(&model, Box::new(gpu), batch).expect("a session");
    let step = |session: &mut Session| session.decode(&(0..batch).map(|s| (s, 3 * s)).collect::<Vec<_>>());
    match prompts.iter().all(|tokens| *tokens == 1) {
        true => step(&mut session).expect("a step"),
        false => (0..batch).zip(prompts).for_each(|(s, tokens)| {
            let ids: Vec<u32> = (0..*tokens).map(|i| (i + s) % 251).collect();
            session.prefill(s, &ids).expect("a prompt");
        }),
    }
    let second = || {
        step(&mut session)?;
        session.argmax(0).map(drop)
    };
    count(&counts, second).expect("a step")
}

fn report(target: &str, batch: u32, counts: &Counts) -> f64 {
    let weights = counts.matrices.sector_bytes_read;
    let states = counts.states.sector_bytes_read + counts.states.sector_bytes_written;
    let fewest = SIZES.weights() + u64::from(batch) * SIZES.states(2);
    let ratio = (weights + states) as f64 / fewest as f64;
    println!(
        "{target} B={batch}: {} launches, weights {weights} (fewest {}), states {states} (fewest {}), ratio {ratio:.4}, activations {} read",
        counts.launches,
        SIZES.weights(),
        u64::from(batch) * SIZES.states(2),
        counts.activations.sector_bytes_read,
    );
    for (name, (launches, c)) in &counts.kernels {
        println!(
            "  {launches} {name}: weights {} states {} activations {} vectors {} conflicts {} of {} requests, {} loads and {} bytes of copies in flight",
            c.traffic[1].sector_bytes_read,
            c.traffic[3].sector_bytes_read + c.traffic[3].sector_bytes_written,
            c.traffic[0].sector_bytes_read,
            c.traffic[2].sector_bytes_read,
            c.bank_conflicts,
            c.shared_requests,
            c.loads_in_flight,
            c.copy_bytes_in_flight,
        );
    }
    ratio
}

/// Attention with and without a window in the real width; everything else is small.
fn attention_config() -> Value {
    let mut config = config();
    config["layer_types"] = json!(["attn", "swa"]);
    (config["intermediate_size"], config["vocab_size"]) = (json!(64), json!(256));
    config["efficient_attention_config"]["swa"]["window_size"] = json!(WINDOW);
    config
}

/// A window that ends in the middle of a block of keys.
const WINDOW: u64 = 200;

/// Each of several sequences, with contexts of up to some hundred tokens, reads every key and value that it sees once, in whole sectors;
/// enough is on its way to hide the latency of memory, and one sequence gives work to every multiprocessor.
#[test]
fn attention_reads_what_it_sees_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artifact = artifact(folder.path(), &attention_config(), 512, 64);
    for (target, buffers, processors, batch) in [("sm_80", 2, 108, 2), ("sm_90a", 3, 132, 8)] {
        let prompts: Vec<u32> = (0..batch).map(|s| 270 + 7 * s).collect();
        let counts = step_after(&artifact, target, &prompts);
        let (launches, c) = kernel(&counts, "attention_split");
        assert_eq!(launches, 2, "{target}");
        let keys = prompts.iter().map(|p| u64::from(*p) + 1).map(|seen| seen + seen.min(WINDOW)).sum::<u64>();
        let fewest = keys * 2 * SIZES.kv * 2;
        let (asked, sectors) = (c.traffic[3].bytes_read, c.traffic[3].sector_bytes_read);
        println!("{target}: {asked} bytes asked, {sectors} in sectors, fewest {fewest}, {c:?}");
        assert_eq!((asked, sectors), (fewest, fewest), "{target}");
        assert_eq!(c.bank_conflicts, 0, "{target}");
        // a warp's quarter of all blocks of 64 keys and values of a head but one
        assert_eq!(c.copy_bytes_in_flight, (buffers - 1) * 64 * 2 * 128 * 2 / 4, "{target}");
        // two blocks of the first split of each layer; the second split has one block, with the key of this step
        let early = if target == "sm_90a" { u64::from(batch) * 2 * (2 * 64) * 2 * SIZES.kv * 2 } else { 0 };
        assert_eq!(c.copy_bytes_before_wait, early, "{target}");
        assert!(ctas_of_one_row(&artifact, target, "attention_split") >= processors, "{target}");
    }
}

/// CTAs that a kernel for decode has in a call of one row.
fn ctas_of_one_row(artifact: &Path, target: &str, name: &str) -> u32 {
    let options = OpenOptions { device: DeviceChoice::PtxSim, target: Some(target.into()), ..OpenOptions::default() };
    let model = Model::open_with(artifact, &options).expect("an artifact for a GPU");
    let (reader, target) = (model.reader(), model.target());
    let program = reader.program(target, Phase::Decode).expect("a program");
    let kernels = reader.kernels(target);
    let is = |s: &StepView<'_>| kernels.get(s.kernel).is_some_and(|k| k.name.starts_with(name));
    let kernel = program.steps().iter().find(is).expect("a step").kernel;
    reader.launches(target).get(kernel).expect("a launch").items
}

/// Launches and counts of all kernels whose names start so.
fn kernel(counts: &Counts, name: &str) -> (u64, Counters) {
    let mut sum = (0, Counters::default());
    for (_, (launches, c)) in counts.kernels.iter().filter(|(k, _)| k.starts_with(name)) {
        sum.0 += launches;
        sum.1.add(c);
    }
    sum
}

/// What products whose rows lie in memory as bf16 read of rows, and of weights. The first norm, behind the embedding, reads f32, once in a
/// step whatever the number of layers.
fn rounded(counts: &Counts) -> (u64, u64) {
    let of_rounded = |name: &str| name.starts_with("product") || name.starts_with("scaled_product");
    let products = counts.kernels.iter().filter(|(name, _)| of_rounded(name)).map(|(_, (_, c))| c.traffic);
    products.fold((0, 0), |(rows, weights), t| (rows + t[0].sector_bytes_read, weights + t[1].sector_bytes_read))
}

/// Products behind a norm in decode, of which gate and up have CTAs of three panels: lanes that read every other eight of 48 columns meet, in
/// a third of the requests.
fn gates_of_three_panels(name: &str) -> bool {
    name.starts_with("scaled_product_decode")
}

/// No two lanes of a request to shared memory meet in a bank, in kernels for which there is no `exception`.
fn no_conflicts(counts: &Counts, what: &str, exception: &dyn Fn(&str) -> bool) {
    for (name, (_, c)) in counts.kernels.iter().filter(|(name, _)| !exception(name)) {
        assert_eq!(c.bank_conflicts, 0, "{what} {name}: conflicts in {} requests", c.shared_requests);
    }
}

/// Weights, states and caches move at most 5 % more bytes than they must, in whole sectors; rows of products come from the second-level
/// cache in less time than the weights from memory.
#[test]
fn a_decode_step_moves_what_it_must() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artifact = artifact(folder.path(), &config(), 64, 16);
    // the most bytes of rows are what was found and a twentieth
    for (target, batch, most) in [("sm_80", 8, 42_000_000), ("sm_90a", 1, 8_200_000), ("sm_90a", 64, 380_000_000)] {
        let counts = second_step(&artifact, target, batch);
        let ratio = report(target, batch, &counts);
        no_conflicts(&counts, &format!("{target} B={batch}"), &|name| gates_of_three_panels(name));
        assert!(ratio <= 1.05, "{target} B={batch}: {ratio}");
        let ((rows, weights), cost) = (rounded(&counts), Target::named(target).expect("a target").cost);
        let [cache, memory] = [rows as f64 / cost.cache_gbps, weights as f64 / cost.dram_gbps].map(|ns| ns / 1e3);
        println!(
            "{target} B={batch}: {rows} bytes of rows for {weights} of weights, {cache:.1} us beside {memory:.1} us"
        );
        assert!(rows <= most && cache < memory, "{target} B={batch}: {rows} bytes of rows");
        for (what, t) in [("matrices", counts.matrices), ("states", counts.states)] {
            let (moved, asked) = (t.sector_bytes_read + t.sector_bytes_written, t.bytes_read + t.bytes_written);
            println!("{target} B={batch} {what}: {moved} in sectors, {asked} asked");
            assert!(moved as f64 <= 1.01 * asked as f64, "{target} B={batch} {what}: {moved} bytes for {asked}");
        }
        let (name, (_, delta)) =
            counts.kernels.iter().find(|(name, _)| name.starts_with("gated_delta")).expect("a delta step");
        // with the convolution inside, a CTA has the columns of a warp, and the epilogue of a product
        let inside = name.contains("conv");
        assert_eq!(inside, target == "sm_90a" && batch == 1, "{target} B={batch} {name}");
        // every copy of a warp's share of the state before the first is waited for
        let columns = if inside { 32 } else { SIZES.dv };
        assert_eq!(delta.copy_bytes_in_flight, 4 * SIZES.dk * columns / 8, "{target} B={batch} {name}");
        // all of the state is asked for while the kernel before still runs
        let state = u64::from(batch) * 4 * SIZES.jet_heads * SIZES.dk * SIZES.dv;
        let early = if target == "sm_90a" { state } else { 0 };
        assert_eq!(delta.copy_bytes_before_wait, early, "{target} B={batch} {name}");
    }
}

/// Tokens of a prompt that fills tiles of 128 rows; the plan is that for chunks of 512.
const PROMPT: u32 = 128;

/// Bytes of weights that the products of a prompt read if each tile of rows reads them once, and how many tiles the widest kernel has.
fn weights_of_tiles(artifact: &Path, target: &str) -> (u64, u32) {
    let options = OpenOptions { device: DeviceChoice::PtxSim, target: Some(target.into()), ..OpenOptions::default() };
    let model = Model::open_with(artifact, &options).expect("an artifact for a GPU");
    let (reader, target) = (model.reader(), model.target());
    let program = reader.program(target, Phase::Prefill).expect("a program");
    let (mut bytes, mut most) = (0, 0);
    for step in program.steps().iter() {
        if !reader.kernels(target).get(step.kernel).is_some_and(|k| k.name.contains("product")) {
            continue;
        }
        // the head runs on its window of rows
        let rows = if step.domain == Domain::Head { 1 } else { PROMPT };
        let tiles = rows.div_ceil(reader.launches(target).get(step.kernel).expect("a launch").rows);
        let weight = |arg: Arg| match arg {
            Arg::Weight(index) => reader.weights().get(index).filter(|w| w.dtype == DType::Bf16).map(|w| w.length),
            _ => None,
        };
        let weights: u64 = program.args_of(&step).filter_map(weight).sum();
        bytes += u64::from(tiles) * weights;
        most = most.max(tiles);
    }
    (bytes, most)
}

/// In a prompt every tile of rows reads the weights once, by bulk copies (`sm_90a`) or loads, but for panels behind the last that CTAs
/// read again; states move as in a step, keys and values are read once by each tile of queries that sees them.
#[test]
fn a_prefill_moves_what_its_tiles_must() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artifact = artifact(folder.path(), &config(), 512, 512);
    for target in ["sm_80", "sm_90a"] {
        let counts = prefill(&artifact, target);
        no_conflicts(&counts, target, &|_| false);
        let products = |f: fn(&Counters) -> u64| {
            counts.kernels.iter().filter(|(name, _)| name.contains("product")).map(|(_, (_, c))| f(c)).sum::<u64>()
        };
        let (weights, rows) =
            (products(|c| c.traffic[1].sector_bytes_read), products(|c| c.traffic[0].sector_bytes_read));
        let ((tiles, most), once) = (weights_of_tiles(&artifact, target), SIZES.weights());
        println!(
            "{target}, {PROMPT} tokens: weights {weights} ({:.2} times, by tiles {:.2}), rows {rows}, {most} tiles at most",
            weights as f64 / once as f64,
            tiles as f64 / once as f64
        );
        assert!(weights >= once && weights as f64 <= 1.03 * tiles as f64, "{target}: {weights} of {tiles}");
        states_of_prefill(&counts, target);
    }
}

fn prefill(artifact: &Path, target: &str) -> Counts {
    let options = OpenOptions { device: DeviceChoice::PtxSim, target: Some(target.into()), ..OpenOptions::default() };
    let model = Model::open_with(artifact, &options).expect("an artifact for a GPU");
    let gpu = PtxSim::new();
    let counts = gpu.counts();
    let mut session = Session::with_device(&model, Box::new(gpu), 1).expect("a session");
    let ids: Vec<u32> = (0..PROMPT).map(|i| i % 251).collect();
    let prompt = || {
        session.prefill(0, &ids)?;
        session.argmax(PROMPT - 1).map(drop)
    };
    count(&counts, prompt).expect("a prompt")
}

/// Matrix and ring once, the last three rows of the ring twice; the cache as often as tiles of queries see it.
fn states_of_prefill(counts: &Counts, target: &str) {
    let (row, matrix) = (4 * SIZES.jet_heads * SIZES.dv, 4 * SIZES.jet_heads * SIZES.dk * SIZES.dv);
    let (_, delta) = kernel(counts, "gated_delta");
    let moved = [delta.traffic[3].sector_bytes_read, delta.traffic[3].sector_bytes_written];
    assert_eq!(moved, [matrix, matrix], "{target}");
    // 64 queries are 10 rows with 6 heads of one key-value head
    let (tokens, token) = (u64::from(PROMPT), 2 * 2 * SIZES.kv);
    let seen: u64 = (1..=tokens.div_ceil(10)).map(|tile| (10 * tile).min(tokens)).sum();
    let (_, attention) = kernel(counts, "attention_flash");
    assert_eq!(attention.traffic[3].sector_bytes_read, seen * token, "{target}");
    let all = [counts.states.sector_bytes_read, counts.states.sector_bytes_written];
    // rows of the ring are read by the convolution and once more to be moved
    let ring = [2 * (SIZES.taps - 1) * row, SIZES.taps * row];
    assert_eq!(all, [matrix + ring[0] + seen * token, matrix + ring[1] + tokens * token], "{target}");
}
