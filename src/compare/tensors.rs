//! Named arrays of a safetensors file, in memory.

use anyhow::{Context, bail};
use jet_frontend::tensor_file::{ElementType, TensorFile};
use jet_frontend::tensor_writer::{TensorHeader, TensorWriter};
use std::collections::BTreeMap;
use std::path::Path;

/// Arrays by name.
pub type Tensors = BTreeMap<String, Array>;

/// An array, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Data,
}

/// The elements of an array.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Measured values; bf16 is widened when read.
    F32(Vec<f32>),
    /// Ids, positions and lengths.
    I64(Vec<i64>),
}

impl Array {
    /// An array of values.
    ///
    /// # Panics
    /// If the shape does not hold that many.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Array {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{shape:?}");
        Array { shape: shape.to_vec(), data: Data::F32(data) }
    }

    /// A list of integers.
    pub fn i64(data: Vec<i64>) -> Array {
        Array { shape: vec![data.len()], data: Data::I64(data) }
    }

    /// The values, if it holds any.
    pub fn values(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(values) => Some(values),
            Data::I64(_) => None,
        }
    }

    /// The integers, if it holds any.
    pub fn integers(&self) -> Option<&[i64]> {
        match &self.data {
            Data::F32(_) => None,
            Data::I64(integers) => Some(integers),
        }
    }

    /// Length of the first axis.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Length of the last axis; 1 for an array without axes.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// Reads every array of a file.
///
/// # Errors
/// If the file cannot be read, is not a safetensors file, or holds another type than f32, bf16, i64 and i32.
pub fn read(path: &Path) -> anyhow::Result<Tensors> {
    let file = TensorFile::open(path)?;
    file.names()
        .iter()
        .map(|name| {
            let entry = file.entry(name).with_context(|| format!("{}: no {name}", path.display()))?;
            let data = decode(entry.dtype, file.bytes(entry)).with_context(|| format!("{}: {name}", path.display()))?;
            Ok((name.clone(), Array { shape: entry.shape.clone(), data }))
        })
        .collect()
}

fn decode(element: ElementType, bytes: &[u8]) -> anyhow::Result<Data> {
    Ok(match element {
        ElementType::F32 => Data::F32(words(bytes, f32::from_le_bytes)),
        ElementType::Bf16 => Data::F32(words(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))),
        ElementType::I64 => Data::I64(words(bytes, i64::from_le_bytes)),
        ElementType::I32 => Data::I64(words(bytes, |b| i64::from(i32::from_le_bytes(b)))),
        other => bail!("found type {}, expected F32, BF16, I64 or I32", other.name()),
    })
}

fn words<const N: usize, T>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&word| decode(word)).collect()
}

/// Writes arrays to a file.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, tensors: &Tensors) -> anyhow::Result<()> {
    let header = |(name, array): (&String, &Array)| {
        let dtype = if array.values().is_some() { ElementType::F32 } else { ElementType::I64 };
        TensorHeader { name: name.clone(), dtype, shape: array.shape.clone() }
    };
    let mut writer = TensorWriter::create(path, tensors.iter().map(header).collect())?;
    for (name, array) in tensors {
        let bytes: Vec<u8> = match &array.data {
            Data::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I64(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        writer.append(name, &bytes)?;
    }
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("io.safetensors");
        let mut tensors = Tensors::new();
        tensors.insert("a".into(), Array::f32(&[2, 2], vec![1.0, -2.5, 0.0, f32::MIN_POSITIVE]));
        tensors.insert("b".into(), Array::i64(vec![-1, 7]));
        write(&path, &tensors).unwrap();
        assert_eq!(read(&path).unwrap(), tensors);
    }

    #[test]
    fn other_files_and_types_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("io.safetensors");
        std::fs::write(&path, b"not one of ours").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("not a safetensors file"));
        let header = TensorHeader { name: "x".into(), dtype: ElementType::F64, shape: vec![1] };
        let mut writer = TensorWriter::create(&path, vec![header]).unwrap();
        writer.append("x", &[0; 8]).unwrap();
        writer.finish().unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.ends_with("x: found type F64, expected F32, BF16, I64 or I32"), "{error}");
    }
}
