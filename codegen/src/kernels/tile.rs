//! The inner loop of products: a few rows of activations times one panel of weights, sums in registers.

use crate::kir::{Bf16, Builder, F32, Index, Ptr, V};
use crate::pack::PANEL;
use jet_ir::Elem;

/// Rows that one pass over a panel serves. Three rows of four vectors leave four of sixteen registers for operands.
pub const ROWS: usize = 3;
/// Steps of `k` in one turn.
const UNROLL: u32 = 4;
/// Vectors of a panel.
const VECTORS: usize = PANEL / 4;

/// `out[r][0..16] = sum_k x[r][k] panel[k][0..16]` for rows `0..rows`; rows of `x` are `k_len` apart, of `out` `stride`.
///
/// Each sum is one chain over increasing `k`, so that its bits do not depend on `rows`.
pub fn panel_product<'k>(
    k: &'k Builder,
    elem: Elem,
    panel: Ptr<'k, F32>,
    x: Ptr<'k, F32>,
    k_len: u32,
    out: Ptr<'k, F32>,
    stride: u32,
    rows: usize,
) {
    let zeros = vec![vec![k.splat(0.0, 4); VECTORS]; rows];
    let step = |i: V<'k, Index>, u: u32, acc: Vec<Vec<V<'k, F32>>>| multiply_add(elem, panel, x, k_len, i, u, acc);
    let whole = k_len / UNROLL * UNROLL;
    let acc = k.range(0u32, whole, UNROLL, zeros, |i, acc| (0..UNROLL).fold(acc, |acc, u| step(i, u, acc)));
    let acc = k.range(whole, k_len, 1, acc, |i, acc| step(i, 0, acc));
    for (r, sums) in acc.iter().enumerate() {
        sums.iter().enumerate().for_each(|(v, s)| out.at(r as u32 * stride + 4 * v as u32).store(*s));
    }
}

fn multiply_add<'k>(
    elem: Elem,
    panel: Ptr<'k, F32>,
    x: Ptr<'k, F32>,
    k_len: u32,
    i: V<'k, Index>,
    u: u32,
    mut acc: Vec<Vec<V<'k, F32>>>,
) -> Vec<Vec<V<'k, F32>>> {
    let first = i.shift_left(4);
    for pair in 0..VECTORS / 2 {
        let at = u * PANEL as u32 + 8 * pair as u32;
        let (even, odd) = match elem {
            Elem::Bf16 => panel.cast::<Bf16>().at(first + at).load(8).widen_pairs(),
            _ => (panel.at(first + at).load(4), panel.at(first + (at + 4)).load(4)),
        };
        for (r, acc) in acc.iter_mut().enumerate() {
            let scale = x.at(i + (r as u32 * k_len + u)).load_splat(4);
            acc[2 * pair] = even.fma(scale, acc[2 * pair]);
            acc[2 * pair + 1] = odd.fma(scale, acc[2 * pair + 1]);
        }
    }
    acc
}
