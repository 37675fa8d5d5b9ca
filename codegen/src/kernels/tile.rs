//! The inner loop of products: a few rows of activations times one panel of weights, sums in registers.
//!
//! Two shapes, both of about twelve accumulators. *Stream*, for a few rows whose weights come from memory: the two chains of
//! a sum take turns, so that a single row keeps enough multiply-adds in flight. *Block*, for many rows: six rows by half a
//! panel, one chain. Within a shape the order of additions of a row is the same for every number of rows.

use super::context::Phase;
use crate::kir::{Bf16, Builder, F32, Index, Operand, Ptr, Tile, V, outer_product};
use crate::pack::PANEL;
use jet_ir::Elem;

/// Vectors of a panel.
const VECTORS: u32 = PANEL as u32 / 4;

/// How a tile of rows meets a panel.
#[derive(Clone, Copy, Debug)]
pub struct Strategy {
    /// Rows that one pass over a panel serves at most.
    pub rows: usize,
    /// Chains of each sum: step `k` belongs to chain `k % chains`.
    chains: u32,
}

impl Strategy {
    /// The strategy of a phase.
    pub fn of(phase: Phase) -> Strategy {
        match phase {
            Phase::Decode => Strategy { rows: 3, chains: 2 },
            Phase::Prefill => Strategy { rows: 6, chains: 1 },
        }
    }

    /// Vectors of the panel that are worked on at once; one row leaves registers for all of them.
    fn vectors(self, rows: usize) -> u32 {
        if rows == 1 { VECTORS } else { VECTORS / 2 }
    }

    /// Steps in one turn of the loop: every chain once in each direction, see [`outer_product`].
    fn steps(self, rows: usize) -> u32 {
        if rows == 1 { 2 } else { 2 * self.chains }
    }
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
    /// `out[r][0..16] = sum_k x[r][k] panel[k][0..16]` for rows `0..rows`.
    pub fn emit(&self, k: &'k Builder, strategy: Strategy, rows: usize) {
        let vectors = strategy.vectors(rows);
        match VECTORS / vectors {
            1 => self.part(k, strategy, rows, self.panel, self.out),
            parts => k.range(0u32, parts, 1, (), |part, ()| {
                let panel = self.panel.byte_offset(part * (4 * vectors * self.elem.bytes() as u32));
                self.part(k, strategy, rows, panel, self.out.at(part * (4 * vectors)));
            }),
        }
    }

    /// The first vectors at `panel`, for all rows.
    fn part(&self, k: &'k Builder, strategy: Strategy, rows: usize, panel: Ptr<'k, F32>, out: Ptr<'k, F32>) {
        let (vectors, steps) = (strategy.vectors(rows), strategy.steps(rows));
        let zeros: Tile = vec![vec![k.splat(0.0, 4); vectors as usize]; rows];
        let chains = vec![zeros; strategy.chains as usize];
        let whole = self.k_len / steps * steps;
        let turn = |i: V<'k, Index>, steps: u32, chains: Vec<Tile<'k>>| {
            (0..steps).fold(chains, |chains, u| self.step(strategy, panel, i, u, chains))
        };
        let mut chains = k.range(0u32, whole, steps, chains, |i, chains| turn(i, steps, chains));
        if whole < self.k_len {
            chains = turn(whole.on(k), self.k_len - whole, chains);
        }
        for r in 0..rows {
            for v in 0..vectors as usize {
                let sum = chains[1..].iter().fold(chains[0][r][v], |sum, chain| sum + chain[r][v]);
                out.at(r as u32 * self.stride + 4 * v as u32).store(sum);
            }
        }
    }

    /// Adds step `i + u` to its chain.
    fn step(
        &self,
        strategy: Strategy,
        panel: Ptr<'k, F32>,
        i: V<'k, Index>,
        u: u32,
        mut chains: Vec<Tile<'k>>,
    ) -> Vec<Tile<'k>> {
        let tile = &mut chains[(u % strategy.chains) as usize];
        let at = |v: u32| i.shift_left(4) + (u * PANEL as u32 + 4 * v);
        let vectors = tile[0].len() as u32;
        let w: Vec<V<F32>> = match self.elem {
            Elem::Bf16 => (0..vectors / 2)
                .map(|pair| panel.cast::<Bf16>().at(at(2 * pair)).load(8).widen_pairs())
                .flat_map(|(even, odd)| [even, odd])
                .collect(),
            _ => (0..vectors).map(|v| panel.at(at(v)).load(4)).collect(),
        };
        let x = |r: usize| self.x.at(i + (r as u32 * self.k_len + u)).load_splat(4);
        *tile = outer_product(u / strategy.chains, x, &w, std::mem::take(tile));
        chains
    }
}
