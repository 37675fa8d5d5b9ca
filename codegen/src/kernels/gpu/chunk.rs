//! The gated delta rule on tile products, 16 tokens at a time, by the CTAs of a cluster for a head. The mathematics is that of the
//! CPU's chunks (`kernels/chunk.rs`): with `P[t]` the product of decays of a chunk up to token `t` and `D[t][j]` of those after `j`,
//!
//! ```text
//! (I + A) U = beta (V - P S^T K)      A[t][j] = beta[t] D[t][j] k[t] . k[j]  for j < t
//! O = P S^T Q + (D Q K^T) U           S <- P[n-1] S + sum_j D[n-1][j] k[j] u[j]^T
//! ```
//!
//! What tokens of a chunk have to do with each other does not depend on the state: staging warps work it out a turn ahead
//! (`chunk_stage`), each CTA for its share of the chunks, and write it to all CTAs of the cluster. Scanning warps walk over the
//! chunks with 16 columns of the state each (`chunk_scan`); finishing warps norm and store what was told a turn ago
//! (`chunk_finish`), for which the CTAs read each other's sums of squares. A turn is 64 tokens and ends with a barrier.
//!
//! Operands of products are bf16, sums and the state f32. `D` is a power of two of a difference of logarithms; decays below 2^-120
//! count as that.

use super::super::context::{Scratch, Shape};
use super::super::delta::Delta;
use super::chunk_finish::Finisher;
use super::chunk_scan::Scanner;
use super::chunk_stage::Stager;
use super::matrix::Matrix;
use crate::kir::{Bf16, Builder, Cap, F32, Index, Items, Launch, Operand, Pred, Ptr, V, WARP};
use jetbin::Phase;

/// Tokens of a chunk, and columns of the state of a warp: rows and columns of a tile.
pub const CHUNK: u32 = 16;
/// Tokens of a turn.
pub const TURN: u32 = 64;
/// Chunks of a turn.
pub const CHUNKS: u32 = TURN / CHUNK;
/// Warps of a CTA with columns of the state, and their columns.
pub const SCANNERS: u32 = 2;
pub const COLS: u32 = SCANNERS * CHUNK;
/// Warps that finish.
pub const FINISHERS: u32 = 4;
/// Elements from token to token of values and outputs of a warp's columns: what its lanes read at once lies in different banks.
pub const STRIDE: u32 = 20;
/// Elements from the outputs of a warp to those of the next: neighbours lie in different banks.
pub const OUTPUTS: u32 = TURN * STRIDE + 16;
/// Rows of the state that a warp has registers for.
const MOST_DK: u32 = 128;
/// CTAs of a cluster.
const MOST_CTAS: u32 = 8;

/// How a head is shared out.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Warps of a CTA that stage a chunk each turn.
    pub stagers: u32,
    /// CTAs of a head.
    pub ctas: u32,
}

impl Plan {
    fn of(dv: u32) -> Plan {
        let ctas = dv.div_ceil(SCANNERS * CHUNK);
        Plan { stagers: CHUNKS.div_ceil(ctas), ctas }
    }

    fn threads(&self) -> u32 {
        (SCANNERS + self.stagers + FINISHERS) * WARP
    }
}

/// Rows of a state, up to whole tiles.
pub fn padded(dk: u32) -> u32 {
    dk.next_multiple_of(CHUNK)
}

/// What is known of a chunk, in shared memory.
#[derive(Clone, Copy)]
pub struct Chunk<'k> {
    /// All of it, word by word.
    pub base: Ptr<'k, F32>,
    padded: u32,
}

impl<'k> Chunk<'k> {
    /// Words of a chunk.
    pub fn words(padded: u32) -> u32 {
        CHUNK * padded + CHUNK * CHUNK + 3 * CHUNK
    }

    fn matrix(&self, word: u32, cols: u32) -> Matrix<'k> {
        Matrix::new(self.base.builder(), self.base.at(word).cast::<Bf16>(), cols)
    }

    /// `[CHUNK][dk]`: normalised; zero rows for tokens that do not exist.
    pub fn keys(&self) -> Matrix<'k> {
        self.matrix(0, self.padded)
    }

    /// The same, scaled.
    pub fn queries(&self) -> Matrix<'k> {
        self.matrix(CHUNK / 2 * self.padded, self.padded)
    }

    /// `[CHUNK][CHUNK]`: the inverse of `I + A`.
    pub fn inverse(&self) -> Matrix<'k> {
        self.matrix(CHUNK * self.padded, CHUNK)
    }

    /// `[CHUNK][CHUNK]`: `D[t][j] q[t] . k[j]` for `j <= t`.
    pub fn told(&self) -> Matrix<'k> {
        self.matrix(CHUNK * self.padded + CHUNK * CHUNK / 2, CHUNK)
    }

    fn of_tokens(&self, i: u32) -> Ptr<'k, F32> {
        self.base.at(CHUNK * self.padded + CHUNK * CHUNK + i * CHUNK)
    }

    /// `P`.
    pub fn decays(&self) -> Ptr<'k, F32> {
        self.of_tokens(0)
    }

    /// `beta`; zero for tokens that do not exist.
    pub fn betas(&self) -> Ptr<'k, F32> {
        self.of_tokens(1)
    }

    /// `D[n - 1][t]`.
    pub fn to_end(self) -> Ptr<'k, F32> {
        self.of_tokens(2)
    }
}

/// What a turn hands to the next, in shared memory; each twice, by turns.
#[derive(Clone, Copy)]
struct Handed<'k> {
    /// [`CHUNKS`] chunks.
    chunks: Ptr<'k, F32>,
    /// `[scanners][TURN][CHUNK]` outputs, with the gaps of [`STRIDE`] and [`OUTPUTS`].
    outputs: Ptr<'k, F32>,
    /// `[TURN][scanners]`: sums of squares of outputs.
    squares: Ptr<'k, F32>,
}

/// One CTA's part of a delta grid.
#[derive(Clone, Copy)]
pub struct Cta<'a, 'k, 'g> {
    pub d: &'a Delta<'a, 'k, 'g>,
    pub plan: Plan,
    pub head: V<'k, Index>,
    /// Number of the CTA in its cluster.
    pub rank: V<'k, Index>,
    handed: Handed<'k>,
}

/// Whether the shape is one that the kernel is for: rows of keys and values come in fours, and state and tokens fit.
pub fn supports(d: &Delta<'_, '_, '_>) -> bool {
    let plan = Plan::of(d.dv);
    d.cx.phase == Phase::Prefill
        && (plan.ctas == 1 || d.cx.k.target.has(Cap::Cluster))
        && [d.dk, d.dv].iter().all(|n| n.is_multiple_of(4))
        && d.dk <= MOST_DK
        && plan.ctas <= MOST_CTAS
        && 4 * words(padded(d.dk), plan) <= d.cx.k.target.most_shared(1)
}

/// Words of shared memory of a CTA.
fn words(padded: u32, plan: Plan) -> u32 {
    let handed = CHUNKS * Chunk::words(padded) + SCANNERS * (OUTPUTS + TURN);
    2 * handed + plan.stagers * Stager::words(padded) + SCANNERS * Scanner::WORDS
}

/// The kernel of a delta grid with its stores.
pub fn chunked(d: &Delta<'_, '_, '_>) -> Shape {
    let (k, plan) = (d.cx.k, Plan::of(d.dv));
    let launch = Launch { threads: plan.threads(), ctas: 1, rows: 1 };
    let item = k.launch(Items { fixed: d.heads * plan.ctas, per_row: false }, launch);
    k.cluster(plan.ctas);
    let handed = Handed {
        chunks: k.shared(2 * CHUNKS * Chunk::words(padded(d.dk))),
        outputs: k.shared(2 * SCANNERS * OUTPUTS),
        squares: k.shared(2 * SCANNERS * TURN),
    };
    let cta = Cta { d, plan, head: item / plan.ctas, rank: item % plan.ctas, handed };
    cta.run();
    Shape { name: "gated_delta_chunked", scratch: Scratch::default(), cost: d.cost() }
}

impl<'k> Cta<'_, 'k, '_> {
    /// Every warp has one role: it scans, stages or finishes.
    fn run(&self) {
        let (k, warp, stagers) = (self.k(), self.k().warp_id(), self.plan.stagers);
        let is_scanner = warp.lt(SCANNERS);
        let (scanner, stager) = (Scanner::new(self), Stager::new(self, warp - SCANNERS));
        let is_stager = SCANNERS.on(k).le(warp).and(warp.lt(SCANNERS + stagers)).and(stager.has_chunk());
        let is_finisher = (SCANNERS + stagers).on(k).le(warp);
        let finisher = Finisher::new(self, warp - (SCANNERS + stagers));
        let state = k.choose(is_scanner, || scanner.begin(), || scanner.nothing());
        let gates = k.choose(is_stager, || stager.ask(0u32.on(k)), || stager.nothing());
        // nobody writes to a CTA that is not there yet
        self.meet();
        let turns = (self.d.cx.rows() + (TURN - 1)) / TURN;
        let (last, _) = k.range(0u32, turns + 2u32, 1, (state, gates), |turn, (state, gates)| {
            let during = |ago: u32| ago.on(k).le(turn).and(turn.lt(turns + ago));
            let gates = k.choose(is_stager.and(during(0)), || stager.stage(turn, gates), || gates);
            let scan = || scanner.scan(turn - 1u32, state.clone());
            let state = k.choose(is_scanner.and(during(1)), scan, || state.clone());
            k.when(is_finisher.and(during(2)), || finisher.finish(turn - 2u32));
            self.meet();
            (state, gates)
        });
        k.when(is_scanner, || scanner.keep(&last));
    }

    pub fn k(&self) -> &'k Builder {
        self.d.cx.k
    }

    /// Waits for all threads of the cluster.
    fn meet(&self) {
        if self.plan.ctas > 1 { self.k().cluster_barrier() } else { self.k().barrier() }
    }

    /// The first column of this CTA.
    pub fn first_col(&self) -> V<'k, Index> {
        self.rank * COLS
    }

    /// Row of token `t` of a turn; of tokens beyond the last, that one.
    pub fn row(&self, turn: V<'k, Index>, t: V<'k, Index>) -> V<'k, Index> {
        (turn * TURN + t).imin(self.d.cx.rows() - 1u32)
    }

    /// Whether token `t` of a turn exists.
    pub fn exists(&self, turn: V<'k, Index>, t: V<'k, Index>) -> V<'k, Pred> {
        (turn * TURN + t).lt(self.d.cx.rows())
    }

    /// Chunk `chunk` of a turn.
    pub fn chunk(&self, turn: V<'k, Index>, chunk: V<'k, Index>) -> Chunk<'k> {
        let padded = padded(self.d.dk);
        let base = self.handed.chunks.at((turn % 2u32 * CHUNKS + chunk) * Chunk::words(padded));
        Chunk { base, padded }
    }

    /// Outputs of a turn.
    pub fn outputs(&self, turn: V<'k, Index>) -> Ptr<'k, F32> {
        self.handed.outputs.at(turn % 2u32 * (SCANNERS * OUTPUTS))
    }

    /// Sums of squares of a turn.
    pub fn squares(&self, turn: V<'k, Index>) -> Ptr<'k, F32> {
        self.handed.squares.at(turn % 2u32 * (SCANNERS * TURN))
    }
}
