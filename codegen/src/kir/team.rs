//! Who works together on a GPU: the lanes of a warp, or all threads of a CTA. Walks over elements, sums and maxima.

use super::ops::Scalar;
use super::{Builder, Carry, F32, Index, Op, Operand, V};

/// Lanes of a warp.
pub const WARP: u32 = 32;

/// Threads that share a piece of work; every one of them must run what a team does.
#[derive(Clone, Copy, Debug)]
pub struct Team<'k> {
    k: &'k Builder,
    /// Number of this thread in the team.
    pub rank: V<'k, Index>,
    /// Threads of the team.
    pub size: u32,
}

impl Builder {
    /// Number of this thread in its CTA.
    pub fn thread(&self) -> V<'_, Index> {
        self.special(Op::ThreadId)
    }

    /// All threads of the CTA.
    pub fn cta(&self) -> Team<'_> {
        Team { k: self, rank: self.thread(), size: self.launched().threads }
    }

    /// The 32 lanes of this thread's warp.
    pub fn warp(&self) -> Team<'_> {
        Team { k: self, rank: self.thread() % WARP, size: WARP }
    }

    /// Number of this thread's warp in its CTA.
    pub fn warp_id(&self) -> V<'_, Index> {
        self.thread() / WARP
    }

    /// Warps of a CTA.
    pub fn warps(&self) -> u32 {
        self.launched().threads / WARP
    }
}

impl<'k> Team<'k> {
    /// Covers `0..n`, neighbours taking neighbouring elements. Whole rounds have a constant number of turns, which an
    /// assembler unrolls.
    pub fn each(&self, n: u32, body: impl Fn(V<'k, Index>)) {
        self.fold(n, (), |i, ()| body(i));
    }

    /// The same, carrying values from turn to turn of this thread.
    pub fn fold<C: Carry<'k>>(&self, n: u32, init: C, body: impl Fn(V<'k, Index>, C) -> C) -> C {
        let (k, whole) = (self.k, n / self.size * self.size);
        let done = match whole / self.size {
            0 => init,
            1 => body(self.rank, init),
            _ => k.range(0u32, whole, self.size, init, |i, c| body(i + self.rank, c)),
        };
        if whole == n {
            return done;
        }
        let last = self.rank + whole;
        k.choose(last.lt(n), || body(last, done.clone()), || done.clone())
    }

    /// Covers `from..to`, known at run time.
    pub fn each_between(&self, from: V<'k, Index>, to: V<'k, Index>, body: impl Fn(V<'k, Index>)) {
        self.k.range(from + self.rank, to, self.size, (), |i, ()| body(i));
    }

    /// `combine` over the lanes of each warp: the same bits in every lane.
    fn across_warp(&self, v: V<'k, F32>, combine: impl Fn(V<'k, F32>, V<'k, F32>) -> V<'k, F32>) -> V<'k, F32> {
        [16u8, 8, 4, 2, 1].into_iter().fold(v, |v, bits| combine(v, v.shuffle_xor(bits)))
    }

    fn across(&self, v: V<'k, F32>, op: Scalar) -> V<'k, F32> {
        let combine = |a: V<'k, F32>, b: V<'k, F32>| self.k.scalar(op, &[a, b]);
        let one = self.across_warp(v, combine);
        if self.size == WARP {
            return one;
        }
        let (k, warps) = (self.k, self.size / WARP);
        let partial = k.shared::<F32>(warps);
        k.when((self.rank % WARP).equals(0u32), || partial.at(self.rank / WARP).store(one));
        k.barrier();
        (1..warps).fold(partial.load(1), |all, w| combine(all, partial.at(w).load(1)))
    }

    /// The sum over the team, in every thread.
    pub fn sum(&self, v: V<'k, F32>) -> V<'k, F32> {
        self.across(v, Scalar::Add)
    }

    /// The largest of the team, in every thread.
    pub fn max(&self, v: V<'k, F32>) -> V<'k, F32> {
        self.across(v, Scalar::Max)
    }

    /// Runs `body` in the first thread.
    pub fn leader(&self, body: impl FnOnce()) {
        self.k.when(self.rank.equals(0u32.on(self.k)), body);
    }
}
