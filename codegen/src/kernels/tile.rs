//! The inner loop of products: a few rows of activations times one panel of weights, sums in registers.
//!
//! Six rows by half a panel, or up to three rows by a whole one: about twelve accumulators. Each sum is one chain over
//! increasing `k`, whatever the number of rows, so that the bits of a row depend neither on the rows beside it nor on
//! the phase. Targets with wide registers have a loop of their own, [`wide`].

use super::wide;
use crate::kir::{Bf16, Builder, F32, Index, Operand, Ptr, Tile, V, outer_product};
use crate::pack::PANEL;
use crate::targets::Target;
use jet_ir::Elem;

/// Rows that one pass over a panel serves at most where registers are narrow.
const ROWS: usize = 6;
/// Vectors of a panel.
const VECTORS: u32 = PANEL as u32 / 4;
/// Steps after which the halves of a panel take turns.
const BLOCK: u32 = 256;
/// Steps in one turn of the loop: one in each direction, see [`outer_product`].
const STEPS: u32 = 2;

/// Rows that one pass over a panel serves at most.
pub fn most_rows(target: &Target) -> usize {
    if is_wide(target) { wide::rows(target) } else { ROWS }
}

/// Covers `1..=most` rows, a number known at run time, by one tile of `most` rows or by tiles whose numbers of rows are
/// powers of two: few sizes, so that there is little code. `emit` gets the first row and the number of rows of a tile.
pub fn cover<'k>(k: &'k Builder, rows: V<'k, Index>, most: usize, emit: impl Fn(V<'k, Index>, usize)) {
    let parts = || {
        for bit in (0..most.ilog2() + 1).rev().map(|b| 1u32 << b).filter(|bit| (*bit as usize) < most) {
            k.when(0u32.on(k).lt(rows.and(bit)), || emit(rows - rows.and(2 * bit - 1), bit as usize));
        }
    };
    k.choose(rows.equals(most as u32), || emit(0u32.on(k), most), parts);
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
            _ if is_wide(&k.target) => cover(k, rows, most, |first, rows| {
                let (x, out) = (self.x.at(first * self.k_len), self.out.at(first * self.stride));
                Product { x, out, ..*self }.emit(k, rows);
            }),
            1 => self.emit(k, 1),
            _ => k.choose(rows.equals(most as u32), || self.emit(k, most), || self.emit_some(k, rows, most - 1)),
        }
    }

    /// `out[r][0..16] = sum_k x[r][k] panel[k][0..16]` for rows `0..rows`.
    ///
    /// Half panels take turns every [`BLOCK`] steps, their sums waiting in `out`: both halves of a cache line are used
    /// soon after each other, and memory is read at an even pace.
    pub fn emit(&self, k: &'k Builder, rows: usize) {
        if is_wide(&k.target) {
            return wide::emit(self, k, rows);
        }
        let vectors = vectors(rows);
        if vectors == VECTORS {
            let zeros = vec![vec![k.splat(0.0, 4); vectors as usize]; rows];
            let sums = self.steps(k, self.panel, 0u32.on(k), self.k_len.on(k), zeros);
            return self.write(self.out, &self.last(self.panel, sums));
        }
        let zeros = vec![vec![k.splat(0.0, 4); VECTORS as usize]; rows];
        self.write(self.out, &zeros);
        let whole = self.k_len / STEPS * STEPS;
        let half = |part: V<'k, Index>| {
            // a column of a step takes 4 bytes in f32; in bf16 it does together with the next step
            (self.panel.at(part * (4 * vectors)), self.out.at(part * (4 * vectors)))
        };
        k.range(0u32, whole, BLOCK, (), |from, ()| {
            let to = (from + BLOCK).imin(whole);
            k.range(0u32, VECTORS / vectors, 1, (), |part, ()| {
                let (panel, out) = half(part);
                self.write(out, &self.steps(k, panel, from, to, self.read(out, rows, vectors)));
            });
        });
        if whole < self.k_len {
            k.range(0u32, VECTORS / vectors, 1, (), |part, ()| {
                let (panel, out) = half(part);
                self.write(out, &self.last(panel, self.read(out, rows, vectors)));
            });
        }
    }

    fn read(&self, out: Ptr<'k, F32>, rows: usize, vectors: u32) -> Tile<'k> {
        let row = |r: u32| (0..vectors).map(|v| out.at(r * self.stride + 4 * v).load(4)).collect();
        (0..rows as u32).map(row).collect()
    }

    fn write(&self, out: Ptr<'k, F32>, sums: &Tile<'k>) {
        for (r, sums) in sums.iter().enumerate() {
            sums.iter().enumerate().for_each(|(v, s)| out.at(r as u32 * self.stride + 4 * v as u32).store(*s));
        }
    }

    /// The steps `from..to`, as far as turns are whole.
    fn steps(
        &self,
        k: &'k Builder,
        panel: Ptr<'k, F32>,
        from: V<'k, Index>,
        to: V<'k, Index>,
        sums: Tile<'k>,
    ) -> Tile<'k> {
        let to = to / STEPS * STEPS;
        k.range(from, to, STEPS, sums, |i, sums| (0..STEPS).fold(sums, |sums, u| self.step(panel, i, u, sums)))
    }

    /// The last step, if their number is odd.
    fn last(&self, panel: Ptr<'k, F32>, sums: Tile<'k>) -> Tile<'k> {
        let whole = self.k_len / STEPS * STEPS;
        if whole < self.k_len { self.step(panel, whole.on(sums[0][0].k), 0, sums) } else { sums }
    }

    /// Adds step `i + u` to the sums.
    fn step(&self, panel: Ptr<'k, F32>, i: V<'k, Index>, u: u32, sums: Tile<'k>) -> Tile<'k> {
        let first = i.shift_left(4);
        let w = |v: u32| match self.elem {
            // an odd step is the other half of what the even one before it has read
            Elem::Bf16 => {
                let (even, odd) = panel.cast::<Bf16>().at(first + 8 * v).load(8).widen_pairs();
                if u == 0 { even } else { odd }
            }
            _ => panel.at(first + (u * PANEL as u32 + 4 * v)).load(4),
        };
        let w: Vec<V<F32>> = (0..sums[0].len() as u32).map(w).collect();
        let x = |r: usize| self.x.at(i + (r as u32 * self.k_len + u)).load_splat(4);
        outer_product(u, x, &w, sums)
    }
}
