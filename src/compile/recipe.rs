//! The recipe: what an artifact was made of and how, for people and tools. Nothing of the clock, the machine or a path enters it, so that
//! equal inputs give equal bytes.

use super::{Limits, Model};
use anyhow::{Context, Result};
use jet_codegen::Activations;
use jet_codegen::targets::Target;
use jet_frontend::{WeightFormat, WeightsAt, WeightsFile};
use serde_json::json;

/// The recipe of a model as JSON.
///
/// # Errors
/// The configuration cannot be read again.
pub fn recipe(model: &Model) -> Result<String> {
    let config = &model.spec.config;
    let bytes = std::fs::read(config).with_context(|| format!("{}: cannot read", config.display()))?;
    let settings = &model.settings;
    let Limits { max_context, max_batch, prefill_chunk } = settings.limits;
    let weights = match &model.spec.weights {
        WeightsAt::Synthetic { seed } => json!({ "synthetic": seed }),
        WeightsAt::Directory(_) => json!("checkpoint"),
    };
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let backend = |name: &str| Target::named(name).map(|t| t.backend.name());
    let targets: Vec<_> = settings.targets.iter().map(|t| json!({ "name": t, "backend": backend(t) })).collect();
    let recipe = json!({
        "compiler": format!("jetc {}", env!("CARGO_PKG_VERSION")),
        "source": {
            "config_blake3": hash(&bytes),
            "tokenizer_blake3": model.sidecar.tokenizer.as_deref().map(hash),
            "weights": weights,
        },
        "compile": {
            "targets": targets,
            "max_context": max_context,
            "max_batch": max_batch,
            "prefill_chunk": prefill_chunk,
            "activations": match settings.activations { Activations::F32 => "f32", Activations::Bf16 => "bf16" },
            "weights": match settings.weights { WeightFormat::F32 => "f32", WeightFormat::Bf16 => "bf16" },
            "weights_file": match settings.weights_file { WeightsFile::Embed => "embed", WeightsFile::External => "external" },
        },
        "parameters": model.config.parameter_count(),
    });
    Ok(serde_json::to_string_pretty(&recipe)?)
}
