//! Attention of one row in parts: more items of work than key-value heads, and what makes one result of them.
//!
//! A part sees every so many blocks of positions, with the online softmax of [`super::attention`]; the merge goes through the parts in order.
//! Neither depends on threads, and of keys on nothing but their positions.

use super::attention::{Attention, LOWEST};
use super::context::{Context, Scratch, Shape, Unsupported};
use super::heads::Heads;
use super::lanes::spans;
use crate::kir::{F32, Index, Items, Operand, V};
use jet_ir::{Id, Op};
use jetbin::Cost;

/// Neighbouring items take parts that are this far apart, an odd number: where a sequence fills the first parts only, threads that
/// share the items evenly share these too.
const APART: u32 = 13;

/// Elements of a part of a head: its sums, its largest score, its sum of weights.
fn width(head_dim: u32) -> u32 {
    head_dim + 2
}

/// The kernel of `attention_parts`; items are parts of key-value heads of rows.
pub(crate) fn attention_parts(cx: &Context<'_, '_>, id: Id) -> Result<Shape, Unsupported> {
    let a = Attention::new(cx, id)?;
    let Some(Op::AttentionParts(op)) = cx.graph.op(id) else {
        return Err(Unsupported::new(cx.graph, id, "expected parts of attention"));
    };
    let (Ok(parts), Ok(block)) = (u32::try_from(op.parts), u32::try_from(op.block)) else {
        return Err(Unsupported::new(cx.graph, id, "parts or block is too large"));
    };
    if !parts.is_power_of_two() || parts > 1 << 10 || block > 1 << 20 {
        let reason =
            format!("found {parts} parts of blocks of {block}, expected a power of two up to 1024 of up to 2^20");
        return Err(Unsupported::new(cx.graph, id, reason));
    }
    let items = a.kv_heads * parts;
    let (begin, end) = cx.item_range(Items { fixed: items, per_row: true });
    cx.k.range(begin, end, 1, (), |item, ()| {
        let (row, kv_head) = (item / items, item % items / parts);
        part(&a, id, (row, kv_head), item % parts * APART % parts, (parts, block));
    });
    let cost = Cost { act_bytes: a.cost().act_bytes / 2 + 4 * cx.cols(id) as u64, ..a.cost() };
    Ok(Shape { name: "attention_parts", scratch: Scratch { fixed: a.work_bytes(), per_row: 0 }, cost })
}

/// Part `part` of the query heads of a key-value head.
fn part<'k>(
    a: &Attention<'_, 'k, '_>,
    id: Id,
    (row, kv_head): (V<'k, Index>, V<'k, Index>),
    part: V<'k, Index>,
    (parts, block): (u32, u32),
) {
    let (cx, k, dim, work) = (a.cx, a.cx.k, a.head_dim, a.start());
    let position = cx.position(row);
    let (first, end) = (a.first_key(position), position + 1u32);
    // blocks are counted from position 0, so that a key stays in its part whatever is seen
    let (stride, own) = (parts * block, part * block);
    let from = first / stride * stride + own;
    k.range(from, end, stride, (), |at, ()| {
        let (start, stop) = (at.imax(first), (at + block).imin(end));
        k.when(start.lt(stop), || a.add((row, kv_head), (start, stop), work));
    });
    let heads = a.kv_heads * a.group;
    k.range(0u32, a.group, 1, (), |g, ()| {
        let head = part * heads + kv_head * a.group + g;
        let out = cx.value::<F32>(id).at(row * cx.cols(id) as u32 + head * width(dim));
        spans(k, dim, &[8, 1], |c, lanes| out.at(c).store(work.sums.at(g * dim + c).load(lanes)));
        out.at(dim).store(work.largest.at(g).load(1));
        out.at(dim + 1).store(work.totals.at(g).load(1));
    });
}

/// The kernel of an `attention_merge` grid with its stores; items are heads of rows.
pub(crate) fn attention_merge<'k>(cx: &Context<'k, '_>, grid: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    let Some(Op::AttentionMerge(op)) = cx.graph.op(grid) else {
        return Err(Unsupported::new(cx.graph, grid, "expected a merge of parts of attention"));
    };
    let (k, cols) = (cx.k, cx.cols(grid) as u32);
    let (dim, parts) = (op.head_dim as u32, op.parts as u32);
    let (n_heads, from) = (cols / dim, cx.graph.node(grid).args[0]);
    let heads = Heads { cx, stores, cols, head_dim: dim };
    let (begin, end) = cx.item_range(Items { fixed: n_heads, per_row: true });
    let sums = cx.scratch();
    k.range(begin, end, 1, (), |item, ()| {
        let (row, head) = (item / n_heads, item % n_heads);
        let part =
            |p: V<'k, Index>| cx.value::<F32>(from).at(row * cx.cols(from) as u32 + (p * n_heads + head) * width(dim));
        let top = k.range(0u32, parts, 1, LOWEST.on(k), |p, top| top.max(part(p).at(dim).load(1)));
        spans(k, dim, &[8, 1], |c, lanes| sums.at(c).store(k.splat(0.0, lanes)));
        let total = k.range(0u32, parts, 1, 0.0.on(k), |p, total| {
            let part = part(p);
            let (scale, here) = ((part.at(dim).load(1) - top).exp(), part.at(dim + 1).load(1));
            k.when(0.0.on(k).lt(here), || {
                spans(k, dim, &[8, 1], |c, lanes| {
                    let sum = part.at(c).load(lanes).fma(scale.splat(lanes), sums.at(c).load(lanes));
                    sums.at(c).store(sum);
                });
            });
            here.fma(scale, total)
        });
        heads.finish(row, head, &|c, lanes| sums.at(c).load(lanes) / total.splat(lanes));
    });
    let (read, made) = (cx.cols(from) as u64, u64::from(cols));
    let cost = Cost { weight_bytes: 0, state_bytes: 0, act_bytes: 4 * (read + made), flops: 2 * read };
    Ok(Shape { name: "attention_merge", scratch: Scratch { fixed: 4 * u64::from(dim), per_row: 0 }, cost })
}
