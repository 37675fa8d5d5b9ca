//! Products in decode of many rows, which are bf16 in memory: asynchronous copies bring rows through chunks of shared memory, and the warps of a CTA
//! share out its 8 or 16 panels, so that rows are read once for all of those.
//!
//! `k` has the shares that warps have of it in the other kernels. Each is summed for itself, and the sums of shares are added in their order, so that the
//! bits of a row are those that the kernel for 8 rows gives it. Where there are many panels, a warp sums one share after the other; where there are few,
//! the CTAs of a cluster have a share each, read no more of rows than that, and each stores some rows, whose sums it reads from the shared memory of all.

use super::super::context::Context;
use super::super::product::Segment;
use super::operand::Activation;
use super::product::{BLOCK, Kernel, Plan, ROWS, Sums, WARPS, Weights};
use crate::kir::{Cap, F32, Index, Operand, Ptr, V};

/// Chunks: two on their way while one is multiplied.
const CHUNKS: u32 = 3;
/// Blocks of a chunk that a lane has registers for the weights of, for one panel and for two, beside the sums of two shares; and where there is a search for
/// the largest too, which leaves no room for two panels.
const MOST_OF_CHUNK: [[u32; 2]; 2] = [[4, 2], [3, 0]];
/// The same, where a CTA has one share.
const MOST_OF_SHARE: [u32; 2] = [7, 3];

/// The plans for tiles of rows of `k_len` columns. None if the tile is the narrowest or `k` has no equal shares of whole chunks.
pub fn plans(cx: &Context<'_, '_>, k_len: u32, segments: &[Segment]) -> Vec<Plan> {
    let (blocks, groups) = (k_len.div_ceil(BLOCK), cx.tile / ROWS);
    let shares = Plan::split(blocks);
    if groups == 1 || shares == 1 || !k_len.is_multiple_of(shares * BLOCK) {
        return vec![];
    }
    let compares = segments.iter().any(|s| !s.largest.is_empty());
    let alone = (1, MOST_OF_CHUNK[usize::from(compares)]);
    // who compares the columns of all CTAs counts them
    let clusters = (cx.k.target.has(Cap::Cluster) && !compares).then_some((shares, MOST_OF_SHARE));
    let of = |(k_ctas, most): (u32, [u32; 2])| {
        (1..).zip(most).filter_map(move |(per_warp, most)| {
            let chunk = (1..=most).rev().find(|chunk| (blocks / shares).is_multiple_of(*chunk))?;
            let (across, blocks) = (WARPS, (blocks / k_ctas, chunk));
            Some(Plan { split: 1, k_ctas, across, per_warp, groups, blocks, resident: 1, ring: None, chunks: CHUNKS })
        })
    };
    [Some(alone), clusters].into_iter().flatten().flat_map(of).collect()
}

impl<'k> Kernel<'_, 'k, '_> {
    /// Sums over this CTA's shares of `k`. Weights, of which the first are given, are asked for one chunk ahead, rows two.
    pub fn by_shares(
        &self,
        panels: &[Ptr<'k, F32>],
        x: &Activation<'_, 'k, '_>,
        (shared, ahead): (Ptr<'k, F32>, Weights<'k>),
    ) -> Sums<'k> {
        let (k, k_ctas, (blocks, chunk)) = (self.cx.k, self.plan.k_ctas, self.plan.blocks);
        let (first, chunks) = (self.first_block(), blocks / chunk);
        let shares = Plan::split(blocks * k_ctas) / k_ctas;
        // beyond the last chunk there is nothing to bring, but a group nevertheless
        let bring = |c: V<'k, Index>| {
            k.when(c.lt(chunks), || self.copy_chunk(x, self.chunk(shared, c), first + c * chunk));
            k.copy_commit();
        };
        let turn = |c: V<'k, Index>, (sums, weights): (Sums<'k>, Weights<'k>)| {
            let behind = c + 1u32;
            let load = || self.load(panels, first + behind * chunk, chunk);
            let next = k.choose(behind.lt(chunks), load, || weights.clone());
            k.copy_wait(1);
            // the chunk is here for all, and all are done with that before it
            k.barrier();
            bring(c + 2u32);
            (self.add_blocks(self.chunk(shared, c), 0, &weights, sums), next)
        };
        let share = |s: V<'k, Index>, weights: Weights<'k>| {
            let (start, turns) = ((self.zeros(), weights), chunks / shares);
            match turns {
                // a loop of one turn would cost the assembler registers
                1 => turn(s, start),
                _ => k.range(0u32, turns, 1, start, |c, carried| turn(s * turns + c, carried)),
            }
        };
        bring(0u32.on(k));
        bring(1u32.on(k));
        let (sums, _) = match shares {
            1 => share(0u32.on(k), ahead),
            _ => k.range(0u32, shares, 1, (self.zeros(), ahead), |s, (before, weights)| {
                let (sums, weights) = share(s, weights);
                let add =
                    |(a, b): (&Vec<V<'k, F32>>, &Vec<V<'k, F32>>)| a.iter().zip(b).map(|(a, b)| *a + *b).collect();
                (before.iter().zip(&sums).map(add).collect(), weights)
            }),
        };
        k.copy_wait(0);
        k.barrier();
        sums
    }
}
