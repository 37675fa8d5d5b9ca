//! What to compile: a `model.toml`, or a Hugging Face directory as it is.

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::generation::GenerationDefaults;
use crate::model_toml;
use crate::problem::{Problems, Result};
use crate::sidecar::Sidecar;
use crate::tensors::{EMBEDDING, LM_HEAD};
use crate::weights::{SyntheticWeights, WeightSource};
use jet_ir::Elem;
use std::path::{Path, PathBuf};

/// Where the weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightsAt {
    /// A directory with a checkpoint.
    Directory(PathBuf),
    /// The deterministic generator.
    Synthetic {
        /// Its seed.
        seed: u64,
    },
}

/// The type in which an artifact stores matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// As f32.
    F32,
    /// As bf16.
    Bf16,
    /// In 8 bits, but for the gates.
    Q8,
    /// In 4 bits, but for embedding, head and convolutions in 8 bits, and the gates.
    Q4,
}

impl WeightFormat {
    /// Every format, from the most bits to the fewest.
    pub const ALL: [WeightFormat; 4] = [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8, WeightFormat::Q4];

    /// The name on the command line, in a model.toml and in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            WeightFormat::F32 => "f32",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Q8 => "q8",
            WeightFormat::Q4 => "q4",
        }
    }

    /// The format called `name`.
    pub fn named(name: &str) -> Option<WeightFormat> {
        WeightFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// How the matrix `tensor` is stored. The rows of a gate decide over whole heads and are few, so they keep their bits; what 4 bits
    /// cost in the other exceptions is in `docs/notes/quantisation.md`.
    pub fn elem(self, tensor: &str) -> Elem {
        let is = |parts: &[&str]| parts.iter().any(|part| tensor.contains(part));
        match self {
            WeightFormat::F32 => Elem::F32,
            WeightFormat::Bf16 => Elem::Bf16,
            WeightFormat::Q8 | WeightFormat::Q4 if is(&[".a_proj.", ".b_proj."]) => Elem::Bf16,
            WeightFormat::Q4 if !is(&[EMBEDDING, LM_HEAD, ".kernel_generator."]) => Elem::Q4,
            WeightFormat::Q8 | WeightFormat::Q4 => Elem::Q8,
        }
    }
}

/// Where an artifact keeps its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsFile {
    /// In the artifact.
    Embed,
    /// In a file beside it.
    External,
}

/// The `[compile]` section: what is absent is the command line's to decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// Names of targets; the compiler knows which there are.
    pub targets: Option<Vec<String>>,
    /// Name of the generator of CPU code; the compiler knows which there are.
    pub backend: Option<String>,
    /// Longest context in tokens.
    pub max_context: Option<usize>,
    /// Most sequences in one decoding step.
    pub max_batch: Option<usize>,
    /// Most tokens of a prompt that are processed at once.
    pub prefill_chunk: Option<usize>,
    /// Name of the activations' type.
    pub activations: Option<String>,
    /// The stored type of the matrices.
    pub weights: Option<WeightFormat>,
    /// Where the weights are kept.
    pub weights_file: Option<WeightsFile>,
}

impl CompileOptions {
    /// These options, and where one is absent, that of `other`.
    #[must_use]
    pub fn or(self, other: &CompileOptions) -> CompileOptions {
        CompileOptions {
            targets: self.targets.or_else(|| other.targets.clone()),
            backend: self.backend.or_else(|| other.backend.clone()),
            max_context: self.max_context.or(other.max_context),
            max_batch: self.max_batch.or(other.max_batch),
            prefill_chunk: self.prefill_chunk.or(other.prefill_chunk),
            activations: self.activations.or_else(|| other.activations.clone()),
            weights: self.weights.or(other.weights),
            weights_file: self.weights_file.or(other.weights_file),
        }
    }
}

/// What to compile, with all paths resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The `config.json`.
    pub config: PathBuf,
    /// The weights.
    pub weights: WeightsAt,
    /// The directory of tokenizer, generation defaults and licences.
    pub directory: PathBuf,
    /// The `[compile]` section.
    pub compile: CompileOptions,
    /// The `[generation]` section.
    pub generation: GenerationDefaults,
}

/// The directory that a file is in; `.` for a bare name, so that it can be listed.
pub(crate) fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl ModelSpec {
    /// Opens a source as a user names it: a `model.toml`, or a directory with a `config.json` and a checkpoint.
    ///
    /// # Errors
    /// No such file or directory, or a `model.toml` with problems; all are listed with their lines.
    pub fn open(source: &Path) -> Result<ModelSpec> {
        if source.is_dir() {
            if !source.join("config.json").is_file() {
                let hint = if source.join("model.toml").is_file() { " (there is a model.toml to name)" } else { "" };
                let message = format!("found no config.json in the directory, expected one{hint}");
                return Err(Problems::one(source.display().to_string(), message));
            }
            return Ok(ModelSpec::of_directory(source));
        }
        if source.is_file() && source.extension().is_none_or(|extension| extension != "toml") {
            let message = "found another kind of file, expected a model.toml or a directory with a config.json";
            return Err(Problems::one(source.display().to_string(), message));
        }
        let text = std::fs::read_to_string(source).map_err(|e| Problems::io(source, "read", &e))?;
        model_toml::parse(&text, &source.display().to_string(), directory_of(source))
    }

    /// The files of one directory, nothing chosen.
    pub(crate) fn of_directory(directory: &Path) -> ModelSpec {
        ModelSpec {
            config: directory.join("config.json"),
            weights: WeightsAt::Directory(directory.to_path_buf()),
            directory: directory.to_path_buf(),
            compile: CompileOptions::default(),
            generation: GenerationDefaults::default(),
        }
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// See [`ModelConfig::read`].
    pub fn read_config(&self) -> Result<ModelConfig> {
        ModelConfig::read(&self.config)
    }

    /// Opens the weights.
    ///
    /// # Errors
    /// See [`Checkpoint::open`].
    pub fn open_weights(&self, config: &ModelConfig) -> Result<Box<dyn WeightSource>> {
        Ok(match &self.weights {
            WeightsAt::Directory(directory) => Box::new(Checkpoint::open(directory, config)?),
            WeightsAt::Synthetic { seed } => Box::new(SyntheticWeights::new(config, *seed)),
        })
    }

    /// Reads the files beside the weights; `[generation]` overrides generation_config.json.
    ///
    /// # Errors
    /// See [`Sidecar::read`].
    pub fn read_sidecar(&self) -> Result<Sidecar> {
        let mut sidecar = Sidecar::read(&self.directory)?;
        sidecar.generation = std::mem::take(&mut sidecar.generation).overridden_by(self.generation.clone());
        Ok(sidecar)
    }
}
