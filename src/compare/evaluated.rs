//! A graph under the reference meaning of its ops, as something that runs the sequences of a reference: slow, and right by inspection.

use super::feed::{Rows, Runner, Wanted};
use anyhow::Context;
use jet_frontend::graph::{ROPE, TOKEN_IDS};
use jet_frontend::{LayerKind, ModelConfig, WeightSource};
use jet_ir::quant::{Format, round_trip};
use jet_ir::{Graph, Manner, Mat, Named, Results, Rounding, Sequence, Type, rope_table};
use jet_runtime::StateTensor;

/// The graph of a model, fused or not, and the states of some sequences.
pub struct Evaluated<'m> {
    config: &'m ModelConfig,
    graph: &'m Graph,
    weights: &'m dyn WeightSource,
    inv_freq: Vec<f32>,
    sequences: Vec<Sequence<'m, f32>>,
}

impl<'m> Evaluated<'m> {
    /// Room for `slots` sequences; the graph has the names of [`jet_frontend::graph::model_graph`].
    pub fn new(config: &'m ModelConfig, graph: &'m Graph, weights: &'m dyn WeightSource, slots: usize) -> Self {
        let sequences = (0..slots).map(|_| Sequence::new(graph)).collect();
        Evaluated { config, graph, weights, inv_freq: config.inv_freq(), sequences }
    }

    /// Feeds consecutive tokens of one sequence; products read rounded rows, and every half of a layer reads the residual stream of
    /// `given` instead of the one that was computed before it, which the result holds.
    ///
    /// # Errors
    /// As for [`Runner::prefill`], and if `given` lacks a residual stream.
    pub fn guided(&mut self, slot: usize, ids: &[u32], rounding: Rounding, given: &Rows) -> anyhow::Result<Rows> {
        let (cols, mut streams) = (self.config.hidden, Named::new());
        for (kind, found) in [("layer_hidden", &given.layer_hidden), ("mixer_hidden", &given.mixer_hidden)] {
            for (layer, data) in found.iter().enumerate() {
                streams.insert(format!("{kind}.{layer}"), Mat { rows: data.len() / cols, cols, data: data.clone() });
            }
        }
        let all = Wanted { logits: true, layer_hidden: true, mixer_hidden: true, last_hidden: true };
        self.feed(slot, ids, all, &Manner { rounding, given: streams })
    }

    fn feed(&mut self, slot: usize, ids: &[u32], wanted: Wanted, manner: &Manner<f32>) -> anyhow::Result<Rows> {
        let source = self.weights;
        let weight = |name: &str, ty: Type| {
            let data = source.read_all(name).map_err(|problems| problems.to_string())?;
            let mat = Mat { rows: data.len() / ty.cols().max(1), cols: ty.cols(), data };
            match ty.elem().and_then(Format::of) {
                Some(format) => round_trip(format, mat),
                None => Ok(mat),
            }
        };
        let position = self.sequence(slot)?.position();
        let mut inputs = Named::new();
        let ids = Mat { rows: ids.len(), cols: 1, data: ids.iter().map(|id| *id as f32).collect() };
        inputs.insert(ROPE.to_string(), rope_table(position, ids.rows, &self.inv_freq));
        let tokens = ids.rows;
        inputs.insert(TOKEN_IDS.to_string(), ids);
        let results = self.sequence(slot)?.feed_as(tokens, &inputs, &weight, manner)?;
        rows(results, wanted, self.config.layers.len())
    }

    fn sequence(&mut self, slot: usize) -> anyhow::Result<&mut Sequence<'m, f32>> {
        let slots = self.sequences.len();
        self.sequences.get_mut(slot).with_context(|| format!("found slot {slot}, expected less than {slots}"))
    }
}

impl Runner for Evaluated<'_> {
    fn vocab(&self) -> usize {
        self.config.vocab
    }

    fn hidden(&self) -> usize {
        self.config.hidden
    }

    fn reset(&mut self, slot: usize) -> anyhow::Result<()> {
        let graph = self.graph;
        *self.sequence(slot)? = Sequence::new(graph);
        Ok(())
    }

    fn prefill(&mut self, slot: usize, ids: &[u32], wanted: Wanted) -> anyhow::Result<Rows> {
        self.feed(slot, ids, wanted, &Manner::default())
    }

    fn decode(&mut self, batch: &[(usize, u32)], wanted: Wanted) -> anyhow::Result<Rows> {
        let mut rows = Rows::default();
        for &(slot, id) in batch {
            rows.append(self.prefill(slot, &[id], wanted)?);
        }
        Ok(rows)
    }

    fn states(&mut self, slot: usize) -> anyhow::Result<Vec<StateTensor>> {
        let config = self.config;
        let states = self.sequence(slot)?.states();
        let of = |layer: usize, name: &str| {
            let name = format!("layers.{layer}.{name}");
            states.get(&name).with_context(|| format!("found no state {name}"))
        };
        let mut out = Vec::new();
        for (layer, kind) in config.layers.iter().enumerate() {
            let window = match kind {
                LayerKind::Jet => {
                    out.push(conv_state(layer, of(layer, "conv")?));
                    out.push(recurrent_state(layer, of(layer, "delta")?, config));
                    continue;
                }
                LayerKind::Attn => usize::MAX,
                LayerKind::Swa { window } => *window,
            };
            for (name, official) in [("keys", "k"), ("values", "v")] {
                out.push(cache(layer, official, of(layer, name)?, config.head_dim, window));
            }
        }
        Ok(out)
    }
}

/// What is wanted of a run.
fn rows(mut results: Results<f32>, wanted: Wanted, n_layers: usize) -> anyhow::Result<Rows> {
    let mut probe = |wanted: bool, name: String| match wanted {
        true => results.probes.remove(&name).map(|m| m.data).with_context(|| format!("found no probe {name}")),
        false => Ok(Vec::new()),
    };
    let hidden = (0..=n_layers).map(|layer| probe(wanted.layer_hidden, format!("layer_hidden.{layer}")));
    let layer_hidden = hidden.collect::<anyhow::Result<Vec<_>>>()?;
    let mixer = (0..n_layers).map(|layer| probe(wanted.mixer_hidden, format!("mixer_hidden.{layer}")));
    let mixer_hidden = mixer.collect::<anyhow::Result<Vec<_>>>()?;
    let last_hidden = probe(wanted.last_hidden, "last_hidden".into())?;
    let logits = match wanted.logits {
        true => results.returns.remove("logits").map(|m| m.data).context("found no logits")?,
        false => Vec::new(),
    };
    Ok(Rows { logits, layer_hidden, mixer_hidden, last_hidden })
}

fn recurrent_state(layer: usize, state: &Mat<f32>, config: &ModelConfig) -> StateTensor {
    let key_dim = config.jet.as_ref().map_or(state.rows, |jet| jet.head_dim);
    let shape = vec![state.rows / key_dim, key_dim, state.cols];
    StateTensor { layer: layer as u32, name: "recurrent_state", shape, values: state.data.clone() }
}

/// `[channels, taps]`: the transpose of ours.
fn conv_state(layer: usize, ring: &Mat<f32>) -> StateTensor {
    let values = Mat::new(ring.cols, ring.rows, |channel, tap| ring.at(tap, channel)).data;
    StateTensor { layer: layer as u32, name: "conv_state", shape: vec![ring.cols, ring.rows], values }
}

/// `[heads, rows, head_dim]` of the last `window` rows of a cache.
fn cache(layer: usize, name: &'static str, cache: &Mat<f32>, head_dim: usize, window: usize) -> StateTensor {
    let (heads, first) = (cache.cols / head_dim, cache.rows.saturating_sub(window));
    let head = |h: usize| (first..cache.rows).flat_map(move |row| &cache.row(row)[h * head_dim..][..head_dim]);
    let values = (0..heads).flat_map(head).copied().collect();
    StateTensor { layer: layer as u32, name, shape: vec![heads, cache.rows - first, head_dim], values }
}
