//! Rounding of the rows that products multiply, for the reference evaluation of programs whose kernels round them.

use crate::quant::{Format, GROUP};
use crate::types::Elem;
use crate::value::{Mat, Real};

/// Largest magnitude of a byte that stands for an activation.
const LARGEST: f32 = 127.0;
/// Groups whose elements are all smaller than this are zeros, so that `127 / max |x|` is finite.
const TINY: f32 = 1e-30;

/// How the rows of products are rounded; by default not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounding {
    /// All of them to bf16, to nearest even.
    pub bf16: bool,
    /// Those that meet quantised weights to bytes: in each group of [`GROUP`] columns to the nearest of `s y` with an integer `y`,
    /// `s = max |x| / 127`.
    pub bytes: bool,
}

impl Rounding {
    /// The rows that a product with weights of type `elem` multiplies, unless they are `x` as it is.
    pub fn rows<R: Real>(self, x: &Mat<R>, elem: Elem) -> Option<Mat<R>> {
        let bytes = self.bytes && Format::of(elem).is_some();
        let rounded = self.bf16.then(|| x.map(|x| R::of(f64::from(bf16(x.to_f64() as f32)))));
        if !bytes {
            return rounded;
        }
        let mut out = rounded.unwrap_or_else(|| x.clone());
        out.data.chunks_mut(x.cols.max(1)).flat_map(|row| row.chunks_mut(GROUP)).for_each(to_bytes);
        Some(out)
    }
}

/// One group, rounded in place.
fn to_bytes<R: Real>(group: &mut [R]) {
    let top = group.iter().fold(0.0, |top: f32, x| top.max((x.to_f64() as f32).abs()));
    let (scale, inverse) = if top < TINY { (0.0, 0.0) } else { (top * (1.0 / LARGEST), LARGEST / top) };
    for x in group {
        let integer = (x.to_f64() * f64::from(inverse)).round_ties_even();
        *x = R::of(f64::from(scale) * integer);
    }
}

fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(rounding: Rounding, elem: Elem, cols: usize, row: impl Fn(usize) -> f32) -> Option<Vec<f32>> {
        rounding.rows(&Mat::new(1, cols, |_, c| row(c)), elem).map(|m| m.data)
    }

    #[test]
    fn rows_of_other_weights_stay() {
        let bytes = Rounding { bytes: true, ..Rounding::default() };
        assert_eq!(rounded(Rounding::default(), Elem::Q8, 3, |c| c as f32), None);
        assert_eq!(rounded(bytes, Elem::Bf16, 3, |c| c as f32), None);
    }

    #[test]
    fn a_group_has_a_scale_of_its_own() {
        let bytes = Rounding { bytes: true, ..Rounding::default() };
        // 64 columns up to 127, then two up to 254: steps of 1 and of 2, ties to even
        let row = |c: usize| match c {
            0 => -127.0,
            1 => 2.5,
            2 => 3.5,
            3 => 0.4,
            64 => 254.0,
            65 => 3.1,
            _ => 0.0,
        };
        let out = rounded(bytes, Elem::Q4, 66, row).unwrap();
        assert_eq!(out[..4], [-127.0, 2.0, 4.0, 0.0]);
        assert_eq!(out[64..], [254.0, 4.0]);
        assert_eq!(rounded(bytes, Elem::Q8, 2, |_| 1e-31).unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn bf16_comes_first_and_is_to_nearest_even() {
        let bf16 = Rounding { bf16: true, bytes: false };
        let row = |c: usize| [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0][c];
        assert_eq!(rounded(bf16, Elem::F32, 3, row).unwrap(), [1.0, 1.0 + 4.0 / 256.0, 1.0]);
        let both = Rounding { bf16: true, bytes: true };
        assert_eq!(rounded(both, Elem::Q8, 1, |_| 1.0 + 1.0 / 256.0).unwrap(), [127.0 * (1.0f32 / 127.0)]);
    }
}
