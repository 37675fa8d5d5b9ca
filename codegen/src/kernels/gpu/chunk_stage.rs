//! What a staging warp works out about a chunk of a delta rule, see `chunk`: normalised keys and queries, gates, what the tokens have to do
//! with each other, and the inverse of `I + A`, in f32. Rows of the next turn are on their way meanwhile: each lane copies what it reads.

use super::chunk::{CHUNK, CHUNKS, Chunk, Cta, TURN, padded};
use super::matrix::Matrix;
use super::operand::rows_of_fours;
use crate::kir::{F32, Index, Operand, Pred, Ptr, V, WARP};

/// Smallest decay that has a logarithm.
const LOWEST_DECAY: f32 = 7.523_164e-37;

/// Decay and beta of this lane's token, as they lie in memory.
type Gates<'k> = [V<'k, F32>; 2];

/// One warp that stages a chunk in each turn.
pub struct Stager<'a, 'k, 'g> {
    cta: &'a Cta<'a, 'k, 'g>,
    /// Its chunk of each turn.
    chunk: V<'k, Index>,
    /// Queries and keys as they lie in memory, 16 bytes for each lane at a time.
    raw: Ptr<'k, F32>,
    /// `A`, see [`Stager::place`].
    among: Ptr<'k, F32>,
    /// Logarithms to the base of two of `P`.
    logs: Ptr<'k, F32>,
}

/// Words of queries and keys of a chunk.
fn raw_words(padded: u32) -> u32 {
    2 * CHUNK * padded
}

impl<'a, 'k, 'g> Stager<'a, 'k, 'g> {
    /// Words of shared memory of a warp.
    pub fn words(padded: u32) -> u32 {
        raw_words(padded) + CHUNK * CHUNK + CHUNK
    }

    /// Staging warp `number` of a CTA.
    pub fn new(cta: &'a Cta<'a, 'k, 'g>, number: V<'k, Index>) -> Self {
        let (k, stagers, raw) = (cta.k(), cta.plan.stagers, raw_words(padded(cta.d.dk)));
        // other warps have no memory here, and use none
        let number = number.imax(0u32).imin(stagers - 1);
        Stager {
            cta,
            chunk: cta.rank * stagers + number,
            raw: k.shared::<F32>(stagers * raw).at(number * raw),
            among: k.shared::<F32>(stagers * CHUNK * CHUNK).at(number * (CHUNK * CHUNK)),
            logs: k.shared::<F32>(stagers * CHUNK).at(number * CHUNK),
        }
    }

    /// Whether there is such a chunk: more CTAs than chunks leave some without.
    pub fn has_chunk(&self) -> V<'k, Pred> {
        self.chunk.lt(CHUNKS)
    }

    /// No gates.
    pub fn nothing(&self) -> Gates<'k> {
        [0.0f32.on(self.cta.k()); 2]
    }

    /// Token `t` of the chunk, in its turn.
    fn token(&self, t: V<'k, Index>) -> V<'k, Index> {
        self.chunk * CHUNK + t
    }

    /// The row of this lane in the upper or lower half of a chunk, and its first column. Four lanes have a row; 8 neighbours have the
    /// 8 rows of a piece, so that they do not meet in a bank.
    fn mine(&self, below: u32) -> (V<'k, Index>, V<'k, Index>) {
        let lane = self.cta.k().warp().rank;
        (lane / 2u32 % 8u32 + below, lane % 2u32 * 4u32 + lane / 16u32 * 8u32)
    }

    /// Where this lane keeps fours of a half of the queries (`operand` 0) or keys: those of its columns 0 to 3, 16 to 19, and so on.
    fn fours(&self, operand: usize, below: u32) -> impl Iterator<Item = (u32, Ptr<'k, F32>)> {
        let across = padded(self.cta.d.dk) / CHUNK;
        let first = (operand as u32 * 2 + below / 8) * across;
        let lane = self.raw.at(self.cta.k().warp().rank * 4u32);
        (0..across).map(move |i| (i * CHUNK, lane.at((first + i) * (4 * WARP))))
    }

    /// Asks for the chunk of a turn, and gives its gates.
    pub fn ask(&self, turn: V<'k, Index>) -> Gates<'k> {
        let (cta, d, k) = (self.cta, self.cta.d, self.cta.k());
        for (operand, below) in [(0, 0), (0, 8), (1, 0), (1, 8)] {
            let (t, first) = self.mine(below);
            let from = rows_of_fours(d.operand(operand, cta.row(turn, self.token(t)), cta.head * d.dk), d.dk);
            for (c, to) in self.fours(operand, below) {
                if c + CHUNK <= d.dk {
                    to.copy_async(from.at(first + c));
                } else {
                    let there = (first + c).lt(d.dk);
                    to.copy_async_some(from.at(there.select(first + c, 0u32)), there.select(16u32, 0u32));
                }
            }
        }
        k.copy_commit();
        let row = cta.row(turn, self.token(k.warp().rank % CHUNK));
        [3, 4].map(|i| d.operand(i, row, cta.head).load(1))
    }

    /// Stages the chunk of a turn for all CTAs of the cluster, and asks for that of the next.
    pub fn stage(&self, turn: V<'k, Index>, gates: Gates<'k>) -> Gates<'k> {
        let (cta, k) = (self.cta, self.cta.k());
        let chunk = cta.chunk(turn, self.chunk);
        k.copy_wait(0);
        self.normalise(turn, 0, chunk.queries());
        self.normalise(turn, 1, chunk.keys());
        self.gates(turn, chunk, gates);
        k.warp_barrier();
        let more = cta.exists(turn, TURN.on(k));
        let next = k.choose(more, || self.ask(turn + 1u32), || gates);
        let (keys, queries) = (chunk.keys(), chunk.queries());
        self.products((queries, keys), chunk, true, |t, c, pair| chunk.told().at(t, c).store(pair.round_bf16()));
        self.products((keys, keys), chunk, false, |t, c, pair| self.place(t, c).store(pair));
        k.warp_barrier();
        self.invert(chunk);
        self.share(chunk);
        next
    }

    /// Decays and betas. Tokens that do not exist decay nothing.
    fn gates(&self, turn: V<'k, Index>, chunk: Chunk<'k>, [decay, beta]: Gates<'k>) {
        let k = self.cta.k();
        let t = k.warp().rank % CHUNK;
        let exists = self.cta.exists(turn, self.token(t));
        let log = exists.select(decay.max(LOWEST_DECAY).log() * std::f32::consts::LOG2_E, 0.0);
        let sum = [1u32, 2, 4, 8].into_iter().fold(log, |sum, back| {
            let before = sum.shuffle((t - back).imax(0u32));
            t.lt(back).select(sum, sum + before)
        });
        let all = sum.shuffle(CHUNK - 1);
        k.when(k.warp().rank.lt(CHUNK), || {
            self.logs.at(t).store(sum);
            chunk.decays().at(t).store(sum.exp2());
            chunk.to_end().at(t).store((all - sum).exp2());
            chunk.betas().at(t).store(exists.select(beta, 0.0));
        });
    }

    /// Keys or queries, normalised and rounded.
    fn normalise(&self, turn: V<'k, Index>, operand: usize, to: Matrix<'k>) {
        for below in [0, 8] {
            let (t, first) = self.mine(below);
            let fours: Vec<_> = self.fours(operand, below).map(|(c, from)| (c, from.load(4))).collect();
            let factor = self.cta.d.norm.map_or(1.0f32.on(self.cta.k()), |norm| {
                let zero = self.cta.k().splat(0.0, 4);
                let squares = fours.iter().fold(zero, |sum, (_, x)| x.fma(*x, sum)).sum_lanes();
                let squares = [1u8, 16].into_iter().fold(squares, |sum, bits| sum + sum.shuffle_xor(bits));
                norm.factor(squares, operand == 0)
            });
            let factor = self.cta.exists(turn, self.token(t)).select(factor, 0.0);
            for (c, x) in fours {
                to.at(t, first + c).store((x * factor.splat(4)).round_bf16());
            }
        }
    }

    /// Decayed products of the rows of `left` with the keys, two neighbours at a time; zero for later keys. Those of keys with keys have
    /// a factor `beta`, and none with itself.
    fn products(
        &self,
        (left, keys): (Matrix<'k>, Matrix<'k>),
        chunk: Chunk<'k>,
        of_queries: bool,
        write: impl Fn(V<'k, Index>, V<'k, Index>, V<'k, F32>),
    ) {
        let k = self.cta.k();
        let mut sums = [k.splat(0.0, 4); 2];
        for step in (0..padded(self.cta.d.dk) / 8).step_by(2) {
            let (left, right) = (left.left(0u32, step), keys.right_rows(0u32, step));
            sums.iter_mut().zip(right).for_each(|(sum, right)| *sum = left.mma(right, *sum));
        }
        let lane = k.warp().rank;
        for below in [0, 8u32] {
            let t = lane / 4u32 + below;
            let log = self.logs.at(t).load(1);
            let factor = if of_queries { 1.0f32.on(k) } else { chunk.betas().at(t).load(1) };
            for (i, sum) in (0..).zip(sums) {
                let c = lane % 4u32 * 2u32 + 8 * i;
                let decays = (log.splat(2) - self.logs.at(c).load(2)).exp2() * factor.splat(2);
                let one = |h: u32| {
                    let counts: V<'k, Pred> = if of_queries { (c + h).le(t) } else { (c + h).lt(t) };
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
        self.among.at(t * CHUNK).at(c.xor(exchange)).aligned(8)
    }

    /// `(I + A)^-1`, from the last column to the first; a lane has a row.
    fn invert(&self, chunk: Chunk<'k>) {
        let k = self.cta.k();
        let t = k.warp().rank % CHUNK;
        let mut row: Vec<_> = (0..CHUNK).map(|c| t.equals(c).select(1.0, 0.0f32.on(k))).collect();
        for j in (1..CHUNK).rev() {
            for c in (0..j).step_by(4) {
                let exchanged = c ^ (j / 2 % 2 * 8);
                let a = self.among.at(j * CHUNK + exchanged).load(4);
                for i in c..j.min(c + 4) {
                    row[i as usize] = (-row[j as usize]).fma(a.lane((i - c) as u16), row[i as usize]);
                }
            }
        }
        k.when(k.warp().rank.lt(CHUNK), || {
            for (i, eight) in (0u32..).zip(row.chunks(8)) {
                chunk.inverse().at(t, (8 * i).on(k)).store(V::pack(eight).round_bf16());
            }
        });
    }

    /// Writes the chunk to the other CTAs of the cluster.
    fn share(&self, chunk: Chunk<'k>) {
        let (cta, k) = (self.cta, self.cta.k());
        if cta.plan.ctas == 1 {
            return;
        }
        k.warp_barrier();
        let others = (1..cta.plan.ctas).map(|further| chunk.base.peer((cta.rank + further) % cta.plan.ctas));
        let others: Vec<_> = others.collect();
        k.warp().each(Chunk::words(padded(cta.d.dk)) / 4, |i| {
            let four = chunk.base.at(i * 4u32).load(4);
            others.iter().for_each(|other| other.at(i * 4u32).store(four));
        });
    }
}
