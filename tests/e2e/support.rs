//! Shared by the end-to-end tests: runs the binary, finds the golden data, keeps folders.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Folder of a golden case.
pub fn golden(case: &str) -> PathBuf {
    root().join("tests/golden").join(case)
}

/// The example model.
pub fn austen() -> PathBuf {
    root().join("examples/austen-jet")
}

/// The command line, ready for arguments.
pub fn jetc() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetc"));
    command.stdin(Stdio::null());
    command
}

/// What a finished command said.
pub struct Said {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// Of a finished process.
    pub fn of(output: Output) -> Said {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Asserts that it went well.
    pub fn ok(self) -> Said {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}:\n{}\n{}", self.stdout, self.stderr))
    }
}

/// Runs the command line to its end.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Said {
    Said::of(jetc().args(args).output().expect("the binary starts"))
}

/// Arguments of mixed kinds as strings.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { [$(std::ffi::OsString::from(&$arg)),*] };
}

/// A folder that goes away with the value.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Writes a model.toml for a configuration with synthetic weights.
pub fn synthetic_model(folder: &Path, config: &Path, seed: u64, compile: &str) -> PathBuf {
    let path = folder.join("model.toml");
    let config = config.display();
    let text = format!("[model]\nconfig = \"{config}\"\nweights = {{ synthetic = {seed} }}\n\n[compile]\n{compile}");
    std::fs::write(&path, text).expect("a file in a temporary folder");
    path
}

/// Compiles a source to `folder/model.jetbin`.
pub fn compile(folder: &Path, source: &Path, more: &[&str]) -> PathBuf {
    let out = folder.join("model.jetbin");
    let said = Said::of(jetc().arg("compile").arg(source).arg("-o").arg(&out).args(more).output().expect("it starts"));
    said.ok();
    out
}

/// The allowed relative L2 difference of a golden case, as measured when the data were made.
pub fn tolerance(case: &str) -> f64 {
    meta(case)["tolerance"]["f32_rel_l2_per_key"].as_f64().expect("meta.json holds the tolerance")
}

/// The notes of a golden case.
pub fn meta(case: &str) -> Value {
    let path = golden(case).join("meta.json");
    serde_json::from_str(&std::fs::read_to_string(&path).expect("meta.json is there")).expect("meta.json is JSON")
}
