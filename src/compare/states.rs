//! States of the runtime in the form of a reference file.

use super::tensors::Array;
use jetbin::StateKind;

/// A state of a sequence as the runtime holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct RawState {
    /// Meaning.
    pub kind: StateKind,
    /// Index of the layer.
    pub layer: u32,
    /// Rows; the capacity of a cache.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Heads of a delta state or a cache, otherwise 1.
    pub heads: usize,
    /// Tokens that sliding-window attention sees; 0 means all.
    pub window: usize,
    /// `[rows, cols]`, row-major.
    pub values: Vec<f32>,
}

/// What a reference file calls a state: `recurrent_state`, `conv_state`, `k`, `v`.
pub fn reference_name(kind: StateKind) -> &'static str {
    match kind {
        StateKind::Conv => "conv_state",
        StateKind::Delta => "recurrent_state",
        StateKind::Keys => "k",
        StateKind::Values => "v",
    }
}

/// A state after `length` tokens, as a reference file has it.
///
/// # Shapes
/// `recurrent_state [heads, K, V]`; `conv_state [Vt, taps]`, newest last; `k` and `v [kv_heads, n, head_dim]`, oldest first, with
/// `n = length`, or at most `window`.
///
/// # Errors
/// If a cache holds fewer tokens than the form asks for.
pub fn in_reference_form(state: &RawState, length: usize) -> Result<Array, String> {
    let (rows, cols, heads) = (state.rows, state.cols, state.heads.max(1));
    match state.kind {
        StateKind::Delta => Ok(Array::f32(&[heads, rows / heads, cols], state.values.clone())),
        StateKind::Conv => {
            let by_channel = (0..cols).flat_map(|c| (0..rows).map(move |r| r * cols + c));
            Ok(Array::f32(&[cols, rows], by_channel.map(|i| state.values[i]).collect()))
        }
        StateKind::Keys | StateKind::Values => {
            let n = if state.window == 0 { length } else { length.min(state.window) };
            if n > rows {
                return Err(format!("a cache of {rows} tokens holds fewer than {n}"));
            }
            let width = cols / heads;
            let mut values = Vec::with_capacity(n * cols);
            for head in 0..heads {
                for position in length - n..length {
                    let start = position % rows * cols + head * width;
                    values.extend_from_slice(&state.values[start..start + width]);
                }
            }
            Ok(Array::f32(&[heads, n, width], values))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(kind: StateKind, rows: usize, cols: usize, heads: usize, window: usize) -> RawState {
        let values = (0..rows * cols).map(|i| i as f32).collect();
        RawState { kind, layer: 0, rows, cols, heads, window, values }
    }

    #[test]
    fn convolution_states_are_transposed() {
        let array = in_reference_form(&raw(StateKind::Conv, 2, 3, 1, 0), 9).unwrap();
        assert_eq!(array, Array::f32(&[3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    }

    #[test]
    fn delta_states_keep_their_order() {
        let array = in_reference_form(&raw(StateKind::Delta, 4, 2, 2, 0), 9).unwrap();
        assert_eq!(array.shape, [2, 2, 2]);
        assert_eq!(array.values().unwrap()[..3], [0.0, 1.0, 2.0]);
    }

    #[test]
    fn caches_are_unrolled_by_head_with_the_oldest_first() {
        // 5 tokens went into 4 rows: positions 4 1 2 3; a window of 3 keeps positions 2 3 4
        let array = in_reference_form(&raw(StateKind::Keys, 4, 2, 2, 3), 5).unwrap();
        assert_eq!(array, Array::f32(&[2, 3, 1], vec![4.0, 6.0, 0.0, 5.0, 7.0, 1.0]));
        let all = in_reference_form(&raw(StateKind::Values, 4, 2, 1, 0), 2).unwrap();
        assert_eq!(all, Array::f32(&[1, 2, 2], vec![0.0, 1.0, 2.0, 3.0]));
        let problem = in_reference_form(&raw(StateKind::Keys, 4, 2, 1, 0), 5).unwrap_err();
        assert_eq!(problem, "a cache of 4 tokens holds fewer than 5");
    }
}
