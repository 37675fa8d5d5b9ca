//! The gated delta rule over a chunk of tokens at a time, in matrix form: the state is read and written once for a chunk.
//!
//! With `P[t]` the product of decays from the start of the chunk to token `t`, and `D[t][j]` of those after `j` to `t`,
//!
//!     u[t] = beta[t] (v[t] - P[t] S^T k[t] - sum_{j < t} D[t][j] (k[t] . k[j]) u[j])
//!     o[t] = P[t] S^T q[t] + sum_{j <= t} D[t][j] (q[t] . k[j]) u[j]
//!     S   <- P[n-1] S + sum_j D[n-1][j] k[j] u[j]^T
//!
//! `D` is a product of its factors, never a quotient of two `P` or a difference of logarithms, so that it is right for every
//! decay in `[0, 1]`, however small.

use super::context::{Context, Scratch, Shape};
use super::delta::Delta;
use super::lanes::spans;
use crate::kir::{F32, Index, Items, Operand, Ptr, V};

/// Tokens of a chunk.
const CHUNK: u32 = 32;

/// Where the work of one head lies in scratch memory.
#[derive(Clone, Copy)]
struct Work<'k> {
    /// `[CHUNK][dk]`: normalised and scaled.
    queries: Ptr<'k, F32>,
    /// `[CHUNK][dk]`: normalised.
    keys: Ptr<'k, F32>,
    /// `[CHUNK][CHUNK]`: `D[t][j] k[t] . k[j]`.
    among_keys: Ptr<'k, F32>,
    /// `[CHUNK][CHUNK]`: `D[t][j] q[t] . k[j]`.
    to_queries: Ptr<'k, F32>,
    /// `[CHUNK]`: `P[t]`.
    decays: Ptr<'k, F32>,
    /// `[CHUNK]`: `D[n - 1][j]`.
    to_end: Ptr<'k, F32>,
    /// `[CHUNK][dv]`: `u`.
    learned: Ptr<'k, F32>,
    /// `[CHUNK][dv]`: `o`.
    out: Ptr<'k, F32>,
}

/// Elements of scratch memory.
fn elements(dk: u64, dv: u64) -> u64 {
    let n = u64::from(CHUNK);
    n * (2 * dk + 2 * n + 2 + 2 * dv)
}

/// The kernel of a delta grid over the consecutive tokens of one sequence; items are heads.
pub(super) fn chunked(d: &Delta<'_, '_, '_>) -> Shape {
    let (cx, k) = (d.cx, d.cx.k);
    let (begin, end) = cx.item_range(Items { fixed: d.heads, per_row: false });
    let work = work(cx, d.dk, d.dv);
    k.range(begin, end, 1, (), |head, ()| {
        k.range(0u32, cx.rows(), CHUNK, (), |row, ()| {
            let n = (cx.rows() - row).imin(CHUNK);
            prepare(d, work, row, head, n);
            let state = cx.state(d.state, row).at(head * (d.dk * d.dv));
            spans(k, d.dv, &[16, 4, 1], |c, lanes| columns(d, work, state, (row, head, n), c, lanes));
            k.range(0u32, n, 1, (), |t, ()| {
                let out = work.out.at(t * d.dv);
                d.results().finish(row + t, head, &|c, lanes| out.at(c).load(lanes));
            });
        });
    });
    let fixed = 4 * elements(u64::from(d.dk), u64::from(d.dv));
    Shape { name: "gated_delta_chunked", scratch: Scratch { fixed, per_row: 0 }, cost: d.cost() }
}

fn work<'k>(cx: &Context<'k, '_>, dk: u32, dv: u32) -> Work<'k> {
    let queries = cx.scratch();
    let keys = queries.at(CHUNK * dk);
    let among_keys = keys.at(CHUNK * dk);
    let to_queries = among_keys.at(CHUNK * CHUNK);
    let decays = to_queries.at(CHUNK * CHUNK);
    let to_end = decays.at(CHUNK);
    let learned = to_end.at(CHUNK);
    Work { queries, keys, among_keys, to_queries, decays, to_end, learned, out: learned.at(CHUNK * dv) }
}

/// Everything that does not depend on the columns of the state.
fn prepare<'k>(
    d: &Delta<'_, 'k, '_>,
    w: Work<'k>,
    row: V<'k, Index>,
    head: V<'k, Index>,
    n: V<'k, Index>,
) {
    let k = d.cx.k;
    let one = 1.0f32.on(k);
    k.range(0u32, n, 1, one, |t, product| {
        d.stage(d.operand(0, row + t, head * d.dk), w.queries.at(t * d.dk), true);
        d.stage(d.operand(1, row + t, head * d.dk), w.keys.at(t * d.dk), false);
        let product = product * d.operand(3, row + t, head).load(1);
        w.decays.at(t).store(product);
        product
    });
    k.range(0u32, n, 1, (), |t, ()| {
        let (key, query) = (w.keys.at(t * d.dk), w.queries.at(t * d.dk));
        // from token t back to the first, so that the decay grows by one factor at a time
        k.range(0u32, t + 1u32, 1, one, |back, decay| {
            let j = t - back;
            let other = w.keys.at(j * d.dk);
            w.among_keys.at(t * CHUNK + j).store(dot(d, key, other) * decay);
            w.to_queries.at(t * CHUNK + j).store(dot(d, query, other) * decay);
            w.to_end.at(j).store(decay);
            decay * d.operand(3, row + j, head).load(1)
        });
    });
}

fn dot<'k>(d: &Delta<'_, 'k, '_>, a: Ptr<'k, F32>, b: Ptr<'k, F32>) -> V<'k, F32> {
    let (k, n) = (d.cx.k, d.dk);
    let whole = n / 16 * 16;
    let step = |i: V<'k, Index>, lanes: u16, sum| a.at(i).load(lanes).fma(b.at(i).load(lanes), sum);
    let wide = k.range(0u32, whole, 16, k.splat(0.0, 16), |i, s| step(i, 16, s));
    let rest = k.range(whole, n, 1, k.splat(0.0, 1), |i, s| step(i, 1, s));
    wide.sum_lanes() + rest
}

/// A few columns of the state, of `u` and of `o`.
fn columns<'k>(
    d: &Delta<'_, 'k, '_>,
    w: Work<'k>,
    state: Ptr<'k, F32>,
    (row, head, n): (V<'k, Index>, V<'k, Index>, V<'k, Index>),
    c: V<'k, Index>,
    lanes: u16,
) {
    let (k, zero) = (d.cx.k, d.cx.k.splat(0.0, lanes));
    let old = |i: V<'k, Index>| state.at(i * d.dv + c);
    let learned = |j: V<'k, Index>| w.learned.at(j * d.dv + c);
    k.range(0u32, n, 1, (), |t, ()| {
        let (key, query) = (w.keys.at(t * d.dk), w.queries.at(t * d.dk));
        let [seen, told] = k.range(0u32, d.dk, 1, [zero, zero], |i, [seen, told]| {
            let s = old(i).load(lanes);
            [key.at(i).load_splat(lanes).fma(s, seen), query.at(i).load_splat(lanes).fma(s, told)]
        });
        let decay = w.decays.at(t).load_splat(lanes);
        let (among, to) = (w.among_keys.at(t * CHUNK), w.to_queries.at(t * CHUNK));
        let [seen, told] = k.range(0u32, t, 1, [seen * decay, told * decay], |j, [seen, told]| {
            let u = learned(j).load(lanes);
            [among.at(j).load_splat(lanes).fma(u, seen), to.at(j).load_splat(lanes).fma(u, told)]
        });
        let value = d.operand(2, row + t, head * d.dv).at(c).load(lanes);
        let u = (value - seen) * d.operand(4, row + t, head).load_splat(lanes);
        learned(t).store(u);
        w.out.at(t * d.dv + c).store(to.at(t).load_splat(lanes).fma(u, told));
    });
    let decay = w.decays.at(n - 1u32).load_splat(lanes);
    k.range(0u32, n, 1, (), |j, ()| {
        learned(j).store(learned(j).load(lanes) * w.to_end.at(j).load_splat(lanes));
    });
    k.range(0u32, d.dk, 1, (), |i, ()| {
        let start = old(i).load(lanes) * decay;
        let new = k.range(0u32, n, 1, start, |j, s| w.keys.at(j * d.dk + i).load_splat(lanes).fma(learned(j).load(lanes), s));
        old(i).store(new);
    });
}
