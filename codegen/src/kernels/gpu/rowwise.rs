//! Ops in memory that no other kernel absorbed: norms and elementwise maps, one CTA for a row or a head of it.

use super::super::context::{Context, Scratch, Shape, Unsupported};
use super::super::epilogue::{Domain, Fragment, Lanes, Row};
use super::super::heads::Heads;
use super::super::rowwise::{first_in_memory, map_columns};
use super::operand::sum_of_squares;
use super::{each_row, threads_for};
use crate::kir::{F32, Index, Operand, Ptr, V, WARP};
use crate::pack::{PackSpec, RowOrder};
use jet_ir::Id;
use jetbin::Cost;

fn shape(cx: &Context<'_, '_>, id: Id, name: &'static str) -> Shape {
    let read: usize = cx.graph.node(id).args.iter().map(|a| cx.cols(*a)).sum();
    let act_bytes = 4 * (read + cx.cols(id)) as u64;
    Shape { name, scratch: Scratch::default(), cost: Cost { act_bytes, ..Cost::default() } }
}

/// Mean of squares of `n` elements by all threads, in every thread.
fn mean_of_squares<'k>(cx: &Context<'k, '_>, from: Ptr<'k, F32>, n: u32) -> V<'k, F32> {
    let square = |i: V<'k, Index>, sum| {
        let x = from.at(i).load(1);
        x.fma(x, sum)
    };
    let cta = cx.k.cta();
    cta.sum(cta.fold(n, 0.0f32.on(cx.k), square)) * (1.0 / n as f32)
}

/// `x * rsqrt(mean(x^2) + eps) * w`.
pub fn rms_norm(cx: &Context<'_, '_>, id: Id, eps: f32) -> Shape {
    let (args, n) = (&cx.graph.node(id).args, cx.cols(id) as u32);
    let (row, _) = each_row(cx, 1, threads_for(n, 256));
    let (from, to) = (cx.value::<F32>(args[0]).at(row * n), cx.value::<F32>(id).at(row * n));
    let gain = cx.vector(PackSpec::vector(n as usize), args[1]);
    let factor = (mean_of_squares(cx, from, n) + eps).rsqrt();
    cx.k.cta().each(n, |i| to.at(i).store(from.at(i).load(1) * factor * gain.at(i).load(1)));
    shape(cx, id, "rms_norm")
}

/// Mean of squares.
pub fn row_ms(cx: &Context<'_, '_>, id: Id) -> Shape {
    let x = cx.graph.node(id).args[0];
    let n = cx.cols(x) as u32;
    let (row, _) = each_row(cx, 1, threads_for(n, 256));
    let mean = mean_of_squares(cx, cx.value::<F32>(x).at(row * n), n);
    cx.k.cta().leader(|| cx.value::<F32>(id).at(row).store(mean));
    shape(cx, id, "row_ms")
}

/// `x * rsqrt(sum(x^2) + eps)` over a head, a warp for each.
pub fn l2_norm(cx: &Context<'_, '_>, id: Id, head_dim: usize, eps: f32) -> Shape {
    let (x, n, dim) = (cx.graph.node(id).args[0], cx.cols(id) as u32, head_dim as u32);
    let (row, head) = each_row(cx, n / dim, WARP);
    let at = row * n + head * dim;
    let (from, to) = (cx.value::<F32>(x).at(at), cx.value::<F32>(id).at(at));
    let factor = (sum_of_squares(cx, from, dim) + eps).rsqrt();
    cx.k.cta().each(dim, |i| to.at(i).store(from.at(i).load(1) * factor));
    shape(cx, id, "l2_norm")
}

/// `o * rsqrt(mean(o^2) + eps) * w * silu(z)` over a head, a warp for each.
pub fn gated_norm(cx: &Context<'_, '_>, id: Id, head_dim: usize) -> Result<Shape, Unsupported> {
    let (o, n, dim) = (cx.graph.node(id).args[0], cx.cols(id) as u32, head_dim as u32);
    let heads = Heads { cx, stores: &[id], cols: n, head_dim: dim };
    let Some(eps) = heads.gated_norm(id) else {
        return Err(Unsupported::new(cx.graph, id, "expected a gated norm"));
    };
    let (row, head) = each_row(cx, n / dim, WARP);
    let from = cx.value::<F32>(o).at(row * n + head * dim);
    let factor = (sum_of_squares(cx, from, dim) * (1.0 / dim as f32) + eps).rsqrt();
    cx.k.cta().each(dim, |c| heads.store_columns(id, (row, head, c), Some(factor), from.at(c).load(1)));
    Ok(shape(cx, id, "gated_norm"))
}

/// Pairs `(i, i + head_dim / 2)` rotated.
pub fn rope(cx: &Context<'_, '_>, id: Id, head_dim: usize) -> Shape {
    let (x, n, half) = (cx.graph.node(id).args[0], cx.cols(id) as u32, (head_dim / 2) as u32);
    let (row, _) = each_row(cx, 1, threads_for(n / 2, 256));
    let base = cx.value::<F32>(x).at(row * n);
    cx.k.cta().each(n / 2, |pair| {
        let low = pair / half * head_dim as u32 + pair % half;
        let lanes: Vec<_> = [low, low + half].into_iter().map(|col| Lanes { col, left: None }).collect();
        let vecs = lanes.iter().map(|l| base.at(l.col).load(1)).collect();
        let vector = PackSpec { order: RowOrder::Rope { head_dim }, ..PackSpec::vector(n as usize) };
        let held = Fragment { vecs, domain: Domain { lanes, width: 1, vector, first: low, step: 1 } };
        let leaf = |node: Id| (node == x).then(|| held.clone());
        let at = Row { cx, row, leaf: &leaf };
        at.write(id, at.eval(id));
    });
    shape(cx, id, "rope")
}

/// An elementwise op on tensors in memory.
pub fn map(cx: &Context<'_, '_>, id: Id) -> Result<Shape, Unsupported> {
    let (first, n) = (first_in_memory(cx, id)?, cx.cols(id) as u32);
    let (row, _) = each_row(cx, 1, threads_for(n, 256));
    cx.k.cta().each(n, |col| map_columns(cx, id, first, (row, col), 1));
    Ok(shape(cx, id, "map"))
}
