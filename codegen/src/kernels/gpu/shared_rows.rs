//! Rows of products in chunks of shared memory, from which all warps of a CTA multiply: where a chunk lies, how rows come to it through registers, and
//! what a warp adds of it.

use super::operand::{Activation, Eight};
use super::product::{BLOCK, Kernel, ROWS, Sums, Weights};
use crate::kir::{Bf16, F32, Index, Ptr, V};

/// Eights of a chunk that are a thread's, as the operands of two tile products.
pub type Mine<'k> = Vec<[V<'k, Bf16>; 2]>;

impl<'k> Kernel<'_, 'k, '_> {
    /// Where chunk `number` lies.
    pub fn chunk(&self, shared: Ptr<'k, F32>, number: V<'k, Index>) -> Ptr<'k, Bf16> {
        shared.cast::<Bf16>().at((number % self.plan.chunks) * (self.plan.rows() * self.plan.chunk_stride()))
    }

    /// The eights of a chunk that are this thread's: token and column.
    pub fn mine(&self) -> Vec<(V<'k, Index>, V<'k, Index>)> {
        let (k, plan) = (self.cx.k, self.plan);
        let eights = plan.blocks.1 * BLOCK / 8;
        let of_turn = |i: u32| {
            let e = k.thread() + i * plan.threads();
            (e / eights, (e % eights) * 8u32)
        };
        (0..plan.rows() * eights / plan.threads()).map(of_turn).collect()
    }

    /// This thread's eights of the chunk whose first block is `block`.
    pub fn read_chunk(&self, x: &Activation<'_, 'k, '_>, block: V<'k, Index>) -> Mine<'k> {
        let (mine, ragged) = (self.mine(), self.is_ragged());
        // the eights of a thread lie in the same columns if the threads are whole rows
        let same = self.plan.threads().is_multiple_of(self.plan.blocks.1 * BLOCK / 8);
        let gain = |(_, col): &(V<'k, Index>, V<'k, Index>)| x.gain(block * BLOCK + *col, ragged);
        let gains: Vec<_> = mine.iter().take(if same { 1 } else { mine.len() }).map(gain).collect();
        let eights = mine.into_iter().zip(gains.iter().cycle());
        eights.map(|((token, col), gain)| x.eight(token, block * BLOCK + col, ragged, *gain).fours()).collect()
    }

    /// Writes them to a chunk.
    pub fn write_chunk(&self, chunk: Ptr<'k, Bf16>, eights: &Mine<'k>) {
        for ((token, col), fours) in self.mine().into_iter().zip(eights) {
            let to = chunk.at(token * self.plan.chunk_stride() + col);
            [0u32, 4].into_iter().zip(fours).for_each(|(half, four)| to.at(half).store(*four));
        }
    }

    /// The product of `weights` with a chunk from its block `first` on.
    pub fn add_blocks(&self, chunk: Ptr<'k, Bf16>, first: u32, weights: &Weights<'k>, sums: Sums<'k>) -> Sums<'k> {
        let ((row, col), stride) = (self.place(), self.plan.chunk_stride());
        let lane = chunk.at(row * stride + col).at(first * BLOCK);
        self.multiply(weights, sums, |b, group| Eight::at(lane.at(group * (ROWS * stride) + b * BLOCK)).fours())
    }
}
