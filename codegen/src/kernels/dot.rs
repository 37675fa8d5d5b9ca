//! The inner loop of products of bf16 rows with bf16 panels, on targets that multiply pairs and sum them in f32.
//!
//! Each sum is one chain over the pairs in order of `k`, whatever the number of rows and panels, so that the bits of a row
//! depend neither on the rows beside it nor on the phase. A tile is up to 12 rows by two panels, so that 24 of 32 registers are
//! sums: more than the 14 that keep both units of Zen 5 busy, and each load of weights serves twelve rows.

use super::ahead::Ahead;
use crate::kir::{Bf16, Builder, F32, I32, Index, Operand, Ptr, Tile, V};
use crate::pack::PANEL;

/// Rows that one pass over a panel serves at most.
pub const ROWS: usize = 12;
/// Panels that are read side by side.
pub const PANELS: usize = 2;

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
    /// The panels after these, and the number of this tile among those that share them.
    pub ahead: Option<(Ahead<'k>, V<'k, Index>)>,
    /// The sums, those of the second panel right after those of the first.
    pub out: Ptr<'k, F32>,
    /// Elements from one row of sums to the next.
    pub stride: u32,
}

impl<'k> DotProduct<'k> {
    /// `out[r][0..16 panels] = sum_k x[r][k] panel[k]` for rows `0..rows`.
    pub fn emit(&self, k: &'k Builder, rows: usize, panels: usize) {
        let lanes = PANEL as u16;
        let zeros: Tile = vec![vec![k.splat(0.0, lanes); panels]; rows];
        // enough loads in a turn that the loop costs nothing
        let unrolled = (8 / (rows * panels) as u32).max(2);
        let whole = self.pairs / unrolled * unrolled;
        let part = self.ahead.map(|(ahead, tile)| ahead.part(tile, (whole / unrolled).on(k), 1));
        let turn = |i: V<'k, Index>, sums| {
            part.iter().for_each(|part| part.ask(i / unrolled));
            (0..unrolled).fold(sums, |sums, u| self.step(i, u, sums))
        };
        let mut sums = k.range(0u32, whole, unrolled, zeros, turn);
        for u in 0..self.pairs - whole {
            sums = self.step(whole.on(k), u, sums);
        }
        for (r, row) in sums.iter().enumerate() {
            let out = self.out.at(r as u32 * self.stride);
            row.iter().enumerate().for_each(|(p, sum)| out.at((p * PANEL) as u32).store(*sum));
        }
    }

    /// Adds pair `i + u`.
    fn step(&self, i: V<'k, Index>, u: u32, mut sums: Tile<'k>) -> Tile<'k> {
        let pair = 2 * PANEL as u32;
        let weights = |p: usize| {
            let panel = self.panel.byte_offset(p as u32 * self.panel_bytes);
            panel.at(i.shift_left(pair.trailing_zeros() as u8) + u * pair).load(pair as u16)
        };
        let weights: Vec<_> = (0..sums[0].len()).map(weights).collect();
        for (r, row) in sums.iter_mut().enumerate() {
            let x = self.x.cast::<I32>().at(i + (r as u32 * self.pairs + u)).load_splat(PANEL as u16).as_bf16_pairs();
            row.iter_mut().zip(&weights).for_each(|(sum, w)| *sum = w.dot_pairs(x, *sum));
        }
        sums
    }
}
