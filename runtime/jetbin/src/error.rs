//! What can be wrong with an artifact, and with writing one.

use std::path::PathBuf;

/// Why bytes are not an artifact that this reader can use.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The first bytes are not an artifact's.
    #[error("not a jetbin artifact: {0}")]
    NotAnArtifact(String),
    /// Another major version, or a newer minor one.
    #[error(
        "format version {major}.{minor} found, this build reads {}.0 to {}.{}",
        crate::MAJOR,
        crate::MAJOR,
        crate::MINOR
    )]
    Version {
        /// Found in the file.
        major: u16,
        /// Found in the file.
        minor: u16,
    },
    /// Something does not add up.
    #[error("damaged artifact: {origin}: {problem}")]
    Damaged {
        /// Where.
        origin: String,
        /// What was found, what was expected.
        problem: String,
    },
}

impl ReadError {
    pub(crate) fn damaged(origin: impl Into<String>, problem: impl Into<String>) -> Self {
        ReadError::Damaged { origin: origin.into(), problem: problem.into() }
    }
}

/// Why an artifact could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The writer was asked for something that the format cannot hold.
    #[error("{0}")]
    Misuse(String),
}
