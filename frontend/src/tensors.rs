//! The tensors that a model consists of: the one list of names and shapes.

use crate::config::{JetConfig, LayerKind, ModelConfig};

/// Name and shape of a tensor that a checkpoint has to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The official name, for example `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// One or two sizes; a matrix is `[out, in]`.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

/// Name of the embedding table.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the norm before the output matrix.
pub const FINAL_NORM: &str = "model.norm.weight";
/// Name of the output matrix of a model whose embeddings are not tied.
pub const LM_HEAD: &str = "lm_head.weight";

/// `model.layers.{layer}.{rest}`.
pub fn layer_tensor(layer: usize, rest: &str) -> String {
    format!("model.layers.{layer}.{rest}")
}

impl ModelConfig {
    /// All tensors of the model, in the order of the computation.
    ///
    /// # Source
    /// `modeling_jet_nemotron.py`, `jet_block.py`, `dynamic_conv.py`: the names of the official state dictionary.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut list = vec![TensorSpec { name: EMBEDDING.to_string(), shape: vec![self.vocab, self.hidden] }];
        for (layer, kind) in self.layers.iter().enumerate() {
            list.extend(self.layer_tensors(layer, *kind));
        }
        list.push(TensorSpec { name: FINAL_NORM.to_string(), shape: vec![self.hidden] });
        if !self.tie_word_embeddings {
            list.push(TensorSpec { name: LM_HEAD.to_string(), shape: vec![self.vocab, self.hidden] });
        }
        list
    }

    fn layer_tensors(&self, layer: usize, kind: LayerKind) -> Vec<TensorSpec> {
        let (hidden, wide) = (self.hidden, self.intermediate);
        let mut shapes = vec![("input_layernorm.weight", vec![hidden])];
        match (kind, &self.jet) {
            (LayerKind::Jet, Some(jet)) => shapes.extend(jet_tensors(jet, hidden)),
            (LayerKind::Jet, None) => unreachable!("a configuration with jet layers has their sizes"),
            (LayerKind::Attn | LayerKind::Swa { .. }, _) => {
                let (q, kv) = (self.q_total(), self.kv_total());
                shapes.extend([
                    ("self_attn.q_proj.weight", vec![q, hidden]),
                    ("self_attn.q_proj.bias", vec![q]),
                    ("self_attn.k_proj.weight", vec![kv, hidden]),
                    ("self_attn.k_proj.bias", vec![kv]),
                    ("self_attn.v_proj.weight", vec![kv, hidden]),
                    ("self_attn.v_proj.bias", vec![kv]),
                    ("self_attn.o_proj.weight", vec![hidden, q]),
                ]);
            }
        }
        shapes.extend([
            ("post_attention_layernorm.weight", vec![hidden]),
            ("mlp.gate_proj.weight", vec![wide, hidden]),
            ("mlp.up_proj.weight", vec![wide, hidden]),
            ("mlp.down_proj.weight", vec![hidden, wide]),
        ]);
        shapes.into_iter().map(|(rest, shape)| TensorSpec { name: layer_tensor(layer, rest), shape }).collect()
    }
}

fn jet_tensors(jet: &JetConfig, hidden: usize) -> [(&'static str, Vec<usize>); 13] {
    let (n, keys, values) = (jet.n_heads, jet.key_total(), jet.value_total());
    let (generator, kernels) = (jet.generator_hidden, values * jet.conv_size);
    [
        ("self_attn.A_log", vec![n]),
        ("self_attn.dt_bias", vec![n]),
        ("self_attn.q_proj.weight", vec![keys, hidden]),
        ("self_attn.k_proj.weight", vec![keys, hidden]),
        ("self_attn.v_proj.weight", vec![values, hidden]),
        ("self_attn.b_proj.weight", vec![n, hidden]),
        ("self_attn.a_proj.weight", vec![n, hidden]),
        ("self_attn.dynamic_conv1d.kernel_generator.w1.weight", vec![generator, hidden]),
        ("self_attn.dynamic_conv1d.kernel_generator.w2.weight", vec![kernels, generator]),
        ("self_attn.dynamic_conv1d.kernel_generator.w2.bias", vec![kernels]),
        ("self_attn.g_proj.weight", vec![values, hidden]),
        ("self_attn.o_norm.weight", vec![jet.value_dim]),
        ("self_attn.o_proj.weight", vec![hidden, values]),
    ]
}
