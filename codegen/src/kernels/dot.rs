//! The inner loop of products of bf16 rows with bf16 panels, on targets that multiply pairs and sum them in f32.
//!
//! Each sum is one chain over the pairs in order of `k`, whatever the number of rows and panels, so that the bits of a row
//! depend neither on the rows beside it nor on the phase. With registers of 512 bits a tile is up to 12 rows by two panels, so that
//! 24 of 32 registers are sums: more than the 14 that keep both units of Zen 5 busy, and each load of weights serves twelve rows. With
//! 128 bits it is 4 rows by one panel.

use super::ahead::{self, Ahead};
use super::tile::{Tiling, spread};
use crate::kir::{Bf16, Builder, F32, Index, Operand, Ptr, Tile, V};
use crate::pack::PANEL;
use crate::targets::Target;

/// Bf16 in a pair of steps of a panel.
const PAIR: u32 = 2 * PANEL as u32;

/// Rows and panels of the largest tile.
pub fn tiling(target: &Target) -> Tiling {
    Tiling::new(target, 1)
}

/// Operands of a product of a tile with one or two panels.
#[derive(Clone, Copy)]
pub struct DotProduct<'k> {
    /// `[pair][16][2]`.
    pub panel: Ptr<'k, Bf16>,
    /// Bytes from one panel to the next.
    pub panel_bytes: u32,
    /// The rows, `2 pairs` elements apart.
    pub x: Ptr<'k, Bf16>,
    /// Pairs of steps in a sum.
    pub pairs: u32,
    /// What to ask for, and the number of this tile among those that ask for the same.
    pub ahead: Option<(Ahead<'k>, V<'k, Index>)>,
    /// The sums, those of the second panel right after those of the first.
    pub out: Ptr<'k, F32>,
    /// Elements from one row of sums to the next.
    pub stride: u32,
}

impl<'k> DotProduct<'k> {
    /// `out[r][0..16 panels] = sum_k x[r][k] panel[k]` for rows `0..rows`.
    pub fn emit(&self, k: &'k Builder, rows: usize, panels: usize) {
        let lanes = usize::from(k.target.lanes);
        let vectors = panels * PANEL / lanes;
        let zeros: Tile = vec![vec![k.splat(0.0, k.target.lanes); vectors]; rows];
        // enough loads in a turn that the loop costs nothing
        let unrolled = (8 / (rows * panels) as u32).max(if lanes == 4 { 4 } else { 2 });
        let whole = self.pairs / unrolled * unrolled;
        let sums = k.range(0u32, whole, unrolled, zeros, |i, sums| {
            if let Some((ahead, number)) = self.ahead {
                let (panel, panel_bytes, turn_bytes) = (self.panel.cast(), self.panel_bytes, 2 * PAIR * unrolled);
                let (turns, panels) = (whole / unrolled, panels as u32);
                ahead.ask(ahead::Tile { number, turns, panel, panel_bytes, panels, turn_bytes }, i / unrolled, 1);
            }
            self.steps(k, i, unrolled, sums)
        });
        let sums = self.steps(k, whole.on(k), self.pairs - whole, sums);
        for (r, row) in sums.iter().enumerate() {
            let out = self.out.at(r as u32 * self.stride);
            row.iter().enumerate().for_each(|(v, sum)| out.at(v * lanes).store(*sum));
        }
    }

    /// Adds the `n` pairs from `i` on.
    fn steps(&self, k: &'k Builder, i: V<'k, Index>, n: u32, mut sums: Tile<'k>) -> Tile<'k> {
        let lanes = u32::from(k.target.lanes);
        let together = if n.is_multiple_of(4) { 4 } else { 1 };
        for u in 0..n {
            let weights = |v: u32| {
                let (panel, slot) = (v * lanes / PANEL as u32, v * lanes % PANEL as u32);
                let panel = self.panel.byte_offset(panel * self.panel_bytes);
                panel.at(i.shift_left(PAIR.trailing_zeros() as u8) + (u * PAIR + 2 * slot)).load(2 * k.target.lanes)
            };
            let weights: Vec<_> = (0..sums[0].len() as u32).map(weights).collect();
            for (r, row) in (0..).zip(&mut sums) {
                let x = spread(self.x.cast().at(i + r * self.pairs), u, k.target.lanes, together).as_bf16_pairs();
                row.iter_mut().zip(&weights).for_each(|(sum, w)| *sum = w.dot_pairs(x, *sum));
            }
        }
        sums
    }
}
