//! One token of the gated delta rule with the dynamic convolution of its values inside: the generator's product, the convolution, the
//! ring, and the step of [`super::delta_step`].
//!
//! A CTA has 32 columns of a head, those of the generator and those of the state; the CTAs of a head are a cluster and tell each other
//! their sums of squares. The weight is read once for each sequence, so this is for few of them. All sums are added in the order of the
//! separate kernels: a sequence does not notice which of them serve it.

use super::super::context::{Context, Scratch, Shape, Unsupported};
use super::super::delta::Delta;
use super::super::epilogue::Row;
use super::super::gather::push_ring;
use super::super::product::Segment;
use super::delta_step::{self, Head};
use super::operand::Activation;
use super::product::{BLOCK, Kernel, Plan, WARPS};
use crate::kir::{Cap, F32, Index, Items, Launch, Ptr, V, WARP};
use crate::pack::{Form, PackSpec, RowOrder};
use crate::targets::Target;
use jet_ir::ops::DeltaConv;
use jet_ir::{Elem, GridKind, Id, Op, Rows, Type};

/// Columns of a CTA: a warp's.
const COLUMNS: u32 = WARP;

/// The layout of the generator's weight; none if it is not bf16, or too large.
fn layout(op: &DeltaConv, weight: Type) -> Option<PackSpec> {
    let Type::Tensor { rows: Rows::Fixed(rows), cols, elem: elem @ Elem::Bf16, .. } = weight else { return None };
    let spec = PackSpec { form: Form::Fragment, order: RowOrder::Taps { taps: op.taps }, elem, rows, cols };
    (spec.bytes() < 1 << 31).then_some(spec)
}

/// Panels of a CTA.
fn panels(spec: &PackSpec) -> u32 {
    COLUMNS / spec.lanes() as u32 * spec.item_panels() as u32
}

/// Whether there is a kernel: a machine with clusters, heads of whole warps that the separate kernel keeps in shared memory in the same
/// way, and panels that divide among the warps.
pub fn supports(target: &Target, op: &DeltaConv, args: &[Type], result: Type) -> bool {
    let Type::Grid { kind: GridKind::Delta, state: (rows, dv), .. } = result else { return false };
    let (dk, dv) = ((rows / args[7].cols().max(1)) as u32, dv as u32);
    let Some(groups) = delta_step::shared_out(target, dk, dv) else { return false };
    let Some(spec) = layout(op, args[3]) else { return false };
    let across = WARPS / Plan::split((spec.cols as u32).div_ceil(BLOCK));
    target.has(Cap::Cluster)
        && [1, 2, 4, 8].contains(&(dv / COLUMNS))
        && dv.is_multiple_of(COLUMNS)
        && groups >= 4
        && COLUMNS.is_multiple_of(spec.lanes() as u32)
        && panels(&spec).is_multiple_of(across)
}

/// The kernel of a delta grid with the convolution inside, and its stores, in decode.
pub fn delta_conv(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    let refuse = |reason: &str| Err(Unsupported::new(cx.graph, grid, reason));
    let args = &cx.graph.node(grid).args;
    let types: Vec<Type> = args.iter().map(|a| cx.graph.ty(*a)).collect();
    let Some(Op::DeltaConv(op)) = cx.graph.op(grid) else { return refuse("expected a convolution inside") };
    if cx.phase != jetbin::Phase::Decode || !supports(&cx.k.target, op, &types, cx.graph.ty(grid)) {
        return refuse("the convolution is a kernel of its own here");
    }
    let (d, k) = (Delta::new(cx, grid, stores)?, cx.k);
    let (Some(spec), Some(groups)) = (layout(op, types[3]), delta_step::shared_out(&k.target, d.dk, d.dv)) else {
        return refuse("the convolution is a kernel of its own here");
    };
    let pushes = stores.iter().copied().filter(|s| cx.pushed(*s).is_some()).collect();
    let segment =
        Segment { spec, weights: vec![args[3]], accs: vec![], stores: vec![], pushes, largest: vec![], first_item: 0 };
    let (plan, pieces) = (Plan::of_row(spec.cols as u32, panels(&spec)), d.dv / COLUMNS);
    let launch = Launch { threads: plan.threads(), ctas: 1, rows: 1 };
    let item = k.launch(Items { fixed: d.heads * pieces, per_row: true }, launch);
    k.cluster(pieces);
    let (group, row) = (item % (d.heads * pieces), item / (d.heads * pieces));
    let (head, first) = (group / pieces, group % pieces * COLUMNS);
    let kernel =
        Kernel { cx, segments: &[segment], k_len: spec.cols as u32, plan, rank: k.index(0), group, first: row };
    let panels = kernel.panels();
    // asked for before anything waits
    let weights = kernel.load(&panels, kernel.first_block(), plan.blocks.1);
    let head = Head::new(&d, (row, head), (first, COLUMNS), groups);
    head.ask();
    let x = Activation::plain(cx, args[2], row, row);
    let sums = kernel.streamed(&panels, &x, weights);
    let shared = k.shared::<F32>(plan.shared() / 4);
    kernel.write(&sums, shared);
    let values = k.shared::<F32>(COLUMNS);
    k.cta().each(COLUMNS, |column| values.at(column).store(value(&kernel, args, op.taps, (column, shared))));
    k.barrier();
    let mine = head.active(k.splat(0.0, 4), || values.at(head.col()).load(4));
    head.step(mine);
    let mut cost = d.cost();
    cost.weight_bytes = spec.bytes() as u64;
    cost.flops += 2 * (spec.rows * spec.cols) as u64;
    Ok(Shape { name: "gated_delta_conv_step", scratch: Scratch::default(), cost })
}

/// The value of a column of this CTA, `silu(conv)`, given the generator's sums; moves the ring there.
fn value<'k>(
    kernel: &Kernel<'_, 'k, '_>,
    args: &[Id],
    taps: usize,
    (column, sums): (V<'k, Index>, Ptr<'k, F32>),
) -> V<'k, F32> {
    let (cx, segment, row) = (kernel.cx, &kernel.segments[0], kernel.first);
    let lanes = segment.spec.lanes() as u32;
    let (local, lane) = (column / lanes, column % lanes);
    let item = kernel.group * (COLUMNS / lanes) + local;
    let first = local * segment.spec.item_slots() as u32 + lane;
    let sums = |slot: u32| kernel.plan.sum(sums, cx.k.index(0), first + slot);
    let x = kernel.accumulators(segment, 0, (item, lane), &sums);
    let bias = cx.vector(x.domain.vector, args[4]);
    let tap = |w: usize| x.vecs[w] + bias.at(x.domain.first + w as u32 * x.domain.step).load(1);
    let at = Row { cx, row, leaf: &|_| None };
    let value = at.convolve((args[5], args[6]), taps, &x.domain.lanes, 1, &|w, _| tap(w))[0].silu();
    segment.pushes.iter().for_each(|p| push_ring(cx, *p, row, &x.domain.lanes, 1));
    value
}
