//! Products in prefill on tile products of warpgroups: weights are their first operand, as fragments in registers; rows of activations are
//! the second, in shared memory.
//!
//! One warp brings both by bulk copies through a ring of stages, as many blocks of 32 columns each as divide all of `k`; weights are packed
//! as fragments, and rows lie in tiles ([`crate::tiles`]), so that a stage is a few copies of 1 KB and more. Warpgroups wait for a stage, multiply, and hand
//! it back. There are as many warps more as one, so that each thread has the registers that its sums take without moving any
//! from warp to warp.

use super::super::context::Context;
use super::super::product::Segment;
use super::matrix::Pieces;
use super::operand::Activation;
use super::product::{BLOCK, BLOCK_BYTES, Kernel, Plan, ROWS, Sums};
use crate::kir::{Bf16, F32, I32, Index, Operand, Ptr, V, WARP};

/// Warps, panels of a warp, groups of 8 rows, CTAs of a multiprocessor: 128 columns by 256 rows, 256 by 128, and less.
const TILES: [(u32, u32, u32, u32); 6] =
    [(8, 1, 32, 1), (8, 2, 16, 1), (8, 1, 16, 1), (8, 1, 8, 2), (4, 1, 16, 2), (4, 1, 8, 2)];

/// Most stages of a ring: three on their way while one is multiplied.
const MOST_STAGES: u32 = 4;

/// A ring of stages in shared memory.
#[derive(Clone, Copy)]
pub struct Ring {
    /// How many.
    stages: u32,
    /// Blocks of `k` of a stage.
    blocks: u32,
}

/// The plan of a product whose input has `blocks` blocks of columns and lies in tiles.
pub fn plan(cx: &Context<'_, '_>, blocks: u32, segments: &[Segment]) -> Option<Plan> {
    let panels = segments.iter().map(|s| s.spec.item_panels() as u32).max().unwrap_or(1);
    let of_tile = |(across, per_warp, groups, resident)| {
        let ring = Ring { stages: MOST_STAGES, blocks: if blocks.is_multiple_of(2) { 2 } else { 1 } };
        let plan = Plan {
            split: 1,
            k_ctas: 1,
            across,
            per_warp,
            groups,
            blocks: (blocks, 1),
            resident,
            ring: Some(ring),
            chunks: 0,
        };
        (plan.panels() >= panels).then_some(plan)
    };
    let plans = TILES.into_iter().filter_map(of_tile);
    plans.min_by(|a, b| a.block_seconds(cx, segments).total_cmp(&b.block_seconds(cx, segments)))
}

impl Ring {
    /// Bytes of all stages of a plan.
    pub fn bytes(&self, plan: &Plan) -> u32 {
        self.stages * self.stage_bytes(plan)
    }

    fn stage_bytes(&self, plan: &Plan) -> u32 {
        plan.panels() * self.panel_bytes() + plan.groups * self.group_bytes()
    }

    /// Bytes of a panel in a stage.
    fn panel_bytes(&self) -> u32 {
        self.blocks * BLOCK_BYTES
    }

    /// Bytes of a tile of rows in a stage.
    fn group_bytes(&self) -> u32 {
        self.blocks * BLOCK * ROWS * 2
    }
}

/// A ring in a kernel: where stages and their mbarriers are.
struct Stages<'k> {
    ring: Ring,
    memory: Ptr<'k, Bf16>,
    bytes: u32,
    /// A stage is here, and a stage can be filled again.
    full: Ptr<'k, I32>,
    free: Ptr<'k, I32>,
}

/// Words of an mbarrier.
const MBARRIER: u32 = 2;

/// A stage in a turn: its weights, the mbarriers, and the parity of its phase.
struct Stage<'k> {
    weights: Ptr<'k, Bf16>,
    full: Ptr<'k, I32>,
    free: Ptr<'k, I32>,
    parity: V<'k, Index>,
}

impl<'k> Stages<'k> {
    fn of_turn(&self, turn: V<'k, Index>) -> Stage<'k> {
        let (slot, lap) = (turn % self.ring.stages, turn / self.ring.stages);
        let [full, free] = [self.full, self.free].map(|b| b.at(slot * MBARRIER));
        Stage { weights: self.memory.byte_offset(slot * self.bytes), full, free, parity: lap % 2u32 }
    }
}

impl<'k> Kernel<'_, 'k, '_> {
    /// Sums over all of `k`, by warpgroups; in the warp that brings what they multiply, nothing of use.
    pub fn by_warpgroups(&self, x: &Activation<'_, 'k, '_>, shared: Ptr<'k, F32>, ring: Ring) -> Sums<'k> {
        let (k, plan) = (self.cx.k, self.plan);
        let [full, free] = [0, 1].map(|_| k.shared::<I32>(MBARRIER * ring.stages));
        let stages = Stages { ring, memory: shared.cast(), bytes: ring.stage_bytes(&plan), full, free };
        k.cta().leader(|| {
            for at in (0..ring.stages).map(|stage| MBARRIER * stage) {
                full.at(at).mbarrier_init(1);
                free.at(at).mbarrier_init(plan.across);
            }
            k.proxy_fence();
        });
        k.barrier();
        let zeros = || vec![k.splat(0.0, (4 * plan.groups) as u16); plan.per_warp as usize];
        let bring = || {
            self.bring(x, &stages);
            zeros()
        };
        let sums = k.choose(self.multiplies(), || self.take(&stages, zeros()), bring);
        // stages become plain memory
        k.barrier();
        let group = |sum: &V<'k, F32>, g: u16| V::pack(&[0, 1, 2, 3].map(|i| sum.lane(4 * g + i)));
        sums.iter().map(|sum| (0..plan.groups as u16).map(|g| group(sum, g)).collect()).collect()
    }

    /// Brings stage after stage: a lane has a panel, and some tiles of rows.
    fn bring(&self, x: &Activation<'_, 'k, '_>, stages: &Stages<'k>) {
        let (k, plan, ring) = (self.cx.k, self.plan, stages.ring);
        let (lane, warp) = (k.warp().rank, k.warp());
        let panel = self.panel(lane).cast::<Bf16>();
        let tiles: Vec<_> =
            (0..plan.groups).step_by(WARP as usize).map(|first| (first, x.tile(lane + first))).collect();
        let rows = plan.panels() * ring.panel_bytes();
        k.range(0u32, plan.blocks.0 / ring.blocks, 1, (), |turn, ()| {
            let stage = stages.of_turn(turn);
            stage.free.mbarrier_wait(stage.parity.xor(1u32));
            warp.leader(|| stage.full.mbarrier_expect(stages.bytes));
            let bytes = ring.panel_bytes();
            k.when(lane.lt(plan.panels()), || {
                let to = stage.weights.byte_offset(lane * bytes);
                to.bulk_copy(panel.byte_offset(turn * bytes), bytes, stage.full);
            });
            let bytes = ring.group_bytes();
            for (first, tile) in &tiles {
                let copy = || {
                    let to = stage.weights.byte_offset((lane + *first) * bytes).byte_offset(rows);
                    to.bulk_copy(tile.byte_offset(turn * bytes), bytes, stage.full);
                };
                if plan.groups - first >= WARP { copy() } else { k.when(lane.lt(plan.groups - first), copy) }
            }
        });
    }

    /// Multiplies stage after stage.
    fn take(&self, stages: &Stages<'k>, zeros: Vec<V<'k, F32>>) -> Vec<V<'k, F32>> {
        let (k, plan, ring) = (self.cx.k, self.plan, stages.ring);
        let (warp, steps) = (k.warp(), 2 * ring.blocks);
        let mine = k.warp_id() * (plan.per_warp * ring.panel_bytes());
        let rows = plan.panels() * ring.panel_bytes();
        k.range(0u32, plan.blocks.0 / ring.blocks, 1, zeros, |turn, sums| {
            let stage = stages.of_turn(turn);
            stage.full.mbarrier_wait(stage.parity);
            let lane = stage.weights.byte_offset(mine).at(warp.rank * 8u32);
            let right = Pieces::new(stage.weights.byte_offset(rows), BLOCK * ring.blocks);
            let left = |i: u32| lane.byte_offset(i * (BLOCK_BYTES / 2)).load(8);
            let left: Vec<_> = (0..plan.per_warp * steps).map(left).collect();
            k.wgmma_fence();
            let sums = sums.into_iter().zip(left.chunks(steps as usize)).map(|(sum, left)| {
                (0..).zip(left).fold(sum, |sum, (step, left)| right.add_product(*left, 2 * step, sum))
            });
            let sums = sums.collect();
            k.wgmma_commit();
            k.wgmma_wait(0);
            k.warp_barrier();
            warp.leader(|| stage.free.mbarrier_arrive());
            sums
        })
    }

    /// Whether this warp is one of those that multiply.
    pub fn multiplies(&self) -> V<'k, crate::kir::Pred> {
        self.cx.k.warp_id().lt(self.plan.across.on(self.cx.k))
    }
}
