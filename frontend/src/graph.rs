//! The model as a graph: its mathematics op by op, nothing fused, weights under their official names.
//!
//! # Source
//! `modeling_jet_nemotron.py` (decoder layer, attention, model) and `jet_block.py` of the official repository.

use crate::config::{JetConfig, LayerKind, ModelConfig};
use crate::problem::{Problems, Result};
use crate::spec::WeightFormat;
use crate::tensors::{EMBEDDING, FINAL_NORM, LM_HEAD, layer_tensor};
use jet_ir::ops::{
    Add, Argmax, Attention, Bias, DynamicConv, Embed, Exp, GatedDeltaRule, GatedNorm, Get0, Get1, KvAppend, L2Norm,
    Matmul, Mul, Neg, Op, RingPush, RmsNorm, Rope, Scale, ScaleCols, Sigmoid, Silu, Softplus,
};
use jet_ir::{Elem, F32, Graph, Id, Leaf, OutputKind, Rows, Type};
use std::collections::HashMap;

/// Name of the input with the token ids, `i32[T, 1]`.
pub const TOKEN_IDS: &str = "token_ids";
/// Name of the input with `cos | sin` of every row's position, `f32[T, head_dim]`.
pub const ROPE: &str = "rope";
/// Name of the input with the residual stream of [`layer_graph`], `f32[T, hidden]`.
pub const HIDDEN: &str = "hidden";
/// Epsilon of the l2 norms of queries and keys, fixed in the official kernels.
const L2_EPS: f32 = 1e-6;

/// The graph of a whole model. `weights` says how its matrices are stored; vectors are f32.
///
/// Inputs: [`TOKEN_IDS`], and [`ROPE`] if there is an attention layer. States of layer `l`: `layers.l.conv` and
/// `layers.l.delta`, or `layers.l.keys` and `layers.l.values`, each with an update. Returns: `logits`, `argmax`.
/// Probes: `layer_hidden.l` (the residual stream after `l` layers), `mixer_hidden.l` (the residual stream between mixer
/// and MLP of layer `l`), `last_hidden` (after the final norm).
///
/// # Errors
/// Sizes that do not fit together, which [`ModelConfig::parse`] rules out.
pub fn model_graph(config: &ModelConfig, weights: WeightFormat) -> Result<Graph> {
    let mut b = Builder::new(config, weights, "model");
    let ids = b.leaf(Leaf::Input, TOKEN_IDS, Type::tensor(jet_ir::Place::Mem, Rows::Tokens, 1, Elem::I32))?;
    let table = b.weight(EMBEDDING)?;
    let mut hidden = b.op(Embed {}, &[table, ids])?;
    b.probe("layer_hidden.0", hidden);
    for layer in 0..config.layers.len() {
        let step = b.decoder_layer(layer, hidden)?;
        hidden = step.out;
        b.probe(&format!("mixer_hidden.{layer}"), step.mixer_hidden);
        b.probe(&format!("layer_hidden.{}", layer + 1), hidden);
    }
    b.scope = "model".to_string();
    let normed = b.rms_norm(hidden, FINAL_NORM)?;
    b.probe("last_hidden", normed);
    let logits = b.linear(normed, if config.tie_word_embeddings { EMBEDDING } else { LM_HEAD })?;
    let argmax = b.op(Argmax {}, &[logits])?;
    b.graph.output(OutputKind::Return, "logits", logits);
    b.graph.output(OutputKind::Return, "argmax", argmax);
    Ok(b.graph)
}

/// The graph of decoder layer `layer` alone, on the input [`HIDDEN`]. Returns: `mixer_out`, the mixer's output without
/// the residual, and `layer_out`.
///
/// # Errors
/// As for [`model_graph`].
pub fn layer_graph(config: &ModelConfig, layer: usize, weights: WeightFormat) -> Result<Graph> {
    let mut b = Builder::new(config, weights, "layer");
    let hidden = b.leaf(Leaf::Input, HIDDEN, Type::mem(Rows::Tokens, config.hidden))?;
    let step = b.decoder_layer(layer, hidden)?;
    b.graph.output(OutputKind::Return, "mixer_out", step.mixer_out);
    b.graph.output(OutputKind::Return, "layer_out", step.out);
    Ok(b.graph)
}

/// The values of a decoder layer that have a name outside.
struct LayerValues {
    mixer_out: Id,
    mixer_hidden: Id,
    out: Id,
}

struct Builder<'a> {
    config: &'a ModelConfig,
    weights: WeightFormat,
    shapes: HashMap<String, Vec<usize>>,
    graph: Graph,
    /// What is being built, for messages.
    scope: String,
}

impl<'a> Builder<'a> {
    fn new(config: &'a ModelConfig, weights: WeightFormat, name: &str) -> Builder<'a> {
        let shapes = config.tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect();
        Builder { config, weights, shapes, graph: Graph::new(name), scope: "model".to_string() }
    }

    fn op(&mut self, op: impl Into<Op>, args: &[Id]) -> Result<Id> {
        self.graph.add(op, args).map_err(|message| Problems::one(&self.scope, message))
    }

    fn leaf(&mut self, leaf: Leaf, name: &str, ty: Type) -> Result<Id> {
        self.graph.add_leaf(leaf, name, ty).map_err(|message| Problems::one(&self.scope, message))
    }

    fn weight(&mut self, name: &str) -> Result<Id> {
        let ty = match self.shapes.get(name).map(Vec::as_slice) {
            Some(&[rows, columns]) => Type::weight(rows, columns, self.weights.elem(name)),
            Some(&[columns]) => Type::weight(1, columns, Elem::F32),
            _ => return Err(Problems::one(name, "found no such matrix or vector in the model's tensors")),
        };
        self.leaf(Leaf::Weight, name, ty)
    }

    fn probe(&mut self, name: &str, value: Id) {
        self.graph.output(OutputKind::Probe, name, value);
    }

    /// A state of the current layer and its content after this run.
    fn update(&mut self, name: &str, value: Id) {
        self.graph.output(OutputKind::Update, name, value);
    }

    /// `x W^T`.
    fn linear(&mut self, x: Id, weight: &str) -> Result<Id> {
        let weight = self.weight(weight)?;
        self.op(Matmul {}, &[x, weight])
    }

    fn rms_norm(&mut self, x: Id, weight: &str) -> Result<Id> {
        let weight = self.weight(weight)?;
        self.op(RmsNorm { eps: F32::from(self.config.rms_norm_eps) }, &[x, weight])
    }

    /// `h += mixer(rms(h)); h += mlp(rms(h))`.
    fn decoder_layer(&mut self, layer: usize, hidden: Id) -> Result<LayerValues> {
        self.scope = format!("layers.{layer}");
        let name = |rest: &str| layer_tensor(layer, rest);
        let normed = self.rms_norm(hidden, &name("input_layernorm.weight"))?;
        let config = self.config;
        let mixed = match (config.layers.get(layer), &config.jet) {
            (Some(LayerKind::Jet), Some(jet)) => self.jet_block(layer, jet, normed)?,
            (Some(LayerKind::Attn), _) => self.attention(layer, normed, 0)?,
            (Some(LayerKind::Swa { window }), _) => self.attention(layer, normed, *window)?,
            (Some(LayerKind::Jet), None) => {
                return Err(Problems::one(&self.scope, "found a jet layer, but no sizes of jet layers"));
            }
            (None, _) => {
                let message = format!("found no such layer, expected one of {}", config.layers.len());
                return Err(Problems::one(&self.scope, message));
            }
        };
        let mixer_hidden = self.op(Add {}, &[mixed, hidden])?;
        let normed = self.rms_norm(mixer_hidden, &name("post_attention_layernorm.weight"))?;
        let gate = self.linear(normed, &name("mlp.gate_proj.weight"))?;
        let gate = self.op(Silu {}, &[gate])?;
        let up = self.linear(normed, &name("mlp.up_proj.weight"))?;
        let wide = self.op(Mul {}, &[gate, up])?;
        let down = self.linear(wide, &name("mlp.down_proj.weight"))?;
        let out = self.op(Add {}, &[down, mixer_hidden])?;
        Ok(LayerValues { mixer_out: mixed, mixer_hidden, out })
    }

    /// Attention with rotary embedding; `window` 0 sees the whole context.
    fn attention(&mut self, layer: usize, x: Id, window: usize) -> Result<Id> {
        let head_dim = self.config.head_dim;
        let table = self.leaf(Leaf::Input, ROPE, Type::mem(Rows::Tokens, head_dim))?;
        let [q, k, v] = ["q", "k", "v"].map(|name| self.biased(layer, x, name));
        let q = self.op(Rope { head_dim }, &[q?, table])?;
        let k = self.op(Rope { head_dim }, &[k?, table])?;
        let keys = self.appended(&format!("layers.{layer}.keys"), k)?;
        let values = self.appended(&format!("layers.{layer}.values"), v?)?;
        let grid = self.op(Attention { head_dim, window }, &[q, keys, values])?;
        let out = self.op(Get0 {}, &[grid])?;
        self.linear(out, &layer_tensor(layer, "self_attn.o_proj.weight"))
    }

    /// `x W^T + b` of an attention projection.
    fn biased(&mut self, layer: usize, x: Id, name: &str) -> Result<Id> {
        let product = self.linear(x, &layer_tensor(layer, &format!("self_attn.{name}_proj.weight")))?;
        let bias = self.weight(&layer_tensor(layer, &format!("self_attn.{name}_proj.bias")))?;
        self.op(Bias {}, &[product, bias])
    }

    fn appended(&mut self, state: &str, rows: Id) -> Result<Id> {
        let cache = self.leaf(Leaf::State, state, Type::mem(Rows::Context, self.config.kv_total()))?;
        let cache = self.op(KvAppend {}, &[cache, rows])?;
        self.update(state, cache);
        Ok(cache)
    }

    /// JetBlock: `o_proj(gated_norm(gated_delta_rule(..)))`.
    fn jet_block(&mut self, layer: usize, jet: &JetConfig, x: Id) -> Result<Id> {
        let name = |rest: &str| layer_tensor(layer, &format!("self_attn.{rest}"));
        let head_dim = jet.head_dim;
        let q = self.unit_heads(jet, x, &name("q_proj.weight"))?;
        let q = self.op(Scale { c: F32::from((head_dim as f64).powf(-0.5) as f32) }, &[q])?;
        let k = self.unit_heads(jet, x, &name("k_proj.weight"))?;
        let v = self.convolved_values(layer, jet, x)?;
        let beta = self.linear(x, &name("b_proj.weight"))?;
        let beta = self.op(Sigmoid {}, &[beta])?;
        let decay = self.decay(layer, x)?;
        let state_type = Type::mem(Rows::Fixed(jet.key_total()), jet.value_dim);
        let state_name = format!("layers.{layer}.delta");
        let state = self.leaf(Leaf::State, &state_name, state_type)?;
        let grid = self.op(GatedDeltaRule {}, &[q, k, v, decay, beta, state])?;
        let out = self.op(Get0 {}, &[grid])?;
        let state = self.op(Get1 {}, &[grid])?;
        self.update(&state_name, state);
        let gate = self.linear(x, &name("g_proj.weight"))?;
        let norm = self.weight(&name("o_norm.weight"))?;
        let norm_op = GatedNorm { head_dim: jet.value_dim, eps: F32::from(jet.norm_eps) };
        let out = self.op(norm_op, &[out, norm, gate])?;
        self.linear(out, &name("o_proj.weight"))
    }

    /// `l2_norm(silu(x W^T))` over each head.
    fn unit_heads(&mut self, jet: &JetConfig, x: Id, weight: &str) -> Result<Id> {
        let product = self.linear(x, weight)?;
        let product = self.op(Silu {}, &[product])?;
        self.op(L2Norm { head_dim: jet.head_dim, eps: F32::from(L2_EPS) }, &[product])
    }

    /// `silu(dynamic_conv(kernels, x Wv^T))` with `kernels = silu(x W1^T) W2^T + b2`.
    fn convolved_values(&mut self, layer: usize, jet: &JetConfig, x: Id) -> Result<Id> {
        let name = |rest: &str| layer_tensor(layer, &format!("self_attn.{rest}"));
        let generator = |rest: &str| name(&format!("dynamic_conv1d.kernel_generator.{rest}"));
        let taps = jet.conv_size;
        let values = self.linear(x, &name("v_proj.weight"))?;
        let features = self.linear(x, &generator("w1.weight"))?;
        let features = self.op(Silu {}, &[features])?;
        let kernels = self.linear(features, &generator("w2.weight"))?;
        let bias = self.weight(&generator("w2.bias"))?;
        let kernels = self.op(Bias {}, &[kernels, bias])?;
        let state_name = format!("layers.{layer}.conv");
        let ring = self.leaf(Leaf::State, &state_name, Type::mem(Rows::Fixed(taps), jet.value_total()))?;
        let mixed = self.op(DynamicConv { taps }, &[kernels, values, ring])?;
        let pushed = self.op(RingPush { taps }, &[ring, values])?;
        self.update(&state_name, pushed);
        self.op(Silu {}, &[mixed])
    }

    /// `exp(-exp(A_log) * softplus(x Wa^T + dt_bias))`.
    fn decay(&mut self, layer: usize, x: Id) -> Result<Id> {
        let name = |rest: &str| layer_tensor(layer, &format!("self_attn.{rest}"));
        let step = self.linear(x, &name("a_proj.weight"))?;
        let dt_bias = self.weight(&name("dt_bias"))?;
        let step = self.op(Bias {}, &[step, dt_bias])?;
        let step = self.op(Softplus {}, &[step])?;
        let a_log = self.weight(&name("A_log"))?;
        let rate = self.op(Exp {}, &[a_log])?;
        let rate = self.op(Neg {}, &[rate])?;
        let log_decay = self.op(ScaleCols {}, &[step, rate])?;
        self.op(Exp {}, &[log_decay])
    }
}
