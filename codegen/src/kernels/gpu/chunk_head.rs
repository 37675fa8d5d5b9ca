//! The gated delta rule on tile products, 16 tokens at a time; one CTA for a head. The mathematics is that of the CPU's chunks
//! (`kernels/chunk.rs`): with `P[t]` the product of decays of a chunk up to token `t` and `D[t][j]` of those after `j`,
//!
//! ```text
//! (I + A) U = beta (V - P S^T K)      A[t][j] = beta[t] D[t][j] k[t] . k[j]  for j < t
//! O = P S^T Q + (D Q K^T) U           S <- P[n-1] S + sum_j D[n-1][j] k[j] u[j]^T
//! ```
//!
//! This file has what all warps share, for 64 tokens at once: normalised keys and queries, gates, what the tokens of a chunk
//! have to do with each other, and the inverses of `I + A`, in f32. `chunk_columns` has what a warp does for its columns of
//! the state. Operands of products are bf16, sums and the state f32. `D` is a power of two of a difference of logarithms;
//! decays below 2^-120 count as that.

use super::super::context::{Context, Scratch, Shape};
use super::super::delta::Delta;
use super::chunk_columns::Columns;
use super::matrix::Matrix;
use super::operand::rows_of_fours;
use crate::kir::{Bf16, F32, Index, Items, Launch, Operand, Pred, Ptr, V, WARP};
use jetbin::Phase;

/// Tokens of a chunk: rows and columns of a tile.
pub const CHUNK: u32 = 16;
/// Tokens that are staged at once.
pub const STAGED: u32 = 64;
/// Chunks that are staged at once.
pub const CHUNKS: u32 = STAGED / CHUNK;
/// Columns of the state of a warp: two tiles.
pub const WIDE: u32 = 32;
/// Rows of the state that registers and shared memory have room for.
const MOST_DK: u32 = 128;
/// Columns of the state that a CTA has warps for.
const MOST_DV: u32 = 256;
/// Smallest decay that has a logarithm.
const LOWEST_DECAY: f32 = 7.523_164e-37;

/// What the threads of a CTA share about the tokens that are staged.
#[derive(Clone, Copy)]
pub struct Shared<'k> {
    /// `[STAGED][dk]`: normalised; zero rows for tokens that do not exist.
    pub keys: Matrix<'k>,
    /// The same, scaled.
    pub queries: Matrix<'k>,
    /// `[STAGED][CHUNK]`: the inverses of `I + A`.
    pub inverse: Matrix<'k>,
    /// `[STAGED][CHUNK]`: `D[t][j] q[t] . k[j]` for `j <= t`.
    pub told: Matrix<'k>,
    /// `A`, see [`Stage::place`]; later sums of squares of each token from each warp.
    pub work: Ptr<'k, F32>,
    /// Logarithms to the base of two of `P`.
    logs: Ptr<'k, F32>,
    /// `P`.
    pub decays: Ptr<'k, F32>,
    /// `beta`; zero for tokens that do not exist.
    pub betas: Ptr<'k, F32>,
    /// `D[n - 1][t]`.
    pub to_end: Ptr<'k, F32>,
}

/// The tokens that are staged for one head.
#[derive(Clone, Copy)]
pub struct Stage<'a, 'k, 'g> {
    pub d: &'a Delta<'a, 'k, 'g>,
    pub shared: Shared<'k>,
    pub head: V<'k, Index>,
    /// Row of the first token.
    pub first: V<'k, Index>,
}

/// Rows of a state, up to whole tiles.
pub fn padded(d: &Delta<'_, '_, '_>) -> u32 {
    d.dk.next_multiple_of(CHUNK)
}

/// Whether the shape is one that the kernel is for: rows come in fours, and state and tokens fit.
pub fn supports(d: &Delta<'_, '_, '_>) -> bool {
    d.cx.phase == Phase::Prefill && d.dk.is_multiple_of(4) && d.dk <= MOST_DK && d.dv <= MOST_DV
}

/// The kernel of a delta grid with its stores.
pub fn chunked(d: &Delta<'_, '_, '_>) -> Shape {
    let (cx, k) = (d.cx, d.cx.k);
    let launch = Launch { threads: d.dv.div_ceil(WIDE) * WARP, ctas: 1, rows: 1 };
    let head = k.launch(Items { fixed: d.heads, per_row: false }, launch);
    let shared = share(cx, padded(d));
    let columns = Columns::new(d, head);
    let last = k.range(0u32, cx.rows(), STAGED, columns.load(), |first, state| {
        let stage = Stage { d, shared, head, first };
        // nobody reads what was staged before any more
        k.barrier();
        stage.gates();
        stage.normalise(0, shared.queries);
        stage.normalise(1, shared.keys);
        k.barrier();
        stage.correlate();
        k.barrier();
        stage.invert();
        k.barrier();
        let left = cx.rows() - first;
        k.range(0u32, left.imin(STAGED), CHUNK, state, |token, state| columns.advance(&stage, token, state))
    });
    columns.keep(&last);
    Shape { name: "gated_delta_chunked", scratch: Scratch::default(), cost: d.cost() }
}

fn share<'k>(cx: &Context<'k, '_>, padded: u32) -> Shared<'k> {
    let k = cx.k;
    let matrix = |cols: u32| Matrix::new(k, k.shared::<Bf16>(STAGED * cols), cols);
    let tokens = || k.shared::<F32>(STAGED);
    Shared {
        keys: matrix(padded),
        queries: matrix(padded),
        inverse: matrix(CHUNK),
        told: matrix(CHUNK),
        work: k.shared(STAGED * CHUNK),
        logs: tokens(),
        decays: tokens(),
        betas: tokens(),
        to_end: tokens(),
    }
}

impl<'k> Stage<'_, 'k, '_> {
    /// Row of token `t`; of tokens beyond the last, that one.
    pub fn row(&self, t: V<'k, Index>) -> V<'k, Index> {
        (self.first + t).imin(self.d.cx.rows() - 1u32)
    }

    fn exists(&self, t: V<'k, Index>) -> V<'k, Pred> {
        (self.first + t).lt(self.d.cx.rows())
    }

    /// Decays and betas, by the first warp: a lane has two neighbouring tokens, eight have a chunk. Tokens that do not exist
    /// decay nothing.
    fn gates(&self) {
        let (d, k, s) = (self.d, self.d.cx.k, self.shared);
        let lane = k.warp().rank;
        let (tokens, in_chunk) = ([0u32, 1].map(|i| lane * 2u32 + i), lane % (CHUNK / 2));
        let gate = |operand: usize, t: V<'k, Index>| d.operand(operand, self.row(t), self.head).load(1);
        k.when(k.warp_id().equals(0u32), || {
            let [low, high] = tokens.map(|t| {
                let log = gate(3, t).max(LOWEST_DECAY).log() * std::f32::consts::LOG2_E;
                self.exists(t).select(log, 0.0)
            });
            let sum = [1u32, 2, 4].into_iter().fold(low + high, |sum, back| {
                let before = sum.shuffle((lane - back).imax(0u32));
                in_chunk.lt(back).select(sum, sum + before)
            });
            let before = sum.shuffle((lane - 1u32).imax(0u32));
            let before = in_chunk.equals(0u32).select(0.0, before);
            let all = sum.shuffle(lane - in_chunk + (CHUNK / 2 - 1));
            let sums = [before + low, before + low + high];
            let write = |to: Ptr<'k, F32>, both: [V<'k, F32>; 2]| to.at(lane * 2u32).store(V::pack(&both));
            write(s.logs, sums);
            write(s.decays, sums.map(V::exp2));
            write(s.to_end, sums.map(|sum| (all - sum).exp2()));
            write(s.betas, tokens.map(|t| self.exists(t).select(gate(4, t), 0.0)));
        });
    }

    /// Keys or queries, normalised and rounded. Four lanes have a row; 8 neighbours have the 8 rows of a piece, so that they do
    /// not meet in a bank.
    fn normalise(&self, operand: usize, to: Matrix<'k>) {
        let (d, k) = (self.d, self.d.cx.k);
        let lane = k.warp().rank;
        let first = lane % 2u32 * 4u32 + lane / 16u32 * 8u32;
        k.range(k.warp_id(), STAGED / 8, k.warps(), (), |eight, ()| {
            let t = eight * 8u32 + lane / 2u32 % 8u32;
            let from = rows_of_fours(d.operand(operand, self.row(t), self.head * d.dk), d.dk).at(first);
            let four = |c: u32| {
                if c + CHUNK <= d.dk {
                    return from.at(c).load(4);
                }
                let there = (first + c).lt(d.dk);
                there.select(from.at(there.select(c, 0u32)).load(4), k.splat(0.0, 4))
            };
            let fours: Vec<_> = (0..padded(d)).step_by(CHUNK as usize).map(four).collect();
            let factor = d.norm.map_or(1.0f32.on(k), |norm| {
                let squares = fours.iter().fold(k.splat(0.0, 4), |sum, x| x.fma(*x, sum)).sum_lanes();
                let squares = [1u8, 16].into_iter().fold(squares, |sum, bits| sum + sum.shuffle_xor(bits));
                norm.factor(squares, operand == 0)
            });
            let factor = self.exists(t).select(factor, 0.0);
            for (i, x) in (0..).zip(fours) {
                to.at(t, first + i * CHUNK).store((x * factor.splat(4)).round_bf16());
            }
        });
    }

    /// What the tokens of each chunk have to do with each other; a warp has the keys or the queries of a chunk at a time.
    fn correlate(&self) {
        let (k, s) = (self.d.cx.k, self.shared);
        k.range(k.warp_id(), 2 * CHUNKS, k.warps(), (), |task, ()| {
            let (chunk, of_queries) = (task / 2u32, (task % 2u32).equals(1u32));
            k.choose(
                of_queries,
                || self.products(chunk, s.queries, |t, c, pair| s.told.at(t, c).store(pair.round_bf16()), true),
                || self.products(chunk, s.keys, |t, c, pair| self.place(t, c).store(pair), false),
            );
        });
    }

    /// Decayed products of the rows of a chunk in `left` with its keys, two neighbours at a time; zero for later keys. Those of
    /// keys with keys have a factor `beta`, and none with itself.
    fn products(
        &self,
        chunk: V<'k, Index>,
        left: Matrix<'k>,
        write: impl Fn(V<'k, Index>, V<'k, Index>, V<'k, F32>),
        of_queries: bool,
    ) {
        let (k, s) = (self.d.cx.k, self.shared);
        let mut sums = [k.splat(0.0, 4); 2];
        for step in (0..padded(self.d) / 8).step_by(2) {
            let (left, right) = (left.left(chunk * 2u32, step), s.keys.right_rows(chunk * 2u32, step));
            sums.iter_mut().zip(right).for_each(|(sum, right)| *sum = left.mma(right, *sum));
        }
        let (lane, start) = (k.warp().rank, chunk * CHUNK);
        for below in [0, 8u32] {
            let t = start + (lane / 4u32 + below);
            let log = s.logs.at(t).load(1);
            let factor = if of_queries { 1.0f32.on(k) } else { s.betas.at(t).load(1) };
            for (i, sum) in (0..).zip(sums) {
                let c = lane % 4u32 * 2u32 + 8 * i;
                let decays = (log.splat(2) - s.logs.at(start + c).load(2)).exp2() * factor.splat(2);
                let one = |h: u32| {
                    let other = start + c + h;
                    let counts = if of_queries { other.le(t) } else { other.lt(t) };
                    counts.select(sum.lane((below / 4 + h) as u16) * decays.lane(h as u16), 0.0)
                };
                write(t, c, V::pack(&[one(0), one(1)]));
            }
        }
    }

    /// Where element `(t, c)` of `A` is: every second pair of rows has its halves exchanged, so that rows that are written at
    /// once do not meet in a bank.
    fn place(&self, t: V<'k, Index>, c: V<'k, Index>) -> Ptr<'k, F32> {
        let exchange = (t / 2u32 % 2u32) * 8u32;
        self.shared.work.at(t * CHUNK).at(c.xor(exchange)).aligned(8)
    }

    /// `(I + A)^-1` of each chunk, from the last column to the first; a lane has a row.
    fn invert(&self) {
        let (k, s) = (self.d.cx.k, self.shared);
        k.range(k.warp_id(), CHUNKS, k.warps(), (), |chunk, ()| {
            let t = k.warp().rank % CHUNK;
            let mut row: Vec<_> = (0..CHUNK).map(|c| t.equals(c).select(1.0, 0.0f32.on(k))).collect();
            for j in (1..CHUNK).rev() {
                for c in (0..j).step_by(4) {
                    let exchanged = c ^ (j / 2 % 2 * 8);
                    let a = s.work.at(chunk * (CHUNK * CHUNK)).at(j * CHUNK + exchanged).load(4);
                    for i in c..j.min(c + 4) {
                        row[i as usize] = (-row[j as usize]).fma(a.lane((i - c) as u16), row[i as usize]);
                    }
                }
            }
            k.when(k.warp().rank.lt(CHUNK), || {
                for (i, eight) in (0u32..).zip(row.chunks(8)) {
                    s.inverse.at(chunk * CHUNK + t, (8 * i).on(k)).store(V::pack(eight).round_bf16());
                }
            });
        });
    }
}
