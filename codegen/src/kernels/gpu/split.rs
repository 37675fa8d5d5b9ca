//! Causal attention of one row of each sequence on tile products, split over the keys.
//!
//! The keys that a row sees are cut into splits of equal length, whose number follows from the row's position alone. A CTA has up
//! to 16 query heads of one key-value head, as the rows of tile products, and every `ctas`-th split; each of its warps has 16
//! keys of a block. What the splits of a row have found goes to memory, and the CTA that comes last puts it together in the
//! order of the splits: the bits depend neither on which CTA that is nor on the other rows.

use super::super::attention::{Attention, LOWEST};
use super::super::context::{Scratch, Shape};
use super::super::heads::Heads;
use super::cache::{self, Blocks};
use super::last_to_arrive;
use super::softmax::{FLOOR, MOST_DIM, Queries, Sums, TILE, column, nothing, quad};
use crate::kir::{F32, Index, Items, Launch, Operand, Ptr, V, WARP};
use jet_ir::Id;
use jetbin::Phase;

/// Threads of a CTA.
const THREADS: u32 = 128;
/// Warps of a CTA.
const WARPS: u32 = THREADS / WARP;
/// Keys of a block.
const KEYS: u32 = WARPS * TILE;
/// Keys of a split at least: fewer are not worth putting together.
const LEAST: u32 = 256;
/// Splits at most: a lane has the weights of so many parts.
const MOST_SPLITS: u32 = 4 * WARP;
/// CTAs of a multiprocessor.
const CTAS: u32 = 2;
/// Each kernel of the chain serves so many times the rows of the one before.
const STEP: u32 = 8;
/// Columns of a lane when sums are put together.
const WIDE: u32 = 4;

/// Whether the shape is one that the kernel is for.
pub fn supports(a: &Attention<'_, '_, '_>) -> bool {
    a.cx.phase == Phase::Decode && cache::supports(a) && a.head_dim <= MOST_DIM
}

/// How the work of a row is shared out.
#[derive(Clone, Copy)]
struct Plan {
    /// Tiles of query heads of a key-value head, and heads of a tile.
    tiles: u32,
    heads: u32,
    /// Splits at most.
    splits: u32,
    /// CTAs for the splits of a tile.
    ctas: u32,
}

impl Plan {
    /// Work for every multiprocessor where there are no more than `rows` rows, and as many splits for any number of rows.
    fn new(a: &Attention<'_, '_, '_>, rows: u32) -> Plan {
        let processors = a.cx.k.target.cost.processors;
        let tiles = a.group.div_ceil(TILE);
        let splits = processors.div_ceil(a.kv_heads * tiles).min(MOST_SPLITS);
        let ctas = processors.div_ceil(a.kv_heads * tiles * rows).min(splits);
        Plan { tiles, heads: a.group.min(TILE), splits, ctas }
    }

    /// Sums, and for each of them the largest score and the sum of weights, of all splits of a tile.
    fn found(&self, head_dim: u32) -> u32 {
        (self.splits * self.heads * (head_dim + 2)).next_multiple_of(WIDE)
    }
}

/// The kernel of an attention grid with its stores.
pub fn split(a: &Attention<'_, '_, '_>, stores: &[Id]) -> Shape {
    let (cx, k) = (a.cx, a.cx.k);
    let plan = Plan::new(a, (cx.tile / STEP).max(1));
    if plan.ctas > 1 {
        cx.wider.set(Some((cx.tile, cx.tile * STEP)));
    }
    let tiles = a.kv_heads * plan.tiles;
    let item =
        k.launch(Items { fixed: tiles * plan.ctas, per_row: true }, Launch { threads: THREADS, ctas: CTAS, rows: 1 });
    let (number, rank) = (item / plan.ctas, item % plan.ctas);
    let (row, tile) = (number / tiles, number % tiles);
    let (kv_head, first_head) = (tile / plan.tiles, tile % plan.tiles * TILE);
    let small = WARPS * TILE * 2;
    let bytes = |depth: u32| 2 * cache::elements(a, KEYS, depth) + 4 * small + 16;
    let depth = if bytes(3) <= k.target.most_shared(CTAS) { 3 } else { 2 };
    let blocks = Blocks::new(a, (row, kv_head), (KEYS, depth));
    let position = cx.position(row);
    let span = (a.first_key(position), position + 1u32);
    let keys = span.1 - span.0;
    let length = ((keys + (plan.splits - 1)) / plan.splits + (TILE - 1)) / TILE * TILE;
    let length = length.imax(LEAST);
    let count = (keys + length - 1u32) / length;
    let heads = Heads { cx, stores, cols: a.kv_heads * a.group * a.head_dim, head_dim: a.head_dim };
    let found = (plan.splits > 1).then(|| {
        let sums = cx.scratch().aligned(16).at(number * plan.found(a.head_dim));
        (sums, sums.at(plan.splits * plan.heads * a.head_dim))
    });
    let softmax = k.shared(small);
    let cta = Cta { a, heads, plan, row, kv_head, first_head, blocks, span, length, count, softmax, found };
    cta.ask(rank);
    k.range(rank, count, plan.ctas, (), |split, ()| cta.split(split, rank));
    if found.is_some() {
        k.when(rank.lt(count).and(1u32.on(k).lt(count)), || cta.arrive(number));
    }
    let per_row = if found.is_some() { 4 * u64::from(tiles) * u64::from(plan.found(a.head_dim)) } else { 0 };
    Shape { name: "attention_split", scratch: Scratch { fixed: 0, per_row }, cost: a.cost() }
}

/// One CTA's part of an attention grid.
struct Cta<'a, 'k, 'g> {
    a: &'a Attention<'a, 'k, 'g>,
    heads: Heads<'a, 'k, 'g>,
    plan: Plan,
    row: V<'k, Index>,
    kv_head: V<'k, Index>,
    /// The first query head of the tile within those of the key-value head.
    first_head: V<'k, Index>,
    blocks: Blocks<'a, 'k, 'g>,
    /// Position of the first key that the row sees, and that behind the last.
    span: (V<'k, Index>, V<'k, Index>),
    /// Keys of a split, and how many splits there are.
    length: V<'k, Index>,
    count: V<'k, Index>,
    /// `[warp][query][2]`: largest score and sum of weights.
    softmax: Ptr<'k, F32>,
    /// `[split][query][head_dim]`: weighted sums that nobody has divided, and `[split][query][2]` as above.
    found: Option<(Ptr<'k, F32>, Ptr<'k, F32>)>,
}

impl<'k> Cta<'_, 'k, '_> {
    /// Positions of a split's first key and of that behind the last.
    fn keys(&self, split: V<'k, Index>) -> (V<'k, Index>, V<'k, Index>) {
        let begin = self.span.0 + split * self.length;
        (begin, (begin + self.length).imin(self.span.1))
    }

    /// Asks for the first blocks of the first split, but for one with the key of this step, which the kernel before may still write.
    fn ask(&self, first: V<'k, Index>) {
        let (k, blocks, (begin, end)) = (self.a.cx.k, &self.blocks, self.keys(first));
        for block in 0..blocks.depth - 1 {
            let p = begin + block * KEYS;
            let settled = (p + KEYS).imin(end).lt(self.span.1);
            k.when(p.lt(end).and(settled), || blocks.copy((p, end), block.on(k), true));
        }
    }

    /// One split from its keys to what is found; some of those of the first split have been asked for.
    fn split(&self, split: V<'k, Index>, first: V<'k, Index>) {
        let (k, a, blocks, (begin, end)) = (self.a.cx.k, self.a, &self.blocks, self.keys(split));
        let head = |below: u32| {
            let query = self.first_head + k.warp().rank / 4u32 + below;
            (self.row, self.kv_head * a.group + query.imin(a.group - 1))
        };
        let queries = Queries::load(a, [head(0), head(TILE / 2)], blocks.padded);
        // the split before has read all that lies in shared memory
        k.barrier();
        blocks.clear();
        let ahead = blocks.depth - 1;
        for block in 0..ahead {
            let p = begin + block * KEYS;
            let new = first.lt(split).or(self.span.1.le((p + KEYS).imin(end)));
            k.when(p.lt(end).and(new), || blocks.copy((p, end), block.on(k), false));
            k.copy_commit();
        }
        let start = (nothing(a, blocks.padded), 0u32.on(k));
        let (sums, _) = k.range(begin, end, KEYS, start, |p, (sums, buffer)| {
            let [keys, values] = blocks.matrices(buffer);
            k.copy_wait(ahead as u8 - 1);
            // the block is there, and everybody is done with the one before
            k.barrier();
            let (next, before) = ((buffer + 1u32) % blocks.depth, (buffer + ahead) % blocks.depth);
            k.when((p + ahead * KEYS).lt(end), || blocks.copy((p + ahead * KEYS, end), before, false));
            k.copy_commit();
            let first = k.warp_id() * (TILE / 8);
            let scores = self.hide(p, end, &queries.scores(keys, first, TILE));
            (queries.weigh(&scores, (values, first), sums), next)
        });
        k.barrier();
        self.share(sums);
        k.barrier();
        self.finish_split(split);
    }

    /// The scores of this warp's keys of the block from position `p` on, of those from `end` on the lowest.
    fn hide(&self, p: V<'k, Index>, end: V<'k, Index>, scores: &[V<'k, F32>]) -> Vec<V<'k, F32>> {
        let k = self.a.cx.k;
        let first = p + k.warp_id() * TILE + column(self.a);
        let one = |(block, score): (u32, &V<'k, F32>)| {
            let lane = |i: u16| (first + (8 * block + u32::from(i % 2))).lt(end).select(score.lane(i), LOWEST);
            V::pack(&[lane(0), lane(1), lane(2), lane(3)])
        };
        (0..).zip(scores).map(one).collect()
    }

    /// The sums of `query` of a warp in shared memory: rows an odd number of eights apart, so that four of them are in different banks.
    fn shared_sums(&self, warp: V<'k, Index>, query: V<'k, Index>) -> Ptr<'k, F32> {
        let eights = self.a.head_dim / 8;
        self.blocks.memory().at((warp * self.plan.heads + query) * (8 * (eights + (eights + 1) % 2)))
    }

    /// Puts what this warp has found where the others see it.
    fn share(&self, (sums, largest, totals): Sums<'k>) {
        let (k, a, lane) = (self.a.cx.k, self.a, self.a.cx.k.warp().rank);
        for (i, below) in [0, TILE / 2].into_iter().enumerate() {
            let (query, total) = (lane / 4u32 + below, quad(totals[i], |a, b| a + b));
            k.when(query.lt(self.plan.heads), || {
                let to = self.shared_sums(k.warp_id(), query).at(column(a));
                for (block, sum) in (0..a.head_dim / 8).zip(&sums) {
                    let two = [2 * i as u16, 2 * i as u16 + 1].map(|lane| sum.lane(lane));
                    to.at(8 * block).store(V::pack(&two));
                }
                let both = V::pack(&[largest[i], total]);
                let softmax = self.softmax.at((k.warp_id() * TILE + query) * 2u32);
                k.when((lane % 4u32).equals(0u32), || softmax.store(both));
            });
        }
    }

    /// Columns of this lane: of lanes beyond the last, those of the last.
    fn columns(&self) -> (V<'k, Index>, V<'k, crate::kir::Pred>) {
        let c = self.a.cx.k.warp().rank * WIDE;
        (c.imin(self.a.head_dim - WIDE), c.lt(self.a.head_dim))
    }

    /// Puts together what the warps have found of a split: the result if there is no other, else a part of it.
    fn finish_split(&self, split: V<'k, Index>) {
        let (k, (c, exists)) = (self.a.cx.k, self.columns());
        k.range(k.warp_id(), self.plan.heads, WARPS, (), |query, ()| {
            let warps: Vec<_> = (0..WARPS).map(|w| w.on(k)).collect();
            let two = |w: &V<'k, Index>| self.softmax.at((*w * TILE + query) * 2u32).load(2);
            let found: Vec<_> = warps.iter().map(two).collect();
            let top = found.iter().map(|f| f.lane(0)).reduce(|a, b| a.max(b)).expect("some warps");
            let weights: Vec<_> = found.iter().map(|f| (f.lane(0) - top).exp2()).collect();
            let total = found.iter().zip(&weights).fold(0.0f32.on(k), |sum, (f, w)| f.lane(1).fma(*w, sum));
            let sums = warps.iter().zip(&weights).fold(k.splat(0.0, WIDE as u16), |sum, (warp, w)| {
                self.shared_sums(*warp, query).at(c).load(WIDE as u16).fma(w.splat(WIDE as u16), sum)
            });
            let whole = || k.when(exists, || self.store(query, c, sums, total));
            let Some((parts, softmax)) = self.found else { return whole() };
            let part = || {
                let at = split * self.plan.heads + query;
                k.when(exists, || parts.at(at * self.a.head_dim).at(c).store(sums));
                k.warp().leader(|| softmax.at(at * 2u32).store(V::pack(&[top, total])));
            };
            k.choose(self.count.equals(1u32), whole, part);
        });
    }

    /// Writes columns of a query.
    fn store(&self, query: V<'k, Index>, c: V<'k, Index>, sums: V<'k, F32>, total: V<'k, F32>) {
        let (k, a, head) = (self.a.cx.k, self.a, self.first_head + query);
        let out = sums * total.rcp().splat(WIDE as u16);
        k.when(head.lt(a.group), || {
            let place = (self.row, self.kv_head * a.group + head, c);
            self.heads.stored().for_each(|store| self.heads.store_columns(store, place, None, out));
        });
    }

    /// Counts this CTA among those of the tile; the last one puts the parts together.
    fn arrive(&self, number: V<'k, Index>) {
        let last = self.count.imin(self.plan.ctas) - 1u32;
        last_to_arrive(self.a.cx, number, last, || self.merge());
    }

    /// Puts together what the splits have found, in their order.
    fn merge(&self) {
        let Some((parts, softmax)) = self.found else { return };
        let (k, n, lane, (c, exists)) = (self.a.cx.k, self.count, self.a.cx.k.warp().rank, self.columns());
        k.range(k.warp_id(), self.plan.heads, WARPS, (), |query, ()| {
            let place = |split: V<'k, Index>| split.imin(n - 1u32) * self.plan.heads + query;
            let turns: Vec<u32> = (0..self.plan.splits).step_by(WARP as usize).collect();
            let mine: Vec<_> = turns.iter().map(|first| softmax.at(place(lane + *first) * 2u32).load(2)).collect();
            let real = |first: u32, x: V<'k, F32>, or: f32| (lane + first).lt(n).select(x, or);
            let tops = turns.iter().zip(&mine).map(|(first, two)| real(*first, two.lane(0), FLOOR));
            let top = k.warp().max(tops.reduce(|a, b| a.max(b)).expect("some splits"));
            let weight = |(first, two): (&u32, &V<'k, F32>)| real(*first, (two.lane(0) - top).exp2(), 0.0);
            let weights: Vec<_> = turns.iter().zip(&mine).map(weight).collect();
            let total = mine.iter().zip(&weights).fold(0.0f32.on(k), |sum, (two, w)| two.lane(1).fma(*w, sum));
            let total = k.warp().sum(total);
            let nothing = k.splat(0.0, WIDE as u16);
            let sums = turns.iter().zip(&weights).fold(nothing, |sums, (first, weights)| {
                let some = (n - *first).imin(WARP);
                k.range(0u32, some, WIDE, sums, |i, sums| {
                    let part = |j: u32| parts.at(place(i + (*first + j)) * self.a.head_dim).at(c).load(WIDE as u16);
                    let four: Vec<_> = (0..WIDE).map(part).collect();
                    (0..)
                        .zip(four)
                        .fold(sums, |sums, (j, part)| part.fma(weights.shuffle(i + j).splat(WIDE as u16), sums))
                })
            });
            k.when(exists, || self.store(query, c, sums, total));
        });
    }
}
