//! Sums of squares of the panels of a row, which products behind a norm make its factor of. Every producer of rows adds in the same order.

use super::super::context::Context;
use crate::kir::{F32, Index, Ptr, V};
use crate::pack::PANEL;
use jet_ir::ops::StoreSquares;
use jet_ir::{Id, Op};

/// The store of sums of squares among `stores`.
pub fn store_of(cx: &Context<'_, '_>, stores: &[Id]) -> Option<Id> {
    stores.iter().copied().find(|id| matches!(cx.graph.op(*id), Some(Op::StoreSquares(_))))
}

/// Whether a store of sums of squares of `columns` columns is one of whole panels, fours of whose columns lie together.
pub fn of_panels(cx: &Context<'_, '_>, store: Id, columns: u32) -> bool {
    cx.graph.op(store) == Some(&Op::StoreSquares(StoreSquares { width: PANEL })) && columns.is_multiple_of(4)
}

/// Stores the sum of panel `part` of row `row` as `store`; the squares of four columns of the panel lie at `squares(column)`.
pub fn put<'k>(
    cx: &Context<'k, '_>,
    store: Id,
    (row, part): (V<'k, Index>, V<'k, Index>),
    columns: u32,
    squares: impl Fn(V<'k, Index>) -> Ptr<'k, F32>,
) {
    let (k, panel) = (cx.k, PANEL as u32);
    let left = (part * panel + panel).imin(columns) - part * panel;
    let sum = k.range(0u32, left, 4, k.splat(0.0, 4), |c, sum| sum + squares(c).load(4));
    cx.value::<F32>(store).at(row * cx.cols(store) as u32 + part).store(sum.sum_lanes());
}
