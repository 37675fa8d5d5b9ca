//! The recipe: what an artifact was made of and how, for people and tools. Nothing of the clock, the machine or a path enters it, so that
//! equal inputs give equal bytes.

use super::{Limits, Model};
use anyhow::{Context, Result};
use jet_codegen::Activations;
use jet_codegen::targets::Target;
use jet_frontend::tensors::{EMBEDDING, layer_tensor};
use jet_frontend::{WeightFormat, WeightsAt, WeightsFile};
use jet_ir::Elem;
use jet_ir::quant::GROUP;
use serde_json::{Value, json};

/// The recipe of a model as JSON; `assembler` is the version of the `ptxas` that assembled the code of its GPU targets.
///
/// # Errors
/// The configuration cannot be read again.
pub fn recipe(model: &Model, assembler: Option<&str>) -> Result<String> {
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
    let quantised = matches!(settings.weights, WeightFormat::Q8 | WeightFormat::Q4);
    let products = |name: &str| Target::named(name).filter(|_| quantised).map(quantised_products);
    let target = |t: &String| json!({ "name": t, "backend": backend(t), "quantised_products": products(t) });
    let targets: Vec<_> = settings.targets.iter().map(target).collect();
    let recipe = json!({
        "compiler": format!("jetc {}", env!("CARGO_PKG_VERSION")),
        "source": {
            "config_blake3": hash(&bytes),
            "tokenizer_blake3": model.sidecar.tokenizer.as_deref().map(hash),
            "weights": weights,
        },
        "compile": {
            "targets": targets,
            "ptxas": assembler,
            "max_context": max_context,
            "max_batch": max_batch,
            "prefill_chunk": prefill_chunk,
            "activations": match settings.activations { Activations::F32 => "f32", Activations::Bf16 => "bf16" },
            "weights": settings.weights.name(),
            "quantisation": quantised.then(|| quantisation(settings.weights)),
            "weights_file": match settings.weights_file { WeightsFile::Embed => "embed", WeightsFile::External => "external" },
        },
        "parameters": model.config.parameter_count(),
    });
    Ok(serde_json::to_string_pretty(&recipe)?)
}

/// Products of quantised weights with bytes: activations are quantised too.
pub const BYTES: &str = "bytes";

/// What the products of quantised weights are made of on a target.
fn quantised_products(target: &Target) -> &'static str {
    if jet_codegen::multiplies_bytes(target) { BYTES } else { "f32" }
}

/// How the weights of a quantised format are stored, and which keep their bits.
fn quantisation(format: WeightFormat) -> Value {
    let named = |name: &str| format.elem(&layer_tensor(0, name)).name();
    json!({
        "columns_of_a_group": GROUP,
        "matrices": named("mlp.down_proj.weight"),
        "embedding_and_head": format.elem(EMBEDDING).name(),
        "convolution_kernels": named("self_attn.dynamic_conv1d.kernel_generator.w2.weight"),
        "gates": named("self_attn.a_proj.weight"),
        "vectors": Elem::F32.name(),
    })
}
