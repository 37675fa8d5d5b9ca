//! The golden cases, and the reference evaluation of their graphs.

use jet_frontend::tensor_file::TensorFile;
use jet_frontend::{ModelConfig, WeightSource, graph};
use jet_ir::{Graph, Leaf, Mat, Named, Sequence, Type, rope_table};
use std::path::PathBuf;

/// The folder of a golden case.
pub fn golden(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(case)
}

/// A graph with its weights in memory.
pub struct Model {
    config: ModelConfig,
    graph: Graph,
    weights: Named<f32>,
}

impl Model {
    /// Loads every weight that a graph names.
    pub fn new(config: &ModelConfig, graph: Graph, source: &dyn WeightSource) -> Model {
        let mut weights = Named::new();
        for id in graph.ids() {
            if let Some((Leaf::Weight, name)) = graph.leaf(id) {
                let data = source.read_all(name).unwrap();
                let cols = graph.ty(id).cols();
                weights.insert(name.to_string(), Mat { rows: data.len() / cols, cols, data });
            }
        }
        Model { config: config.clone(), graph, weights }
    }

    /// A fresh sequence.
    pub fn sequence(&self) -> Sequence<'_, f32> {
        Sequence::new(&self.graph)
    }

    /// Feeds token ids; the results are the graph's returns and probes.
    pub fn feed(&self, sequence: &mut Sequence<f32>, ids: &[u32]) -> Named<f32> {
        let ids = Mat { rows: ids.len(), cols: 1, data: ids.iter().map(|id| *id as f32).collect() };
        self.run(sequence, graph::TOKEN_IDS, ids)
    }

    /// Feeds an input of one row per token; the results are the graph's returns and probes.
    pub fn run(&self, sequence: &mut Sequence<f32>, input: &str, rows: Mat<f32>) -> Named<f32> {
        let tokens = rows.rows;
        let rope = rope_table(sequence.position(), tokens, &self.config.inv_freq());
        let inputs = Named::from([(input.to_string(), rows), (graph::ROPE.to_string(), rope)]);
        let weights = |name: &str, _: Type| Ok(self.weights[name].clone());
        let results = sequence.feed(tokens, &inputs, &weights).unwrap();
        results.returns.into_iter().chain(results.probes).collect()
    }
}

/// Relative L2 distance of `ours` from `golden`.
pub fn rel_l2(ours: &[f32], golden: &[f32]) -> f64 {
    assert_eq!(ours.len(), golden.len(), "different numbers of elements");
    let square = |x: f64| x * x;
    let distance: f64 = ours.iter().zip(golden).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = golden.iter().map(|b| square(f64::from(*b))).sum();
    if norm == 0.0 { distance.sqrt() } else { (distance / norm).sqrt() }
}

/// The tolerance that a case's `meta.json` states for f32 (six times the noise of the golden data themselves).
pub fn tolerance(case: &str) -> f64 {
    let text = std::fs::read(golden(case).join("meta.json")).unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&text).unwrap();
    meta["tolerance"]["f32_rel_l2_per_key"].as_f64().unwrap()
}

/// The golden results of a case.
pub fn golden_results(case: &str) -> TensorFile {
    TensorFile::open(&golden(case).join("io.safetensors")).unwrap()
}
