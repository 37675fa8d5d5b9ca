//! Runs a graph with the reference meaning of its ops, for one sequence whose states are kept between runs.

use jet_frontend::tensor_file::TensorFile;
use jet_frontend::{ModelConfig, WeightSource, graph};
use jet_ir::{Graph, Leaf, Mat, NodeKind, OutputKind, Value};
use std::collections::HashMap;
use std::path::PathBuf;

/// The folder of a golden case.
pub fn golden(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(case)
}

/// The weights of a graph by name, as the reference evaluation takes them.
pub type Weights = HashMap<String, Value<f32>>;

/// Loads every weight that a graph names.
pub fn load_weights(graph: &Graph, source: &dyn WeightSource) -> Weights {
    let mut weights = Weights::new();
    for id in graph.ids() {
        if let Some((Leaf::Weight, name)) = graph.leaf(id) {
            let data = source.read_all(name).unwrap();
            let cols = graph.ty(id).cols();
            weights.insert(name.to_string(), Value::Mat(Mat { rows: data.len() / cols, cols, data }));
        }
    }
    weights
}

/// One sequence.
pub struct Sequence<'a> {
    graph: &'a Graph,
    config: &'a ModelConfig,
    weights: &'a Weights,
    /// The states by name.
    pub states: HashMap<String, Mat<f32>>,
    position: usize,
}

impl<'a> Sequence<'a> {
    /// A fresh sequence: states of zero, caches of no rows.
    pub fn new(graph: &'a Graph, config: &'a ModelConfig, weights: &'a Weights) -> Sequence<'a> {
        let mut states = HashMap::new();
        for id in graph.ids() {
            if let Some((Leaf::State, name)) = graph.leaf(id) {
                let rows = match graph.ty(id).rows() {
                    Some(jet_ir::Rows::Fixed(rows)) => rows,
                    _ => 0,
                };
                states.insert(name.to_string(), Mat::zeros(rows, graph.ty(id).cols()));
            }
        }
        Sequence { graph, config, weights, states, position: 0 }
    }

    /// Feeds token ids; the results are the graph's returns and probes by name.
    pub fn feed(&mut self, ids: &[u32]) -> HashMap<String, Mat<f32>> {
        let ids = Mat { rows: ids.len(), cols: 1, data: ids.iter().map(|id| *id as f32).collect() };
        self.run(graph::TOKEN_IDS, ids)
    }

    /// Runs the graph on an input of one row per token.
    pub fn run(&mut self, input: &str, rows: Mat<f32>) -> HashMap<String, Mat<f32>> {
        let tokens = rows.rows;
        let rope = self.rope_table(tokens);
        let mut values: Vec<Value<f32>> = Vec::with_capacity(self.graph.nodes.len());
        for node in &self.graph.nodes {
            let value = match &node.kind {
                NodeKind::Leaf(Leaf::Input, name) if name == input => Value::Mat(rows.clone()),
                NodeKind::Leaf(Leaf::Input, _) => Value::Mat(rope.clone()),
                NodeKind::Leaf(Leaf::Weight, name) => self.weights[name].clone(),
                NodeKind::Leaf(Leaf::State, name) => Value::Mat(self.states[name].clone()),
                NodeKind::Op(op) => op.eval(&node.args.iter().map(|id| &values[id.index()]).collect::<Vec<_>>()),
            };
            values.push(value);
        }
        let mut results = HashMap::new();
        for output in &self.graph.outputs {
            let value = values[output.value.index()].mat().clone();
            match output.kind {
                OutputKind::Update => self.states.insert(output.name.clone(), value),
                OutputKind::Return | OutputKind::Probe => results.insert(output.name.clone(), value),
            };
        }
        self.position += tokens;
        results
    }

    /// `cos | sin` of the f32 angles of the next tokens.
    fn rope_table(&self, tokens: usize) -> Mat<f32> {
        let inv_freq = self.config.inv_freq();
        let half = inv_freq.len();
        Mat::new(tokens, 2 * half, |t, c| {
            let angle = (self.position + t) as f32 * inv_freq[c % half];
            if c < half { angle.cos() } else { angle.sin() }
        })
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
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden(case).join("meta.json")).unwrap()).unwrap();
    meta["tolerance"]["f32_rel_l2_per_key"].as_f64().unwrap()
}

/// The golden results of a case.
pub fn golden_results(case: &str) -> TensorFile {
    TensorFile::open(&golden(case).join("io.safetensors")).unwrap()
}
