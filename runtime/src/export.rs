//! States of a sequence in the layouts of the official model.

use crate::error::{Error, Result};
use crate::session::{Session, bytes_of_mut};
use jetbin::{DType, StateDesc, StateKind};

/// A state in the official layout.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    /// Index of the layer.
    pub layer: u32,
    /// `recurrent_state`, `conv_state`, `k` or `v`.
    pub name: &'static str,
    /// `[heads, K, V]`, `[Vt, W]`, or `[kv_heads, n, head_dim]`.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

impl Session {
    /// A state of a sequence, by its index in the artifact.
    ///
    /// # Shapes
    /// - `recurrent_state [heads, K, V]`
    /// - `conv_state [Vt, W]`: the last `W` inputs of the convolution, newest last
    /// - `k`, `v` `[kv_heads, n, head_dim]`: all tokens, or the last `window`, oldest first
    ///
    /// # Errors
    /// If there is no such sequence or state, or if the device fails.
    pub fn export_state(&mut self, sequence: u32, state: u32) -> Result<StateTensor> {
        let length = self.sequence(sequence)?.length;
        if self.sequence(sequence)?.interrupted {
            return Err(Error::request(format!("a call failed while sequence {sequence} took part: reset it first")));
        }
        let model = self.model.clone();
        let states = model.reader().states(model.target());
        let absent = || Error::request(format!("state {state}, expected below {}", states.len()));
        let desc = states.get(state).ok_or_else(absent)?;
        let address = self.places.states[state as usize] + self.places.slot_bytes * u64::from(sequence);
        let mut words = vec![0u32; desc.bytes().div_ceil(4) as usize];
        let written = match desc.kind {
            StateKind::Keys | StateKind::Values => {
                desc.bytes() / u64::from(desc.rows) * u64::from(length.min(desc.rows))
            }
            StateKind::Conv | StateKind::Delta => desc.bytes(),
        };
        self.device.download(address, &mut bytes_of_mut(&mut words)[..written as usize])?;
        let raw = elements(&desc, &words);
        let (name, shape, values) = official(&desc, raw, length);
        Ok(StateTensor { layer: desc.layer, name, shape, values })
    }
}

/// The elements of a state, row-major, from its bytes as they lie in words.
fn elements(desc: &StateDesc<&str>, words: &[u32]) -> Vec<f32> {
    if desc.dtype == DType::F32 {
        return words.iter().map(|w| f32::from_bits(*w)).collect();
    }
    // a bf16 is the upper half of an f32
    let pairs = words.iter().flat_map(|w| [w << 16, w & 0xffff_0000]);
    pairs.take(desc.rows as usize * desc.cols as usize).map(f32::from_bits).collect()
}

fn official(desc: &StateDesc<&str>, raw: Vec<f32>, length: u32) -> (&'static str, Vec<usize>, Vec<f32>) {
    let (rows, cols, heads) = (desc.rows as usize, desc.cols as usize, desc.heads as usize);
    match desc.kind {
        StateKind::Delta => ("recurrent_state", vec![heads, rows / heads, cols], raw),
        StateKind::Conv => {
            let transposed = (0..cols).flat_map(|c| raw.iter().skip(c).step_by(cols)).copied().collect();
            ("conv_state", vec![cols, rows], transposed)
        }
        StateKind::Keys | StateKind::Values => {
            let kept = if desc.window == 0 { length } else { length.min(desc.window) };
            let head_dim = cols / heads;
            let mut values = Vec::with_capacity(kept as usize * cols);
            for head in 0..heads {
                for position in (length - kept) as usize..length as usize {
                    let start = position % rows * cols + head * head_dim;
                    values.extend_from_slice(&raw[start..start + head_dim]);
                }
            }
            let name = if desc.kind == StateKind::Keys { "k" } else { "v" };
            (name, vec![heads, kept as usize, head_dim], values)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desc(kind: StateKind, rows: u32, cols: u32, heads: u32, window: u32) -> StateDesc<&'static str> {
        let dtype = DType::F32;
        StateDesc { name: "s", kind, dtype, layer: 0, offset: 0, rows, cols, heads, window, zero_at_start: false }
    }

    #[test]
    fn elements_of_bf16_lie_two_in_a_word() {
        let desc = StateDesc { dtype: DType::Bf16, ..desc(StateKind::Keys, 3, 1, 1, 0) };
        assert_eq!(elements(&desc, &[0xc000_3f80, 0x0000_4040]), [1.0, -2.0, 3.0]);
    }

    #[test]
    fn a_convolution_is_transposed() {
        let (name, shape, values) = official(&desc(StateKind::Conv, 2, 3, 1, 0), (0..6).map(|v| v as f32).collect(), 9);
        assert_eq!((name, shape, values), ("conv_state", vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    }

    #[test]
    fn a_ring_is_unrolled_oldest_first_and_cut_to_the_window() {
        // Capacity 4, two heads of one column, seven tokens: rows hold positions 4, 5, 6, 3.
        let raw = [4, 5, 6, 3].iter().flat_map(|&p| [p as f32, 10.0 * p as f32]).collect();
        let (name, shape, values) = official(&desc(StateKind::Values, 4, 2, 2, 3), raw, 7);
        assert_eq!((name, shape), ("v", vec![2, 3, 1]));
        assert_eq!(values, [4.0, 5.0, 6.0, 40.0, 50.0, 60.0]);
    }

    #[test]
    fn a_delta_state_gets_its_heads_back() {
        let raw: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let (name, shape, values) = official(&desc(StateKind::Delta, 6, 2, 3, 0), raw.clone(), 1);
        assert_eq!((name, shape, values), ("recurrent_state", vec![3, 2, 2], raw));
    }
}
