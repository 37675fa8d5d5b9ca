//! `--dump DIR`: the IR of every phase, one file each.

use anyhow::{Context, Result};
use jet_ir::{Graph, Group};
use jet_passes::MemoryPlan;
use petgraph::dot::{Config, Dot};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Where to write, if anywhere.
pub struct Dump(Option<PathBuf>);

impl Dump {
    /// Makes the directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(directory: Option<&Path>) -> Result<Dump> {
        if let Some(directory) = directory {
            std::fs::create_dir_all(directory).with_context(|| format!("{}: cannot create", directory.display()))?;
        }
        Ok(Dump(directory.map(Path::to_path_buf)))
    }

    /// Writes one file.
    ///
    /// # Errors
    /// The file system.
    pub fn write(&self, name: &str, content: &dyn Display) -> Result<()> {
        let Some(directory) = &self.0 else { return Ok(()) };
        let path = directory.join(name);
        std::fs::write(&path, content.to_string()).with_context(|| format!("{}: cannot write", path.display()))
    }

    /// The fused graph of a phase, which kernel waits for which (for Graphviz), and the memory plan.
    ///
    /// # Errors
    /// The file system.
    pub fn phase(
        &self,
        target: &str,
        phase: &str,
        (graph, groups): (&Graph, &[Group]),
        memory: &MemoryPlan,
    ) -> Result<()> {
        self.write(&format!("{target}.{phase}.jir"), graph)?;
        let kernels = jet_ir::dependencies(graph, groups).map(|_, kernel| kernel.clone(), |_, ()| "");
        self.write(&format!("{target}.{phase}.dot"), &Dot::with_config(&kernels, &[Config::EdgeNoLabel]))?;
        self.write(&format!("{target}.{phase}.memory.txt"), memory)
    }

    /// The kernels of a target, as selected.
    ///
    /// # Errors
    /// The file system.
    pub fn kernels(&self, target: &str, kernels: &[jet_codegen::kir::Kernel]) -> Result<()> {
        if self.0.is_none() {
            return Ok(());
        }
        let text: Vec<String> = kernels.iter().map(ToString::to_string).collect();
        self.write(&format!("{target}.kir"), &text.join("\n"))
    }
}
