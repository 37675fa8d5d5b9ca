//! Ops in memory that no other kernel absorbed: norms and elementwise maps, one row (or one head of a row) at a time.

use super::context::{Context, Scratch, Shape, Unsupported};
use super::epilogue::{Domain, Fragment, Lanes, Row};
use super::heads::Heads;
use super::input::normalise;
use super::lanes::{spans, sum_of_squares};
use crate::kir::{F32, Index, Items, V};
use crate::pack::{PackSpec, RowOrder};
use jet_ir::{Id, Op, Place};
use jetbin::Cost;

/// A kernel whose items are rows, or `per_row` parts of each row; `body` gets the row and the part.
fn rows<'k>(
    cx: &Context<'k, '_>,
    id: Id,
    name: &'static str,
    per_row: u32,
    body: impl FnOnce(V<'k, Index>, V<'k, Index>),
) -> Shape {
    let (begin, end) = cx.item_range(Items { fixed: per_row, per_row: true });
    cx.k.range(begin, end, 1, (), |item, ()| body(item / per_row, item % per_row));
    let read: usize = cx.graph.node(id).args.iter().map(|a| cx.cols(*a)).sum();
    let act_bytes = 4 * (read + cx.cols(id)) as u64;
    Shape { name, scratch: Scratch::default(), cost: Cost { act_bytes, ..Cost::default() } }
}

/// `x * rsqrt(mean(x^2) + eps) * w`.
pub(crate) fn rms_norm(cx: &Context<'_, '_>, id: Id, eps: f32) -> Shape {
    let (args, n) = (&cx.graph.node(id).args, cx.cols(id) as u32);
    rows(cx, id, "rms_norm", 1, |row, _| {
        let gain = cx.vector(PackSpec::vector(n as usize), args[1]);
        normalise(cx, cx.value::<F32>(args[0]).at(row * n), gain, cx.value::<F32>(id).at(row * n), n, eps);
    })
}

/// Mean of squares.
pub(crate) fn row_ms(cx: &Context<'_, '_>, id: Id) -> Shape {
    let x = cx.graph.node(id).args[0];
    let n = cx.cols(x) as u32;
    rows(cx, id, "row_ms", 1, |row, _| {
        let mean = sum_of_squares(cx, cx.value::<F32>(x).at(row * n), n) * (1.0 / n as f32);
        cx.value::<F32>(id).at(row).store(mean);
    })
}

/// `x * rsqrt(sum(x^2) + eps)` over a head.
pub(crate) fn l2_norm(cx: &Context<'_, '_>, id: Id, head_dim: usize, eps: f32) -> Shape {
    let (x, n, dim) = (cx.graph.node(id).args[0], cx.cols(id) as u32, head_dim as u32);
    rows(cx, id, "l2_norm", n / dim, |row, head| {
        let at = row * n + head * dim;
        let (from, to) = (cx.value::<F32>(x).at(at), cx.value::<F32>(id).at(at));
        let factor = (sum_of_squares(cx, from, dim) + eps).rsqrt();
        spans(cx.k, dim, &[8, 1], |c, lanes| to.at(c).store(from.at(c).load(lanes) * factor.splat(lanes)));
    })
}

/// `o * rsqrt(mean(o^2) + eps) * w * silu(z)` over a head.
pub(crate) fn gated_norm(cx: &Context<'_, '_>, id: Id, head_dim: usize) -> Shape {
    let (o, n, dim) = (cx.graph.node(id).args[0], cx.cols(id) as u32, head_dim as u32);
    let heads = Heads { cx, stores: &[id], cols: n, head_dim: dim };
    rows(cx, id, "gated_norm", n / dim, |row, head| {
        let from = cx.value::<F32>(o).at(row * n + head * dim);
        heads.finish(row, head, &|c, lanes| from.at(c).load(lanes));
    })
}

/// Pairs `(i, i + head_dim / 2)` rotated.
pub(crate) fn rope(cx: &Context<'_, '_>, id: Id, head_dim: usize) -> Shape {
    let (x, n, dim) = (cx.graph.node(id).args[0], cx.cols(id) as u32, head_dim as u32);
    rows(cx, id, "rope", n / dim, |row, head| {
        spans(cx.k, dim / 2, &[4, 1], |c, width| {
            let place = |half: u32| Lanes { col: head * dim + c + half * (dim / 2), left: None };
            let lanes = vec![place(0), place(1)];
            let base = cx.value::<F32>(x).at(row * n);
            let vecs = lanes.iter().map(|l| base.at(l.col).load(width)).collect();
            let vector = PackSpec { order: RowOrder::Rope { head_dim }, ..PackSpec::vector(n as usize) };
            let held = Fragment { vecs, domain: Domain { lanes, width, vector, first: c, step: width.into() } };
            let leaf = |node: Id| (node == x).then(|| held.clone());
            let at = Row { cx, row, leaf: &leaf };
            at.write(id, at.eval(id));
        });
    })
}

/// An elementwise op on tensors in memory.
pub(crate) fn map(cx: &Context<'_, '_>, id: Id) -> Result<Shape, Unsupported> {
    let first = first_in_memory(cx, id)?;
    Ok(rows(cx, id, "map", 1, |row, _| {
        let widths: &[u32] = if matches!(cx.graph.op(id), Some(Op::DynamicConv(_))) { &[1] } else { &[8, 1] };
        spans(cx.k, cx.cols(id) as u32, widths, |col, width| map_columns(cx, id, first, (row, col), width));
    }))
}

/// The first operand of an elementwise op that is a tensor in memory.
pub(super) fn first_in_memory(cx: &Context<'_, '_>, id: Id) -> Result<Id, Unsupported> {
    let first = cx.graph.node(id).args.iter().find(|a| cx.graph.ty(**a).place() == Some(Place::Mem));
    first.copied().ok_or_else(|| Unsupported::new(cx.graph, id, "expected an operand in memory"))
}

/// `width` columns of an elementwise op from `(row, col)` on; of a convolution, one.
pub(super) fn map_columns<'k>(
    cx: &Context<'k, '_>,
    id: Id,
    first: Id,
    (row, col): (V<'k, Index>, V<'k, Index>),
    width: u16,
) {
    let args = &cx.graph.node(id).args;
    let lanes = vec![Lanes { col, left: None }];
    let domain = Domain { lanes, width, vector: PackSpec::vector(cx.cols(id)), first: col, step: width.into() };
    let load = |x: Id| cx.value::<F32>(x).at(row * cx.cols(x) as u32 + col).load(width);
    let leaf = |x: Id| (x == first).then(|| Fragment { vecs: vec![load(x)], domain: domain.clone() });
    let at = Row { cx, row, leaf: &leaf };
    match cx.graph.op(id) {
        Some(Op::DynamicConv(op)) => {
            let kernels = cx.value::<F32>(args[0]).at(row * cx.cols(args[0]) as u32);
            let kernel = |w: usize, _: usize| kernels.at(col * op.taps as u32 + w as u32).load(1);
            let vecs = at.convolve((args[1], args[2]), op.taps, &domain.lanes, 1, &kernel);
            at.write(id, Fragment { vecs, domain: domain.clone() });
        }
        _ => at.write(id, at.eval(id)),
    }
}
