//! Causal attention of consecutive rows of one sequence on tile products, with the online softmax.
//!
//! A CTA has 64 queries: as many rows as fit, times the query heads of one key-value head; a warp has 16 of them. Keys and
//! values come in blocks through two buffers in shared memory: while one is worked on, the next is on its way.

use super::super::attention::{Attention, LOWEST};
use super::super::context::{Scratch, Shape};
use super::super::heads::Heads;
use super::cache::{self, Blocks};
use super::softmax::{MOST_DIM, Queries, TILE, column, nothing, quad};
use crate::kir::{F32, Index, Items, Launch, Operand, V, WARP};
use jet_ir::Id;
use jetbin::Phase;

/// Queries of a CTA.
const QUERIES: u32 = 64;
/// Threads of a CTA.
const THREADS: u32 = QUERIES / TILE * WARP;
/// Keys of a block.
const KEYS: u32 = 32;
/// Blocks in shared memory.
const DEPTH: u32 = 2;

/// Whether the shape is one that the kernel is for: the queries of a row are one CTA's at most, and heads can be copied.
pub fn supports(a: &Attention<'_, '_, '_>) -> bool {
    a.cx.phase == Phase::Prefill && a.group <= QUERIES && cache::supports(a) && a.head_dim <= MOST_DIM
}

/// The kernel of an attention grid with its stores.
pub fn flash(a: &Attention<'_, '_, '_>, stores: &[Id]) -> Shape {
    let (cx, k, rows) = (a.cx, a.cx.k, QUERIES / a.group);
    let launch = Launch { threads: THREADS, ctas: 2, rows };
    let item = k.launch(Items { fixed: a.kv_heads, per_row: true }, launch);
    let (first, kv_head) = (item / a.kv_heads * rows, item % a.kv_heads);
    let last = (first + (rows - 1)).imin(cx.rows() - 1u32);
    let span = (a.first_key(cx.position(first)), cx.position(last) + 1u32);
    let blocks = Blocks::new(a, (0u32.on(k), kv_head), (KEYS, DEPTH));
    let cta = Cta { a, rows, first, last, kv_head, blocks, span };
    cta.run(&Heads { cx, stores, cols: a.kv_heads * a.group * a.head_dim, head_dim: a.head_dim });
    Shape { name: "attention_flash", scratch: Scratch::default(), cost: a.cost() }
}

/// One CTA's part of an attention grid.
struct Cta<'a, 'k, 'g> {
    a: &'a Attention<'a, 'k, 'g>,
    /// Rows of a CTA, the first and the last one of this.
    rows: u32,
    first: V<'k, Index>,
    last: V<'k, Index>,
    kv_head: V<'k, Index>,
    blocks: Blocks<'a, 'k, 'g>,
    /// Position of the first key that some row sees, and that behind the last.
    span: (V<'k, Index>, V<'k, Index>),
}

/// One of the two rows of a tile that a lane has columns of.
#[derive(Clone, Copy)]
struct Query<'k> {
    /// Row of the activations.
    row: V<'k, Index>,
    /// Query head within those of the key-value head.
    head: V<'k, Index>,
    /// Row and head of a query beyond the last are those of the last.
    number: V<'k, Index>,
    /// Position of the first key that it sees, and of the last.
    sees: (V<'k, Index>, V<'k, Index>),
}

impl<'k> Cta<'_, 'k, '_> {
    fn run(&self, heads: &Heads<'_, 'k, '_>) {
        let (k, a, blocks, (begin, end)) = (self.a.cx.k, self.a, &self.blocks, self.span);
        let two = [0, TILE / 2].map(|below| self.query(below));
        let place = |q: Query<'k>| (q.row.imin(self.last), self.kv_head * a.group + q.head);
        let queries = Queries::load(a, two.map(place), blocks.padded);
        blocks.clear();
        blocks.copy((begin, end), 0u32.on(k), false);
        k.copy_commit();
        let (sums, _) = k.range(begin, end, KEYS, (nothing(a, blocks.padded), 0u32.on(k)), |p, (sums, buffer)| {
            let ([keys, values], other) = (blocks.matrices(buffer), 1u32.on(k) - buffer);
            k.copy_wait(0);
            // the block is there, and everybody is done with the other
            k.barrier();
            k.when((p + KEYS).lt(end), || blocks.copy((p + KEYS, end), other, false));
            k.copy_commit();
            let scores = self.hide(p, &two, &queries.scores(keys, 0u32.on(k), KEYS));
            (queries.weigh(&scores, (values, 0u32.on(k)), sums), other)
        });
        let (sums, _, totals) = sums;
        for (i, query) in two.iter().enumerate() {
            let total = quad(totals[i], |a, b| a + b);
            let factor = total.rcp();
            let exists = query.number.lt(self.rows * self.a.group).and(query.row.le(self.last));
            k.when(exists, || self.store(heads, query, &sums, 2 * i as u16, factor));
        }
    }

    /// Writes the sums of a query, which are lanes `lane` and the next.
    fn store(&self, heads: &Heads<'_, 'k, '_>, query: &Query<'k>, sums: &[V<'k, F32>], lane: u16, factor: V<'k, F32>) {
        let (k, a) = (self.a.cx.k, self.a);
        let head = self.kv_head * a.group + query.head;
        for (block, sum) in (0..).zip(sums) {
            let c = column(a) + 8 * block;
            let out = V::pack(&[sum.lane(lane) * factor, sum.lane(lane + 1) * factor]);
            let write = || {
                heads.stored().for_each(|store| heads.store_columns(store, (query.row, head, c), None, out));
            };
            match 8 * (block + 1) <= a.head_dim {
                true => write(),
                false => k.when(c.lt(a.head_dim), write),
            }
        }
    }

    /// The query of this lane in row `below` or further down of the tile of its warp.
    fn query(&self, below: u32) -> Query<'k> {
        let (k, a) = (self.a.cx.k, self.a);
        let number = k.warp_id() * TILE + k.warp().rank / 4u32 + below;
        let real = number.imin(self.rows * a.group - 1);
        let row = self.first + real / a.group;
        let position = a.cx.position(row.imin(self.last));
        Query { row, head: real % a.group, number, sees: (a.first_key(position), position) }
    }

    /// The scores of the block from position `p` on, those of keys that a query does not see the lowest.
    fn hide(&self, p: V<'k, Index>, queries: &[Query<'k>; 2], scores: &[V<'k, F32>]) -> Vec<V<'k, F32>> {
        let (k, a) = (self.a.cx.k, self.a);
        let ends_before = (p + (KEYS - 1)).le(a.cx.position(self.first));
        let all_see = match a.window {
            0 => ends_before,
            _ => ends_before.and(a.first_key(a.cx.position(self.last)).le(p)),
        };
        let hidden = || {
            let first = p + column(a);
            let one = |(block, score): (u32, &V<'k, F32>)| {
                let lane = |i: u16| {
                    let (first_seen, last_seen) = queries[usize::from(i / 2)].sees;
                    let key = first + (8 * block + u32::from(i % 2));
                    let seen = key.le(last_seen);
                    let seen = if a.window == 0 { seen } else { seen.and(first_seen.le(key)) };
                    seen.select(score.lane(i), LOWEST)
                };
                V::pack(&[lane(0), lane(1), lane(2), lane(3)])
            };
            (0..).zip(scores).map(one).collect()
        };
        k.choose(all_see, || scores.to_vec(), hidden)
    }
}
