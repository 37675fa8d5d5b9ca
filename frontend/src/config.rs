//! A Hugging Face `config.json` of model type `jet_nemotron`, checked and turned into a [`ModelConfig`].
//!
//! Everything that would change the mathematics and is not supported is refused by name, all problems at once.

mod read;

use crate::json;
use crate::problem::{Problem, Result};
use std::path::Path;

pub(crate) use read::token_ids;

/// The sequence mixer of one decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// JetBlock: gated delta rule with a dynamic convolution on the values.
    Jet,
    /// Full causal attention.
    Attn,
    /// Causal attention to the last `window` tokens, the current one included.
    Swa {
        /// Number of visible keys.
        window: usize,
    },
}

/// The sizes of the JetBlock layers.
///
/// # Source
/// `jet_block.py`, class `JetBlockConfig` and `JetBlock.__init__`.
#[derive(Debug, Clone, PartialEq)]
pub struct JetConfig {
    /// Number of heads.
    pub n_heads: usize,
    /// Key and query size of a head (K).
    pub head_dim: usize,
    /// Ratio of value size to key size, as written in the configuration.
    pub expand_v: f64,
    /// Value size of a head (V): `int(head_dim * expand_v)`.
    pub value_dim: usize,
    /// Taps of the dynamic convolution.
    pub conv_size: usize,
    /// Width of the convolution's kernel generator: all values over the generator's reduction.
    pub generator_hidden: usize,
    /// Epsilon of the gated output norm.
    pub norm_eps: f32,
}

impl JetConfig {
    /// Queries (or keys) of all heads: `n_heads * head_dim`.
    pub fn key_total(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Values of all heads: `n_heads * value_dim`.
    pub fn value_total(&self) -> usize {
        self.n_heads * self.value_dim
    }
}

/// A checked model configuration: every size is positive and every product of sizes that occurs fits.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Number of token ids.
    pub vocab: usize,
    /// The mixer of each layer.
    pub layers: Vec<LayerKind>,
    /// Query heads of the attention layers.
    pub n_heads: usize,
    /// Key and value heads of the attention layers; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Size of an attention head; even.
    pub head_dim: usize,
    /// Sizes of the jet layers; present whenever there is one.
    pub jet: Option<JetConfig>,
    /// Epsilon of the residual stream's norms.
    pub rms_norm_eps: f32,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Whether the output matrix is the embedding table.
    pub tie_word_embeddings: bool,
    /// Longest context that the model was made for.
    pub max_position_embeddings: usize,
    /// Ids that end a text, as far as the model's configuration names them.
    pub eos_token_ids: Vec<u32>,
    /// The id that starts a text, if any.
    pub bos_token_id: Option<u32>,
    notes: Vec<Problem>,
}

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// The file cannot be read, or see [`ModelConfig::parse`].
    pub fn read(path: &Path) -> Result<ModelConfig> {
        ModelConfig::parse(&json::read_file(path)?, &path.display().to_string())
    }

    /// Reads the text of a `config.json`; `origin` names it in messages.
    ///
    /// # Errors
    /// Every field that is missing, of the wrong type, out of range, inconsistent with another one, or asks for
    /// mathematics that is not supported.
    pub fn parse(text: &[u8], origin: &str) -> Result<ModelConfig> {
        read::parse(text, origin)
    }

    /// Oddities that were accepted: unknown fields, and ids outside the vocabulary.
    pub fn warnings(&self) -> &[Problem] {
        &self.notes
    }

    /// Number of weights of the model, shared ones counted once.
    pub fn parameter_count(&self) -> u64 {
        self.tensors().iter().fold(0, |sum, t| sum.saturating_add(t.elements()))
    }

    /// Frequencies of the rotary embedding, `theta^(-2i / head_dim)` for each pair `i`, computed in f64 and rounded once.
    pub fn inv_freq(&self) -> Vec<f32> {
        let exponent = |i: usize| -2.0 * i as f64 / self.head_dim as f64;
        (0..self.head_dim / 2).map(|i| self.rope_theta.powf(exponent(i)) as f32).collect()
    }

    /// Queries of all attention heads: `n_heads * head_dim`.
    pub fn q_total(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Keys (or values) of all attention heads: `n_kv_heads * head_dim`.
    pub fn kv_total(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}
