//! Products in prefill on tile products of warpgroups: weights are their first operand, straight from memory to registers as
//! for every other product; rows of activations are the second, rounded and put into shared memory by all threads.
//!
//! While a block of 32 columns is multiplied beside the threads, these bring the weights of the next block, write its
//! activations to the other buffer, and ask for the activations behind it.

use super::super::product::Segment;
use super::matrix::Pieces;
use super::operand::Activation;
use super::product::{BLOCK, Kernel, Plan, ROWS, Sums, Weights};
use crate::kir::{Bf16, Cap, F32, Index, Operand, Ptr, V};
use crate::targets::Target;

/// Rows that the choice of a tile assumes: those of a long chunk of a prompt.
const USUAL_ROWS: u32 = 512;

/// Warps, panels of a warp, groups of 8 rows, CTAs of a multiprocessor: 256, 128 and 64 columns by 128 and 64 rows.
const TILES: [(u32, u32, u32, u32); 4] = [(16, 1, 16, 1), (8, 1, 16, 1), (8, 1, 8, 2), (4, 1, 8, 2)];

/// The plan of a product whose input has `blocks` blocks of columns, on targets that have warpgroups.
pub fn plan(target: &Target, blocks: u32, segments: &[Segment]) -> Option<Plan> {
    let panels = segments.iter().map(|s| s.spec.item_panels() as u32).max().unwrap_or(1);
    let of_tile = |(across, per_warp, groups, resident)| {
        let plan = Plan { split: 1, across, per_warp, groups, blocks: (blocks, 1), resident, warpgroups: true };
        (plan.panels() >= panels).then_some(plan)
    };
    let plans = TILES.into_iter().filter_map(of_tile).filter(|_| target.has(Cap::Wgmma));
    plans.min_by(|a, b| block_seconds(target, a, segments).total_cmp(&block_seconds(target, b, segments)))
}

/// Seconds for one block of columns of all tiles: products and reads overlap, waves of CTAs do not.
fn block_seconds(target: &Target, plan: &Plan, segments: &[Segment]) -> f64 {
    let (cost, columns, rows) = (target.cost, plan.columns(), plan.rows());
    let ctas = segments.iter().map(|s| plan.ctas(&s.spec)).sum::<u32>() * USUAL_ROWS.div_ceil(rows);
    let flops = 2.0 * f64::from(columns) * f64::from(rows) * f64::from(BLOCK);
    let bytes = f64::from(BLOCK) * 2.0 * f64::from(columns + rows);
    // half of the multiprocessors can draw all that the cache gives
    let drawing = f64::from(ctas.clamp(cost.processors / 2, cost.processors));
    let product = flops * f64::from(cost.processors) / (cost.gflops * 1e9);
    let reading = bytes * drawing / (cost.cache_gbps * 1e9);
    f64::from(ctas.div_ceil(cost.processors)) * product.max(reading)
}

/// Sums of each panel of a warp, its weights of a block, this thread's activations of the next.
type Pipeline<'k> = (Vec<V<'k, F32>>, Weights<'k>, Vec<V<'k, Bf16>>);

impl<'k> Kernel<'_, 'k, '_> {
    /// Sums over all of `k`, by warpgroups.
    pub fn by_warpgroups(&self, panels: &[Ptr<'k, F32>], x: &Activation<'_, 'k, '_>, shared: Ptr<'k, F32>) -> Sums<'k> {
        let (k, plan, blocks) = (self.cx.k, self.plan, self.plan.blocks.0);
        let buffers = [0, plan.rows() * BLOCK].map(|at| Pieces::new(shared.cast::<Bf16>().at(at), BLOCK));
        let of_block = |block: V<'k, Index>| block.imin(blocks - 1);
        let weights = self.load(panels, 0u32.on(k), 1);
        self.put(buffers[0], &self.fetch(x, 0u32.on(k)));
        k.proxy_fence();
        k.barrier();
        // block `block`, whose weights are here, and whose activations are in buffer `buffer`; the next activations are in registers
        let one = |block: V<'k, Index>, buffer: usize, (sums, weights, rows): Pipeline<'k>| {
            k.wgmma_fence();
            let sums = sums.into_iter().zip(weights.chunks(2)).map(|(sum, steps)| {
                (0..).zip(steps).fold(sum, |sum, (step, left)| buffers[buffer].add_product(*left, 2 * step, sum))
            });
            let sums = sums.collect::<Vec<_>>();
            k.wgmma_commit();
            let weights = self.load(panels, of_block(block + 1u32), 1);
            self.put(buffers[1 - buffer], &rows);
            let rows = self.fetch(x, of_block(block + 2u32));
            k.proxy_fence();
            k.wgmma_wait(0);
            k.barrier();
            (sums, weights, rows)
        };
        let sums = vec![k.splat(0.0, (4 * plan.groups) as u16); plan.per_warp as usize];
        let start = (sums, weights, self.fetch(x, of_block(1u32.on(k))));
        // two at a time, so that weights in flight and weights on their way have registers of their own
        let pairs = blocks / 2 * 2;
        let last = k.range(0u32, pairs, 2, start, |block, state| one(block + 1u32, 1, one(block, 0, state)));
        let (sums, _, _) = if pairs < blocks { one(pairs.on(k), 0, last) } else { last };
        let group = |sum: &V<'k, F32>, g: u16| V::pack(&[0, 1, 2, 3].map(|i| sum.lane(4 * g + i)));
        sums.iter().map(|sum| (0..plan.groups as u16).map(|g| group(sum, g)).collect()).collect()
    }

    /// The row of a tile and the quarter of a block that turn `turn` of this thread brings: eight neighbours have the rows of a
    /// piece, four a row each.
    fn quarter(&self, turn: u32) -> (V<'k, Index>, V<'k, Index>) {
        let e = self.cx.k.thread() + turn * self.plan.threads();
        (e / 4u32, e % 4u32)
    }

    /// This thread's activations of a block, in pairs.
    fn fetch(&self, x: &Activation<'_, 'k, '_>, block: V<'k, Index>) -> Vec<V<'k, Bf16>> {
        let eight = |turn: u32| {
            let (row, quarter) = self.quarter(turn);
            let (col, ragged) = (block * BLOCK + quarter * 8u32, self.is_ragged());
            x.eight(row, col, ragged, x.gain(col, ragged)).pairs()
        };
        (0..self.plan.rows() * 4 / self.plan.threads()).flat_map(eight).collect()
    }

    /// Writes them in the order of `k` that fragments of weights have: quarter `t` of a block has columns `2 t`, `2 t + 1` of each
    /// piece.
    fn put(&self, to: Pieces<'k>, pairs: &[V<'k, Bf16>]) {
        for (turn, of_turn) in (0..).zip(pairs.chunks(4)) {
            let (row, quarter) = self.quarter(turn);
            for (piece, pair) in (0u32..).zip(of_turn) {
                to.at(row, quarter * 2u32 + piece * ROWS).store(*pair);
            }
        }
    }
}
