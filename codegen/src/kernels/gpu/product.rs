//! Products of one input with any number of weights, each with its epilogue: one kernel for a whole grid.
//!
//! A CTA has a few panels of one weight and a tile of rows; for decode there are kernels for several numbers of rows, which
//! the launch table chooses from at run time, so that a weight is read once for up to 64 rows. A lane's 16-byte load of the weights is its fragment; the
//! fragments of activations come straight from memory in decode, where the warps of a CTA share out `k`, and through
//! shared memory in prefill, where they share out the panels. Sums go through shared memory to the epilogue.

use super::super::context::{Context, Scratch, Shape, Unsupported};
use super::super::epilogue::{Domain, Fragment, Lanes, Row, vector_like};
use super::super::gather::push_ring;
use super::super::product::{Segment, cost, segments};
use super::gemm::{self, Ring};
use super::largest::{self, largest};
use super::operand::{Activation, Norm};
use super::staged;
use crate::kir::{Bf16, Carry, F32, Index, Items, Launch, Operand, Pred, Ptr, V, WARP};
use crate::pack::{FRAGMENT_BLOCK, PANEL, PackSpec, RowOrder};
use crate::targets::Target;
use jet_ir::ops::StoreSquares;
use jet_ir::{Elem, Id, Op};
use jetbin::Phase;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Columns of `k` that one block of fragments covers.
pub const BLOCK: u32 = FRAGMENT_BLOCK as u32;
/// Output columns of a panel.
const SLOTS: u32 = PANEL as u32;
/// Bytes of one panel's fragments of one block.
pub const BLOCK_BYTES: u32 = SLOTS * BLOCK * 2;
/// Rows of one tile product.
pub const ROWS: u32 = 8;
/// Rows of the tiles of decode, in ascending order: a kernel for each, so that weights are read once for as many. All add in the same
/// order, so that the bits of a row do not depend on the rows beside it: warpgroups, which add otherwise, are for prefill alone.
const TILES: [u32; 3] = [8, 32, 64];
/// Registers of a lane for sums and weights, where a multiprocessor has one CTA and where it has two.
const MOST_REGISTERS: [u32; 2] = [152, 100];
/// Sums that a lane has registers for, each of four elements.
const MOST_SUMS: u32 = 24;
/// Panels whose weights a warp has registers for, those of the next blocks included.
const MOST_PANELS: u32 = 4;
/// Share of the shorter time that does not hide behind the longer.
const EXPOSED: f64 = 0.1;
/// Blocks of one panel that a warp of decode asks for at once.
const MOST_IN_FLIGHT: u32 = 6;
/// Warps of a CTA of decode.
pub const WARPS: u32 = 8;
/// The same, where a CTA has a multiprocessor to itself and its weights are few.
const MOST_OF_ROW: u32 = 12;

/// How the rows of a product lie in memory.
#[derive(Clone, Copy)]
enum Order {
    /// In f32.
    Wide,
    /// In bf16.
    Rows,
    /// In bf16, in tiles.
    Tiles,
}

/// How a CTA divides its work.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Warps that share out `k`.
    pub split: u32,
    /// Warps that share out panels.
    pub across: u32,
    /// Panels of a warp.
    pub per_warp: u32,
    /// Groups of 8 rows.
    pub groups: u32,
    /// Blocks of `k` of a warp, and how many it loads at a time.
    pub blocks: (u32, u32),
    /// CTAs of a multiprocessor.
    pub resident: u32,
    /// What a further warp brings operands through, if warpgroups multiply.
    pub ring: Option<Ring>,
    /// Chunks of rows in shared memory, if warps multiply those.
    pub chunks: u32,
}

impl Plan {
    /// The plan for rows of `row_bytes` bytes, as a CTA reads them, that lie in memory so.
    fn new(cx: &Context<'_, '_>, k_len: u32, (row_bytes, rows): (u64, Order), segments: &[Segment]) -> Plan {
        let (blocks, target) = (k_len.div_ceil(BLOCK), &cx.k.target);
        let panels = segments.iter().map(|s| s.spec.item_panels() as u32).max().unwrap_or(1);
        if cx.phase == Phase::Decode {
            let most = (MOST_SUMS / (cx.tile / ROWS)).min(MOST_PANELS);
            let plans = (1..=most).map(|per_warp| Plan::streamed(cx.tile, blocks, per_warp));
            let fits = |p: &Plan| p.panels().is_multiple_of(panels) && p.shared() <= target.most_shared(p.resident);
            let seconds = |p: &Plan| p.seconds(target, row_bytes, segments);
            let best = plans.filter(fits).min_by(|a, b| seconds(a).total_cmp(&seconds(b)));
            return best.unwrap_or_else(|| Plan::streamed(cx.tile, blocks, panels));
        }
        let ringed = matches!(rows, Order::Tiles).then(|| gemm::plan(cx, blocks, segments)).flatten();
        ringed.unwrap_or_else(|| staged::plan(cx, blocks, matches!(rows, Order::Rows), segments))
    }

    /// For a few rows: warps share out `k`, and read weights and rows straight from memory.
    fn streamed(rows: u32, blocks: u32, per_warp: u32) -> Plan {
        let (groups, split) = (rows / ROWS, Plan::split(blocks));
        // a warp's share is the same in all kernels, whatever the tile and the batch, and so is the order of sums
        let (across, mine) = (WARPS / split, blocks.div_ceil(split));
        let resident = if groups > 1 || per_warp > 2 { 1 } else { 2 };
        // sums, and for each block in a batch two steps of four registers, here and on their way
        let most = (MOST_REGISTERS[resident as usize - 1] - 4 * groups * per_warp) / (16 * per_warp);
        let most = most.clamp(1, (MOST_IN_FLIGHT / per_warp).max(1));
        // as many at a time as leave the least to do for nothing; the most of those
        let batch = (1..=mine.min(most)).rev().min_by_key(|u| mine.div_ceil(*u) * u).unwrap_or(1);
        let batch = if mine > most { batch.max(most.min(4)) } else { batch };
        Plan { split, across, per_warp, groups, blocks: (mine, batch), resident, ring: None, chunks: 0 }
    }

    /// Seconds by the target's figures: weights come from memory once; what CTAs read comes from the second-level cache, wave after wave,
    /// and half of the multiprocessors can draw all that it gives.
    fn seconds(&self, target: &Target, row_bytes: u64, segments: &[Segment]) -> f64 {
        let (cost, ctas) = (target.cost, segments.iter().map(|s| self.ctas(&s.spec)).sum::<u32>());
        let weights: u64 = segments.iter().map(|s| s.spec.bytes() as u64).sum();
        let of_cta = f64::from(self.columns() * self.split * self.blocks.0 * BLOCK * 2);
        let of_rows = f64::from(self.rows() * self.across) * row_bytes as f64;
        let drawing = f64::from(ctas.clamp(cost.processors / 2, cost.processors));
        let waves = f64::from(ctas.div_ceil(cost.processors));
        let reading = waves * (of_cta + of_rows) * drawing / (cost.cache_gbps * 1e9);
        let memory = weights as f64 / (cost.dram_gbps * 1e9);
        reading.max(memory) + EXPOSED * reading.min(memory)
    }

    /// Seconds for one block of columns of all tiles of a prefill of the most rows: products and reads overlap, waves of CTAs do not.
    pub fn block_seconds(&self, cx: &Context<'_, '_>, segments: &[Segment]) -> f64 {
        let (target, columns, rows) = (&cx.k.target, self.columns(), self.rows());
        let (cost, cluster) = (target.cost, self.cluster());
        let ctas = self.ctas_of_rows(segments) * cx.most_rows.div_ceil(rows);
        let flops = 2.0 * f64::from(columns) * f64::from(rows) * f64::from(BLOCK);
        let bytes = f64::from(BLOCK) * 2.0 * f64::from(columns + rows / cluster);
        // half of the multiprocessors can draw all that the cache gives
        let drawing = f64::from(ctas.clamp(cost.processors / 2, cost.processors));
        let flops = flops.max(self.ring.map_or(0.0, |ring| ring.shared_flops(self)));
        let product = flops * f64::from(cost.processors) / (cost.gflops * 1e9);
        let reading = bytes * drawing / (cost.cache_gbps * 1e9);
        f64::from(ctas.div_ceil(target.processors_in_clusters(cluster))) * product.max(reading)
    }

    /// CTAs of a cluster.
    fn cluster(&self) -> u32 {
        self.ring.map_or(1, |ring| ring.cluster)
    }

    /// CTAs for each tile of rows: whole clusters, of which the last CTAs may have nothing to store.
    fn ctas_of_rows(&self, segments: &[Segment]) -> u32 {
        segments.iter().map(|s| self.ctas(&s.spec)).sum::<u32>().next_multiple_of(self.cluster())
    }

    /// Warps that share out so many blocks of `k` in decode. Sums are added in an order that depends on nothing else.
    pub fn split(blocks: u32) -> u32 {
        [8, 4, 2].into_iter().find(|s| blocks >= 4 * s).unwrap_or(1)
    }

    /// One row of a product with so many columns of `k` and so many panels for a CTA, all weights asked for at once.
    pub fn of_row(k_len: u32, panels: u32) -> Plan {
        let blocks = k_len.div_ceil(BLOCK);
        let split = Plan::split(blocks);
        let (across, mine) = (WARPS / split, blocks.div_ceil(split));
        let per_warp = panels.div_ceil(across);
        let batch = (MOST_OF_ROW / per_warp).clamp(1, mine);
        Plan { split, across, per_warp, groups: 1, blocks: (mine, batch), resident: 1, ring: None, chunks: 0 }
    }

    pub fn threads(&self) -> u32 {
        (self.split * self.across + u32::from(self.ring.is_some())) * WARP
    }

    pub fn panels(&self) -> u32 {
        self.across * self.per_warp
    }

    /// Slots of a CTA.
    pub fn columns(&self) -> u32 {
        self.panels() * SLOTS
    }

    pub fn rows(&self) -> u32 {
        self.groups * ROWS
    }

    /// Items of a segment in a CTA.
    fn items(&self, spec: &PackSpec) -> u32 {
        self.panels() / spec.item_panels() as u32
    }

    /// CTAs of a segment for each tile of rows.
    pub fn ctas(&self, spec: &PackSpec) -> u32 {
        (spec.items() as u32).div_ceil(self.items(spec))
    }

    /// Elements from one row of sums to the next; odd multiples of 4, so that lanes do not meet in a bank.
    pub fn stride(&self) -> u32 {
        self.columns() + 4
    }

    /// Where column `pos` of a row of sums lies in it: blocks of 32 columns have their fours exchanged by the number of the block, so that lanes
    /// which read every other eight (gates, rotations) or a four of each 16 columns (taps, squares) of 128 do not meet in a bank.
    fn spread<'k>(&self, pos: V<'k, Index>) -> V<'k, Index> {
        if !self.columns().is_multiple_of(WARP) {
            return pos;
        }
        let block = pos / WARP;
        pos.xor(block % 2u32 * 24u32).xor(block / 2u32 % 2u32 * 20u32)
    }

    /// The row that has turn `n` of an epilogue. Where lanes of a warp read several rows of one or two panels, neighbours would meet in banks: of rows
    /// of 16 columns each fourth and each second one does not, of 32 columns each second one.
    fn turn<'k>(&self, n: V<'k, Index>) -> V<'k, Index> {
        match self.panels() {
            2 => n / 4u32 * 4u32 + n % 2u32 * 2u32 + n / 2u32 % 2u32,
            panels if panels % 2 == 1 => n / 8u32 * 8u32 + n % 2u32 * 4u32 + n / 2u32 % 2u32 * 2u32 + n / 4u32 % 2u32,
            _ => n,
        }
    }

    /// The sum of row `row` of a CTA and column `pos` in memory that holds `[row][column]`.
    pub fn sum<'k>(&self, shared: Ptr<'k, F32>, row: V<'k, Index>, pos: V<'k, Index>) -> Ptr<'k, F32> {
        shared.at(row * self.stride()).at(self.spread(pos))
    }

    /// Elements of the sums of one warp group.
    fn sums(&self) -> u32 {
        self.rows() * self.stride()
    }

    /// Bytes of shared memory that sums and stages, or chunks of rows, take turns in.
    pub fn shared(&self) -> u32 {
        let chunks = self.ring.map_or_else(|| staged::bytes(self), |ring| ring.bytes(self));
        (4 * self.split * self.sums()).max(chunks)
    }
}

/// The kernel of a product grid with its stores, or of a product in memory, which is its own store.
pub fn product(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    let refuse = |reason: String| Err(Unsupported::new(cx.graph, grid, reason));
    let segments = segments(cx, stores)?;
    let k_len = match cx.graph.op(grid) {
        Some(Op::Matmul(_)) => cx.cols(cx.graph.node(grid).args[0]),
        _ => cx.cols(grid),
    };
    if let Some(s) = segments.iter().find(|s| s.spec.bytes() >= 1 << 31) {
        return refuse(format!("a weight takes {} bytes, expected less than 2^31", s.spec.bytes()));
    }
    let x = cx.graph.node(grid).args[0];
    // a norm in front reads rows twice
    let row_bytes = cx.row_bytes(x) * if matches!(cx.graph.op(grid), Some(Op::SweepNorm(_))) { 2 } else { 1 };
    let order = match cx.graph.ty(x).elem() {
        Some(Elem::Bf16) if cx.tiled.contains(&x) => Order::Tiles,
        Some(Elem::Bf16) => Order::Rows,
        _ => Order::Wide,
    };
    let plan = Plan::new(cx, k_len as u32, (row_bytes, order), &segments);
    if cx.phase == Phase::Decode {
        cx.wider.set(TILES.iter().position(|t| *t == cx.tile).and_then(|i| Some((cx.tile, *TILES.get(i + 1)?))));
    }
    if plan.shared() + 4 * plan.rows() + 16 > cx.k.target.most_shared(plan.resident) {
        return refuse("the taps of a convolution need more shared memory than there is".into());
    }
    let ctas = plan.ctas_of_rows(&segments);
    let launch = Launch { threads: plan.threads(), ctas: plan.resident, rows: plan.rows() };
    cx.columns.set(Some(plan.columns()));
    let item = cx.k.launch(Items { fixed: ctas, per_row: true }, launch);
    cx.k.cluster(plan.cluster());
    let (group, first) = (item % ctas, item / ctas * plan.rows());
    let kernel = Kernel { cx, segments: &segments, k_len: k_len as u32, plan, group, first };
    let shared = cx.k.shared::<F32>(plan.shared() / 4);
    let Some(norm) = kernel.run(grid, shared) else {
        return refuse("expected `sweep`, `sweep_norm` or `sweep_scaled`: norms are not folded".into());
    };
    let name = match (norm, cx.phase, plan.ring.is_some()) {
        (Norm::None, Phase::Decode, _) => "product_decode",
        (Norm::Elements(..), Phase::Decode, _) => "norm_product_decode",
        (Norm::Sums(..), Phase::Decode, _) => "scaled_product_decode",
        (Norm::None, Phase::Prefill, true) => "product_wgmma",
        (Norm::Sums(..), Phase::Prefill, true) => "scaled_product_wgmma",
        (Norm::None, Phase::Prefill, false) => "product_prefill",
        (Norm::Elements(..), Phase::Prefill, _) => "norm_product_prefill",
        (Norm::Sums(..), Phase::Prefill, false) => "scaled_product_prefill",
    };
    let compared = segments.iter().filter(|s| !s.largest.is_empty()).map(|s| plan.ctas(&s.spec)).max();
    let scratch = compared.map_or(Scratch::default(), largest::scratch);
    Ok(Shape { name, scratch, cost: cost(cx, grid, &segments, k_len) })
}

pub struct Kernel<'a, 'k, 'g> {
    pub cx: &'a Context<'k, 'g>,
    pub segments: &'a [Segment],
    pub k_len: u32,
    pub plan: Plan,
    /// Which panels are this CTA's.
    pub group: V<'k, Index>,
    /// Its first row.
    pub first: V<'k, Index>,
}

/// Sums: panels of a warp, groups of rows.
pub type Sums<'k> = Vec<Vec<V<'k, F32>>>;
/// Fragments of weights: blocks, panels, the two steps of a block.
pub type Weights<'k> = Vec<V<'k, Bf16>>;

impl<'k> Kernel<'_, 'k, '_> {
    /// The whole kernel; says how the input was normalised.
    fn run(&self, grid: Id, shared: Ptr<'k, F32>) -> Option<Norm<'k>> {
        let input = || Activation::new(self.cx, grid, self.first, self.plan.rows());
        let (x, sums) = if self.cx.phase == Phase::Decode {
            // asked for before anything waits
            let panels = self.panels();
            let ahead = self.load(&panels, self.first_block(), self.plan.blocks.1);
            let x = input()?;
            let sums = self.streamed(&panels, &x, ahead);
            (x, sums)
        } else {
            let x = input()?;
            let sums = match self.plan.ring {
                Some(ring) => self.by_warpgroups(&x, shared, ring),
                None => self.staged(&x, shared),
            };
            (x, sums)
        };
        self.write(&sums, shared);
        self.finish(&x, shared);
        Some(x.norm)
    }

    /// The value of `f` for the segment of this CTA; `f` also gets the first of its items.
    fn pick<C: Carry<'k>>(&self, f: &dyn Fn(&Segment, V<'k, Index>) -> C) -> C {
        fn from<'k, C: Carry<'k>>(
            me: &Kernel<'_, 'k, '_>,
            segments: &[Segment],
            before: u32,
            f: &dyn Fn(&Segment, V<'k, Index>) -> C,
        ) -> C {
            let (spec, end) = (&segments[0].spec, before + me.plan.ctas(&segments[0].spec));
            let here = || f(&segments[0], (me.group - before) * me.plan.items(spec));
            match segments.len() {
                1 => here(),
                _ => me.cx.k.choose(me.group.lt(end), here, || from(me, &segments[1..], end, f)),
            }
        }
        from(self, self.segments, 0, f)
    }

    /// Where this lane's fragments of each of its warp's panels start; panels beyond the last are that one.
    pub fn panels(&self) -> Vec<Ptr<'k, F32>> {
        let (k, plan) = (self.cx.k, self.plan);
        let (mine, lane) = ((k.warp_id() / plan.split) * plan.per_warp, k.warp().rank);
        self.pick(&|segment, item| {
            let panel = |i: u32| self.panel_of(segment, item, mine + i).at(lane * 4u32);
            (0..plan.per_warp).map(panel).collect::<Vec<_>>()
        })
    }

    /// Where panel `number` of the CTA starts.
    pub fn panel(&self, number: V<'k, Index>) -> Ptr<'k, F32> {
        self.pick(&|segment, item| self.panel_of(segment, item, number))
    }

    /// Where panel `number` behind the start of an item is; beyond the last, that one.
    fn panel_of(&self, segment: &Segment, item: V<'k, Index>, number: V<'k, Index>) -> Ptr<'k, F32> {
        let base = self.cx.weight::<F32>(segment.spec, &segment.weights).once();
        let (per_item, items) = (segment.spec.item_panels() as u32, segment.spec.items() as u32);
        let panel = (item * per_item + number).imin(items * per_item - 1);
        base.byte_offset(panel * (segment.spec.item_bytes() as u32 / per_item))
    }

    /// The first block of this warp.
    pub fn first_block(&self) -> V<'k, Index> {
        let k = self.cx.k;
        (k.warp_id() % self.plan.split) * self.plan.blocks.0
    }

    /// Whether some blocks of a warp, or some columns of a block, do not exist.
    pub fn is_ragged(&self) -> bool {
        let (mine, batch) = self.plan.blocks;
        self.plan.split * mine.next_multiple_of(batch) * BLOCK != self.k_len
    }

    /// `n` blocks of fragments from block `from` on; blocks beyond the last are that one.
    pub fn load(&self, panels: &[Ptr<'k, F32>], from: V<'k, Index>, n: u32) -> Weights<'k> {
        let last = self.k_len.div_ceil(BLOCK) - 1;
        let mut all = vec![];
        for b in 0..n {
            let block = if self.is_ragged() { (from + b).imin(last) } else { from + b };
            for panel in panels {
                let at = panel.byte_offset(block * BLOCK_BYTES).cast::<Bf16>();
                all.extend([at.load(8), at.at(SLOTS * BLOCK / 2).load(8)]);
            }
        }
        all
    }

    /// `sums + weights x`, where `x(block, group)` are fragments of activations, one for each step.
    pub fn multiply(
        &self,
        weights: &Weights<'k>,
        sums: Sums<'k>,
        x: impl Fn(u32, u32) -> [V<'k, Bf16>; 2],
    ) -> Sums<'k> {
        let mut sums = sums;
        let per_block = 2 * self.plan.per_warp as usize;
        for (b, of_block) in weights.chunks(per_block).enumerate() {
            for group in 0..self.plan.groups {
                for (step, x) in x(b as u32, group).into_iter().enumerate() {
                    for (p, of_panel) in of_block.chunks(2).enumerate() {
                        let sum = &mut sums[p][group as usize];
                        *sum = of_panel[step].mma(x, *sum);
                    }
                }
            }
        }
        sums
    }

    pub fn zeros(&self) -> Sums<'k> {
        vec![vec![self.cx.k.splat(0.0, 4); self.plan.groups as usize]; self.plan.per_warp as usize]
    }

    /// Row of the fragment of activations that this lane holds, and its first column in a block.
    pub fn place(&self) -> (V<'k, Index>, V<'k, Index>) {
        let lane = self.cx.k.warp().rank;
        (lane / 4u32, (lane % 4u32) * 8u32)
    }

    /// Sums over this warp's share of `k`: weights are asked for one batch ahead.
    pub fn streamed(&self, panels: &[Ptr<'k, F32>], x: &Activation<'_, 'k, '_>, ahead: Weights<'k>) -> Sums<'k> {
        let (k, (mine, batch)) = (self.cx.k, self.plan.blocks);
        let (token, col) = self.place();
        let (first, ragged) = (self.first_block(), self.is_ragged());
        let step = |from: V<'k, Index>, weights: &Weights<'k>, sums: Sums<'k>| {
            let gains = RefCell::new(BTreeMap::new());
            self.multiply(weights, sums, |b, group| {
                let col = (from + b) * BLOCK + col;
                let gain = *gains.borrow_mut().entry(b).or_insert_with(|| x.gain(col, ragged));
                x.eight(token + group * ROWS, col, ragged, gain).fours()
            })
        };
        let whole = (mine.div_ceil(batch) - 1) * batch;
        let turn = |b: V<'k, Index>, (sums, weights): (Sums<'k>, Weights<'k>)| {
            let next = self.load(panels, first + b + batch, batch);
            (step(first + b, &weights, sums), next)
        };
        let start = (self.zeros(), ahead);
        let (sums, last) = match whole / batch {
            0 => start,
            // a loop of one turn would cost the assembler registers
            1 => turn(0u32.on(k), start),
            _ => k.range(0u32, whole, batch, start, turn),
        };
        // what is left of the last batch: blocks behind it are another warp's
        let rest = ((mine - whole) * 2 * self.plan.per_warp) as usize;
        step(first + whole, &last[..rest.min(last.len())].to_vec(), sums)
    }

    /// Sums to shared memory: `[split][row][panel][slot]`.
    pub fn write(&self, sums: &Sums<'k>, shared: Ptr<'k, F32>) {
        let (k, plan) = (self.cx.k, self.plan);
        let (lane, warp) = (k.warp().rank, k.warp_id());
        let shared = shared.at((warp % plan.split) * plan.sums());
        let (first, pos) = (lane % 4u32 * 2u32, (warp / plan.split) * (plan.per_warp * SLOTS) + lane / 4u32);
        let put = || {
            for (panel, groups) in (0..).zip(sums) {
                for (group, sum) in (0..).zip(groups) {
                    for i in 0..4u16 {
                        let (row, slot) = (u32::from(i) % 2, u32::from(i) / 2 * 8);
                        let to = plan.sum(shared, first, pos + (panel * SLOTS + slot));
                        to.at((group * ROWS + row) * plan.stride()).store(sum.lane(i));
                    }
                }
            }
        };
        if plan.ring.is_some() {
            k.when(self.multiplies(), put)
        } else {
            put()
        }
        k.barrier();
    }

    /// The epilogue: one column (two of a rotation) of one row for each thread and turn.
    fn finish(&self, x: &Activation<'_, 'k, '_>, shared: Ptr<'k, F32>) {
        let (k, plan) = (self.cx.k, self.plan);
        self.pick(&|segment, first| {
            let (spec, items) = (&segment.spec, plan.items(&segment.spec));
            let lanes = spec.lanes() as u32;
            k.cta().each(plan.rows() * items * lanes, |e| {
                let (lane, rest) = (e % lanes, e / lanes);
                let (local, token) = (rest % items, plan.turn(rest / items));
                let (item, row) = (first + local, self.first + token);
                let exists = exists(segment, item, lane).and(row.lt(self.cx.rows()));
                let sums = |slot: u32| plan.sum(shared, token, local * spec.item_slots() as u32 + lane + slot);
                k.when(exists, || {
                    let factor = x.factor(token);
                    let leaf = |id: Id| {
                        let source = segment.accs.iter().position(|a| *a == id)? as u32;
                        let mut all = self.accumulators(segment, source, (item, lane), &sums);
                        factor.into_iter().for_each(|f| all.vecs.iter_mut().for_each(|v| *v = *v * f));
                        Some(all)
                    };
                    let at = Row { cx: self.cx, row, leaf: &leaf };
                    let values: Vec<_> = segment.stores.iter().map(|s| (*s, at.stored(*s))).collect();
                    let compared = segment.largest.iter().map(|s| at.eval(self.cx.graph.node(*s).args[0]).vecs[0]);
                    let compared: Vec<_> = compared.collect();
                    for (store, value) in values {
                        match self.cx.graph.op(store) {
                            // nobody else reads this sum, and its thread is done with it
                            Some(Op::StoreSquares(_)) => sums(0).store(value.vecs[0] * value.vecs[0]),
                            _ => at.put(store, value),
                        }
                    }
                    compared.iter().for_each(|value| sums(0).store(*value));
                    if self.cx.phase == Phase::Decode {
                        // a row is a sequence, and nobody but this thread reads its ring at this column
                        self.push(segment, item, lane, row);
                    }
                });
            });
            self.squares(segment, first, shared);
            self.push_sequence(segment, first);
            segment.largest.iter().for_each(|store| largest(self, (segment, first), shared, *store));
        });
    }

    /// Sums of squares of each panel of a segment that has a store for them, one for each thread and turn; the squares lie where sums did.
    fn squares(&self, segment: &Segment, first: V<'k, Index>, shared: Ptr<'k, F32>) {
        let (k, plan, cx) = (self.cx.k, self.plan, self.cx);
        let is_one = |id: &&Id| matches!(cx.graph.op(**id), Some(Op::StoreSquares(_)));
        let Some(&store) = segment.stores.iter().find(is_one) else { return };
        let whole = cx.graph.op(store) == Some(&Op::StoreSquares(StoreSquares { width: PANEL }));
        let columns = segment.spec.rows as u32;
        if !whole || segment.spec.order != RowOrder::Linear || self.segments.len() > 1 || !columns.is_multiple_of(4) {
            return cx.refuse(store, "sums of squares are those of the panels of one product");
        }
        let (parts, to) = (cx.cols(store) as u32, cx.value::<F32>(store));
        k.barrier();
        k.cta().each(plan.rows() * plan.panels(), |e| {
            let (local, token) = (e % plan.panels(), e / plan.panels());
            let (part, row) = (first + local, self.first + token);
            k.when(part.lt(parts).and(row.lt(cx.rows())), || {
                let squares = |c: V<'k, Index>| plan.sum(shared, token, local * SLOTS + c);
                let left = (part * SLOTS + SLOTS).imin(columns) - part * SLOTS;
                let zero = k.splat(0.0, 4);
                let sum = k.range(0u32, left, 4, zero, |c, sum| sum + squares(c).load(4));
                to.at(row * parts + part).store(sum.sum_lanes());
            });
        });
    }

    /// Moves the rings of a segment's convolutions at a lane of an item.
    fn push(&self, segment: &Segment, item: V<'k, Index>, lane: V<'k, Index>, row: V<'k, Index>) {
        let places: Vec<_> =
            places(segment, item, lane).into_iter().map(|(col, _)| Lanes { col, left: None }).collect();
        segment.pushes.iter().for_each(|p| push_ring(self.cx, *p, row, &places, 1));
    }

    /// In prefill the first rows read a ring, all in one CTA: when these have, it moves the ring, whose new rows are in memory.
    fn push_sequence(&self, segment: &Segment, first: V<'k, Index>) {
        let (k, plan) = (self.cx.k, self.plan);
        if segment.pushes.is_empty() || self.cx.phase == Phase::Decode {
            return;
        }
        let (items, lanes) = (plan.items(&segment.spec), segment.spec.lanes() as u32);
        k.barrier();
        k.when(self.first.equals(0u32), || {
            k.cta().each(items * lanes, |e| {
                let (item, lane) = (first + e / lanes, e % lanes);
                k.when(exists(segment, item, lane), || self.push(segment, item, lane, self.first));
            });
        });
    }

    /// What accumulator `source` of a segment holds at lane `lane` of an item; `sums` says where those of a slot are.
    pub fn accumulators(
        &self,
        segment: &Segment,
        source: u32,
        (item, lane): (V<'k, Index>, V<'k, Index>),
        sums: &dyn Fn(u32) -> Ptr<'k, F32>,
    ) -> Fragment<'k> {
        let (spec, lanes) = (&segment.spec, segment.spec.lanes() as u32);
        let all = |slot: u32| {
            let part = |w: u32| sums(slot).at(w * self.plan.sums()).load(1);
            (1..self.plan.split).fold(part(0), |sum, w| sum + part(w))
        };
        let first = item * spec.item_slots() as u32 + lane;
        let (slots, vector, first, step): (Vec<u32>, _, _, _) = match spec.order {
            RowOrder::Linear => (vec![0], vector_like(spec), first, 1),
            RowOrder::Gate => (vec![source * lanes], PackSpec::vector(spec.rows), item * lanes + lane, 1),
            RowOrder::Rope { .. } => (vec![0, lanes], vector_like(spec), first, lanes),
            RowOrder::Taps { taps } => {
                // vectors are packed as for a CPU, with more channels in an item
                let (vector, channel) = (vector_like(spec), item * lanes + lane);
                let of_item = vector.lanes() as u32;
                let first = channel / of_item * vector.item_slots() as u32 + channel % of_item;
                ((0..taps as u32).map(|t| t * lanes).collect(), vector, first, of_item)
            }
        };
        let lanes = places(segment, item, lane).into_iter().map(|(col, _)| Lanes { col, left: None }).collect();
        Fragment { vecs: slots.into_iter().map(all).collect(), domain: Domain { lanes, width: 1, vector, first, step } }
    }
}

/// Whether all columns of the output at lane `lane` of an item exist.
fn exists<'k>(segment: &Segment, item: V<'k, Index>, lane: V<'k, Index>) -> V<'k, Pred> {
    let inside = item.lt(segment.spec.items() as u32);
    places(segment, item, lane).iter().fold(inside, |all, (_, exists)| exists.map_or(all, |e| all.and(e)))
}

/// Columns of the output at lane `lane` of an item, each with whether it exists where that is not sure.
fn places<'k>(segment: &Segment, item: V<'k, Index>, lane: V<'k, Index>) -> Vec<(V<'k, Index>, Option<V<'k, Pred>>)> {
    let (spec, lanes) = (&segment.spec, segment.spec.lanes() as u32);
    let linear = |cols: usize| {
        let col = item * lanes + lane;
        vec![(col, (!cols.is_multiple_of(lanes as usize)).then(|| col.lt(cols as u32)))]
    };
    match spec.order {
        RowOrder::Linear | RowOrder::Gate => linear(spec.rows),
        RowOrder::Taps { taps } => linear(spec.rows / taps),
        RowOrder::Rope { head_dim } => {
            let half = (head_dim / 2) as u32;
            let blocks = half.div_ceil(lanes);
            let i = (item % blocks) * lanes + lane;
            let low = (item / blocks) * head_dim as u32 + i;
            let exists = (!half.is_multiple_of(lanes)).then(|| i.lt(half));
            vec![(low, exists), (low + half, None)]
        }
    }
}
