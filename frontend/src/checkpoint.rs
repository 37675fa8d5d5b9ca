//! A Hugging Face checkpoint: one safetensors file or several with an index, checked against the model's tensors.

use crate::config::ModelConfig;
use crate::json;
use crate::problem::{Collector, Problems, Result, shown};
use crate::tensor_file::{ElementType, TensorEntry, TensorFile};
use crate::tensors::TensorSpec;
use crate::weights::{self, WeightDtype, WeightInfo, WeightSource};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// File name of an unsharded checkpoint.
pub const SINGLE_FILE: &str = "model.safetensors";
/// File name of a sharded checkpoint's index.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// An open checkpoint that holds exactly the tensors of its configuration.
#[derive(Debug)]
pub struct Checkpoint {
    directory: PathBuf,
    files: Vec<TensorFile>,
    /// The file and stored form of every tensor.
    tensors: HashMap<String, (usize, WeightInfo)>,
}

impl Checkpoint {
    /// Opens the checkpoint in `directory`.
    ///
    /// # Errors
    /// No checkpoint there; a file that cannot be read or is damaged; an index that does not agree with its files; a
    /// tensor that is missing, surplus, of the wrong shape or of a type other than bf16, f16 and f32. All are listed.
    pub fn open(directory: &Path, config: &ModelConfig) -> Result<Checkpoint> {
        let single = directory.join(SINGLE_FILE);
        let index = directory.join(INDEX_FILE);
        let (files, found) = if single.is_file() {
            open_single(&single)?
        } else if index.is_file() {
            open_sharded(directory, &index)?
        } else {
            let message = format!("found neither {SINGLE_FILE} nor {INDEX_FILE}, expected one of them");
            return Err(Problems::one(directory.display().to_string(), message));
        };
        let mut out = Collector::default();
        let tensors = check_tensors(config, &files, &found, &mut out);
        out.finish(Checkpoint { directory: directory.to_path_buf(), files, tensors })
    }

    /// The weight files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(TensorFile::path)
    }

    fn tensor(&self, name: &str) -> Result<(&WeightInfo, &[u8])> {
        let (file, info) = self.tensors.get(name).ok_or_else(|| weights::unknown_tensor(name, &self.describe()))?;
        let file = &self.files[*file];
        let entry = file.entry(name).expect("the table of tensors was made from the file's entries");
        Ok((info, file.bytes(entry)))
    }
}

impl WeightSource for Checkpoint {
    fn describe(&self) -> String {
        self.directory.display().to_string()
    }

    fn info(&self, name: &str) -> Result<WeightInfo> {
        Ok(self.tensor(name)?.0.clone())
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (info, bytes) = self.tensor(name)?;
        let elements = weights::requested(name, info, &rows, out.len())?;
        let bytes = &bytes[elements.start * info.dtype.bytes()..elements.end * info.dtype.bytes()];
        match info.dtype {
            WeightDtype::Bf16 => convert(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            WeightDtype::F16 => convert(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
            WeightDtype::F32 => convert(bytes, out, f32::from_le_bytes),
        }
        Ok(())
    }

    fn bf16_rows<'a>(&'a self, name: &str, rows: Range<usize>, buffer: &'a mut Vec<u16>) -> Result<&'a [u16]> {
        let (info, bytes) = self.tensor(name)?;
        let elements = weights::requested_bf16(name, info, &rows)?;
        let bytes = &bytes[2 * elements.start..2 * elements.end];
        // SAFETY: every bit pattern is a u16, and `align_to` finds where they are aligned.
        let (before, words, after) = unsafe { bytes.align_to::<u16>() };
        if cfg!(target_endian = "little") && before.is_empty() && after.is_empty() {
            return Ok(words);
        }
        // The format does not promise alignment: copy what a writer has put at an odd address.
        buffer.resize(elements.len(), 0);
        convert(bytes, buffer, u16::from_le_bytes);
        Ok(buffer)
    }
}

fn convert<const N: usize, T>(bytes: &[u8], out: &mut [T], from: impl Fn([u8; N]) -> T) {
    for (bytes, slot) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *slot = from(*bytes);
    }
}

/// Which file holds each tensor.
type Found = HashMap<String, usize>;

fn open_single(path: &Path) -> Result<(Vec<TensorFile>, Found)> {
    let file = TensorFile::open(path)?;
    let found = file.names().iter().map(|name| (name.clone(), 0)).collect();
    Ok((vec![file], found))
}

/// Opens all files that an index names and compares what they hold with what it says.
fn open_sharded(directory: &Path, index: &Path) -> Result<(Vec<TensorFile>, Found)> {
    let origin = index.display().to_string();
    let mut out = Collector::default();
    let claimed = read_index(index, &origin, &mut out)?;
    let listed: HashSet<&str> = claimed.iter().map(|(name, _)| name.as_str()).collect();
    let mut names: Vec<&String> = claimed.iter().map(|(_, shard)| shard).collect();
    names.sort_unstable();
    names.dedup();
    let opened: Vec<_> = names.iter().filter_map(|name| out.take(TensorFile::open(&directory.join(name)))).collect();
    if !out.is_empty() {
        return Err(out.into_problems());
    }
    let mut found = Found::new();
    for (i, file) in opened.iter().enumerate() {
        for name in file.names() {
            let origin = format!("{}: {name}", file.path().display());
            if let Some(other) = found.insert(name.clone(), i) {
                out.push(origin, format!("the tensor is also in {}", opened[other].path().display()));
            } else if !listed.contains(name.as_str()) {
                out.push(origin, format!("the tensor is not listed in {INDEX_FILE}"));
            }
        }
    }
    for (name, shard) in &claimed {
        let place = match found.get(name) {
            Some(&i) if names[i] == shard => continue,
            Some(&i) => format!("it is in {}", names[i]),
            None => "no file holds it".to_string(),
        };
        out.push(format!("{origin}: {name}"), format!("expected in {shard}, but {place}"));
    }
    out.finish((opened, found))
}

/// The index's `weight_map`, in the file's order.
fn read_index(index: &Path, origin: &str, out: &mut Collector) -> Result<Vec<(String, String)>> {
    let map = json::object(&json::read_file(index)?, origin)?;
    let Some(weight_map) = map.get("weight_map").and_then(Value::as_object) else {
        let found = map.get("weight_map").map_or("nothing".to_string(), shown);
        let message = format!("found {found}, expected an object of file names");
        return Err(Problems::one(format!("{origin}: weight_map"), message));
    };
    let mut claimed = Vec::with_capacity(weight_map.len());
    for (name, shard) in weight_map {
        match shard.as_str().filter(|s| Path::new(s).file_name().is_some_and(|f| f == *s)) {
            Some(shard) => claimed.push((name.clone(), shard.to_string())),
            None => {
                let message = format!("found {}, expected the name of a file beside the index", shown(shard));
                out.push(format!("{origin}: {name}"), message);
            }
        }
    }
    Ok(claimed)
}

/// Compares the files' tensors with those that the configuration asks for.
fn check_tensors(
    config: &ModelConfig,
    files: &[TensorFile],
    found: &Found,
    out: &mut Collector,
) -> HashMap<String, (usize, WeightInfo)> {
    let mut tensors = HashMap::with_capacity(found.len());
    let required = config.tensors();
    for spec in &required {
        let Some(&file) = found.get(&spec.name) else {
            out.push(&spec.name, format!("missing, expected a tensor {:?}", spec.shape));
            continue;
        };
        let entry = files[file].entry(&spec.name).expect("the table of tensors was made from the file's entries");
        if let Some(info) = check_tensor(spec, entry, out) {
            tensors.insert(spec.name.clone(), (file, info));
        }
    }
    let names: HashSet<&str> = required.iter().map(|spec| spec.name.as_str()).collect();
    for name in files.iter().flat_map(TensorFile::names).filter(|name| !names.contains(name.as_str())) {
        out.push(name, "found a tensor that the configuration does not ask for");
    }
    tensors
}

fn check_tensor(spec: &TensorSpec, entry: &TensorEntry, out: &mut Collector) -> Option<WeightInfo> {
    if entry.shape != spec.shape {
        out.push(&spec.name, format!("found shape {:?}, expected {:?}", entry.shape, spec.shape));
    }
    let dtype = WeightDtype::from_element_type(entry.dtype);
    if dtype.is_none() {
        let names = [ElementType::Bf16, ElementType::F16, ElementType::F32].map(ElementType::name);
        out.push(&spec.name, format!("found type {}, expected {}", entry.dtype.name(), names.join(", ")));
    }
    Some(WeightInfo { shape: spec.shape.clone(), dtype: dtype? })
}
