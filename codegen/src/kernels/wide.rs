//! The inner loop of f32 products where a register holds half a panel or all of it.
//!
//! Each sum is two chains, over even and over odd `k`, added at the end: one row alone must not wait for its own
//! multiply-adds. As in [`super::tile`], the bits of a row depend neither on the rows beside it nor on the phase.

use super::tile::Product;
use crate::kir::{Bf16, Builder, F32, Index, Operand, Tile, V};
use crate::pack::PANEL;
use crate::targets::Target;
use jet_ir::Elem;

/// Chains of each sum: a step of the loop adds to one, the next step to the other.
const CHAINS: u32 = 2;
/// Pairs of steps in one turn of the loop.
const PAIRS: u32 = 2;

/// Rows that one pass over a panel serves at most: three quarters of the registers are accumulators.
pub fn rows(target: &Target) -> usize {
    target.registers * 3 / 4 / (CHAINS as usize * PANEL / usize::from(target.lanes))
}

/// `out[r][0..16] = sum_k x[r][k] panel[k][0..16]` for rows `0..rows`.
pub fn emit<'k>(p: &Product<'k>, k: &'k Builder, rows: usize) {
    let lanes = k.target.lanes;
    let zeros: Vec<Tile> = vec![vec![vec![k.splat(0.0, lanes); PANEL / usize::from(lanes)]; rows]; CHAINS as usize];
    let steps = CHAINS * PAIRS;
    let whole = p.k_len / steps * steps;
    let turn = |i, chains| (0..PAIRS).fold(chains, |chains, u| pair(p, lanes, i, CHAINS * u, CHAINS, chains));
    let mut chains = k.range(0u32, whole, steps, zeros, turn);
    for u in (0..p.k_len - whole).step_by(CHAINS as usize) {
        chains = pair(p, lanes, whole.on(k), u, (p.k_len - whole - u).min(CHAINS), chains);
    }
    for r in 0..rows {
        for v in 0..PANEL / usize::from(lanes) {
            let sum = chains[1..].iter().fold(chains[0][r][v], |sum, chain| sum + chain[r][v]);
            p.out.at(r as u32 * p.stride + v as u32 * u32::from(lanes)).store(sum);
        }
    }
}

/// Adds the steps `i + u` and (if `steps` is 2) `i + u + 1`, each to its chain.
fn pair<'k>(
    p: &Product<'k>,
    lanes: u16,
    i: V<'k, Index>,
    u: u32,
    steps: u32,
    mut chains: Vec<Tile<'k>>,
) -> Vec<Tile<'k>> {
    let w = weights(p, lanes, i.shift_left(4) + u * PANEL as u32, steps);
    for (step, (w, chain)) in w.iter().zip(&mut chains).enumerate() {
        for (r, sums) in chain.iter_mut().enumerate() {
            let x = p.x.at(i + (r as u32 * p.k_len + u + step as u32)).load_splat(lanes);
            sums.iter_mut().zip(w).for_each(|(sum, w)| *sum = w.fma(x, *sum));
        }
    }
    chains
}

/// One or two steps of a panel, from element `at` on.
fn weights<'k>(p: &Product<'k>, lanes: u16, at: V<'k, Index>, steps: u32) -> Vec<Vec<V<'k, F32>>> {
    let wide = u32::from(lanes);
    let vectors = 0..PANEL as u32 / wide;
    if p.elem == Elem::Bf16 {
        let both = vectors.map(|v| p.panel.cast::<Bf16>().at(at + 2 * wide * v).load(2 * lanes).widen_pairs());
        let (even, odd): (Vec<_>, Vec<_>) = both.unzip();
        return [even, odd].into_iter().take(steps as usize).collect();
    }
    let step = |s: u32| vectors.clone().map(|v| p.panel.at(at + (s * PANEL as u32 + v * wide)).load(lanes)).collect();
    (0..steps).map(step).collect()
}
