//! What can go wrong while opening and running a model.

use crate::device::DeviceError;
use std::path::PathBuf;

/// Why a call of the runtime failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The file is not an artifact that this build can use.
    #[error("{path}: {source}")]
    Artifact {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: jetbin::ReadError,
    },
    /// No target in the artifact can run here; one line for each target.
    #[error("no target of the artifact can run on this machine{0}")]
    NoTarget(String),
    /// The device failed. Sequences that took part must be reset.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The caller asked for something that is not possible.
    #[error("{0}")]
    Request(String),
    /// The model computed something that is not a number.
    #[error("{0}")]
    NotFinite(String),
}

impl Error {
    pub(crate) fn request(text: impl Into<String>) -> Self {
        Error::Request(text.into())
    }
}

/// The result of a call of the runtime.
pub type Result<T> = std::result::Result<T, Error>;
