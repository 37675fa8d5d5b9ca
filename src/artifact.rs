//! An artifact mapped for inspection; running one is the runtime's business.

use anyhow::Context;
use jetbin::{Reader, SectionKind};
use memmap2::Mmap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A mapped file.
pub struct Artifact {
    path: PathBuf,
    map: Mmap,
}

impl Artifact {
    /// Maps a file; [`reader`](Self::reader) checks it.
    ///
    /// # Errors
    /// If the file cannot be mapped.
    pub fn map(path: &Path) -> anyhow::Result<Artifact> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("{shown}: cannot open"))?;
        // SAFETY: the map is only read. A file that another process shortens meanwhile would end this one; jetc itself renames
        // finished files into place and never shortens one.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("{shown}: cannot map"))?;
        Ok(Artifact { path: path.into(), map })
    }

    /// Checks everything but the packed weights.
    ///
    /// # Errors
    /// If it is not an artifact, or a damaged one.
    pub fn reader(&self) -> anyhow::Result<Reader<'_>> {
        Reader::open(&self.map).with_context(|| self.path.display().to_string())
    }

    /// The file's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A section that holds JSON; `null` if there is none.
///
/// # Errors
/// If the section holds something else.
pub fn json_section(reader: &Reader<'_>, kind: SectionKind) -> anyhow::Result<serde_json::Value> {
    let Some(text) = reader.text(kind)? else { return Ok(serde_json::Value::Null) };
    serde_json::from_str(text).with_context(|| format!("section {kind}: not valid JSON"))
}
