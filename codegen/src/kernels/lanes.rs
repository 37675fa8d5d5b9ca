//! Walks over columns and vectors of which only a part exists.

use super::context::Context;
use crate::kir::{Builder, F32, Index, Operand, Ptr, Stored, V};

/// Covers columns `0..n` from left to right with vectors of the given widths, widest first and 1 last; `body` gets the
/// first column and the width.
pub fn spans<'k>(k: &'k Builder, n: u32, widths: &[u32], body: impl Fn(V<'k, Index>, u16)) {
    let mut from = 0;
    for &width in widths {
        let to = n - (n - from) % width;
        if to == from + width {
            body(from.on(k), width as u16);
        } else {
            k.range(from, to, width, (), |c, ()| body(c, width as u16));
        }
        from = to;
    }
}

/// Widths for [`spans`] that fill registers.
pub fn widths(k: &Builder) -> &'static [u32] {
    if k.target.lanes == 16 { &[16, 8, 1] } else { &[8, 1] }
}

/// Loads `width` elements, of which only `left` exist; the rest is zero.
pub fn load_lanes<'k>(p: Ptr<'k, F32>, width: u16, left: Option<V<'k, Index>>) -> V<'k, F32> {
    let Some(left) = left else { return p.load(width) };
    let k = left.k;
    let each = |i: u16| k.choose(u32::from(i).on(k).lt(left), || p.at(u32::from(i)).load(1), || 0.0f32.on(k));
    let some = || V::pack(&(0..width).map(each).collect::<Vec<_>>());
    k.choose(u32::from(width).on(k).le(left), || p.load(width), some)
}

/// Stores the lanes of `v` that exist.
pub fn store_lanes<'k, E: Stored>(p: Ptr<'k, E>, v: V<'k, E>, left: Option<V<'k, Index>>) {
    let Some(left) = left else { return p.store(v) };
    let k = left.k;
    let one = |i: u16| k.when(u32::from(i).on(k).lt(left), || p.at(u32::from(i)).store(v.lane(i)));
    let some = || (0..v.lanes()).for_each(one);
    k.choose(u32::from(v.lanes()).on(k).le(left), || p.store(v), some);
}

/// Sum of squares of `n` elements, in four vectors to keep the chains short.
pub fn sum_of_squares<'k>(cx: &Context<'k, '_>, from: Ptr<'k, F32>, n: u32) -> V<'k, F32> {
    let k = cx.k;
    let wide = n / 16 * 16;
    let square = |i: V<'k, Index>, lanes: u16, acc: V<'k, F32>| {
        let v = from.at(i).load(lanes);
        v.fma(v, acc)
    };
    let parts = k.range(0u32, wide, 16, k.splat(0.0, 16), |i, acc| square(i, 16, acc));
    let tail = k.range(wide, n, 1, k.splat(0.0, 1), |i, acc| square(i, 1, acc));
    parts.sum_lanes() + tail
}

/// The sum of products of `n` elements.
pub fn dot<'k>(k: &'k Builder, a: Ptr<'k, F32>, b: Ptr<'k, F32>, n: u32) -> V<'k, F32> {
    let whole = n / 16 * 16;
    let step = |i: V<'k, Index>, lanes: u16, sum| a.at(i).load(lanes).fma(b.at(i).load(lanes), sum);
    let wide = k.range(0u32, whole, 16, k.splat(0.0, 16), |i, s| step(i, 16, s));
    let rest = k.range(whole, n, 1, k.splat(0.0, 1), |i, s| step(i, 1, s));
    wide.sum_lanes() + rest
}
