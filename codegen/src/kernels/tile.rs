//! The inner loop of products: a few rows of activations times one panel of weights, sums in registers.
//!
//! Six rows by half a panel, or up to three rows by a whole one: about twelve accumulators. Each sum is one chain over
//! increasing `k`, whatever the number of rows, so that the bits of a row depend neither on the rows beside it nor on the
//! phase. Targets with wide registers have a loop of their own, [`wide`].

use super::wide;
use crate::kir::{Bf16, Builder, F32, Index, Operand, Ptr, Tile, V, outer_product};
use crate::pack::PANEL;
use crate::targets::Target;
use jet_ir::Elem;

/// Rows that one pass over a panel serves at most where registers are narrow.
const ROWS: usize = 6;
/// Vectors of a panel.
const VECTORS: u32 = PANEL as u32 / 4;
/// Steps in one turn of the loop: one in each direction, see [`outer_product`].
const STEPS: u32 = 2;

/// Rows that one pass over a panel serves at most.
pub fn most_rows(target: &Target) -> usize {
    if is_wide(target) { wide::rows(target) } else { ROWS }
}

/// Whether a register holds half a panel or more.
fn is_wide(target: &Target) -> bool {
    matches!(target.lanes, 8 | 16)
}

/// Vectors of a panel that are worked on at once.
fn vectors(rows: usize) -> u32 {
    if rows <= 3 { VECTORS } else { VECTORS / 2 }
}

/// Operands of a product of a tile with one panel.
#[derive(Clone, Copy)]
pub struct Product<'k> {
    /// What the panel holds.
    pub elem: Elem,
    /// `[k][16]`.
    pub panel: Ptr<'k, F32>,
    /// The rows, `k_len` apart.
    pub x: Ptr<'k, F32>,
    /// Columns of the rows.
    pub k_len: u32,
    /// The sums, rows `stride` apart.
    pub out: Ptr<'k, F32>,
    /// Elements from one row of sums to the next.
    pub stride: u32,
}

impl<'k> Product<'k> {
    /// The same for as many rows as there are at run time.
    pub fn emit_rows(&self, k: &'k Builder, rows: V<'k, Index>) {
        let most = most_rows(&k.target);
        k.range(0u32, rows, most as u32, (), |row, ()| {
            let tile = Product { x: self.x.at(row * self.k_len), out: self.out.at(row * self.stride), ..*self };
            tile.emit_some(k, (rows - row).imin(most as u32), most);
        });
    }

    /// [`Self::emit`] for a number of rows in `1..=most` that is known at run time.
    pub fn emit_some(&self, k: &'k Builder, rows: V<'k, Index>, most: usize) {
        match most {
            1 => self.emit(k, 1),
            _ => k.choose(rows.equals(most as u32), || self.emit(k, most), || self.emit_some(k, rows, most - 1)),
        }
    }

    /// `out[r][0..16] = sum_k x[r][k] panel[k][0..16]` for rows `0..rows`.
    pub fn emit(&self, k: &'k Builder, rows: usize) {
        let vectors = vectors(rows);
        match VECTORS / vectors {
            _ if is_wide(&k.target) => wide::emit(self, k, rows),
            1 => self.part(k, rows, self.panel, self.out),
            parts => k.range(0u32, parts, 1, (), |part, ()| {
                let panel = self.panel.byte_offset(part * (4 * vectors * self.elem.bytes() as u32));
                self.part(k, rows, panel, self.out.at(part * (4 * vectors)));
            }),
        }
    }

    /// The first vectors at `panel`, for all rows.
    fn part(&self, k: &'k Builder, rows: usize, panel: Ptr<'k, F32>, out: Ptr<'k, F32>) {
        let zeros: Tile = vec![vec![k.splat(0.0, 4); vectors(rows) as usize]; rows];
        let whole = self.k_len / STEPS * STEPS;
        let mut sums =
            k.range(0u32, whole, STEPS, zeros, |i, sums| (0..STEPS).fold(sums, |sums, u| self.step(panel, i, u, sums)));
        if whole < self.k_len {
            sums = self.step(panel, whole.on(k), 0, sums);
        }
        for (r, sums) in sums.iter().enumerate() {
            sums.iter().enumerate().for_each(|(v, s)| out.at(r as u32 * self.stride + 4 * v as u32).store(*s));
        }
    }

    /// Adds step `i + u` to the sums.
    fn step(&self, panel: Ptr<'k, F32>, i: V<'k, Index>, u: u32, sums: Tile<'k>) -> Tile<'k> {
        let vectors = sums[0].len() as u32;
        let at = |v: u32| i.shift_left(4) + (u * PANEL as u32 + 4 * v);
        let w: Vec<V<F32>> = match self.elem {
            Elem::Bf16 => (0..vectors / 2)
                .map(|pair| panel.cast::<Bf16>().at(at(2 * pair)).load(8).widen_pairs())
                .flat_map(|(even, odd)| [even, odd])
                .collect(),
            _ => (0..vectors).map(|v| panel.at(at(v)).load(4)).collect(),
        };
        let x = |r: usize| self.x.at(i + (r as u32 * self.k_len + u)).load_splat(4);
        outer_product(u, x, &w, sums)
    }
}
