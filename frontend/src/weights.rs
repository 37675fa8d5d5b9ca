//! Where weights come from: one interface for checkpoints and for the synthetic generator.

use crate::config::ModelConfig;
use crate::problem::{Problems, Result};
use crate::synth::Generator;
use crate::tensor_file::ElementType;
use crate::tensors::TensorSpec;
use std::collections::HashMap;
use std::ops::Range;

/// An element type in which weights may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightDtype {
    /// The upper half of an f32.
    Bf16,
    /// IEEE 754 half precision.
    F16,
    /// IEEE 754 single precision.
    F32,
}

impl WeightDtype {
    /// The size of one element.
    pub fn bytes(self) -> usize {
        self.element_type().bytes()
    }

    /// The same type among all those of the safetensors format.
    pub fn element_type(self) -> ElementType {
        match self {
            WeightDtype::Bf16 => ElementType::Bf16,
            WeightDtype::F16 => ElementType::F16,
            WeightDtype::F32 => ElementType::F32,
        }
    }

    /// The weight type that an element type is, if it is one.
    pub fn from_element_type(element: ElementType) -> Option<WeightDtype> {
        [WeightDtype::Bf16, WeightDtype::F16, WeightDtype::F32].into_iter().find(|d| d.element_type() == element)
    }
}

/// Shape and stored type of a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightInfo {
    /// One or two sizes; a matrix is `[out, in]`.
    pub shape: Vec<usize>,
    /// The type in which the source holds it.
    pub dtype: WeightDtype,
}

impl WeightInfo {
    /// The first size: rows of a matrix, elements of a vector.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Elements of a row; 1 for a vector.
    pub fn columns(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// The elements of a range of rows.
    ///
    /// # Errors
    /// The range is not within the tensor.
    fn elements(&self, name: &str, rows: &Range<usize>) -> Result<Range<usize>> {
        if rows.start > rows.end || rows.end > self.rows() {
            return Err(Problems::one(name, format!("found rows {rows:?}, expected a part of 0..{}", self.rows())));
        }
        Ok(rows.start * self.columns()..rows.end * self.columns())
    }
}

/// A source of weights by name. Sources hold every tensor of [`ModelConfig::tensors`] in the right shape: that is
/// checked when they are opened. All methods may be called from several threads.
pub trait WeightSource: Send + Sync {
    /// What the source is, for messages and records: a path, or `synthetic weights, seed 1`.
    fn describe(&self) -> String;

    /// Shape and stored type.
    ///
    /// # Errors
    /// The source has no such tensor.
    fn info(&self, name: &str) -> Result<WeightInfo>;

    /// Writes some rows of a tensor as f32 (exact for all stored types).
    ///
    /// # Shapes
    /// `out`: `rows.len() * columns`; the rows of a vector are its elements.
    ///
    /// # Errors
    /// No such tensor or rows, or `out` has another length.
    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// The bf16 bits of some rows of a bf16 tensor: borrowed from the source, or made in `buffer`.
    ///
    /// # Errors
    /// No such tensor or rows, or its stored type is not bf16.
    fn bf16_rows<'a>(&'a self, name: &str, rows: Range<usize>, buffer: &'a mut Vec<u16>) -> Result<&'a [u16]>;

    /// A whole tensor as f32, for the small ones.
    ///
    /// # Errors
    /// No such tensor.
    fn read_all(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let mut values = vec![0.0; info.rows() * info.columns()];
        self.read_rows(name, 0..info.rows(), &mut values)?;
        Ok(values)
    }
}

/// Rounds to bf16, nearest even; infinities and NaN stay what they are.
pub fn to_bf16(values: &[f32], out: &mut [u16]) {
    for (value, slot) in values.iter().zip(out) {
        *slot = half::bf16::from_f32(*value).to_bits();
    }
}

/// The elements that a request means, after checking the request against the tensor.
pub(crate) fn requested(name: &str, info: &WeightInfo, rows: &Range<usize>, out: usize) -> Result<Range<usize>> {
    let elements = info.elements(name, rows)?;
    if elements.len() != out {
        return Err(Problems::one(name, format!("found room for {out} elements, expected {}", elements.len())));
    }
    Ok(elements)
}

/// The elements of a request for bf16 bits, after checking the request against the tensor.
pub(crate) fn requested_bf16(name: &str, info: &WeightInfo, rows: &Range<usize>) -> Result<Range<usize>> {
    if info.dtype != WeightDtype::Bf16 {
        let found = info.dtype.element_type().name();
        return Err(Problems::one(name, format!("found stored type {found}, expected BF16")));
    }
    info.elements(name, rows)
}

/// The error of asking a source for a tensor that no model has.
pub(crate) fn unknown_tensor(name: &str, source: &str) -> Problems {
    Problems::one(name, format!("found no tensor of this name in {source}"))
}

/// The weights of the deterministic generator, made row by row when they are asked for.
#[derive(Debug)]
pub struct SyntheticWeights {
    seed: u64,
    tensors: HashMap<String, (WeightInfo, Generator)>,
}

impl SyntheticWeights {
    /// The weights of a configuration under a seed.
    pub fn new(config: &ModelConfig, seed: u64) -> SyntheticWeights {
        let tensors = config.tensors().into_iter().map(|spec: TensorSpec| {
            let generator = Generator::for_tensor(&spec, seed);
            (spec.name, (WeightInfo { shape: spec.shape, dtype: generator.dtype() }, generator))
        });
        SyntheticWeights { seed, tensors: tensors.collect() }
    }

    fn tensor(&self, name: &str) -> Result<&(WeightInfo, Generator)> {
        self.tensors.get(name).ok_or_else(|| unknown_tensor(name, &self.describe()))
    }
}

impl WeightSource for SyntheticWeights {
    fn describe(&self) -> String {
        format!("synthetic weights, seed {}", self.seed)
    }

    fn info(&self, name: &str) -> Result<WeightInfo> {
        Ok(self.tensor(name)?.0.clone())
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (info, generator) = self.tensor(name)?;
        let elements = requested(name, info, &rows, out.len())?;
        generator.fill_f32(elements.start as u64, out);
        Ok(())
    }

    fn bf16_rows<'a>(&'a self, name: &str, rows: Range<usize>, buffer: &'a mut Vec<u16>) -> Result<&'a [u16]> {
        let (info, generator) = self.tensor(name)?;
        let elements = requested_bf16(name, info, &rows)?;
        buffer.resize(elements.len(), 0);
        generator.fill_bf16(elements.start as u64, buffer);
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16() {
        let table = [
            (1.0, 0x3f80),
            // Halfway between two values: to the even one, down and up.
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (-0.0, 0x8000),
            (f32::MAX, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
        ];
        let mut bits = [0; 7];
        to_bf16(&table.map(|(value, _)| value), &mut bits);
        assert_eq!(bits, table.map(|(_, bits)| bits));
        let mut nan = [0];
        to_bf16(&[f32::from_bits(0x7f80_0001)], &mut nan);
        assert!(f32::from_bits(u32::from(nan[0]) << 16).is_nan());
    }
}
