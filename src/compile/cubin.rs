//! Assembling PTX with NVIDIA's `ptxas`, where there is one: the driver then has nothing to translate.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// A `ptxas` that was found.
#[derive(Clone, Debug)]
pub struct Assembler {
    path: PathBuf,
    /// Its version, `13.0.88`.
    pub version: String,
    /// The CUDA version that it belongs to, major and minor.
    pub release: (u32, u32),
}

impl Assembler {
    /// The one that the variable `JETC_PTXAS` names, else the first on the path, if any.
    ///
    /// # Errors
    /// If the one that was found does not say its version.
    pub fn find() -> Result<Option<Assembler>> {
        let on_path = || {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|p| p.join("ptxas")).find(|p| p.is_file())
        };
        let named = std::env::var_os("JETC_PTXAS").map(PathBuf::from);
        let Some(path) = named.or_else(on_path) else { return Ok(None) };
        let said = Command::new(&path).arg("--version").output();
        let said =
            said.with_context(|| format!("{}: cannot be run as ptxas; --no-cubin does without", path.display()))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let (version, release) = version(&said).with_context(|| {
            let found = said.lines().next().unwrap_or_default();
            format!("{}: found `{found}`, expected the version of ptxas; --no-cubin does without", path.display())
        })?;
        Ok(Some(Assembler { path, version, release }))
    }

    /// The ELF file for PTX text; `arch` is the architecture that the text is for.
    ///
    /// # Errors
    /// If `ptxas` refuses the text, which is a defect of jetc or an assembler that is too old.
    pub fn assemble(&self, arch: &str, text: &[u8]) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir().context("a temporary folder for ptxas")?;
        let (source, cubin) = (folder.path().join("kernels.ptx"), folder.path().join("kernels.cubin"));
        std::fs::write(&source, text).with_context(|| format!("{}: cannot write", source.display()))?;
        let said = Command::new(&self.path).args(["-arch", arch, "-o"]).arg(&cubin).arg(&source).output();
        let said = said.with_context(|| format!("{}: cannot be run", self.path.display()))?;
        if !said.status.success() {
            let report = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
            bail!("ptxas {} refuses the code for {arch}; --no-cubin does without\n{}", self.version, report.trim());
        }
        std::fs::read(&cubin).with_context(|| format!("ptxas {}: left no code for {arch}", self.version))
    }
}

/// `13.0.88` and 13.0 from what `ptxas --version` says: `.. release 13.0, V13.0.88`.
fn version(said: &str) -> Option<(String, (u32, u32))> {
    let (_, rest) = said.split_once("release ")?;
    let (release, rest) = rest.split_once(", V")?;
    let (major, minor) = release.split_once('.')?;
    let version = rest.split_whitespace().next()?;
    Some((version.to_string(), (major.parse().ok()?, minor.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_ptxas_says() {
        let said =
            "ptxas: NVIDIA (R) Ptx optimizing assembler\nCuda compilation tools, release 12.8, V12.8.93\nBuild x";
        assert_eq!(version(said), Some(("12.8.93".into(), (12, 8))));
        assert_eq!(version("something else"), None);
    }
}
