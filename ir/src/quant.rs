//! Quantised rows: what the codes of [`Elem::Q8`] and [`Elem::Q4`] mean, and how they are chosen.
//!
//! A row is cut into groups of [`GROUP`] columns. A group is one 32-bit word, its *scale*, and an unsigned code for each column:
//!
//! | element | scale | codes | value of code `c` |
//! |---|---|---|---|
//! | `q8` | `d`, an f32 | 1..=255 | `d (c - 128)` |
//! | `q4` | `d` and `m`, bf16, in the high and the low half | 0..=15 | `d c + m` |
//!
//! A row is stored as the image of its groups, one after the other: 4 bytes of scale, little-endian, and a byte for each code. The last
//! group of a row may be partly empty. How codes are packed for a kernel is not said here.

use crate::types::Elem;
use crate::value::Mat;

/// Columns that share a scale.
pub const GROUP: usize = 64;

/// Bytes of a group in the image of a row.
pub const GROUP_IMAGE: usize = 4 + GROUP;

/// Weights have to be smaller than this, 2^50, so that no sum of squares overflows.
const LIMIT: f32 = 1.125_899_9e15;

/// A group whose elements are all smaller than this, 2^-60, is stored as zeros: squares and scales stay normal numbers.
const TINY: f32 = 8.673_617e-19;

/// How a matrix is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// 8 bits, symmetric.
    Q8,
    /// 4 bits, scale and minimum.
    Q4,
}

/// A weight that cannot be quantised.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("column {column}: found {value}, expected a number of magnitude less than {LIMIT:e}")]
pub struct QuantError {
    /// The column.
    pub column: usize,
    /// What was found there.
    pub value: f32,
}

impl Format {
    /// The format of an element type, if it is quantised.
    pub fn of(elem: Elem) -> Option<Format> {
        match elem {
            Elem::Q8 => Some(Format::Q8),
            Elem::Q4 => Some(Format::Q4),
            Elem::F32 | Elem::Bf16 | Elem::F16 | Elem::I32 => None,
        }
    }

    /// Bits of a code.
    pub fn bits(self) -> usize {
        match self {
            Format::Q8 => 8,
            Format::Q4 => 4,
        }
    }

    /// Bytes of a group whose codes are packed tightly.
    pub fn group_bytes(self) -> usize {
        4 + GROUP * self.bits() / 8
    }

    /// The factor `d` and the summand `m` of a scale: a code `c` stands for `d c + m`.
    pub fn factor_and_summand(self, scale: u32) -> (f32, f32) {
        match self {
            Format::Q8 => (f32::from_bits(scale), -128.0 * f32::from_bits(scale)),
            Format::Q4 => (f32::from_bits(scale & 0xffff_0000), f32::from_bits(scale << 16)),
        }
    }

    /// The number that a code stands for, rounded once.
    pub fn value(self, scale: u32, code: u8) -> f32 {
        let (d, m) = self.factor_and_summand(scale);
        // as exact as `d (c - 128)`: products of `d` with powers of two are
        d.mul_add(f32::from(code), m)
    }
}

/// Bytes of the image of a row.
pub fn image_bytes(cols: usize) -> usize {
    cols.div_ceil(GROUP) * GROUP_IMAGE
}

/// Writes the image of a row, which has [`image_bytes`] bytes.
///
/// # Errors
/// A column that is not finite, or too large.
///
/// # Panics
/// If `image` has another size.
pub fn quantise(format: Format, row: &[f32], image: &mut [u8]) -> Result<(), QuantError> {
    assert_eq!(image.len(), image_bytes(row.len()), "room for {} columns", row.len());
    if let Some(column) = row.iter().position(|x| x.is_nan() || x.abs() >= LIMIT) {
        return Err(QuantError { column, value: row[column] });
    }
    for (x, image) in row.chunks(GROUP).zip(image.chunks_exact_mut(GROUP_IMAGE)) {
        let mut codes = [0; GROUP];
        let scale = match format {
            Format::Q8 => symmetric(x, &mut codes),
            Format::Q4 => least_squares(x, &mut codes),
        };
        image[..4].copy_from_slice(&scale.to_le_bytes());
        image[4..].copy_from_slice(&codes);
    }
    Ok(())
}

/// The numbers that the image of a row stands for.
pub fn dequantise(format: Format, image: &[u8], row: &mut [f32]) {
    for (x, image) in row.chunks_mut(GROUP).zip(image.chunks_exact(GROUP_IMAGE)) {
        let scale = u32::from_le_bytes([image[0], image[1], image[2], image[3]]);
        x.iter_mut().zip(&image[4..]).for_each(|(x, code)| *x = format.value(scale, *code));
    }
}

/// A matrix as it is after quantising: what the reference evaluation computes with.
///
/// # Errors
/// The row, and what was found there.
pub fn round_trip(format: Format, mut mat: Mat<f32>) -> Result<Mat<f32>, String> {
    let mut image = vec![0; image_bytes(mat.cols)];
    for (r, row) in mat.data.chunks_exact_mut(mat.cols.max(1)).enumerate() {
        quantise(format, row, &mut image).map_err(|e| format!("row {r}, {e}"))?;
        dequantise(format, &image, row);
    }
    Ok(mat)
}

/// Nearest codes, the element of largest magnitude at the end of the range.
fn symmetric(x: &[f32], codes: &mut [u8; GROUP]) -> u32 {
    codes.fill(128);
    let largest = x.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    if largest < TINY {
        return 0;
    }
    let d = largest / 127.0;
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (integer((x * inverse(d)).clamp(-127.0, 127.0)) + 128.0) as u8;
    }
    d.to_bits()
}

/// Where a search starts: shares of the range that are cut off at each end.
const CUTS: [f32; 3] = [0.0, 0.05, 0.1];
/// Choices of codes for each start, all but the first after a fit to the codes before.
const ROUNDS: usize = 3;

/// Codes, scale and summand with a small sum of squared errors: from several ranges, codes to nearest and the best scale and summand for
/// these codes take turns. The empty part of a group counts as zeros.
fn least_squares(x: &[f32], codes: &mut [u8; GROUP]) -> u32 {
    let mut full = [0.0; GROUP];
    full[..x.len()].copy_from_slice(x);
    let (low, high) = full.iter().fold((full[0], full[0]), |(l, h), x| (l.min(*x), h.max(*x)));
    let (mut best, mut least) = ((0.0, 0.0), f32::INFINITY);
    if high.max(-low) >= TINY {
        let own = [full.iter().sum(), full.iter().map(|x| x * x).sum()];
        for (cut_low, cut_high) in CUTS.iter().flat_map(|low| CUTS.map(|high| (low, high))) {
            let (mut m, top) = (low + cut_low * (high - low), high - cut_high * (high - low));
            let mut d = (top - m) / 15.0;
            for _ in 0..ROUNDS {
                // equal elements have no use for a factor, and its inverse could be infinite
                (d, m) = (if d < TINY { 0.0 } else { bf16(d) }, bf16(m));
                let sums = Sums::of(&full, own, d, m);
                let error = sums.error(d, m);
                if error < least {
                    (best, least) = ((d, m), error);
                }
                let Some(fit) = sums.fit() else { break };
                (d, m) = fit;
            }
        }
    }
    let (d, m) = best;
    codes.iter_mut().zip(&full).for_each(|(code, x)| *code = nearest(*x, inverse(d), m) as u8);
    d.to_bits() | m.to_bits() >> 16
}

/// To nearest even.
fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The code nearest to `x`, as a number, without branches so that loops over it become loops of vectors.
fn nearest(x: f32, inverse: f32, m: f32) -> f32 {
    integer(((x - m) * inverse).clamp(0.0, 15.0))
}

/// A small number to the nearest integer, ties to even.
fn integer(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    x + MAGIC - MAGIC
}

/// Sums over a group of codes `c` and elements `x`.
struct Sums {
    c: f32,
    cc: f32,
    xc: f32,
    x: f32,
    xx: f32,
}

impl Sums {
    /// Of the codes nearest under `d` and `m`; `own` holds the sums of `x` and of its squares. In eight parts, as vectors are.
    fn of(x: &[f32; GROUP], own: [f32; 2], d: f32, m: f32) -> Sums {
        let (mut parts, inverse) = ([[0.0f32; 8]; 3], inverse(d));
        for x in x.as_chunks::<8>().0 {
            for i in 0..8 {
                let c = nearest(x[i], inverse, m);
                parts[0][i] += c;
                parts[1][i] += c * c;
                parts[2][i] += x[i] * c;
            }
        }
        let [c, cc, xc] = parts.map(|p| p.iter().sum());
        Sums { c, cc, xc, x: own[0], xx: own[1] }
    }

    /// `sum((d c + m - x)^2)`.
    fn error(&self, d: f32, m: f32) -> f32 {
        let square = d * d * self.cc + 2.0 * d * m * self.c + GROUP as f32 * m * m;
        square - 2.0 * (d * self.xc + m * self.x) + self.xx
    }

    /// The `(d, m)` of least squared error; none if all codes are equal.
    fn fit(&self) -> Option<(f32, f32)> {
        let n = GROUP as f32;
        let determinant = n * self.cc - self.c * self.c;
        let d = n * self.xc - self.c * self.x;
        let m = self.cc * self.x - self.c * self.xc;
        (determinant > 0.0).then(|| (d / determinant, m / determinant))
    }
}
