//! Reading the fields of a `config.json`.

use super::{JetConfig, LayerKind, ModelConfig};
use crate::json::{self, Fields};
use crate::problem::{Collector, Problems, Result, shown};
use serde_json::{Map, Value};

/// Largest value of a single size in a configuration, and of a product of sizes that is one side of a matrix.
/// Far above any real model, and small enough that no later product of two of them overflows.
const MAX_SIZE: usize = 1 << 24;
/// Longest dynamic convolution; its kernel matrix has `value_total * taps` rows.
const MAX_TAPS: usize = 256;
/// Most decoder layers.
const MAX_LAYERS: usize = 1 << 12;
/// Most parameters of a model that is accepted.
const MAX_PARAMETERS: u64 = 1 << 44;
/// Fields that are known and do not change what an inference computes.
const HARMLESS: [&str; 11] = [
    "architectures",
    "auto_map",
    "attention_dropout",
    "use_cache",
    "max_window_layers",
    "transformers_version",
    "pad_token_id",
    "torch_dtype",
    "dtype",
    "initializer_range",
    "_name_or_path",
];

/// See [`ModelConfig::parse`].
pub(super) fn parse(text: &[u8], origin: &str) -> Result<ModelConfig> {
    let map = json::object(text, origin)?;
    let mut out = Collector::default();
    let mut top = Fields::new(&map, origin);
    expect_text(&mut top, "model_type", "jet_nemotron", true, &mut out);
    if !out.is_empty() {
        // The fields of another architecture mean something else: listing them would only mislead.
        return Err(out.into_problems());
    }
    refuse_unsupported(&mut top, &mut out);
    let mut notes = Collector::default();
    let config = read_fields(&mut top, &mut out, &mut notes);
    for name in HARMLESS {
        top.value(name);
    }
    for name in top.unread() {
        notes.push(top.origin(name), format!("unknown field, ignored (found {})", shown(&map[name])));
    }
    let config = match config {
        Some(config) if out.is_empty() => config,
        _ => return Err(out.into_problems()),
    };
    let config = ModelConfig { notes: notes.into_notes(), ..config };
    let parameters = config.parameter_count();
    if parameters > MAX_PARAMETERS {
        return Err(Problems::one(origin, format!("found {parameters} parameters, expected at most {MAX_PARAMETERS}")));
    }
    Ok(config)
}

/// A string field with the only value that is supported.
fn expect_text(fields: &mut Fields, name: &'static str, expected: &str, required: bool, out: &mut Collector) {
    let quoted = format!("{expected:?}");
    let value = if required { fields.required(name, &quoted, out) } else { fields.value(name) };
    if let Some(value) = value.filter(|v| v.as_str() != Some(expected)) {
        fields.unfit(name, value, &quoted, out);
    }
}

/// Refuses features that would change the result.
fn refuse_unsupported(top: &mut Fields, out: &mut Collector) {
    expect_text(top, "hidden_act", "silu", false, out);
    if let Some(value) = top.value("rope_scaling") {
        let kind = value.get("rope_type").or_else(|| value.get("type")).and_then(Value::as_str);
        if kind != Some("default") {
            top.unfit("rope_scaling", value, "null", out);
        }
    }
    if let Some(value) = top.value("rope_parameters") {
        top.unfit("rope_parameters", value, "rope_theta and no rope_scaling", out);
    }
    for name in ["use_mrope", "use_sliding_window", "quantization_config"] {
        if let Some(value) = top.value(name).filter(|v| v.as_bool() != Some(false)) {
            top.unfit(name, value, if name == "quantization_config" { "null" } else { "false" }, out);
        }
    }
}

/// Reads all fields that matter; `None` only after a problem was reported.
fn read_fields(top: &mut Fields, out: &mut Collector, notes: &mut Collector) -> Option<ModelConfig> {
    let hidden = top.size("hidden_size", 1..=MAX_SIZE, out);
    let intermediate = top.size("intermediate_size", 1..=MAX_SIZE, out);
    let vocab = top.size("vocab_size", 1..=MAX_SIZE, out);
    let n_layers = top.size("num_hidden_layers", 1..=MAX_LAYERS, out);
    let max_position_embeddings = top.size("max_position_embeddings", 1..=i32::MAX as usize, out);
    let rms_norm_eps = top.positive("rms_norm_eps", false, out);
    let rope_theta = top.positive("rope_theta", false, out);
    let tie_word_embeddings = top.boolean("tie_word_embeddings", out);
    let empty = Map::new();
    let mixers = top.optional_object("efficient_attention_config", out).unwrap_or(&empty);
    let mut mixers = top.nested("efficient_attention_config", mixers);
    let layers = read_layers(top, &mut mixers, n_layers, out);
    let has = |wanted: fn(&LayerKind) -> bool| layers.as_ref().is_some_and(|l| l.iter().any(wanted));
    let heads = read_heads(top, hidden, has(|kind| *kind != LayerKind::Jet), out);
    let jet = if has(|kind| *kind == LayerKind::Jet) { read_jet(&mut mixers, out).map(Some) } else { Some(None) };
    for name in mixers.unread().filter(|&name| !["jet", "swa"].contains(&name)) {
        notes.push(mixers.origin(name), "unknown field, ignored");
    }
    let eos_token_ids = read_ids(top, "eos_token_id", vocab, out, notes);
    let bos_token_id = read_ids(top, "bos_token_id", vocab, out, notes).first().copied();
    let (n_heads, n_kv_heads, head_dim) = heads?;
    Some(ModelConfig {
        hidden: hidden?,
        intermediate: intermediate?,
        vocab: vocab?,
        layers: layers?,
        n_heads,
        n_kv_heads,
        head_dim,
        jet: jet?,
        rms_norm_eps: rms_norm_eps? as f32,
        rope_theta: rope_theta?,
        tie_word_embeddings: tie_word_embeddings?,
        max_position_embeddings: max_position_embeddings?,
        eos_token_ids,
        bos_token_id,
        notes: Vec::new(),
    })
}

/// `layer_types`, with the window of the `swa` layers.
fn read_layers(
    top: &mut Fields,
    mixers: &mut Fields,
    n_layers: Option<usize>,
    out: &mut Collector,
) -> Option<Vec<LayerKind>> {
    let expected = "a list of \"jet\", \"attn\" and \"swa\"";
    let value = top.required("layer_types", expected, out)?;
    let Some(list) = value.as_array() else {
        top.unfit("layer_types", value, expected, out);
        return None;
    };
    if let Some(n) = n_layers.filter(|&n| n != list.len()) {
        out.push(top.origin("layer_types"), format!("found {} layers, expected num_hidden_layers = {n}", list.len()));
    }
    let mut unknown = Vec::new();
    let uses_window = list.iter().any(|name| name.as_str() == Some("swa"));
    let window = if uses_window { read_window(mixers, out) } else { None };
    let mut layers = Vec::with_capacity(list.len());
    for (i, name) in list.iter().enumerate() {
        match name.as_str() {
            Some("jet") => layers.push(LayerKind::Jet),
            Some("attn") => layers.push(LayerKind::Attn),
            Some("swa") => layers.push(LayerKind::Swa { window: window.unwrap_or(1) }),
            _ => unknown.push((i, name)),
        }
    }
    for (i, name) in unknown {
        out.push(
            top.origin(&format!("layer_types[{i}]")),
            format!("found {}, expected \"jet\", \"attn\" or \"swa\"", shown(name)),
        );
    }
    Some(layers)
}

fn read_window(mixers: &mut Fields, out: &mut Collector) -> Option<usize> {
    let swa = mixers.required("swa", "an object with window_size, because there are swa layers", out)?;
    let Some(map) = swa.as_object() else {
        mixers.unfit("swa", swa, "an object with window_size", out);
        return None;
    };
    mixers.nested("swa", map).size("window_size", 1..=i32::MAX as usize, out)
}

/// Heads, key-value heads and head size of the attention layers.
fn read_heads(
    top: &mut Fields,
    hidden: Option<usize>,
    used: bool,
    out: &mut Collector,
) -> Option<(usize, usize, usize)> {
    let n_heads = top.size("num_attention_heads", 1..=MAX_SIZE, out);
    let n_kv_heads = top.size("num_key_value_heads", 1..=MAX_SIZE, out);
    let given = top.optional_size("head_dim", 1..=MAX_SIZE, out);
    let (n_heads, n_kv_heads, hidden) = (n_heads?, n_kv_heads?, hidden?);
    if !used {
        return Some((n_heads, n_kv_heads, given.unwrap_or(hidden.div_ceil(n_heads))));
    }
    if n_heads % n_kv_heads != 0 {
        out.push(
            top.origin("num_key_value_heads"),
            format!("found {n_kv_heads}, expected a divisor of num_attention_heads = {n_heads}"),
        );
    }
    if given.is_none() && hidden % n_heads != 0 {
        out.push(
            top.origin("num_attention_heads"),
            format!("found {n_heads}, expected a divisor of hidden_size = {hidden} where head_dim is not given"),
        );
        return None;
    }
    let head_dim = given.unwrap_or(hidden / n_heads);
    if !head_dim.is_multiple_of(2) {
        out.push(
            top.origin("head_dim"),
            format!("found {head_dim}, expected an even number for the rotary embedding's pairs"),
        );
    }
    limit(top, "head_dim", "num_attention_heads * head_dim", n_heads * head_dim, MAX_SIZE, out);
    Some((n_heads, n_kv_heads, head_dim))
}

/// Reports a product of sizes that is too large.
fn limit(fields: &Fields, name: &str, what: &str, found: usize, most: usize, out: &mut Collector) {
    if found > most {
        out.push(fields.origin(name), format!("found {what} = {found}, expected at most {most}"));
    }
}

/// The `jet` section; all fields are checked before anything is given up.
fn read_jet(mixers: &mut Fields, out: &mut Collector) -> Option<JetConfig> {
    let section = mixers.required("jet", "an object, because there are jet layers", out)?;
    let Some(map) = section.as_object() else {
        mixers.unfit("jet", section, "an object", out);
        return None;
    };
    let mut jet = mixers.nested("jet", map);
    let n_heads = jet.size("num_heads", 1..=MAX_SIZE, out);
    let head_dim = jet.size("head_dim", 1..=MAX_SIZE, out);
    let conv_size = jet.size("conv_size", 1..=MAX_TAPS, out);
    let reduction = jet.size("dconv_generator_reduction", 1..=MAX_SIZE, out);
    let expand_v = jet.positive("expand_v", false, out);
    let norm_eps = jet.positive("norm_eps", true, out);
    for name in ["mode", "dconv_implementation"] {
        if let Some(value) = jet.value(name).filter(|v| !v.is_string()) {
            jet.unfit(name, value, "a string", out);
        }
    }
    for name in jet.unread() {
        // The official class takes these fields as arguments of a constructor and fails on any other.
        out.push(jet.origin(name), format!("unknown field (found {})", shown(&map[name])));
    }
    let (n_heads, head_dim, conv_size, reduction) = (n_heads?, head_dim?, conv_size?, reduction?);
    let value_dim = value_dim(&jet, n_heads, head_dim, expand_v?, out)?;
    let value_total = n_heads * value_dim;
    limit(&jet, "head_dim", "num_heads * head_dim", n_heads * head_dim, MAX_SIZE, out);
    if value_total % reduction != 0 {
        out.push(
            jet.origin("dconv_generator_reduction"),
            format!("found {reduction}, expected a divisor of the value size {value_total}"),
        );
    }
    let generator_hidden = value_total / reduction;
    Some(JetConfig {
        n_heads,
        head_dim,
        expand_v: expand_v?,
        value_dim,
        conv_size,
        generator_hidden,
        norm_eps: norm_eps? as f32,
    })
}

/// `int(head_dim * expand_v)`, with the official consistency check: per head and over all heads it has to be an
/// integer up to 1e-5.
fn value_dim(jet: &Fields, n_heads: usize, head_dim: usize, expand_v: f64, out: &mut Collector) -> Option<usize> {
    let close = |exact: f64| (exact - exact.trunc()).abs() <= 1e-5 * exact.abs();
    let per_head = head_dim as f64 * expand_v;
    let total = (n_heads * head_dim) as f64 * expand_v;
    if !close(per_head) || per_head < 1.0 || total.trunc() != n_heads as f64 * per_head.trunc() {
        out.push(
            jet.origin("expand_v"),
            format!("found {expand_v}, expected a ratio that makes head_dim * expand_v an integer (it is {per_head})"),
        );
        return None;
    }
    if total > MAX_SIZE as f64 {
        let message = format!("found num_heads * head_dim * expand_v = {total}, expected at most {MAX_SIZE}");
        out.push(jet.origin("expand_v"), message);
        return None;
    }
    Some(per_head as usize)
}

/// One id or a list of ids.
fn read_ids(
    top: &mut Fields,
    name: &'static str,
    vocab: Option<usize>,
    out: &mut Collector,
    notes: &mut Collector,
) -> Vec<u32> {
    let Some(value) = top.value(name) else { return Vec::new() };
    let ids = match token_ids(value) {
        Some(ids) => ids,
        None => {
            top.unfit(name, value, "a token id or a list of token ids", out);
            return Vec::new();
        }
    };
    for id in ids.iter().filter(|&&id| vocab.is_some_and(|vocab| id as usize >= vocab)) {
        notes.push(top.origin(name), format!("found {id}, which is not below vocab_size = {}", vocab.unwrap_or(0)));
    }
    ids
}

/// A JSON value that is a token id or a list of them.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Value::Array(list) => list.iter().map(id).collect(),
        other => id(other).map(|id| vec![id]),
    }
}
