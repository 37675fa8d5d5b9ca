//! Products in prefill on tile products of warps, which share out panels; rows go through chunks of shared memory, by asynchronous copies where they
//! are bf16 in memory, else through registers.

use super::super::context::Context;
use super::super::product::Segment;
use super::operand::{Activation, Eight};
use super::product::{BLOCK, Kernel, Plan, ROWS, Sums, Weights};
use crate::kir::{Bf16, F32, Index, Operand, Ptr, V};

/// Blocks of a chunk of rows.
const CHUNK: u32 = 2;
/// Elements from one row of a chunk to the next: 64 more bytes than there are, so that no two lanes that load at once
/// meet in a bank.
const STRIDE: u32 = CHUNK * BLOCK + 32;
/// Chunks where rows go through registers: one is written while the other is multiplied.
const IN_REGISTERS: u32 = 2;
/// Chunks where they are copied: two on their way.
const COPIED: u32 = 3;
/// Warps of a CTA.
const WARPS: u32 = 4;

/// The plan of a product whose input has `blocks` blocks of columns, in bf16 or not.
pub fn plan(cx: &Context<'_, '_>, blocks: u32, rounded: bool, segments: &[Segment]) -> Plan {
    let panels = segments.iter().map(|s| s.spec.item_panels() as u32).max().unwrap_or(1);
    let (per_warp, blocks) = (2.max(panels.div_ceil(WARPS)), (blocks, CHUNK));
    let of =
        |groups, chunks| Plan { split: 1, across: WARPS, per_warp, groups, blocks, resident: 2, ring: None, chunks };
    if !rounded {
        return of(8, IN_REGISTERS);
    }
    let plans = [16, 8].map(|groups| of(groups, COPIED)).into_iter();
    let fits = |p: &Plan| p.groups == 8 || (per_warp == 2 && p.shared() <= cx.k.target.most_shared(p.resident));
    let seconds = |p: &Plan| p.block_seconds(cx, segments);
    plans.filter(fits).min_by(|a, b| seconds(a).total_cmp(&seconds(b))).unwrap_or_else(|| of(8, COPIED))
}

/// Bytes of the chunks of a plan.
pub fn bytes(plan: &Plan) -> u32 {
    plan.chunks * 2 * plan.rows() * STRIDE
}

impl<'k> Kernel<'_, 'k, '_> {
    /// Sums over all of `k`.
    pub fn staged(&self, x: &Activation<'_, 'k, '_>, shared: Ptr<'k, F32>) -> Sums<'k> {
        let sums =
            if self.plan.chunks == IN_REGISTERS { self.through_registers(x, shared) } else { self.copied(x, shared) };
        self.cx.k.barrier();
        sums
    }

    fn chunk(&self, shared: Ptr<'k, F32>, c: V<'k, Index>) -> Ptr<'k, Bf16> {
        shared.cast::<Bf16>().at((c % self.plan.chunks) * (self.plan.rows() * STRIDE))
    }

    /// The eights of a chunk that are this thread's: token and column.
    fn mine(&self) -> Vec<(V<'k, Index>, V<'k, Index>)> {
        let (k, plan, eights) = (self.cx.k, self.plan, CHUNK * BLOCK / 8);
        let of_turn = |i: u32| {
            let e = k.thread() + i * plan.threads();
            (e / eights, (e % eights) * 8u32)
        };
        (0..plan.rows() * eights / plan.threads()).map(of_turn).collect()
    }

    /// The product of `weights` with a chunk from block `first` on.
    fn add_blocks(&self, chunk: Ptr<'k, Bf16>, first: u32, weights: &Weights<'k>, sums: Sums<'k>) -> Sums<'k> {
        let (row, col) = self.place();
        let lane = chunk.at(row * STRIDE + col).at(first * BLOCK);
        self.multiply(weights, sums, |b, group| Eight::at(lane.at(group * (ROWS * STRIDE) + b * BLOCK)).fours())
    }

    fn through_registers(&self, x: &Activation<'_, 'k, '_>, shared: Ptr<'k, F32>) -> Sums<'k> {
        let (k, panels, chunks) = (self.cx.k, self.panels(), self.plan.blocks.0.div_ceil(CHUNK));
        let read = |c: V<'k, Index>| {
            let one = |(token, col): &(V<'k, Index>, V<'k, Index>)| {
                let (col, ragged) = (c * (CHUNK * BLOCK) + *col, self.is_ragged());
                x.eight(*token, col, ragged, x.gain(col, ragged)).together()
            };
            self.mine().iter().map(one).collect::<Vec<_>>()
        };
        let write = |c: V<'k, Index>, values: &[V<'k, Bf16>]| {
            for ((token, col), v) in self.mine().into_iter().zip(values) {
                let to = self.chunk(shared, c).at(token * STRIDE + col);
                to.store(*v);
            }
        };
        let compute = |c: V<'k, Index>, sums: Sums<'k>| {
            let weights = self.load(&panels, c * CHUNK, CHUNK);
            self.add_blocks(self.chunk(shared, c), 0, &weights, sums)
        };
        write(0u32.on(k), &read(0u32.on(k)));
        k.barrier();
        let sums = match chunks {
            1 => self.zeros(),
            _ => k.range(0u32, chunks - 1, 1, self.zeros(), |c, sums| {
                let next = read(c + 1u32);
                let sums = compute(c, sums);
                write(c + 1u32, &next);
                k.barrier();
                sums
            }),
        };
        compute((chunks - 1).on(k), sums)
    }

    /// Weights are asked for one block ahead, rows two chunks.
    fn copied(&self, x: &Activation<'_, 'k, '_>, shared: Ptr<'k, F32>) -> Sums<'k> {
        let (k, panels, blocks) = (self.cx.k, self.panels(), self.plan.blocks.0);
        let chunks = blocks.div_ceil(CHUNK);
        // beyond the last chunk there is nothing to bring, but a group nevertheless
        let bring = |c: V<'k, Index>| {
            k.when(c.lt(chunks), || {
                for (token, col) in self.mine() {
                    let to = self.chunk(shared, c).at(token * STRIDE + col);
                    x.copy_eight(to, token, c * (CHUNK * BLOCK) + col, self.is_ragged());
                }
            });
            k.copy_commit();
        };
        bring(0u32.on(k));
        bring(1u32.on(k));
        let start = (self.zeros(), self.load(&panels, 0u32.on(k), 1));
        let (sums, _) = k.range(0u32, chunks, 1, start, |c, (sums, weights)| {
            k.copy_wait(1);
            // the chunk is here for all, and all are done with that before it
            k.barrier();
            bring(c + 2u32);
            (0..CHUNK).fold((sums, weights), |(sums, weights), b| {
                let next = self.load(&panels, (c * CHUNK + b + 1u32).imin(blocks - 1), 1);
                (self.add_blocks(self.chunk(shared, c), b, &weights, sums), next)
            })
        });
        k.copy_wait(0);
        sums
    }
}
