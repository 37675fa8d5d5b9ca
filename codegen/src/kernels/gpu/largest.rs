//! The largest element of each row of a product, found by the product's own CTAs: each leaves the largest of its columns in memory, and the
//! last one to arrive compares those of all. Which one that is makes no difference, since a comparison rounds nothing.

use super::super::context::Scratch;
use super::super::product::Segment;
use super::gather::{Best, better};
use super::last_to_arrive;
use super::product::Kernel;
use crate::kir::{F32, I32, Index, Operand, Ptr, V, WARP};
use jet_ir::Id;

/// An index that no column has.
const NONE: u32 = i32::MAX as u32;

/// What the CTAs of a product with `ctas` of them for each tile of rows leave for each other.
pub fn scratch(ctas: u32) -> Scratch {
    Scratch { fixed: 0, per_row: 8 * u64::from(ctas) }
}

/// Stores the index of the largest element of each row of a segment's columns as `store`; `values` holds the rows of this CTA, whose first
/// item of the segment is `first`.
pub fn largest<'k>(
    kernel: &Kernel<'_, 'k, '_>,
    (segment, first): (&Segment, V<'k, Index>),
    values: Ptr<'k, F32>,
    store: Id,
) {
    let (cx, k, plan) = (kernel.cx, kernel.cx.k, kernel.plan);
    let (ctas, cta, cols) = (plan.ctas(&segment.spec), first / plan.panels(), segment.spec.rows as u32);
    let base = cx.scratch();
    let part = |row: V<'k, Index>, cta: V<'k, Index>| base.at((row * ctas + cta) * 2u32);
    k.barrier();
    rows(kernel, |token, row| {
        let mine = (0..plan.columns()).step_by(WARP as usize).map(|c| {
            let c = k.warp().rank + c;
            let col = first * segment.spec.item_slots() as u32 + c;
            let exists = col.lt(cols).and(c.lt(plan.columns()));
            let value = plan.sum(values, token, c.imin(plan.columns() - 1)).load(1);
            (exists.select(value, f32::NEG_INFINITY), exists.select(col, NONE.on(k)))
        });
        let (value, index) = of_warp(mine.reduce(better).unwrap_or((f32::NEG_INFINITY.on(k), NONE.on(k))));
        k.warp().leader(|| {
            part(row, cta).store(value);
            part(row, cta).at(1u32).cast::<I32>().store(index.to_i32());
        });
    });
    last_to_arrive(cx, kernel.first / plan.rows(), (ctas - 1).on(k), || {
        rows(kernel, |_, row| {
            let none = (f32::NEG_INFINITY.on(k), NONE.on(k));
            let best = k.warp().fold(ctas, none, |cta, best| {
                let at = part(row, cta);
                better(best, (at.load(1), at.at(1u32).cast::<I32>().load(1).to_index()))
            });
            let (_, index) = of_warp(best);
            k.warp().leader(|| cx.value::<I32>(store).at(row).store(index.to_i32()));
        });
    });
}

/// `body` of the rows of a CTA that exist, a warp for each: the row in the CTA, and of all.
fn rows<'k>(kernel: &Kernel<'_, 'k, '_>, body: impl Fn(V<'k, Index>, V<'k, Index>)) {
    let (cx, k) = (kernel.cx, kernel.cx.k);
    let left = (cx.rows() - kernel.first).imin(kernel.plan.rows());
    k.range(k.warp_id(), left, k.warps(), (), |token, ()| body(token, kernel.first + token));
}

/// The best of a warp's lanes, in every lane.
fn of_warp<'k>(best: Best<'k>) -> Best<'k> {
    let other = |b: Best<'k>, bits: u8| better(b, (b.0.shuffle_xor(bits), b.1.shuffle_xor(bits)));
    [16, 8, 4, 2, 1].into_iter().fold(best, other)
}
