//! Products in decode of many rows with wide weights: the warps of a CTA share out 8 or 16 panels, and rows go through chunks of shared memory, so that
//! they are read once for all of those panels.
//!
//! A warp then has all of `k`. It sums each share of `k` that is a warp's in the other kernels for itself, and adds the sums of shares in their order,
//! so that the bits of a row are those that the kernel for 8 rows gives it.

use super::super::product::Segment;
use super::operand::Activation;
use super::product::{BLOCK, Kernel, Plan, ROWS, Sums, WARPS, Weights};
use super::shared_rows::Mine;
use crate::kir::{F32, Index, Operand, Ptr, V, WARP};

/// Chunks: one is written while the other is multiplied.
const CHUNKS: u32 = 2;
/// Blocks of a chunk that a lane has registers for the weights of, for one panel and for two; and where there is a norm of
/// elements or a search for the largest beside, which leave no room for two panels.
const MOST_OF_CHUNK: [[u32; 2]; 2] = [[4, 2], [3, 0]];

/// The plans for tiles of `rows` rows of `k_len` columns, of which a norm multiplies the elements or not. None if the tile is the narrowest or `k` has no
/// equal shares of whole chunks that the threads of a CTA can divide.
pub fn plans(rows: u32, k_len: u32, norm: bool, segments: &[Segment]) -> impl Iterator<Item = Plan> {
    let (blocks, groups) = (k_len.div_ceil(BLOCK), rows / ROWS);
    let shares = Plan::split(blocks);
    let whole = groups > 1 && shares > 1 && k_len.is_multiple_of(shares * BLOCK);
    let even = move |chunk: &u32| {
        (blocks / shares).is_multiple_of(*chunk) && (rows * chunk * BLOCK / 8).is_multiple_of(WARPS * WARP)
    };
    let most = MOST_OF_CHUNK[usize::from(norm || segments.iter().any(|s| !s.largest.is_empty()))];
    (1..).zip(most).filter(move |_| whole).filter_map(move |(per_warp, most)| {
        let blocks = (blocks, (2..=most).rev().find(even)?);
        Some(Plan { split: 1, across: WARPS, per_warp, groups, blocks, resident: 1, ring: None, chunks: CHUNKS })
    })
}

impl<'k> Kernel<'_, 'k, '_> {
    /// Sums over all of `k`. Weights, of which the first are given, and rows are asked for one chunk ahead.
    pub fn by_shares(
        &self,
        panels: &[Ptr<'k, F32>],
        x: &Activation<'_, 'k, '_>,
        (shared, ahead): (Ptr<'k, F32>, Weights<'k>),
    ) -> Sums<'k> {
        let (k, (blocks, chunk)) = (self.cx.k, self.plan.blocks);
        let shares = Plan::split(blocks);
        let of_share = blocks / shares / chunk;
        let turn = |c: V<'k, Index>, (sums, weights): (Sums<'k>, Weights<'k>)| {
            let behind = (c + 1u32) * chunk;
            let ahead = || (self.read_chunk(x, behind), self.load(panels, behind, chunk));
            let (rows, next) = k.choose(behind.lt(blocks), ahead, || (self.no_chunk(), weights.clone()));
            let sums = self.add_blocks(self.chunk(shared, c), 0, &weights, sums);
            self.write_chunk(self.chunk(shared, c + 1u32), &rows);
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
        self.write_chunk(self.chunk(shared, 0u32.on(k)), &self.read_chunk(x, 0u32.on(k)));
        k.barrier();
        k.range(0u32, shares, 1, (self.zeros(), ahead), share).0
    }

    /// Eights of no chunk.
    fn no_chunk(&self) -> Mine<'k> {
        vec![[self.cx.k.splat(0.0, 4).round_bf16(); 2]; self.mine().len()]
    }
}
