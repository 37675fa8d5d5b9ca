//! The inner loop of products where a register holds half a panel or all of it.
//!
//! Each sum is two chains, over even and over odd `k`, added at the end: one row alone must not wait for its own
//! multiply-adds. As in [`super::tile`], the bits of a row depend neither on the rows beside it nor on the phase.

use super::tile::Product;
use crate::kir::{Bf16, Builder, F32, Index, Operand, Ptr, Tile, V};
use crate::pack::PANEL;
use crate::targets::Target;
use jet_ir::Elem;

/// Chains of each sum.
const CHAINS: u32 = 2;
/// Steps in one turn of the loop.
const STEPS: u32 = 2 * CHAINS;

/// Rows that one pass over a panel serves at most: three quarters of the registers are accumulators.
pub fn rows(target: &Target) -> usize {
    target.registers * 3 / 4 / (CHAINS as usize * PANEL / usize::from(target.lanes))
}

/// `out[r][0..16] = sum_k x[r][k] panel[k][0..16]` for rows `0..rows`.
pub fn emit<'k>(p: &Product<'k>, k: &'k Builder, rows: usize) {
    let lanes = k.target.lanes;
    let zeros: Vec<Tile> = vec![vec![vec![k.splat(0.0, lanes); PANEL / usize::from(lanes)]; rows]; CHAINS as usize];
    let whole = p.k_len / STEPS * STEPS;
    let turn = |i, chains| (0..STEPS).fold(chains, |chains, u| step(p, lanes, i, u, chains));
    let mut chains = k.range(0u32, whole, STEPS, zeros, turn);
    for u in 0..p.k_len - whole {
        chains = step(p, lanes, whole.on(k), u, chains);
    }
    for r in 0..rows {
        let sum = |v: usize| chains[1..].iter().fold(chains[0][r][v], |sum, chain| sum + chain[r][v]);
        let sums: Vec<_> = (0..chains[0][r].len()).map(sum).collect();
        store(p.elem, &sums, p.out.at(r as u32 * p.stride));
    }
}

/// Adds step `i + u` to its chain.
fn step<'k>(p: &Product<'k>, lanes: u16, i: V<'k, Index>, u: u32, mut chains: Vec<Tile<'k>>) -> Vec<Tile<'k>> {
    let w = weights(p, lanes, i.shift_left(4) + u * PANEL as u32);
    for (r, sums) in chains[(u % CHAINS) as usize].iter_mut().enumerate() {
        let x = p.x.at(i + (r as u32 * p.k_len + u)).load_splat(lanes);
        sums.iter_mut().zip(&w).for_each(|(sum, w)| *sum = w.fma(x, *sum));
    }
    chains
}

/// One step of a panel. Columns in bf16 come as they are stored, in pairs: in order to one vector, or the even and the
/// odd halves to two.
fn weights<'k>(p: &Product<'k>, lanes: u16, at: V<'k, Index>) -> Vec<V<'k, F32>> {
    match (p.elem, lanes) {
        (Elem::Bf16, 16) => vec![p.panel.cast::<Bf16>().at(at).load(16).widen()],
        (Elem::Bf16, _) => {
            let (even, odd) = p.panel.cast::<Bf16>().at(at).load(16).widen_pairs();
            vec![even, odd]
        }
        _ => (0..PANEL as u32 / u32::from(lanes)).map(|v| p.panel.at(at + v * u32::from(lanes)).load(lanes)).collect(),
    }
}

/// Writes 16 sums in the order of their columns.
fn store<'k>(elem: Elem, sums: &[V<'k, F32>], out: Ptr<'k, F32>) {
    let lanes = sums[0].lanes();
    // where column c is: pairs are columns four apart, and halves of a panel are stored one after the other
    let find = |c: u16| match (elem, lanes) {
        (Elem::Bf16, 16) => sums[0].lane(c / 8 * 8 + c % 4 * 2 + c / 4 % 2),
        (Elem::Bf16, _) => sums[usize::from(c / 4 % 2)].lane(c / 8 * 4 + c % 4),
        _ => sums[usize::from(c / lanes)].lane(c % lanes),
    };
    for v in 0..PANEL as u16 / lanes {
        let columns: Vec<_> = (v * lanes..(v + 1) * lanes).map(find).collect();
        out.at(u32::from(v * lanes)).store(V::pack(&columns));
    }
}
