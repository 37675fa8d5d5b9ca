//! Products whose rows go through two chunks of shared memory in turn, while the warps of a CTA share out its panels: in prefill, and in decode
//! for many rows, where a CTA has so many panels that rows are read a few times only.

use super::operand::{Activation, Eight};
use super::product::{BLOCK, Kernel, ROWS, Sums, Weights};
use crate::kir::{Bf16, F32, Index, Operand, Ptr, V};

/// Eights of a chunk that are a thread's.
type Mine<'k> = Vec<[V<'k, Bf16>; 2]>;

impl<'k> Kernel<'_, 'k, '_> {
    /// Sums over all of `k`.
    pub fn staged(&self, panels: &[Ptr<'k, F32>], x: &Activation<'_, 'k, '_>, shared: Ptr<'k, F32>) -> Sums<'k> {
        let (k, (blocks, chunk)) = (self.cx.k, self.plan.blocks);
        let chunks = blocks.div_ceil(chunk);
        let compute = |c: V<'k, Index>, sums: Sums<'k>| {
            self.multiply_chunk(self.chunk(shared, c), &self.load(panels, c * chunk, chunk), sums)
        };
        self.put_chunk(self.chunk(shared, 0u32.on(k)), &self.bring_chunk(x, 0u32.on(k)));
        k.barrier();
        let sums = match chunks {
            1 => self.zeros(),
            _ => k.range(0u32, chunks - 1, 1, self.zeros(), |c, sums| {
                let next = self.bring_chunk(x, (c + 1u32) * chunk);
                let sums = compute(c, sums);
                self.put_chunk(self.chunk(shared, c + 1u32), &next);
                k.barrier();
                sums
            }),
        };
        let sums = compute((chunks - 1).on(k), sums);
        k.barrier();
        sums
    }

    /// The same in decode, with the bits that [`Kernel::streamed`] gives: each share of `k` that is a warp's there is summed for itself, and the
    /// sums of shares are added in their order. Weights, of which the first are given, and rows are asked for one chunk ahead.
    pub fn by_shares(
        &self,
        panels: &[Ptr<'k, F32>],
        x: &Activation<'_, 'k, '_>,
        (shared, ahead): (Ptr<'k, F32>, Weights<'k>),
    ) -> Sums<'k> {
        let (k, plan) = (self.cx.k, self.plan);
        let (blocks, chunk) = plan.blocks;
        let of_share = blocks / plan.shares / chunk;
        let turn = |c: V<'k, Index>, (sums, weights): (Sums<'k>, Weights<'k>)| {
            let behind = (c + 1u32) * chunk;
            let ahead = || (self.bring_chunk(x, behind), self.load(panels, behind, chunk));
            let (rows, next) = k.choose(behind.lt(blocks), ahead, || (self.no_chunk(), weights.clone()));
            let sums = self.multiply_chunk(self.chunk(shared, c), &weights, sums);
            self.put_chunk(self.chunk(shared, c + 1u32), &rows);
            k.barrier();
            (sums, next)
        };
        let share = |s: V<'k, Index>, (before, weights): (Sums<'k>, Weights<'k>)| {
            let start = (self.zeros(), weights);
            let (sums, weights) = match of_share {
                // a loop of one turn would cost the assembler registers
                1 => turn(s, start),
                _ => k.range(0u32, of_share, 1, start, |c, carried| turn(s * of_share + c, carried)),
            };
            let added = |(a, b): (&Vec<V<'k, F32>>, &Vec<V<'k, F32>>)| a.iter().zip(b).map(|(a, b)| *a + *b).collect();
            (before.iter().zip(&sums).map(added).collect(), weights)
        };
        self.put_chunk(self.chunk(shared, 0u32.on(k)), &self.bring_chunk(x, 0u32.on(k)));
        k.barrier();
        k.range(0u32, plan.shares, 1, (self.zeros(), ahead), share).0
    }

    /// Where chunk `number` lies.
    fn chunk(&self, shared: Ptr<'k, F32>, number: V<'k, Index>) -> Ptr<'k, Bf16> {
        shared.cast::<Bf16>().at((number % 2u32) * (self.plan.rows() * self.plan.chunk_stride()))
    }

    /// The token and the column in a chunk of the eight that is this thread's at a turn.
    fn eight(&self, turn: u32) -> (V<'k, Index>, V<'k, Index>) {
        let of_row = self.plan.blocks.1 * BLOCK / 8;
        let e = self.cx.k.thread() + turn * self.plan.threads();
        (e / of_row, (e % of_row) * 8u32)
    }

    /// Eights of a chunk that are each thread's.
    fn turns(&self) -> u32 {
        self.plan.rows() * self.plan.blocks.1 * BLOCK / 8 / self.plan.threads()
    }

    /// This thread's eights of the chunk whose first block is `block`.
    fn bring_chunk(&self, x: &Activation<'_, 'k, '_>, block: V<'k, Index>) -> Mine<'k> {
        let ragged = self.is_ragged();
        let col = |turn: u32| block * BLOCK + self.eight(turn).1;
        // the eights of a thread lie in the same columns if the threads are whole rows
        let same = self.plan.threads().is_multiple_of(self.plan.blocks.1 * BLOCK / 8);
        let gains: Vec<_> = (0..if same { 1 } else { self.turns() }).map(|turn| x.gain(col(turn), ragged)).collect();
        let gain = |turn: u32| gains[turn as usize % gains.len()];
        (0..self.turns()).map(|turn| x.eight(self.eight(turn).0, col(turn), ragged, gain(turn)).fours()).collect()
    }

    /// Eights of no chunk.
    fn no_chunk(&self) -> Mine<'k> {
        vec![[self.cx.k.splat(0.0, 4).round_bf16(); 2]; self.turns() as usize]
    }

    /// Writes them to a chunk.
    fn put_chunk(&self, chunk: Ptr<'k, Bf16>, eights: &Mine<'k>) {
        for (turn, fours) in (0..).zip(eights) {
            let (token, col) = self.eight(turn);
            let to = chunk.at(token * self.plan.chunk_stride() + col);
            [0u32, 4].into_iter().zip(fours).for_each(|(half, four)| to.at(half).store(*four));
        }
    }

    /// `sums + weights x` with the rows of a chunk.
    fn multiply_chunk(&self, chunk: Ptr<'k, Bf16>, weights: &Weights<'k>, sums: Sums<'k>) -> Sums<'k> {
        let ((row, col), stride) = (self.place(), self.plan.chunk_stride());
        let lane = chunk.at(row * stride + col);
        self.multiply(weights, sums, |b, group| Eight::at(lane.at(group * (ROWS * stride) + b * BLOCK)).fours())
    }
}
