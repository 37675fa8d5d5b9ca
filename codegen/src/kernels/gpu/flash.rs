//! Causal attention of consecutive rows of one sequence on tile products, with the online softmax.
//!
//! A CTA has 64 queries: as many rows as fit, times the query heads of one key-value head; a warp has 16 of them, with
//! their sums and weights in registers. Keys and values come in blocks through two buffers in shared memory, rounded to
//! bf16 on the way: while scores are computed, the next keys are on their way to registers, then the next values. Scores, weights and sums are f32,
//! weights are rounded to bf16 where they multiply. Position `p` lies in cache row `p % capacity`.

use super::super::attention::{Attention, LOWEST};
use super::super::context::{Scratch, Shape};
use super::super::heads::Heads;
use super::matrix::{Matrix, left_of_sums};
use super::operand::rows_of_fours;
use crate::kir::{Bf16, F32, Index, Items, Launch, Operand, Ptr, V, WARP};
use jet_ir::Id;
use jetbin::Phase;

/// Queries of a CTA.
const QUERIES: u32 = 64;
/// Queries of a warp: the rows of a tile product.
const TILE: u32 = 16;
/// Threads of a CTA.
const THREADS: u32 = QUERIES / TILE * WARP;
/// Keys of a block: 8 for each warp, which brings them.
const KEYS: u32 = THREADS / WARP * 8;
/// Columns of a head that a thread has registers for.
const MOST_DIM: u32 = 128;
/// Where running maxima start: above every hidden score when that is scaled, below every other.
const FLOOR: f32 = LOWEST * 1e-2;

/// Whether the shape is one that the kernel is for: the queries of a row are one tile at most, and heads come in fours.
pub fn supports(a: &Attention<'_, '_, '_>) -> bool {
    a.cx.phase == Phase::Prefill && a.group <= QUERIES && a.head_dim.is_multiple_of(4) && a.head_dim <= MOST_DIM
}

/// The kernel of an attention grid with its stores.
pub fn flash(a: &Attention<'_, '_, '_>, stores: &[Id]) -> Shape {
    let (cx, k, rows) = (a.cx, a.cx.k, QUERIES / a.group);
    let launch = Launch { threads: THREADS, ctas: 2, rows };
    let item = k.launch(Items { fixed: a.kv_heads, per_row: true }, launch);
    let (first, kv_head) = (item / a.kv_heads * rows, item % a.kv_heads);
    let padded = a.head_dim.next_multiple_of(TILE);
    let buffers = k.shared::<Bf16>(2 * 2 * KEYS * padded);
    let column = kv_head * a.head_dim;
    let cache = |leaf: Id| rows_of_fours(cx.state(leaf, 0u32.on(k)), a.head_dim).at(column);
    let (last, capacity) = ((first + (rows - 1)).imin(cx.rows() - 1u32), cx.state_rows(a.keys));
    let span = (a.first_key(cx.position(first)), cx.position(last) + 1u32);
    let caches = [cache(a.keys), cache(a.values)];
    let cta = Cta { a, rows, first, last, kv_head, padded, buffers, caches, capacity, span };
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
    /// Columns of a head, up to whole tiles.
    padded: u32,
    /// `[2][keys, values][KEYS][padded]`.
    buffers: Ptr<'k, Bf16>,
    /// Keys and values of this head.
    caches: [Ptr<'k, F32>; 2],
    /// Rows of a cache.
    capacity: V<'k, Index>,
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

/// What a warp knows of its queries so far: the sums of each block of 8 columns; largest score and sum of weights of each of
/// the two queries of a lane, the latter over the keys of this lane alone.
type Sums<'k> = (Vec<V<'k, F32>>, [V<'k, F32>; 2], [V<'k, F32>; 2]);
/// Fours of keys, or of values.
type Staged<'k> = Vec<V<'k, F32>>;

impl<'k> Cta<'_, 'k, '_> {
    fn run(&self, heads: &Heads<'_, 'k, '_>) {
        let (k, (begin, end)) = (self.a.cx.k, self.span);
        let queries = [0, TILE / 2].map(|below| self.query(below));
        let left = self.queries(&queries);
        let zero = 0.0f32.on(k);
        let nothing: Sums<'k> = (vec![zero.splat(4); self.padded as usize / 8], [FLOOR.on(k); 2], [zero; 2]);
        let matrices = |buffer: V<'k, Index>| {
            let base = self.buffers.at(buffer * (2 * KEYS * self.padded));
            [0, KEYS * self.padded].map(|at| Matrix::new(k, base.at(at), self.padded))
        };
        let first = matrices(0u32.on(k));
        self.caches.iter().zip(first).for_each(|(cache, to)| self.write(to, &self.read(*cache, begin)));
        k.barrier();
        let (sums, _) = k.range(begin, end, KEYS, (nothing, 0u32.on(k)), |p, (sums, buffer)| {
            let ([keys, values], other) = (matrices(buffer), 1u32.on(k) - buffer);
            let (more, to) = ((p + KEYS).lt(end), matrices(other));
            let ahead = |cache| k.choose(more, || self.read(cache, p + KEYS), || self.nothing());
            let next = ahead(self.caches[0]);
            let scores = self.score(p, keys, &queries, &left);
            k.when(more, || self.write(to[0], &next));
            let next = ahead(self.caches[1]);
            let sums = self.weigh(scores, values, sums);
            k.when(more, || self.write(to[1], &next));
            k.barrier();
            (sums, other)
        });
        let (sums, _, totals) = sums;
        for (i, query) in queries.iter().enumerate() {
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
            let c = self.column() + 8 * block;
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

    /// The first of the two neighbouring columns, of keys or of a head, that this lane has of each 8.
    fn column(&self) -> V<'k, Index> {
        self.a.cx.k.warp().rank % 4u32 * 2u32
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

    /// The queries as left operands, 16 columns each; zero beyond the last column.
    fn queries(&self, queries: &[Query<'k>; 2]) -> Vec<V<'k, Bf16>> {
        let (a, cx) = (self.a, self.a.cx);
        let cols = a.kv_heads * a.group * a.head_dim;
        let from = queries.map(|q| {
            let head = self.kv_head * a.group + q.head;
            rows_of_fours(cx.value(a.query), cols).at(q.row.imin(self.last) * cols).at(head * a.head_dim)
        });
        let pair = |of: Ptr<'k, F32>, first: u32| {
            let c = self.column() + first;
            if first + 8 <= a.head_dim {
                return of.at(c).load(2);
            }
            c.lt(a.head_dim).select(of.at(c.imin(a.head_dim - 2)).load(2), cx.k.splat(0.0, 2))
        };
        let tile = |first: u32| {
            let [low, high] = [first, first + 8].map(|c| {
                let [above, below] = from.map(|f| pair(f, c));
                V::pack(&[above.lane(0), above.lane(1), below.lane(0), below.lane(1)])
            });
            left_of_sums(low, high)
        };
        (0..self.padded).step_by(TILE as usize).map(tile).collect()
    }

    /// The key of a block that this thread brings, and the first of its columns: 8 neighbours have the 8 rows of a piece, so that
    /// they do not meet in a bank, and two of them a sector of memory.
    fn mine(&self) -> (V<'k, Index>, V<'k, Index>) {
        let k = self.a.cx.k;
        let lane = k.warp().rank;
        (k.warp_id() * 8u32 + lane / 2u32 % 8u32, lane % 2u32 * 4u32 + lane / 16u32 * 8u32)
    }

    /// This thread's fours of a cache, of the block from position `p` on; of positions from the end on, those of the last.
    fn read(&self, cache: Ptr<'k, F32>, p: V<'k, Index>) -> Staged<'k> {
        let (k, a) = (self.a.cx.k, self.a);
        let (key, col) = self.mine();
        // less than a capacity further on than `p`, since all keys in sight have a row each
        let row = p % self.capacity + key.imin(self.span.1 - p - 1u32);
        let row = self.capacity.le(row).select(row - self.capacity, row);
        let cache = cache.at(row * (a.kv_heads * a.head_dim));
        let four = |first: u32| {
            let c = col + first;
            if first + TILE <= a.head_dim {
                return cache.at(c).load(4);
            }
            c.lt(a.head_dim).select(cache.at(c.imin(a.head_dim - 4)).load(4), k.splat(0.0, 4))
        };
        (0..self.padded).step_by(TILE as usize).map(four).collect()
    }

    /// What nobody will write.
    fn nothing(&self) -> Staged<'k> {
        vec![self.a.cx.k.splat(0.0, 4); (self.padded / TILE) as usize]
    }

    fn write(&self, to: Matrix<'k>, staged: &Staged<'k>) {
        let (key, col) = self.mine();
        for (i, four) in (0..).zip(staged) {
            to.at(key, col + TILE * i).store(four.round_bf16());
        }
    }

    /// The scores of the keys of a block from position `p` on, the lowest where a query does not see a key.
    fn score(
        &self,
        p: V<'k, Index>,
        keys: Matrix<'k>,
        queries: &[Query<'k>; 2],
        left: &[V<'k, Bf16>],
    ) -> Vec<V<'k, F32>> {
        let mut scores = vec![self.a.cx.k.splat(0.0, 4); KEYS as usize / 8];
        for (step, left) in (0..).zip(left) {
            for pair in 0..KEYS / TILE {
                let right = keys.right_rows(2 * pair, 2 * step as u32);
                for (half, right) in right.iter().enumerate() {
                    let score = &mut scores[2 * pair as usize + half];
                    *score = left.mma(*right, *score);
                }
            }
        }
        self.hide(p, queries, scores)
    }

    /// Turns scores into weights and adds the weighted values of the block.
    fn weigh(&self, scores: Vec<V<'k, F32>>, values: Matrix<'k>, (sums, largest, totals): Sums<'k>) -> Sums<'k> {
        // weights are powers of two
        let scale = (std::f64::consts::LOG2_E * f64::from(self.a.head_dim).powf(-0.5)) as f32;
        let of_query = |i: u16| scores.iter().flat_map(move |s| [s.lane(2 * i), s.lane(2 * i + 1)]);
        let top = [0, 1].map(|i| {
            let mine = of_query(i).reduce(|a, b| a.max(b)).expect("some keys");
            (quad(mine, |a, b| a.max(b)) * scale).max(largest[usize::from(i)])
        });
        let factors: [_; 2] = std::array::from_fn(|i| (largest[i] - top[i]).exp2());
        let weigh = |s: &V<'k, F32>| {
            let one = |i: u16| s.lane(i).fma(scale, -top[usize::from(i / 2)]).exp2();
            V::pack(&[one(0), one(1), one(2), one(3)])
        };
        let weights: Vec<V<'k, F32>> = scores.iter().map(weigh).collect();
        let total = |i: usize| {
            let mine = weights.iter().flat_map(|w| [w.lane(2 * i as u16), w.lane(2 * i as u16 + 1)]);
            mine.fold(totals[i] * factors[i], |sum, w| sum + w)
        };
        let totals = std::array::from_fn(total);
        let [above, below] = factors;
        let four = V::pack(&[above, above, below, below]);
        let mut sums: Vec<_> = sums.into_iter().map(|s| s * four).collect();
        for (step, pair) in (0..).zip(weights.chunks(2)) {
            let left = left_of_sums(pair[0], pair[1]);
            for (block, two) in (0..).zip(sums.chunks_mut(2)) {
                let right = values.right_cols(2 * step as u32, 2 * block as u32);
                two.iter_mut().zip(right).for_each(|(sum, right)| *sum = left.mma(right, *sum));
            }
        }
        (sums, top, totals)
    }

    /// The scores of the block from position `p` on, those of keys that a query does not see the lowest.
    fn hide(&self, p: V<'k, Index>, queries: &[Query<'k>; 2], scores: Vec<V<'k, F32>>) -> Vec<V<'k, F32>> {
        let (k, a) = (self.a.cx.k, self.a);
        let ends_before = (p + (KEYS - 1)).le(a.cx.position(self.first));
        let all_see = match a.window {
            0 => ends_before,
            _ => ends_before.and(a.first_key(a.cx.position(self.last)).le(p)),
        };
        let hidden = || {
            let first = p + self.column();
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
            (0..).zip(&scores).map(one).collect()
        };
        k.choose(all_see, || scores.clone(), hidden)
    }
}

/// `combine` over the four lanes that share a query.
fn quad<'k>(v: V<'k, F32>, combine: impl Fn(V<'k, F32>, V<'k, F32>) -> V<'k, F32>) -> V<'k, F32> {
    [1u8, 2].into_iter().fold(v, |v, bits| combine(v, v.shuffle_xor(bits)))
}
