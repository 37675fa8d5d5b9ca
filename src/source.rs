//! What `run` accepts: an artifact, or something to compile first into the cache.

use crate::cmd::compile::CompileArgs;
use crate::cmd::output;
use crate::compile::{Progress, compile};
use anyhow::Context;
use jet_frontend::{ModelSpec, WeightsAt};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Files up to this size enter the cache key with their bytes, larger ones with size and time of change.
const HASHED_BYTES: u64 = 1 << 20;

/// Whether a file starts as artifacts do.
pub fn is_artifact(path: &Path) -> bool {
    let mut start = [0; 5];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *b"\x89JETB"
}

/// The artifact that a source names; a model.toml or directory is compiled into the cache first, unless that has been done.
///
/// # Errors
/// If the source cannot be compiled, or the cache cannot be written.
pub fn artifact(source: &Path, options: &CompileArgs, progress: &mut dyn Progress) -> anyhow::Result<PathBuf> {
    if is_artifact(source) || source.extension().is_some_and(|e| e == "jetbin") {
        return Ok(source.to_path_buf());
    }
    let spec = ModelSpec::open(source)?;
    let directory = cache_directory()?;
    let cached = directory.join(format!("{}.jetbin", key(source, &spec, options)?));
    if cached.exists() {
        eprintln!("using {}, compiled from {} before", cached.display(), source.display());
        return Ok(cached);
    }
    std::fs::create_dir_all(&directory).with_context(|| format!("{}: cannot create", directory.display()))?;
    eprintln!("compiling {} to {}", source.display(), cached.display());
    let summary = compile(&options.request(source.to_path_buf(), cached.clone()), progress)?;
    summary.warnings.iter().for_each(|warning| output::warn(warning));
    Ok(cached)
}

/// `$XDG_CACHE_HOME/jetc`, or `~/.cache/jetc`.
///
/// # Errors
/// If neither variable is set.
pub fn cache_directory() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(base.context("no cache directory: neither XDG_CACHE_HOME nor HOME is an absolute path")?.join("jetc"))
}

/// A name for what a compilation would give: compiler, machine, options, and every file that goes in.
fn key(source: &Path, spec: &ModelSpec, options: &CompileArgs) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let host: Vec<_> = jet_codegen::targets::runnable().map(|t| t.name).collect();
    let request = options.request(PathBuf::new(), PathBuf::new());
    add(format!("{} {host:?} {request:?}", env!("CARGO_PKG_VERSION")).as_bytes());
    if source.is_file() {
        add(&std::fs::read(source).with_context(|| format!("{}: cannot read", source.display()))?);
    }
    let mut files = vec![spec.config.clone()];
    let mut directories = vec![&spec.directory];
    if let WeightsAt::Directory(weights) = &spec.weights {
        directories.push(weights);
    }
    for directory in directories {
        let entries = std::fs::read_dir(directory).with_context(|| format!("{}: cannot read", directory.display()))?;
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        files.extend(paths.filter(|path| path.is_file()));
    }
    files.sort();
    files.dedup();
    for file in files {
        let no = || format!("{}: cannot read", file.display());
        let metadata = std::fs::metadata(&file).with_context(no)?;
        add(file.canonicalize().with_context(no)?.as_os_str().as_encoded_bytes());
        if metadata.len() <= HASHED_BYTES {
            add(&std::fs::read(&file).with_context(no)?);
        } else {
            let changed = metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            add(format!("{} {}", metadata.len(), changed.unwrap_or_default().as_nanos()).as_bytes());
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}
