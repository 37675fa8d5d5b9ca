//! Reads model.toml and Hugging Face checkpoints into a jetc graph.
//!
//! [`ModelSpec`] names what to compile; from it come the [`ModelConfig`], a [`WeightSource`], the [`Sidecar`] and,
//! with [`graph::model_graph`], the graph. Every reader reports all problems that it finds, as [`Problems`].

pub mod checkpoint;
pub mod config;
pub mod generation;
pub mod graph;
mod json;
pub mod model_toml;
pub mod problem;
pub mod sidecar;
pub mod spec;
pub mod synth;
pub mod tensor_file;
pub mod tensor_writer;
pub mod tensors;
pub mod weights;

pub use checkpoint::Checkpoint;
pub use config::{JetConfig, LayerKind, ModelConfig};
pub use generation::GenerationDefaults;
pub use problem::{Problem, Problems};
pub use sidecar::{AddedToken, Sidecar};
pub use spec::{CompileOptions, ModelSpec, WeightFormat, WeightsAt, WeightsFile};
pub use weights::{SyntheticWeights, WeightDtype, WeightInfo, WeightSource};
