//! Causal attention over the key-value cache of a sequence: one CTA for a few rows and the query heads of one key-value
//! head, with the online softmax.
//!
//! Keys come in blocks. A thread computes the scores of one key for every query, a warp the weights of every fourth query,
//! a thread the weighted sums of one column of the values. Position `p` lies in cache row `p % capacity`.

use super::super::attention::{Attention, LOWEST};
use super::super::context::{Context, Scratch, Shape, Unsupported};
use super::super::heads::Heads;
use super::{flash, split};
use crate::kir::{Bf16, F32, Index, Items, Launch, Operand, Ptr, STATIC_SHARED, V, WARP};
use jet_ir::Id;
use jetbin::Phase;

/// Threads of a CTA: the keys of a block.
const THREADS: u32 = 128;
/// Warps of a CTA.
const WARPS: u32 = THREADS / WARP;
/// Queries of a CTA that rows are added up to.
const QUERIES: u32 = 16;
/// Sums that a thread has registers for.
const MOST_SUMS: u32 = 64;

/// Memory that the threads of a CTA share.
#[derive(Clone, Copy)]
struct Work<'k> {
    /// `[queries][head_dim]`.
    queries: Ptr<'k, F32>,
    /// `[queries][THREADS]`: scores, then weights.
    scores: Ptr<'k, F32>,
    /// `[queries]`: factor for earlier sums, at last the sum of weights.
    scale: Ptr<'k, F32>,
}

/// One CTA's part of an attention grid.
struct Cta<'a, 'k, 'g> {
    a: &'a Attention<'a, 'k, 'g>,
    work: Work<'k>,
    /// Rows, and the first of them.
    rows: u32,
    first: V<'k, Index>,
    kv_head: V<'k, Index>,
}

/// The kernel of an attention grid with its stores.
pub fn attention(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    let a = Attention::new(cx, grid)?;
    if flash::supports(&a) {
        return Ok(flash::flash(&a, stores));
    }
    if split::supports(&a) {
        return Ok(split::split(&a, stores));
    }
    let rows = if cx.phase == Phase::Prefill { (QUERIES / a.group).max(1) } else { 1 };
    let queries = rows * a.group;
    let padded = queries.next_multiple_of(WARPS);
    let shared = 4 * (queries * a.head_dim + padded * THREADS + padded);
    if shared > STATIC_SHARED || queries * a.head_dim.div_ceil(THREADS) > MOST_SUMS {
        let reason = format!("{} query heads of {} for one key-value head are too many", a.group, a.head_dim);
        return Err(Unsupported::new(cx.graph, grid, reason));
    }
    let launch = Launch { threads: THREADS, ctas: 2, rows };
    let item = cx.k.launch(Items { fixed: a.kv_heads, per_row: true }, launch);
    let work = Work {
        queries: cx.k.shared(queries * a.head_dim),
        scores: cx.k.shared(padded * THREADS),
        scale: cx.k.shared(padded),
    };
    let cta = Cta { a: &a, work, rows, first: item / a.kv_heads * rows, kv_head: item % a.kv_heads };
    cta.run(&Heads { cx, stores, cols: a.kv_heads * a.group * a.head_dim, head_dim: a.head_dim });
    Ok(Shape { name: "attention_blocks", scratch: Scratch::default(), cost: a.cost() })
}

/// Largest score and sum of weights of the queries of a warp.
type Softmax<'k> = Vec<(V<'k, F32>, V<'k, F32>)>;

impl<'k> Cta<'_, 'k, '_> {
    fn queries(&self) -> u32 {
        self.rows * self.a.group
    }

    /// Row `r` of the CTA; of those beyond the last, that one.
    fn row(&self, r: u32) -> V<'k, Index> {
        (self.first + r).imin(self.a.cx.rows() - 1u32)
    }

    fn run(&self, heads: &Heads<'_, 'k, '_>) {
        let (k, a, work) = (self.a.cx.k, self.a, self.work);
        self.stage();
        let begin = a.first_key(a.cx.position(self.row(0)));
        let end = a.cx.position(self.row(self.rows - 1)) + 1u32;
        let turns = a.head_dim.div_ceil(THREADS);
        let sums = vec![0.0f32.on(k); (self.queries() * turns) as usize];
        let softmax: Softmax<'k> = (0..self.queries().div_ceil(WARPS)).map(|_| (LOWEST.on(k), 0.0f32.on(k))).collect();
        let (sums, softmax) = k.range(begin, end, THREADS, (sums, softmax), |p, (sums, softmax)| {
            self.score(p, end);
            k.barrier();
            let softmax = self.weigh(softmax);
            k.barrier();
            let sums = self.add(p, end, sums);
            k.barrier();
            (sums, softmax)
        });
        for (i, (_, total)) in (0..).zip(&softmax) {
            k.warp().leader(|| work.scale.at(self.query(i)).store(*total));
        }
        k.barrier();
        for (i, sum) in (0..).zip(&sums) {
            let (query, c) = (i / turns, k.thread() + i % turns * THREADS);
            let (r, g) = (query / a.group, query % a.group);
            let row = self.first + r;
            let exists = c.lt(a.head_dim).and(row.lt(a.cx.rows()));
            k.when(exists, || {
                let out = *sum / work.scale.at(query).load(1);
                for store in heads.stored() {
                    heads.store_columns(store, (row, self.kv_head * a.group + g, c), None, out);
                }
            });
        }
    }

    /// Query `i` of those of this warp.
    fn query(&self, i: u32) -> V<'k, Index> {
        self.a.cx.k.warp_id() + i * WARPS
    }

    /// The queries, scaled, and scores for those that only fill up a warp's share.
    fn stage(&self) {
        let (k, a, work) = (self.a.cx.k, self.a, self.work);
        let cols = a.kv_heads * a.group * a.head_dim;
        let scale = f64::from(a.head_dim).powf(-0.5) as f32;
        for r in 0..self.rows {
            let from = a.cx.value::<F32>(a.query).at(self.row(r) * cols + self.kv_head * (a.group * a.head_dim));
            let to = work.queries.at(r * a.group * a.head_dim);
            k.cta().each(a.group * a.head_dim, |i| to.at(i).store(from.at(i).load(1) * scale));
        }
        for query in self.queries()..self.queries().next_multiple_of(WARPS) {
            work.scores.at(k.thread() + query * THREADS).store(LOWEST);
        }
        k.barrier();
    }

    /// A cache at the row of position `p`; of positions from `end` on, the one before.
    fn cached(&self, leaf: Id, p: V<'k, Index>, end: V<'k, Index>) -> Ptr<'k, Bf16> {
        let (a, cx) = (self.a, self.a.cx);
        let row = p.imin(end - 1u32) % cx.state_rows(leaf);
        let at = row * (a.kv_heads * a.head_dim) + self.kv_head * a.head_dim;
        let promised = if a.head_dim.is_multiple_of(4) { 8 } else { 2 };
        cx.state::<Bf16>(leaf, self.row(0)).aligned(promised).at(at)
    }

    /// The scores of the key of this thread; of keys that a row does not see, the lowest.
    fn score(&self, p: V<'k, Index>, end: V<'k, Index>) {
        let (k, a, work) = (self.a.cx.k, self.a, self.work);
        let p = p + k.thread();
        let keys = self.cached(a.keys, p, end);
        let width: u16 = if a.head_dim.is_multiple_of(4) { 4 } else { 1 };
        let zeros = vec![0.0f32.on(k); self.queries() as usize];
        let scores = k.range(0u32, a.head_dim, width.into(), zeros, |d, scores| {
            let key = keys.at(d).load(width).widen();
            let one = |(query, score): (u32, V<'k, F32>)| {
                let q = work.queries.at(d + query * a.head_dim).load(width);
                (0..width).fold(score, |score, lane| key.lane(lane).fma(q.lane(lane), score))
            };
            (0..).zip(scores).map(one).collect()
        });
        for (query, score) in (0..).zip(scores) {
            let position = a.cx.position(self.row(query / a.group));
            let seen = a.first_key(position).le(p).and(p.le(position));
            work.scores.at(k.thread() + query * THREADS).store(seen.select(score, LOWEST));
        }
    }

    /// Turns scores into weights, zero for keys that do not count.
    fn weigh(&self, before: Softmax<'k>) -> Softmax<'k> {
        let (k, work, lane) = (self.a.cx.k, self.work, self.a.cx.k.warp().rank);
        let weigh = |(i, (largest, total)): (u32, (V<'k, F32>, V<'k, F32>))| {
            let query = self.query(i);
            let mine = work.scores.at(query * THREADS + lane * (THREADS / WARP));
            let scores = mine.load((THREADS / WARP) as u16);
            let top = k.warp().max(scores.max_lanes()).max(largest);
            let low = scores.equals(k.splat(LOWEST, scores.lanes()));
            let weights = low.select(k.splat(0.0, scores.lanes()), (scores - top.splat(scores.lanes())).exp());
            mine.store(weights);
            let scale = (largest - top).exp();
            k.warp().leader(|| work.scale.at(query).store(scale));
            (top, total.fma(scale, k.warp().sum(weights.sum_lanes())))
        };
        (0..).zip(before).map(weigh).collect()
    }

    /// Adds the weighted values of a block.
    fn add(&self, p: V<'k, Index>, end: V<'k, Index>, sums: Vec<V<'k, F32>>) -> Vec<V<'k, F32>> {
        const STEP: u32 = 4;
        let (k, a, work) = (self.a.cx.k, self.a, self.work);
        let turns = a.head_dim.div_ceil(THREADS);
        let scaled = |(i, sum): (u32, V<'k, F32>)| sum * work.scale.at(i / turns).load(1);
        let sums: Vec<_> = (0..).zip(sums).map(scaled).collect();
        let count = (end - p).imin(THREADS);
        k.range(0u32, count, STEP, sums, |j, sums| {
            let rows: Vec<_> = (0..STEP).map(|s| self.cached(a.values, p + j + s, end)).collect();
            let column = |turn: u32| (k.thread() + turn * THREADS).imin(a.head_dim - 1);
            let values: Vec<Vec<_>> =
                (0..turns).map(|t| rows.iter().map(|r| r.at(column(t)).load(1).widen()).collect()).collect();
            let mut sums = sums;
            for query in 0..self.queries() {
                let weights = work.scores.at(j + query * THREADS).load(STEP as u16);
                for (turn, values) in values.iter().enumerate() {
                    let sum = &mut sums[(query * turns) as usize + turn];
                    *sum = (0..).zip(values).fold(*sum, |sum, (s, v)| weights.lane(s).fma(*v, sum));
                }
            }
            sums
        })
    }
}
