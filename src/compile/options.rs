//! What the compiler is asked for, and what it reports.

use super::states::Limits;
use jet_codegen::Activations;
use jet_codegen::targets::{Backend, TARGETS, Target};
use jet_frontend::{CompileOptions, ModelConfig, ModelSpec, WeightFormat, WeightsFile};
use jetbin::Phase;
use std::path::PathBuf;

/// Contexts longer than this are compiled for only when asked for.
const DEFAULT_MAX_CONTEXT: usize = 32768;
/// Sequences in one decode call, unless asked for otherwise.
const DEFAULT_MAX_BATCH: usize = 8;
/// Tokens in one prefill call, unless asked for otherwise.
const DEFAULT_PREFILL_CHUNK: usize = 512;

/// A request to compile; what is absent is taken from the `[compile]` section of a model.toml, then from defaults.
#[derive(Clone, Debug, Default)]
pub struct CompileRequest {
    /// A `model.toml` or a Hugging Face directory.
    pub source: PathBuf,
    /// The artifact to write.
    pub output: PathBuf,
    /// What shapes the artifact.
    pub options: CompileOptions,
    /// Whether GPU code stays PTX text alone, although there is an assembler.
    pub no_cubin: bool,
    /// A directory for the IR of every phase.
    pub dump: Option<PathBuf>,
}

/// What a compilation did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Size of the artifact in bytes.
    pub bytes: u64,
    /// Bytes of the packed weights.
    pub weight_bytes: u64,
    /// BLAKE3 of header and section table.
    pub identity: String,
    /// One line for each target.
    pub targets: Vec<TargetSummary>,
    /// Things that the user should know.
    pub warnings: Vec<String>,
    /// Seconds in all, and of these spent reading, packing and writing weights.
    pub seconds: (f64, f64),
}

/// What a target got.
#[derive(Clone, Debug)]
pub struct TargetSummary {
    /// Its name.
    pub name: String,
    /// Distinct kernels.
    pub kernels: usize,
    /// Bytes of code.
    pub code_bytes: usize,
    /// Bytes of the assembled code of a GPU target, and the version of `ptxas` that made it.
    pub assembled: Option<(usize, String)>,
    /// Prefill and decode.
    pub programs: Vec<ProgramSummary>,
}

/// What a program became.
#[derive(Clone, Debug)]
pub struct ProgramSummary {
    /// Prefill or decode.
    pub phase: Phase,
    /// Most sequences of the decode program for few; none for the programs that every target has.
    pub few: Option<u32>,
    /// Kernels with every op on its own, and after fusion.
    pub kernels: (usize, usize),
    /// Bytes moved by a decode of one token or a prefill of a whole chunk, with every op on its own and after fusion.
    pub bytes_per_call: (u64, u64),
    /// Bytes of the arena, and of all buffers together without reuse.
    pub arena: (u64, u64),
}

/// Everything that the request, the model.toml and the defaults settle.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of targets.
    pub targets: Vec<String>,
    /// Limits of a sequence and a call.
    pub limits: Limits,
    /// What products multiply.
    pub activations: Activations,
    /// The stored type of matrices.
    pub weights: WeightFormat,
    /// Where the weights are kept.
    pub weights_file: WeightsFile,
}

/// Combines request, `[compile]` section and defaults.
///
/// # Errors
/// A limit of zero or beyond what positions can count, an unknown backend, type of activations or target: all are listed.
pub fn settle(request: &CompileRequest, spec: &ModelSpec, config: &ModelConfig) -> Result<Settings, Vec<String>> {
    let (asked, mut problems) = (request.options.clone().or(&spec.compile), vec![]);
    let default_context = config.max_position_embeddings.clamp(1, DEFAULT_MAX_CONTEXT);
    let mut limit = |name: &str, value: Option<usize>, default: usize, most: usize| {
        let value = value.unwrap_or(default);
        if value == 0 || value > most {
            problems.push(format!("{name}: found {value}, expected 1 to {most}"));
        }
        u32::try_from(value).unwrap_or(u32::MAX)
    };
    let max_context = limit("max_context", asked.max_context, default_context, 1 << 24);
    let max_batch = limit("max_batch", asked.max_batch, DEFAULT_MAX_BATCH, 1 << 12);
    let default_chunk = DEFAULT_PREFILL_CHUNK.min(max_context.max(1) as usize);
    let prefill_chunk = limit("prefill_chunk", asked.prefill_chunk, default_chunk, 1 << 16);
    let mut expect = |name: &str, found: Option<&String>, expected: &[&str]| {
        if let Some(found) = found.filter(|f| !expected.contains(&f.as_str())) {
            problems.push(format!("{name}: found `{found}`, expected {}", expected.join(" or ")));
        }
    };
    let backend = asked.backend.as_ref();
    expect("backend", backend, &Backend::names());
    expect("activations", asked.activations.as_ref(), &["f32", "bf16"]);
    let mut targets = asked.targets.unwrap_or_default();
    problems.extend(backend.and_then(|b| absent(b)));
    if targets.is_empty() && problems.is_empty() {
        match jet_codegen::targets::defaults(backend.map(String::as_str)) {
            Ok(found) => targets.extend(found.iter().map(|t| t.name.to_string())),
            Err(e) => problems.push(format!("targets: none named, and {e}")),
        }
    }
    problems.extend(wrong_targets(&targets, backend.map(String::as_str)));
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Settings {
        targets,
        limits: Limits { max_context, max_batch, prefill_chunk: prefill_chunk.min(max_context) },
        activations: match asked.activations.as_deref() {
            Some("bf16") => Activations::Bf16,
            _ => Activations::F32,
        },
        weights: asked.weights.unwrap_or(WeightFormat::Bf16),
        weights_file: asked.weights_file.unwrap_or(WeightsFile::Embed),
    })
}

/// What to say of a backend that exists but not in this build.
fn absent(backend: &str) -> Option<String> {
    let made = TARGETS.iter().find(|t| t.backend.name() == backend)?;
    let feature =
        format!("backend: this build of jetc has no `{backend}`, expected one with the cargo feature `{backend}`");
    (!made.backend.is_built()).then_some(feature)
}

/// What is wrong with the named targets: unknown, twice, or made by another backend than the named one.
fn wrong_targets(targets: &[String], backend: Option<&str>) -> Vec<String> {
    let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    let wrong = |(i, name): (usize, &String)| match Target::named(name) {
        None => Some(format!("targets: found `{name}`, expected some of {}", names.join(", "))),
        Some(_) if targets[..i].contains(name) => Some(format!("targets: `{name}` is named twice")),
        Some(t) => {
            let made = t.backend.name();
            let other = backend.filter(|b| *b != made && Backend::names().contains(b));
            other.map(|b| format!("targets: `{name}` is made by the backend {made}, expected targets of {b}"))
        }
    };
    targets.iter().enumerate().filter_map(wrong).collect()
}
