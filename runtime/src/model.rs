//! An artifact in memory, with the target that this machine takes.

use crate::error::{Error, Result};
use crate::machine::{Candidate, DeviceChoice, judge};
use crate::mapping::Mapping;
use jetbin::{Facts, Reader, WeightPlace};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open an artifact.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// What runs the kernels.
    pub device: DeviceChoice,
    /// Take this target and no other.
    pub target: Option<String>,
    /// Compare the packed weights with their hash, which reads them all.
    pub verify: bool,
    /// Where packed weights in a second file are; without it, beside the artifact: `model.jetbin`, `model.weights`.
    pub weights: Option<PathBuf>,
}

/// An opened artifact. Cheap to clone; sessions share it.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    /// Borrows from `file`, which lives as long and never moves its bytes.
    reader: Reader<'static>,
    facts: Facts,
    candidates: Vec<Candidate>,
    device: DeviceChoice,
    external: Option<Mapping>,
    file: Mapping,
}

impl Model {
    /// Maps an artifact, checks everything but the packed weights, and chooses the best target for this machine.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged or of another version, or holds no target that can run here.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), &OpenOptions::default())
    }

    /// [`open`](Self::open) with choices.
    ///
    /// # Errors
    /// As there; also if the packed weights do not have their hash, where that was asked for.
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Self> {
        let model = Self::read(path, options)?;
        let first = model.inner.candidates.first();
        if first.is_none_or(|c| c.rejected.is_some()) {
            let line = |c: &Candidate| format!("\n  {} {}", c.name, c.rejected.as_deref().unwrap_or("fits"));
            let lines: String = model.inner.candidates.iter().map(line).collect();
            return Err(Error::NoTarget(if lines.is_empty() { ": it holds none".into() } else { lines }));
        }
        Ok(model)
    }

    /// Opens an artifact to look at it, whether or not this machine can run it.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged or of another version, or if the device of `options` is not there.
    pub fn read(path: &Path, options: &OpenOptions) -> Result<Self> {
        let file = map(path)?;
        // SAFETY: a private read-only mapping that this process never writes to.
        let bytes = unsafe { file.slice() };
        // SAFETY: the mapping moves into the same value as the reader and is dropped after it; its bytes stay where
        // they are, and `reader()` gives out shorter lifetimes only.
        let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
        let bad = |source| Error::Artifact { path: path.to_path_buf(), source };
        let reader = Reader::open(bytes).map_err(bad)?;
        let external = match reader.weight_place() {
            WeightPlace::Inside(_) => None,
            WeightPlace::External { .. } => {
                let beside = path.with_extension("weights");
                let path = options.weights.as_deref().unwrap_or(&beside);
                let map = map(path)?;
                // SAFETY: as for the artifact itself.
                let bytes = unsafe { map.slice() };
                reader
                    .external_weights(bytes)
                    .map_err(|source| Error::Artifact { path: path.to_path_buf(), source })?;
                Some(map)
            }
        };
        let wanted = |t: &jetbin::TargetDesc| options.target.as_ref().is_none_or(|name| *name == t.name);
        let mut candidates = judge(reader.targets().iter(), &options.device.machine()?);
        for c in &mut candidates {
            if reader.targets().get(c.index).is_some_and(|t| !wanted(&t)) {
                c.rejected = Some("is not the one that was asked for".into());
            }
        }
        candidates.sort_by_key(|c| c.rejected.is_some());
        let facts = reader.facts();
        let model =
            Self { inner: Arc::new(Inner { reader, facts, candidates, device: options.device, external, file }) };
        if options.verify {
            model.verify_weights().map_err(bad)?;
        }
        Ok(model)
    }

    /// The tables and sections.
    pub fn reader(&self) -> Reader<'_> {
        self.inner.reader
    }

    /// The numbers of the model.
    pub fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// All targets of the artifact; those that can run here come first, the chosen one at the front.
    pub fn candidates(&self) -> &[Candidate] {
        &self.inner.candidates
    }

    /// What the model was opened for.
    pub fn device(&self) -> DeviceChoice {
        self.inner.device
    }

    /// Index of the chosen target.
    pub fn target(&self) -> u32 {
        self.inner.candidates.first().map_or(0, |c| c.index)
    }

    /// The packed weights.
    pub fn weight_data(&self) -> &[u8] {
        match (self.reader().weight_place(), &self.inner.external) {
            (WeightPlace::Inside(data), _) => data,
            // SAFETY: a private read-only mapping that this process never writes to.
            (_, Some(map)) => self.reader().external_weights(unsafe { map.slice() }).unwrap_or(&[]),
            (_, None) => &[],
        }
    }

    /// Compares the packed weights with their hash, which reads them all.
    ///
    /// # Errors
    /// If they differ.
    pub fn verify_weights(&self) -> std::result::Result<(), jetbin::ReadError> {
        self.reader().verify_weights(self.weight_data())
    }

    /// Asks the system to read the packed weights ahead.
    pub(crate) fn will_need_weights(&self) {
        self.inner.external.as_ref().unwrap_or(&self.inner.file).will_need();
    }
}

fn map(path: &Path) -> Result<Mapping> {
    let open = || Mapping::of_file(&File::open(path)?);
    open().map_err(|source| Error::Io { path: path.to_path_buf(), source })
}
