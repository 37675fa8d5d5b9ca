//! The gated delta rule over a chunk of tokens at a time, in matrix form: the state is read and written once for a
//! chunk.
//!
//! With `P[t]` the product of decays from the start of the chunk to token `t`, and `D[t][j]` of those after `j` to `t`,
//!
//! ```text
//! u[t] = beta[t] (v[t] - P[t] S^T k[t] - sum_{j < t} D[t][j] (k[t] . k[j]) u[j])
//! o[t] = P[t] S^T q[t] + sum_{j <= t} D[t][j] (q[t] . k[j]) u[j]
//! S   <- P[n-1] S + sum_j D[n-1][j] k[j] u[j]^T
//! ```
//!
//! `D` is a product of its factors, never a quotient of two `P` or a difference of logarithms, so that it is right for
//! every decay in `[0, 1]`, however small.

use super::context::{Context, Scratch, Shape};
use super::delta::Delta;
use super::lanes::{dot, load_lanes, store_lanes};
use super::tile::Product;
use crate::kir::{F32, Index, Items, Operand, Ptr, V};
use crate::pack::PANEL;
use jet_ir::Elem;

/// Tokens of a chunk.
const CHUNK: u32 = 32;
/// Columns of the state at work: a panel of the products.
const WIDE: u32 = PANEL as u32;

/// Where the work of one head lies in scratch memory. What rows or columns beyond the last token hold is zero where a
/// product reads it.
#[derive(Clone, Copy)]
struct Work<'k> {
    /// `[CHUNK][dk]`: normalised.
    keys: Ptr<'k, F32>,
    /// `[CHUNK][dk]`, right after the keys: normalised and scaled.
    queries: Ptr<'k, F32>,
    /// `[dk][CHUNK]`: `D[n - 1][j] k[j]`.
    keys_at_end: Ptr<'k, F32>,
    /// `[CHUNK][CHUNK]`: `D[t][j] k[t] . k[j]`.
    among_keys: Ptr<'k, F32>,
    /// `[CHUNK][CHUNK]`: `D[t][j] q[t] . k[j]`.
    to_queries: Ptr<'k, F32>,
    /// `[CHUNK]`: `P[t]`.
    decays: Ptr<'k, F32>,
    /// `[CHUNK]`: `D[n - 1][j]`.
    to_end: Ptr<'k, F32>,
    /// `[CHUNK][dv]`: `o`.
    out: Ptr<'k, F32>,
    /// `[dk][WIDE]`: columns of the state.
    state: Ptr<'k, F32>,
    /// `[CHUNK][WIDE]`: `S^T k[t]`.
    seen: Ptr<'k, F32>,
    /// `[CHUNK][WIDE]`, right after `seen`: `S^T q[t]`.
    told: Ptr<'k, F32>,
    /// `[CHUNK][WIDE]`: `u`.
    learned: Ptr<'k, F32>,
    /// `[max(CHUNK, dk)][WIDE]`: sums over the tokens of the chunk.
    sums: Ptr<'k, F32>,
}

/// Elements of the parts of [`Work`], in their order.
fn sizes(dk: u32, dv: u32) -> [u32; 13] {
    let (square, block) = (CHUNK * CHUNK, CHUNK * WIDE);
    let key = CHUNK * dk;
    [key, key, key, square, square, CHUNK, CHUNK, CHUNK * dv, dk * WIDE, block, block, block, CHUNK.max(dk) * WIDE]
}

fn work<'k>(cx: &Context<'k, '_>, dk: u32, dv: u32) -> Work<'k> {
    let mut next = cx.scratch();
    let parts = sizes(dk, dv).map(|n| {
        let here = next;
        next = next.at(n);
        here
    });
    let [keys, queries, keys_at_end, among_keys, to_queries, decays, to_end, out, state, seen, told, learned, sums] =
        parts;
    Work { keys, queries, keys_at_end, among_keys, to_queries, decays, to_end, out, state, seen, told, learned, sums }
}

/// The tokens of one chunk for one head.
#[derive(Clone, Copy)]
struct Chunk<'a, 'k, 'g> {
    d: &'a Delta<'a, 'k, 'g>,
    work: Work<'k>,
    head: V<'k, Index>,
    /// Row of the first token.
    row: V<'k, Index>,
    /// Number of tokens, at most [`CHUNK`].
    n: V<'k, Index>,
}

/// The kernel of a delta grid over the consecutive tokens of one sequence; items are heads.
pub(super) fn chunked(d: &Delta<'_, '_, '_>) -> Shape {
    let (cx, k) = (d.cx, d.cx.k);
    let (begin, end) = cx.item_range(Items { fixed: d.heads, per_row: false });
    let work = work(cx, d.dk, d.dv);
    k.range(begin, end, 1, (), |head, ()| {
        k.range(0u32, cx.rows(), CHUNK, (), |row, ()| {
            let n = (cx.rows() - row).imin(CHUNK);
            let chunk = Chunk { d, work, head, row, n };
            chunk.stage();
            chunk.correlate();
            k.range(0u32, d.dv, WIDE, (), |c, ()| chunk.columns(c));
            k.range(0u32, n, 1, (), |t, ()| {
                let out = work.out.at(t * d.dv);
                d.results().finish(row + t, head, &|c, lanes| out.at(c).load(lanes));
            });
        });
    });
    let fixed = 4 * sizes(d.dk, d.dv).iter().map(|n| u64::from(*n)).sum::<u64>();
    Shape { name: "gated_delta_chunked", scratch: Scratch { fixed, per_row: 0 }, cost: d.cost() }
}

impl<'k> Chunk<'_, 'k, '_> {
    /// Normalised keys and queries, and `P`.
    fn stage(&self) {
        let (d, w) = (self.d, self.work);
        d.cx.k.range(0u32, self.n, 1, 1.0f32.on(d.cx.k), |t, product| {
            d.stage(d.operand(0, self.row + t, self.head * d.dk), w.queries.at(t * d.dk), true);
            d.stage(d.operand(1, self.row + t, self.head * d.dk), w.keys.at(t * d.dk), false);
            let product = product * d.operand(3, self.row + t, self.head).load(1);
            w.decays.at(t).store(product);
            product
        });
    }

    /// What the tokens of the chunk have to do with each other.
    fn correlate(&self) {
        let (d, w, k) = (self.d, self.work, self.d.cx.k);
        k.range(0u32, self.n, 1, (), |t, ()| {
            let (key, query) = (w.keys.at(t * d.dk), w.queries.at(t * d.dk));
            // from token t back to the first, so that the decay grows by one factor at a time
            k.range(0u32, t + 1u32, 1, 1.0f32.on(k), |back, decay| {
                let j = t - back;
                let other = w.keys.at(j * d.dk);
                w.among_keys.at(t * CHUNK + j).store(dot(k, key, other, d.dk) * decay);
                w.to_queries.at(t * CHUNK + j).store(dot(k, query, other, d.dk) * decay);
                w.to_end.at(j).store(decay);
                decay * d.operand(3, self.row + j, self.head).load(1)
            });
            k.range(t + 1u32, CHUNK, 1, (), |j, ()| w.to_queries.at(t * CHUNK + j).store(0.0));
        });
        // the last token wrote `to_end`
        k.range(0u32, d.dk, 1, (), |i, ()| {
            let at_end = |j: V<'k, Index>| w.keys.at(j * d.dk + i).load(1) * w.to_end.at(j).load(1);
            k.range(0u32, self.n, 1, (), |j, ()| w.keys_at_end.at(i * CHUNK + j).store(at_end(j)));
            k.range(self.n, CHUNK, 1, (), |j, ()| w.keys_at_end.at(i * CHUNK + j).store(0.0));
        });
    }

    /// Columns of a block that are worked on at once: a register, or four where some columns of a block may not exist.
    fn width(&self) -> u16 {
        if self.d.dv.is_multiple_of(WIDE) { self.d.cx.k.target.lanes } else { 4 }
    }

    /// The columns of a block that exist, as many at a time: column in the block, and how many of them if not all.
    fn parts(&self, c: V<'k, Index>) -> Vec<(u32, Option<V<'k, Index>>)> {
        let dv = self.d.dv;
        let left = |v: u32| (!dv.is_multiple_of(WIDE)).then(|| dv.on(c.k) - c - v);
        (0..WIDE).step_by(self.width().into()).map(|v| (v, left(v))).collect()
    }

    /// `[x][WIDE]` sums for `rows` rows of `x`.
    fn product(&self, panel: Ptr<'k, F32>, x: Ptr<'k, F32>, k_len: u32, out: Ptr<'k, F32>, rows: V<'k, Index>) {
        Product { elem: Elem::F32, panel, x, k_len, out, stride: WIDE }.emit_rows(self.d.cx.k, rows);
    }

    /// One block of columns of the state, of `u` and of `o`.
    fn columns(&self, c: V<'k, Index>) {
        let (d, w, k) = (self.d, self.work, self.d.cx.k);
        let state = d.cx.state::<F32>(d.state, self.row).at(self.head * (d.dk * d.dv) + c);
        let (width, parts) = (self.width(), self.parts(c));
        k.range(0u32, d.dk, 1, (), |i, ()| {
            parts.iter().for_each(|(v, left)| {
                w.state.at(i * WIDE + *v).store(load_lanes(state.at(i * d.dv + *v), width, *left));
            });
        });
        k.range(0u32, 2u32, 1, (), |which, ()| {
            let (x, out) = (w.keys.at(which * (CHUNK * d.dk)), w.seen.at(which * (CHUNK * WIDE)));
            self.product(w.state, x, d.dk, out, self.n);
        });
        self.learn(c);
        self.product(w.learned, w.to_queries, CHUNK, w.sums, self.n);
        k.range(0u32, self.n, 1, (), |t, ()| {
            let decay = w.decays.at(t).load_splat(width);
            parts.iter().for_each(|(v, left)| {
                let at = t * WIDE + *v;
                let o = w.told.at(at).load(width).fma(decay, w.sums.at(at).load(width));
                store_lanes(w.out.at(t * d.dv + c + *v), o, *left);
            });
        });
        self.product(w.learned, w.keys_at_end, CHUNK, w.sums, d.dk.on(k));
        let decay = w.decays.at(self.n - 1u32).load_splat(width);
        k.range(0u32, d.dk, 1, (), |i, ()| {
            parts.iter().for_each(|(v, left)| {
                let at = i * WIDE + *v;
                store_lanes(
                    state.at(i * d.dv + *v),
                    w.state.at(at).load(width).fma(decay, w.sums.at(at).load(width)),
                    *left,
                );
            });
        });
    }

    /// `u`, token by token: each depends on those before it.
    fn learn(&self, c: V<'k, Index>) {
        let (d, w, k) = (self.d, self.work, self.d.cx.k);
        let (width, parts) = (self.width(), self.parts(c));
        k.range(0u32, self.n, 1, (), |t, ()| {
            let decay = w.decays.at(t).load_splat(width);
            let start = parts.iter().map(|(v, _)| w.seen.at(t * WIDE + *v).load(width) * decay).collect::<Vec<_>>();
            let among = w.among_keys.at(t * CHUNK);
            let seen = k.range(0u32, t, 1, start, |j, seen| {
                let factor = among.at(j).load_splat(width);
                let u = |v: u32| w.learned.at(j * WIDE + v).load(width);
                parts.iter().zip(seen).map(|((v, _), seen)| u(*v).fma(factor, seen)).collect()
            });
            let beta = d.operand(4, self.row + t, self.head).load_splat(width);
            let value = d.operand(2, self.row + t, self.head * d.dv).at(c);
            for ((v, left), seen) in parts.iter().zip(seen) {
                w.learned.at(t * WIDE + *v).store((load_lanes(value.at(*v), width, *left) - seen) * beta);
            }
        });
        k.range(self.n * WIDE, CHUNK * WIDE, width.into(), (), |i, ()| w.learned.at(i).store(k.splat(0.0, width)));
    }
}
