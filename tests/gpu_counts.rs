//! One decode step of layers with the shapes of the 2B model in the simulator, counted: bytes that move between memory and the
//! multiprocessors against the fewest possible, sectors, conflicts of banks, launches.
//!
//! The fewest: every weight once whatever the batch, a recurrent state read and written once, of the convolution's ring three rows
//! read and one written, every cached key and value read once. Activations stay in the second-level cache and are not counted.
//! What is counted: the sectors of 32 bytes of every request to matrices of weights and to states, each time that it is requested, so
//! that a weight that two tiles of rows read counts twice. Vectors (norms, biases: 70 KB) stay in the cache like activations.

#![cfg(feature = "ptxsim")]

use jet_runtime::{Counts, DeviceChoice, Model, OpenOptions, PtxSim, Session};
use jetc::compile::{CompileRequest, Quiet, compile};
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

fn artifact(folder: &Path) -> PathBuf {
    std::fs::write(folder.join("config.json"), config().to_string()).expect("a file in a temporary folder");
    let text = "[model]\nconfig = \"config.json\"\nweights = { synthetic = 1 }\n";
    std::fs::write(folder.join("model.toml"), text).expect("a file in a temporary folder");
    let mut request = CompileRequest { source: folder.join("model.toml"), ..CompileRequest::default() };
    request.output = folder.join("model.jetbin");
    request.options.backend = Some("ptx".into());
    (request.options.max_context, request.options.max_batch) = (Some(64), Some(64));
    request.options.prefill_chunk = Some(16);
    compile(&request, &mut Quiet).unwrap_or_else(|e| panic!("{e:#}"));
    request.output
}

/// The second step of `batch` sequences.
fn second_step(artifact: &Path, target: &str, batch: u32) -> Counts {
    let options = OpenOptions { device: DeviceChoice::PtxSim, target: Some(target.into()), ..OpenOptions::default() };
    let model = Model::open_with(artifact, &options).expect("an artifact for a GPU");
    let gpu = PtxSim::new();
    let counts = gpu.counts();
    let mut session = Session::with_device(&model, Box::new(gpu), batch).expect("a session");
    for step in 0..2 {
        *counts.lock().expect("no reader panicked") = Counts::default();
        let tokens: Vec<_> = (0..batch).map(|s| (s, 17 * s + step)).collect();
        session.decode(&tokens).expect("a step");
        session.argmax(0).expect("a choice");
    }
    let counts = counts.lock().expect("no reader panicked");
    counts.clone()
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

/// Weights, states and caches move at most 5 % more bytes than they must, in whole sectors.
#[test]
fn a_decode_step_moves_what_it_must() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artifact = artifact(folder.path());
    for (target, batches) in [("sm_80", &[8][..]), ("sm_90a", &[1, 64][..])] {
        for &batch in batches {
            let counts = second_step(&artifact, target, batch);
            let ratio = report(target, batch, &counts);
            assert!(ratio <= 1.05, "{target} B={batch}: {ratio}");
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
            assert!(inside || delta.bank_conflicts == 0, "{target} B={batch} {name}: {}", delta.bank_conflicts);
            // every copy of a warp's share of the state before the first is waited for
            let columns = if inside { 32 } else { SIZES.dv };
            assert_eq!(delta.copy_bytes_in_flight, 4 * SIZES.dk * columns / 8, "{target} B={batch} {name}");
        }
    }
}
