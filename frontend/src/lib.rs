//! Reads model.toml and Hugging Face checkpoints into a jetc graph.

pub mod checkpoint;
pub mod config;
pub mod graph;
mod json;
pub mod problem;
pub mod synth;
pub mod tensor_file;
pub mod tensors;
pub mod weights;

pub use checkpoint::Checkpoint;
pub use config::{JetConfig, LayerKind, ModelConfig};
pub use problem::{Problem, Problems};
pub use weights::{SyntheticWeights, WeightDtype, WeightInfo, WeightSource};
