//! The unfused graph, evaluated by the reference meaning of its ops, against data of the official implementation.

mod support;

use jet_frontend::graph::{HIDDEN, layer_graph, model_graph};
use jet_frontend::tensor_file::TensorFile;
use jet_frontend::{Checkpoint, LayerKind, ModelConfig, SyntheticWeights, WeightFormat, synth};
use jet_ir::{Mat, Sequence};
use support::{Model, golden, golden_results, rel_l2, tolerance};

/// Compares one key and remembers the worst deviation.
struct Check<'a> {
    case: &'a str,
    io: TensorFile,
    tolerance: f64,
    worst: f64,
    compared: usize,
}

impl Check<'_> {
    fn new(case: &str) -> Check<'_> {
        Check { case, io: golden_results(case), tolerance: tolerance(case), worst: 0.0, compared: 0 }
    }

    fn key(&mut self, key: &str, ours: &[f32]) {
        let deviation = rel_l2(ours, &self.io.read_f32(key).unwrap());
        let (case, tolerance) = (self.case, self.tolerance);
        assert!(deviation <= tolerance, "{case} {key}: rel L2 {deviation:.2e}, expected at most {tolerance:.0e}");
        self.worst = self.worst.max(deviation);
        self.compared += 1;
    }

    fn done(self, keys: usize) {
        println!("{}: {} keys, worst rel L2 {:.2e}", self.case, self.compared, self.worst);
        assert_eq!(self.compared, keys, "{}: some keys were not compared", self.case);
    }
}

/// All sequences of a case: prompt in the file's chunks, then greedy decoding with the golden ids.
fn whole_model(case: &str) {
    let config = ModelConfig::read(&golden(case).join("config.json")).unwrap();
    let graph = model_graph(&config, WeightFormat::Bf16).unwrap();
    let model = Model::new(&config, graph, &Checkpoint::open(&golden(case), &config).unwrap());
    let mut check = Check::new(case);
    let has = |j: usize| check.io.entry(&format!("seq{j}.input_ids")).is_some();
    let sequences = (0..).take_while(|j| has(*j)).count();
    for j in 0..sequences {
        sequence(&mut check, &format!("seq{j}."), &model, &config);
    }
    // Four keys of a sequence, and two states of every layer after the prompt and at the end.
    check.done(sequences * (4 + 4 * config.layers.len()));
}

fn sequence(check: &mut Check, prefix: &str, model: &Model, config: &ModelConfig) {
    let mut ours = model.sequence();
    let integers = |key: &str| check.io.read_i64(&format!("{prefix}{key}")).unwrap();
    let ids: Vec<u32> = integers("input_ids").into_iter().map(|id| id as u32).collect();
    let (chunks, greedy) = (integers("chunks"), integers("greedy_ids"));
    let positions = integers("layer_hidden_positions");
    let (mut logits, mut last_hidden) = (Vec::new(), Vec::new());
    let mut hidden = vec![Vec::new(); config.layers.len() + 1];
    let mut fed = 0;
    for chunk in chunks {
        let results = model.feed(&mut ours, &ids[fed..fed + chunk as usize]);
        fed += chunk as usize;
        logits.extend(&results["logits"].data);
        last_hidden.extend(&results["last_hidden"].data);
        for (layer, rows) in hidden.iter_mut().enumerate() {
            rows.extend(&results[&format!("layer_hidden.{layer}")].data);
        }
    }
    let picked: Vec<f32> = hidden
        .iter()
        .flat_map(|rows| positions.iter().flat_map(|&p| &rows[p as usize * config.hidden..][..config.hidden]))
        .copied()
        .collect();
    check.key(&format!("{prefix}logits"), &logits);
    check.key(&format!("{prefix}last_hidden"), &last_hidden);
    check.key(&format!("{prefix}layer_hidden"), &picked);
    states(check, &format!("{prefix}prefill."), &ours, config);
    let mut decoded = Vec::new();
    for step in greedy.windows(2) {
        let results = model.feed(&mut ours, &[step[0] as u32]);
        assert_eq!(results["argmax"].data, [step[1] as f32], "{} {prefix}: greedy choice", check.case);
        decoded.extend(&results["logits"].data);
    }
    check.key(&format!("{prefix}decode_logits"), &decoded);
    states(check, &format!("{prefix}final."), &ours, config);
}

/// The states of all layers in the golden layout.
fn states(check: &mut Check, prefix: &str, ours: &Sequence<f32>, config: &ModelConfig) {
    for (layer, kind) in config.layers.iter().enumerate() {
        let key = |name: &str| format!("{prefix}layers.{layer}.{name}");
        let state = |name: &str| &ours.states()[&format!("layers.{layer}.{name}")];
        match kind {
            LayerKind::Jet => {
                check.key(&key("recurrent_state"), &state("delta").data);
                let conv = state("conv");
                let transposed = Mat::new(conv.cols, conv.rows, |d, w| conv.at(w, d));
                check.key(&key("conv_state"), &transposed.data);
            }
            LayerKind::Attn => {
                check.key(&key("k"), &by_head(state("keys"), config, usize::MAX));
                check.key(&key("v"), &by_head(state("values"), config, usize::MAX));
            }
            LayerKind::Swa { window } => {
                check.key(&key("k"), &by_head(state("keys"), config, *window));
                check.key(&key("v"), &by_head(state("values"), config, *window));
            }
        }
    }
}

/// `[heads, n, head_dim]` of the last `window` rows of a cache.
fn by_head(cache: &Mat<f32>, config: &ModelConfig, window: usize) -> Vec<f32> {
    let first = cache.rows.saturating_sub(window);
    let head =
        |h: usize| (first..cache.rows).flat_map(move |row| &cache.row(row)[h * config.head_dim..][..config.head_dim]);
    (0..config.n_kv_heads).flat_map(head).copied().collect()
}

macro_rules! whole_models {
    ($($test:ident = $case:literal;)*) => { $(
        #[test]
        fn $test() {
            whole_model($case);
        }
    )* };
}

whole_models! {
    tiny_a = "tiny-a";
    tiny_b = "tiny-b";
    tiny_c_jet = "tiny-c-jet";
    tiny_c_attn = "tiny-c-attn";
    tiny_c_mix = "tiny-c-mix";
    tiny_d_eps = "tiny-d-eps";
}

/// The first `rows` rows of a decoder layer of 2B shape. Later rows add nothing for a causal layer but time.
fn block(case: &str, rows: usize) {
    let config = ModelConfig::read(&golden(case).join("config.json")).unwrap();
    let graph = layer_graph(&config, 0, WeightFormat::Bf16).unwrap();
    let model = Model::new(&config, graph, &SyntheticWeights::new(&config, 21));
    let input = Mat { rows, cols: config.hidden, data: synth::input_rows(21, rows, config.hidden) };
    let results = model.run(&mut model.sequence(), HIDDEN, input);
    let io = golden_results(case);
    for key in ["mixer_out", "layer_out"] {
        let golden = io.read_f32(&format!("seq0.{key}")).unwrap();
        let deviation = rel_l2(&results[key].data, &golden[..rows * config.hidden]);
        assert!(deviation <= tolerance(case), "{case} {key}: rel L2 {deviation:.2e}");
    }
}

#[test]
fn block_2b_jet() {
    block("block-2b-jet", 12);
}

#[test]
fn block_2b_attn() {
    block("block-2b-attn", 12);
}

/// The window of this case is 64: the last rows have lost their first keys.
#[test]
fn block_2b_swa() {
    block("block-2b-swa", 66);
}

/// The trained example: real weights (all bf16, `A_log` too), prompt logits and a greedy continuation.
#[test]
fn austen_jet() {
    let directory = golden("../../examples/austen-jet");
    let config = ModelConfig::read(&directory.join("config.json")).unwrap();
    let graph = model_graph(&config, WeightFormat::Bf16).unwrap();
    let model = Model::new(&config, graph, &Checkpoint::open(&directory, &config).unwrap());
    let reference = TensorFile::open(&directory.join("reference.safetensors")).unwrap();
    for prompt in 0..2 {
        let ids = reference.read_i64(&format!("prompt{prompt}.input_ids")).unwrap();
        let greedy = reference.read_i64(&format!("prompt{prompt}.greedy_ids")).unwrap();
        let mut ours = model.sequence();
        let mut results = model.feed(&mut ours, &ids.iter().map(|id| *id as u32).collect::<Vec<_>>());
        let golden = reference.read_f32(&format!("prompt{prompt}.logits")).unwrap();
        let logits = &results["logits"].data;
        let deviation = rel_l2(&logits[logits.len() - golden.len()..], &golden);
        // The tiny cases' noise, 5e-6, with the same factor of six.
        assert!(deviation <= 3e-5, "prompt {prompt}: rel L2 {deviation:.2e}");
        for (step, &next) in greedy.iter().enumerate().take(24) {
            assert_eq!(results["argmax"].data.last(), Some(&(next as f32)), "prompt {prompt}, token {step}");
            results = model.feed(&mut ours, &[next as u32]);
        }
    }
}
