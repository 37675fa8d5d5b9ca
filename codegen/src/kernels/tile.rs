//! The inner loop of products: a few rows of activations times one panel of weights, sums in registers.
//!
//! Six rows by half a panel, or up to three rows by a whole one: about twelve accumulators. Each sum is made of blocks of
//! [`BLOCK`] steps, the even steps of a block and its odd ones, added in this order whatever the number of rows: so the bits
//! of a row depend neither on the rows beside it nor on the phase, rounding errors grow with the number of blocks rather
//! than of steps, and a single row has two chains for each sum. Targets with wide registers have a loop of their own,
//! [`wide`].

use super::wide;
use crate::kir::{Bf16, Builder, F32, I32, Index, Operand, Ptr, Tile, V, outer_product};
use crate::pack::PANEL;
use crate::targets::Target;
use jet_ir::Elem;

/// Rows that one pass over a panel serves at most where registers are narrow.
const ROWS: usize = 6;
/// Vectors of a panel.
const VECTORS: u32 = PANEL as u32 / 4;
/// Steps of a block of a sum: what they read of a panel stays in the first-level cache.
const BLOCK: u32 = 256;
/// Chains of each sum in a block.
const CHAINS: u32 = 2;
/// Steps of a chain in one turn of the loop: one in each direction, see [`outer_product`].
const STEPS: u32 = 2;

/// Rows that one pass over a panel serves at most.
pub fn most_rows(target: &Target) -> usize {
    if is_wide(target) { wide::rows(target) } else { ROWS }
}

/// Covers `1..=most` rows, a number known at run time, by one tile of `most` rows or by tiles whose numbers of rows are
/// powers of two: few sizes, so that there is little code. `emit` gets the first row and the number of rows of a tile.
pub fn cover<'k>(k: &'k Builder, rows: V<'k, Index>, most: usize, emit: impl Fn(V<'k, Index>, usize)) {
    let parts = || {
        for bit in (0..=most.ilog2()).rev().map(|b| 1u32 << b).filter(|bit| (*bit as usize) < most) {
            k.when(0u32.on(k).lt(rows.and(bit)), || emit(rows - rows.and(2 * bit - 1), bit as usize));
        }
    };
    k.choose(rows.equals(most as u32), || emit(0u32.on(k), most), parts);
}

/// Whether a register holds half a panel or more.
pub fn is_wide(target: &Target) -> bool {
    matches!(target.lanes, 8 | 16)
}

/// How many sums of dot products a tile keeps in registers.
#[derive(Clone, Copy)]
pub struct Tiling {
    /// Rows of a tile.
    pub rows: usize,
    /// Panels that are read side by side: two where a register holds a whole one, so that each word of a row is loaded for both.
    pub panels: usize,
}

impl Tiling {
    /// Three quarters of the registers hold sums, `each` of them for a vector of a panel and a row. With registers of 128 bits a panel has
    /// four vectors; there half of the registers hold the sums of the inner loop, and other sums wait in memory.
    pub fn new(target: &Target, each: usize) -> Tiling {
        let lanes = usize::from(target.lanes);
        let panels = if lanes == PANEL { 2 } else { 1 };
        let held = if lanes == 4 { target.registers / 2 } else { target.registers * 3 / 4 / each };
        Tiling { rows: held / (panels * PANEL / lanes), panels }
    }
}

/// Word `i` at `x` in every lane of a register. Registers of four lanes load the `together` words that it is one of: the instructions
/// of Arm take a lane as operand, and LLVM makes one load of equal ones.
pub fn spread<'k>(x: Ptr<'k, I32>, i: u32, lanes: u16, together: u32) -> V<'k, I32> {
    match lanes {
        4 => x.at(i / together * together).load(together as u16).lane((i % together) as u16).splat(lanes),
        _ => x.at(i).load_splat(lanes),
    }
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
    /// `[k][16]` of f32, or `[k / 2][16][2]` of bf16.
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
    pub fn emit(&self, k: &'k Builder, rows: usize) {
        if is_wide(&k.target) {
            return wide::emit(self, k, rows);
        }
        self.write(self.out, &zeros(k, rows, VECTORS));
        let whole = self.k_len / (CHAINS * STEPS) * (CHAINS * STEPS);
        let vectors = vectors(rows);
        k.range(0u32, whole, BLOCK, (), |from, ()| {
            let to = (from + BLOCK).imin(whole);
            k.range(0u32, VECTORS, vectors, (), |first, ()| match rows {
                1 => self.one_row(k, from, to),
                _ => self.rows(k, (from, to), first, (rows, vectors)),
            });
        });
        for step in 0..self.k_len - whole {
            k.range(0u32, VECTORS, vectors, (), |first, ()| {
                let (panel, out) = self.part(first);
                self.write(out, &self.step(panel, whole.on(k), step, 0, self.read(out, rows, vectors)));
            });
        }
    }

    /// A block for several rows and the vectors from `first` on, one chain after the other. Half panels take turns, so that
    /// both halves of a cache line are used soon after each other, and memory is read at an even pace.
    fn rows(
        &self,
        k: &'k Builder,
        (from, to): (V<'k, Index>, V<'k, Index>),
        first: V<'k, Index>,
        (rows, vectors): (usize, u32),
    ) {
        let (panel, out) = self.part(first);
        for chain in 0..CHAINS {
            let turn = |i, sums| (0..STEPS).fold(sums, |sums, u| self.step(panel, i, CHAINS * u + chain, u, sums));
            self.add(out, &k.range(from, to, CHAINS * STEPS, zeros(k, rows, vectors), turn));
        }
    }

    /// A block for one row, all chains at once: the four sums of a panel alone would wait for their own multiply-adds.
    fn one_row(&self, k: &'k Builder, from: V<'k, Index>, to: V<'k, Index>) {
        let chains = vec![zeros(k, 1, VECTORS); CHAINS as usize];
        let turn = |i, chains: Vec<Tile<'k>>| {
            (0..).zip(chains).map(|(chain, sums)| self.step(self.panel, i, chain, 0, sums)).collect()
        };
        let chains = k.range(from, to, CHAINS, chains, turn);
        chains.iter().for_each(|sums| self.add(self.out, sums));
    }

    /// The panel and the sums from vector `first` on.
    fn part(&self, first: V<'k, Index>) -> (Ptr<'k, F32>, Ptr<'k, F32>) {
        // a step of a column takes 4 bytes in f32; in bf16 it does together with its partner
        (self.panel.at(first * 4u32), self.out.at(first * 4u32))
    }

    fn add(&self, out: Ptr<'k, F32>, sums: &Tile<'k>) {
        let before = self.read(out, sums.len(), sums[0].len() as u32);
        let add = |(a, b): (&Vec<V<'k, F32>>, &Vec<V<'k, F32>>)| a.iter().zip(b).map(|(a, b)| *a + *b).collect();
        self.write(out, &before.iter().zip(sums).map(add).collect());
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

    /// Adds step `i + offset`, where `i` is even, to the sums, walking the tile in the direction of `parity`.
    fn step(&self, panel: Ptr<'k, F32>, i: V<'k, Index>, offset: u32, parity: u32, sums: Tile<'k>) -> Tile<'k> {
        let first = i.shift_left(4);
        let w = |v: u32| match self.elem {
            // an odd step is the other half of what the even one before it reads
            Elem::Bf16 => {
                let pairs = panel.cast::<Bf16>().at(first + (offset / 2 * 2 * PANEL as u32 + 8 * v));
                let (even, odd) = pairs.load(8).widen_pairs();
                if offset.is_multiple_of(2) { even } else { odd }
            }
            _ => panel.at(first + (offset * PANEL as u32 + 4 * v)).load(4),
        };
        let w: Vec<V<F32>> = (0..sums[0].len() as u32).map(w).collect();
        let x = |r: usize| self.x.at(i + (r as u32 * self.k_len + offset)).load_splat(4);
        outer_product(parity, x, &w, sums)
    }
}

fn zeros(k: &Builder, rows: usize, vectors: u32) -> Tile<'_> {
    vec![vec![k.splat(0.0, 4); vectors as usize]; rows]
}
