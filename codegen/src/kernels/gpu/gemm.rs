//! Products in prefill on tile products of warpgroups: weights are their first operand, as fragments in registers; rows of activations are
//! the second, in shared memory.
//!
//! One warp brings both by bulk copies through a ring of stages, as many blocks of 32 columns each as divide all of `k`; weights are packed
//! as fragments, and rows lie in tiles ([`crate::tiles`]), so that a stage is a few copies of 1 KB and more. Warpgroups wait for a stage, multiply, and hand
//! it back. There are as many warps more as one, so that each thread has the registers that its sums take without moving any
//! from warp to warp.
//!
//! CTAs that have the same rows and neighbouring columns may be a cluster: each brings its part of a stage's rows to all of them, so that the
//! second-level cache gives them once. A stage is handed back to all who fill it.

use super::super::context::Context;
use super::super::product::Segment;
use super::matrix::Pieces;
use super::operand::Activation;
use super::product::{BLOCK, BLOCK_BYTES, Kernel, Plan, ROWS, Sums};
use crate::kir::{Bf16, F32, I32, Index, Operand, Ptr, V, WARP};

/// Warps, panels of a warp, groups of 8 rows, CTAs of a multiprocessor: 128 columns by 256 rows, 256 by 128, and less.
const TILES: [(u32, u32, u32, u32); 8] = [
    (8, 1, 32, 1),
    (8, 2, 16, 1),
    (8, 1, 24, 1),
    (12, 1, 16, 1),
    (8, 1, 16, 1),
    (8, 1, 8, 2),
    (4, 1, 16, 2),
    (4, 1, 8, 2),
];

/// CTAs of a cluster; each divides the groups of every tile.
const CLUSTERS: [u32; 3] = [1, 2, 4];

/// Operations of tensor cores in the time in which shared memory takes or gives a byte: 4096 and 128 in each clock of a multiprocessor.
const FLOPS_PER_SHARED_BYTE: f64 = 32.0;

/// Most stages of a ring: three on their way while one is multiplied.
const MOST_STAGES: u32 = 4;

/// A ring of stages in shared memory.
#[derive(Clone, Copy)]
pub struct Ring {
    /// How many.
    stages: u32,
    /// Blocks of `k` of a stage.
    blocks: u32,
    /// CTAs that bring rows for each other.
    pub cluster: u32,
}

/// The plan of a product whose input has `blocks` blocks of columns and lies in tiles.
pub fn plan(cx: &Context<'_, '_>, blocks: u32, segments: &[Segment]) -> Option<Plan> {
    let panels = segments.iter().map(|s| s.spec.item_panels() as u32).max().unwrap_or(1);
    // who compares the columns of all CTAs counts them
    let compares = segments.iter().any(|s| !s.largest.is_empty());
    let clusters = CLUSTERS.into_iter().filter(|n| *n == 1 || !compares);
    let of_tile = |(cluster, (across, per_warp, groups, resident))| {
        let ring = Ring { stages: MOST_STAGES, blocks: if blocks.is_multiple_of(2) { 2 } else { 1 }, cluster };
        let plan =
            Plan { split: 1, across, per_warp, groups, blocks: (blocks, 1), resident, ring: Some(ring), chunks: 0 };
        (plan.panels() >= panels).then_some(plan)
    };
    let plans = clusters.flat_map(|n| TILES.map(|tile| (n, tile))).filter_map(of_tile);
    plans.min_by(|a, b| a.block_seconds(cx, segments).total_cmp(&b.block_seconds(cx, segments)))
}

impl Ring {
    /// Bytes of all stages of a plan.
    pub fn bytes(&self, plan: &Plan) -> u32 {
        self.stages * self.stage_bytes(plan)
    }

    /// Operations of tensor cores in the time that shared memory takes for a block: each warpgroup reads all rows, each warp its weights,
    /// and both are written once.
    pub fn shared_flops(&self, plan: &Plan) -> f64 {
        let (weights, rows) = (2 * plan.columns() * BLOCK, 2 * plan.rows() * BLOCK);
        let groups = plan.across / WARPS_OF_GROUP * plan.per_warp;
        f64::from(2 * weights + (1 + groups) * rows) * FLOPS_PER_SHARED_BYTE
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

/// Warps of a warpgroup.
const WARPS_OF_GROUP: u32 = 4;

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
                free.at(at).mbarrier_init(plan.across * ring.cluster);
            }
            k.proxy_fence();
        });
        self.meet(ring);
        let zeros = || vec![k.splat(0.0, (4 * plan.groups) as u16); plan.per_warp as usize];
        let bring = || {
            self.bring(x, &stages);
            zeros()
        };
        let sums = k.choose(self.multiplies(), || self.take(&stages, zeros()), bring);
        // stages become plain memory, and nobody sends anything more
        self.meet(ring);
        let group = |sum: &V<'k, F32>, g: u16| V::pack(&[0, 1, 2, 3].map(|i| sum.lane(4 * g + i)));
        sums.iter().map(|sum| (0..plan.groups as u16).map(|g| group(sum, g)).collect()).collect()
    }

    /// Waits for all threads that share stages.
    fn meet(&self, ring: Ring) {
        if ring.cluster > 1 { self.cx.k.cluster_barrier() } else { self.cx.k.barrier() }
    }

    /// Brings stage after stage: a lane has a panel, and some of the tiles of rows that are this CTA's part.
    fn bring(&self, x: &Activation<'_, 'k, '_>, stages: &Stages<'k>) {
        let (k, plan, ring) = (self.cx.k, self.plan, stages.ring);
        let (lane, warp) = (k.warp().rank, k.warp());
        let panel = self.panel(lane).cast::<Bf16>();
        let part = plan.groups / ring.cluster;
        let first = self.group % ring.cluster * part;
        let tile = x.tile(first + lane);
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
            let copy = || {
                let to = stage.weights.byte_offset((first + lane) * bytes).byte_offset(rows);
                let from = tile.byte_offset(turn * bytes);
                match ring.cluster {
                    1 => to.bulk_copy(from, bytes, stage.full),
                    _ => to.bulk_copy_everywhere(from, bytes, stage.full),
                }
            };
            if part >= WARP { copy() } else { k.when(lane.lt(part), copy) }
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
            match ring.cluster {
                1 => warp.leader(|| stage.free.mbarrier_arrive()),
                n => k.when(warp.rank.lt(n), || stage.free.peer(warp.rank).mbarrier_arrive()),
            }
            sums
        })
    }

    /// Whether this warp is one of those that multiply.
    pub fn multiplies(&self) -> V<'k, crate::kir::Pred> {
        self.cx.k.warp_id().lt(self.plan.across.on(self.cx.k))
    }
}
