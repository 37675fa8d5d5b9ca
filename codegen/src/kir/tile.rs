//! The inner step of matrix products, in the order that keeps accumulators in registers.

use super::{F32, V};

/// Accumulators: rows of vectors.
pub type Tile<'k> = Vec<Vec<V<'k, F32>>>;

/// `acc[r][v] += x(r) * w[v]` for every row and vector; `x(r)` is a broadcast.
///
/// Odd steps walk the tile backwards. A multiply-add of x86-64 under Cranelift overwrites its multiplicand, so that each
/// accumulator moves to another register, the one that its predecessor in the order has just left. Two steps of opposite
/// order undo each other's moves; two steps of the same order need more registers than there are. A loop should
/// therefore hold an even number of steps, numbered from 0. The broadcast is what gets overwritten; with one row it is the
/// weights, which nobody reads again.
pub fn outer_product<'k>(step: u32, x: impl Fn(usize) -> V<'k, F32>, w: &[V<'k, F32>], mut acc: Tile<'k>) -> Tile<'k> {
    let ordered =
        |n: usize| -> Vec<usize> { if step.is_multiple_of(2) { (0..n).collect() } else { (0..n).rev().collect() } };
    let one_row = acc.len() == 1;
    for r in ordered(acc.len()) {
        let x = x(r);
        for v in ordered(w.len()) {
            acc[r][v] = if one_row { w[v].fma(x, acc[r][v]) } else { x.fma(w[v], acc[r][v]) };
        }
    }
    acc
}
