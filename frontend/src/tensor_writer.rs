//! Writing safetensors files piece by piece, and the synthetic checkpoint of `jetc synth`.

use crate::checkpoint::{INDEX_FILE, SINGLE_FILE};
use crate::config::ModelConfig;
use crate::json;
use crate::problem::{Problems, Result};
use crate::synth::Generator;
use crate::tensor_file::ElementType;
use crate::tensors::TensorSpec;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes that the generator makes at a time.
const BLOCK_BYTES: usize = 16 << 20;

/// Name, type and shape of a tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHeader {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: ElementType,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorHeader {
    /// Size of the tensor's data.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().fold(self.dtype.bytes() as u64, |bytes, &n| bytes * n as u64)
    }
}

/// A safetensors file that is being written. It appears under its name only when it is complete; dropped before that,
/// it leaves nothing behind.
#[derive(Debug)]
pub struct TensorWriter {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    /// Where the rest of each tensor goes: the caller's order is free, the file's is not.
    rests: Vec<(String, u64, u64)>,
    renamed: bool,
}

impl TensorWriter {
    /// Starts a file with these tensors. In the file they are sorted by element size, so that all are aligned.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path, mut tensors: Vec<TensorHeader>) -> Result<TensorWriter> {
        tensors.sort_by(|a, b| b.dtype.bytes().cmp(&a.dtype.bytes()).then_with(|| a.name.cmp(&b.name)));
        let mut header = Map::new();
        header.insert("__metadata__".to_string(), json!({"format": "pt"}));
        let mut end = 0;
        for tensor in &tensors {
            let begin = end;
            end += tensor.bytes();
            let entry = json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [begin, end]});
            header.insert(tensor.name.clone(), entry);
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut begin = 8 + text.len() as u64;
        let mut rests = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let bytes = tensor.bytes();
            rests.push((tensor.name, begin, begin + bytes));
            begin += bytes;
        }
        let partial = path.with_extension("partial");
        let written = File::create(&partial).and_then(|mut file| {
            file.write_all(&(text.len() as u64).to_le_bytes())?;
            file.write_all(&text)?;
            Ok(file)
        });
        let file = written.map_err(|e| Problems::io(&partial, "write", &e))?;
        Ok(TensorWriter { path: path.to_path_buf(), partial, file, rests, renamed: false })
    }

    /// Appends bytes to a tensor.
    ///
    /// # Errors
    /// The file cannot be written, or the tensor has no room for the bytes.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let origin = || format!("{}: {name}", self.path.display());
        let Some((_, begin, end)) = self.rests.iter_mut().find(|(tensor, ..)| tensor == name) else {
            return Err(Problems::one(origin(), "found no tensor of this name in the file's header"));
        };
        if bytes.len() as u64 > *end - *begin {
            let message = format!("found {} bytes, expected at most {}", bytes.len(), *end - *begin);
            return Err(Problems::one(origin(), message));
        }
        let written = self.file.seek(SeekFrom::Start(*begin)).and_then(|_| self.file.write_all(bytes));
        *begin += bytes.len() as u64;
        written.map_err(|e| Problems::io(&self.partial, "write", &e))
    }

    /// Moves the complete file to its place.
    ///
    /// # Errors
    /// A tensor lacks bytes, or the file cannot be renamed.
    pub fn finish(mut self) -> Result<()> {
        if let Some((name, begin, end)) = self.rests.iter().find(|(_, begin, end)| begin != end) {
            let message = format!("{} bytes have not been written", end - begin);
            return Err(Problems::one(format!("{}: {name}", self.path.display()), message));
        }
        std::fs::rename(&self.partial, &self.path).map_err(|e| Problems::io(&self.path, "write", &e))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for TensorWriter {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing can be done about a file that cannot be removed; its name says that it is not complete.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// Writes the synthetic checkpoint of a configuration: `config.json` as it is, and all weights, in one file or, with
/// `shard_bytes`, in several of about that size with an index. `progress` hears of so many more bytes, of all that
/// [`ModelConfig::tensors`] take.
///
/// # Errors
/// The configuration is unfit, or a file cannot be written.
pub fn write_checkpoint(
    directory: &Path,
    config: &Path,
    seed: u64,
    shard_bytes: Option<u64>,
    progress: &dyn Fn(u64),
) -> Result<()> {
    let text = json::read_file(config)?;
    let model = ModelConfig::parse(&text, &config.display().to_string())?;
    std::fs::create_dir_all(directory).map_err(|e| Problems::io(directory, "create", &e))?;
    let shards = shards(&model, seed, shard_bytes.unwrap_or(u64::MAX));
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match shard_bytes {
            None => SINGLE_FILE.to_string(),
            Some(_) => format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len()),
        };
        write_shard(&directory.join(&name), shard, progress)?;
        weight_map.extend(shard.iter().map(|(header, _)| (header.name.clone(), Value::from(name.as_str()))));
    }
    if shard_bytes.is_some() {
        let total: u64 = shards.iter().flatten().map(|(header, _)| header.bytes()).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        write_file(&directory.join(INDEX_FILE), format!("{index:#}\n").as_bytes())?;
    }
    write_file(&directory.join("config.json"), &text)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| Problems::io(path, "write", &e))
}

type Shard = Vec<(TensorHeader, Generator)>;

/// The model's tensors in groups of at most `shard_bytes` (a larger tensor is alone).
fn shards(model: &ModelConfig, seed: u64, shard_bytes: u64) -> Vec<Shard> {
    let mut shards: Vec<Shard> = vec![Vec::new()];
    let mut filled = 0;
    for spec in model.tensors() {
        let generator = Generator::for_tensor(&spec, seed);
        let TensorSpec { name, shape } = spec;
        let header = TensorHeader { name, dtype: generator.dtype().element_type(), shape };
        if filled > 0 && filled + header.bytes() > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += header.bytes();
        shards.last_mut().expect("there is always a last shard").push((header, generator));
    }
    shards
}

fn write_shard(path: &Path, shard: &Shard, progress: &dyn Fn(u64)) -> Result<()> {
    let mut writer = TensorWriter::create(path, shard.iter().map(|(header, _)| header.clone()).collect())?;
    let mut block = Vec::new();
    for (header, generator) in shard {
        let total = header.bytes();
        let mut done = 0;
        while done < total {
            block.resize((BLOCK_BYTES as u64).min(total - done) as usize, 0);
            generator.fill_bytes_parallel(done / header.dtype.bytes() as u64, &mut block);
            writer.append(&header.name, &block)?;
            done += block.len() as u64;
            progress(block.len() as u64);
        }
    }
    writer.finish()
}
