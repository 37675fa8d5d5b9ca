//! Rows of products in chunks of shared memory, from which all warps of a CTA multiply: where a chunk lies, how rows come to it, and what a warp
//! adds of it.

use super::operand::{Activation, Eight};
use super::product::{BLOCK, Kernel, ROWS, Sums, Weights};
use crate::kir::{Bf16, F32, Index, Pred, Ptr, V};

/// Eights of a chunk that are a thread's.
pub type Mine<'k> = Vec<V<'k, Bf16>>;

/// An eight of a chunk: its token, its first column, and whether it exists where that is not sure.
struct Place<'k> {
    token: V<'k, Index>,
    col: V<'k, Index>,
    exists: Option<V<'k, Pred>>,
}

impl<'k> Kernel<'_, 'k, '_> {
    /// Where chunk `number` lies.
    pub fn chunk(&self, shared: Ptr<'k, F32>, number: V<'k, Index>) -> Ptr<'k, Bf16> {
        shared.cast::<Bf16>().at((number % self.plan.chunks) * (self.plan.rows() * self.plan.chunk_stride()))
    }

    /// The eights of a chunk that are this thread's.
    fn mine(&self) -> Vec<Place<'k>> {
        let (k, plan) = (self.cx.k, self.plan);
        let of_row = plan.blocks.1 * BLOCK / 8;
        let (all, threads) = (plan.rows() * of_row, plan.threads());
        let of_turn = |i: u32| {
            let e = k.thread() + i * threads;
            let exists = ((i + 1) * threads > all).then(|| e.lt(all));
            Place { token: e / of_row, col: (e % of_row) * 8u32, exists }
        };
        (0..all.div_ceil(threads)).map(of_turn).collect()
    }

    /// Starts to copy this thread's eights of the chunk whose first block is `block`, of rows that are rounded already.
    pub fn copy_chunk(&self, x: &Activation<'_, 'k, '_>, chunk: Ptr<'k, Bf16>, block: V<'k, Index>) {
        for Place { token, col, exists } in self.mine() {
            let to = chunk.at(token * self.plan.chunk_stride() + col);
            let copy = || x.copy_eight(to, token, block * BLOCK + col, self.is_ragged());
            match exists {
                None => copy(),
                Some(exists) => self.cx.k.when(exists, copy),
            }
        }
    }

    /// This thread's eights of the chunk whose first block is `block`, all of which exist.
    pub fn read_chunk(&self, x: &Activation<'_, 'k, '_>, block: V<'k, Index>) -> Mine<'k> {
        let eight = |Place { token, col, .. }: Place<'k>| {
            let (col, ragged) = (block * BLOCK + col, self.is_ragged());
            x.eight(token, col, ragged, x.gain(col, ragged)).together()
        };
        self.mine().into_iter().map(eight).collect()
    }

    /// Writes them to a chunk.
    pub fn write_chunk(&self, chunk: Ptr<'k, Bf16>, eights: &Mine<'k>) {
        for (Place { token, col, .. }, eight) in self.mine().into_iter().zip(eights) {
            chunk.at(token * self.plan.chunk_stride() + col).store(*eight);
        }
    }

    /// The product of `weights` with a chunk from its block `first` on.
    pub fn add_blocks(&self, chunk: Ptr<'k, Bf16>, first: u32, weights: &Weights<'k>, sums: Sums<'k>) -> Sums<'k> {
        let ((row, col), stride) = (self.place(), self.plan.chunk_stride());
        let lane = chunk.at(row * stride + col).at(first * BLOCK);
        self.multiply(weights, sums, |b, group| Eight::at(lane.at(group * (ROWS * stride) + b * BLOCK)).fours())
    }
}
