//! Causal attention of one row over the key-value cache of its sequence, with the query heads of a key-value head
//! together.
//!
//! One pass over the keys in blocks, with the online softmax: scores of a block, its largest, weights, weighted sum of
//! values; earlier sums are scaled down when a larger score appears. Position `p` lies in cache row `p % capacity`, so
//! the visible keys are at most two linear runs. A token's own key and value have been appended before.

use super::context::{Context, Scratch, Shape, Unsupported};
use super::flash::tiled;
use super::heads::Heads;
use super::lanes::{dot, spans};
use crate::kir::{F32, Index, Items, Operand, Ptr, V};
use jet_ir::{Id, Op};
use jetbin::{Cost, Phase};

/// Keys of a block.
pub(super) const BLOCK: u32 = 32;
/// Where the running maximum starts, and the score of keys that do not exist: low, and finite so that differences are.
pub(super) const LOWEST: f32 = -1e30;

/// An attention grid, taken apart.
pub(super) struct Attention<'a, 'k, 'g> {
    pub cx: &'a Context<'k, 'g>,
    pub head_dim: u32,
    /// Keys that a row sees, 0 for all.
    pub window: u32,
    /// Query heads of a key-value head.
    pub group: u32,
    pub kv_heads: u32,
    pub query: Id,
    pub keys: Id,
    pub values: Id,
}

/// Where the work of one item lies in scratch memory.
#[derive(Clone, Copy)]
pub(super) struct Work<'k> {
    /// `[group][BLOCK]`: scores, then weights.
    scores: Ptr<'k, F32>,
    /// `[group][head_dim]`: sums of weighted values.
    pub sums: Ptr<'k, F32>,
    /// `[group]`: largest score so far.
    pub largest: Ptr<'k, F32>,
    /// `[group]`: sums of weights.
    pub totals: Ptr<'k, F32>,
}

/// The kernel of an attention grid with its stores.
pub(crate) fn attention(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    let a = Attention::new(cx, grid)?;
    let heads = Heads { cx, stores, cols: a.kv_heads * a.group * a.head_dim, head_dim: a.head_dim };
    Ok(match cx.phase {
        Phase::Decode => streamed(&a, &heads),
        Phase::Prefill => tiled(&a, &heads),
    })
}

/// One row of each sequence; items are key-value heads of rows.
fn streamed<'k>(a: &Attention<'_, 'k, '_>, heads: &Heads<'_, 'k, '_>) -> Shape {
    let (begin, end) = a.cx.item_range(Items { fixed: a.kv_heads, per_row: true });
    a.cx.k.range(begin, end, 1, (), |item, ()| a.item(heads, item / a.kv_heads, item % a.kv_heads));
    let scratch = Scratch { fixed: a.work_bytes(), per_row: 0 };
    Shape { name: "attention_streamed", scratch, cost: a.cost() }
}

impl<'a, 'k, 'g> Attention<'a, 'k, 'g> {
    /// Checks that the grid can be built.
    pub fn new(cx: &'a Context<'k, 'g>, grid: Id) -> Result<Self, Unsupported> {
        let args = &cx.graph.node(grid).args;
        let (head_dim, window) = match cx.graph.op(grid) {
            Some(Op::Attention(op)) => (op.head_dim, op.window),
            Some(Op::AttentionParts(op)) => (op.head_dim, op.window),
            _ => return Err(Unsupported::new(cx.graph, grid, "expected attention")),
        };
        let (q_cols, kv_cols) = (cx.cols(args[0]), cx.cols(args[1]));
        let fits = |n: usize| u32::try_from(n).ok().filter(|n| *n < 1 << 24);
        let (Some(head_dim), Some(group), Some(window)) =
            (fits(head_dim), fits(q_cols / kv_cols), u32::try_from(window).ok())
        else {
            return Err(Unsupported::new(cx.graph, grid, "head_dim or window is too large"));
        };
        let kv_heads = kv_cols as u32 / head_dim;
        let (keys, values) = (cx.state_leaf(args[1])?, cx.state_leaf(args[2])?);
        let expected = cx.k.target.cache_elem();
        if let Some(found) = [keys, values].iter().filter_map(|c| cx.graph.ty(*c).elem()).find(|e| *e != expected) {
            let reason = format!("found a cache of {}, expected {} on this target", found.name(), expected.name());
            return Err(Unsupported::new(cx.graph, grid, reason));
        }
        Ok(Attention { cx, head_dim, window, group, kv_heads, query: args[0], keys, values })
    }
}

impl<'k> Attention<'_, 'k, '_> {
    /// The cache, whose length a kernel does not know, is counted by those who do; of the work on it that of a key.
    pub fn cost(&self) -> Cost {
        let kv_cols = u64::from(self.kv_heads * self.head_dim);
        let q_cols = u64::from(self.group) * kv_cols;
        Cost { weight_bytes: 0, state_bytes: 0, act_bytes: 8 * q_cols, flops: 4 * q_cols }
    }

    /// Position of the first key that the row at `position` sees.
    pub fn first_key(&self, position: V<'k, Index>) -> V<'k, Index> {
        match self.window {
            0 => 0u32.on(position.k),
            window => (position + 1u32 - window).imax(0u32),
        }
    }

    /// Work of nothing.
    pub fn start(&self) -> Work<'k> {
        let (k, scores) = (self.cx.k, self.cx.scratch());
        let sums = scores.at(self.group * BLOCK);
        let largest = sums.at(self.group * self.head_dim);
        let work = Work { scores, sums, largest, totals: largest.at(self.group) };
        k.range(0u32, self.group, 1, (), |g, ()| {
            work.largest.at(g).store(LOWEST);
            work.totals.at(g).store(0.0);
            spans(k, self.head_dim, &[8, 1], |c, lanes| work.sums.at(g * self.head_dim + c).store(k.splat(0.0, lanes)));
        });
        work
    }

    /// Bytes of scratch memory that [`Work`] takes.
    pub fn work_bytes(&self) -> u64 {
        4 * u64::from(self.group) * u64::from(BLOCK + self.head_dim + 2)
    }

    fn item(&self, heads: &Heads<'_, 'k, '_>, row: V<'k, Index>, kv_head: V<'k, Index>) {
        let (cx, k, work) = (self.cx, self.cx.k, self.start());
        let end = cx.position(row) + 1u32;
        self.add((row, kv_head), (self.first_key(cx.position(row)), end), work);
        k.range(0u32, self.group, 1, (), |g, ()| {
            let total = work.totals.at(g).load(1);
            let out =
                |c: V<'k, Index>, lanes: u16| work.sums.at(g * self.head_dim + c).load(lanes) / total.splat(lanes);
            heads.finish(row, kv_head * self.group + g, &out);
        });
    }

    /// Adds the keys and values of the positions `first..end`.
    pub fn add(
        &self,
        (row, kv_head): (V<'k, Index>, V<'k, Index>),
        positions: (V<'k, Index>, V<'k, Index>),
        work: Work<'k>,
    ) {
        let (cx, k) = (self.cx, self.cx.k);
        let query = cx.value::<F32>(self.query).at(row * (self.kv_heads * self.group * self.head_dim));
        let query = query.at(kv_head * (self.group * self.head_dim));
        self.runs(positions, |at, n| {
            let start = at * (self.kv_heads * self.head_dim) + kv_head * self.head_dim;
            k.range(0u32, n, BLOCK, (), |j, ()| {
                let offset = start + j * (self.kv_heads * self.head_dim);
                let keys = cx.state::<F32>(self.keys, row).at(offset);
                let values = cx.state::<F32>(self.values, row).at(offset);
                self.block(query, keys, values, (n - j).imin(BLOCK), work);
            });
        });
    }

    /// The cache rows of some positions, oldest first: `body` gets the first and the number of each linear run.
    fn runs(&self, (first, end): (V<'k, Index>, V<'k, Index>), body: impl FnOnce(V<'k, Index>, V<'k, Index>)) {
        let (k, capacity) = (self.cx.k, self.cx.state_rows(self.keys));
        let start = first % capacity;
        let until_wrap = (capacity - start).imin(end - first);
        k.range(0u32, 2u32, 1, (), |run, ()| {
            let leading = run.equals(0u32);
            let at = leading.select(start, 0u32);
            body(at, leading.select(until_wrap, end - first - until_wrap));
        });
    }

    /// Adds `n` keys and values to the sums.
    fn block(&self, query: Ptr<'k, F32>, keys: Ptr<'k, F32>, values: Ptr<'k, F32>, n: V<'k, Index>, work: Work<'k>) {
        let (k, dim, stride) = (self.cx.k, self.head_dim, self.kv_heads * self.head_dim);
        k.range(0u32, self.group, 1, (), |g, ()| {
            let (scores, query) = (work.scores.at(g * BLOCK), query.at(g * dim));
            k.range(n, BLOCK, 1, (), |j, ()| scores.at(j).store(LOWEST));
            k.range(0u32, n, 1, (), |j, ()| {
                scores.at(j).store(dot(k, query, keys.at(j * stride), dim) * (f64::from(dim).powf(-0.5) as f32));
            });
            let scale = self.weigh(scores, work.largest.at(g), work.totals.at(g));
            let sums = work.sums.at(g * dim);
            spans(k, dim, &[16, 4, 1], |c, lanes| {
                let start = sums.at(c).load(lanes) * scale.splat(lanes);
                let sum = k.range(0u32, n, 1, start, |j, sum| {
                    values.at(j * stride + c).load(lanes).fma(scores.at(j).load_splat(lanes), sum)
                });
                sums.at(c).store(sum);
            });
        });
    }

    /// Turns the scores of a block into weights, zero for keys that do not count, and gives the factor for earlier
    /// sums.
    pub fn weigh(&self, scores: Ptr<'k, F32>, largest: Ptr<'k, F32>, totals: Ptr<'k, F32>) -> V<'k, F32> {
        let k = self.cx.k;
        let parts: Vec<_> = (0..BLOCK / 8).map(|i| scores.at(8 * i).load(8)).collect();
        let before = largest.load(1);
        let top = parts.iter().skip(1).fold(parts[0], |a, b| a.max(*b)).max_lanes().max(before);
        let weight = |s: V<'k, F32>| s.equals(k.splat(LOWEST, 8)).select(k.splat(0.0, 8), (s - top.splat(8)).exp());
        let weights: Vec<_> = parts.iter().map(|s| weight(*s)).collect();
        weights.iter().enumerate().for_each(|(i, w)| scores.at(8 * i as u32).store(*w));
        let scale = (before - top).exp();
        let total = weights.iter().skip(1).fold(weights[0], |a, b| a + *b).sum_lanes();
        largest.store(top);
        totals.store(totals.load(1).fma(scale, total));
        scale
    }
}
