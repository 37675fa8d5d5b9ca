//! One token of the gated delta rule for each sequence: `S <- decay S; u = beta (v - S^T k); S <- S + k u^T; o = S^T q`.
//!
//! A CTA has the state of one head. All of it is asked for at once, in copies to shared memory that take no registers; every
//! element is read from memory once and written once. A thread has four columns of every few rows.

use super::super::context::{Context, Scratch, Shape, Unsupported};
use super::super::delta::Delta;
use super::operand::sum_of_squares;
use crate::kir::{Carry, F32, Index, Items, Launch, Operand, Ptr, V, WARP};
use crate::targets::Target;
use jet_ir::Id;

/// Most threads of a CTA.
const THREADS: u32 = 256;
/// Columns of a thread.
const COLS: u32 = 4;
/// Rows of a thread up to which the walks over them are unrolled.
const UNROLLED: u32 = 64;

/// Some columns of one head of one sequence.
pub struct Head<'a, 'k, 'g> {
    d: &'a Delta<'a, 'k, 'g>,
    row: V<'k, Index>,
    head: V<'k, Index>,
    /// Columns of this CTA, and the first of them in the head.
    cols: u32,
    first: V<'k, Index>,
    /// Threads that share the rows of a column.
    groups: u32,
    /// `[dk][cols]`.
    state: Ptr<'k, F32>,
    /// `[dk]` each, normalised.
    key: Ptr<'k, F32>,
    query: Ptr<'k, F32>,
    /// `[groups][cols]`: what each group of threads adds to `S^T k`, and to the output.
    seen: Ptr<'k, F32>,
    told: Ptr<'k, F32>,
}

/// Threads that share the rows of a column of a head of `dk` by `dv`; none if the heads do not divide among whole warps.
fn groups(dk: u32, dv: u32) -> Option<u32> {
    let quads = dv / COLS;
    let fits = |g: &u32| quads * g <= THREADS && (quads * g).is_multiple_of(WARP) && dk.is_multiple_of(*g);
    let divides = dv.is_multiple_of(COLS) && quads > 0;
    [16, 8, 4, 2, 1].into_iter().filter(|_| divides).find(fits)
}

/// Bytes of shared memory for `cols` columns of a head, what the sum over a CTA takes included.
pub fn shared(dk: u32, cols: u32, groups: u32) -> u32 {
    4 * (dk * cols + 2 * dk + 2 * groups * cols + THREADS / WARP) + 64
}

/// Threads that share the rows of a column; none if a head is no work for this kernel.
pub fn shared_out(target: &Target, dk: u32, dv: u32) -> Option<u32> {
    groups(dk, dv).filter(|groups| shared(dk, dv, *groups) <= target.most_shared(1))
}

/// The kernel of a delta grid with its stores in decode; none if the state of a head has no room.
pub fn delta_step(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Option<Shape>, Unsupported> {
    let (d, k) = (Delta::new(cx, grid, stores)?, cx.k);
    let Some(groups) = shared_out(&k.target, d.dk, d.dv) else { return Ok(None) };
    let ctas = if shared(d.dk, d.dv, groups) <= k.target.most_shared(2) { 2 } else { 1 };
    let launch = Launch { threads: d.dv / COLS * groups, ctas, rows: 1 };
    let item = k.launch(Items { fixed: d.heads, per_row: true }, launch);
    let head = Head::new(&d, (item / d.heads, item % d.heads), (0u32.on(k), d.dv), groups);
    head.ask();
    let value = d.operand(2, head.row, head.head * d.dv).at(head.col()).load(COLS as u16);
    head.step(value);
    Ok(Some(Shape { name: "gated_delta_step", scratch: Scratch::default(), cost: d.cost() }))
}

impl<'a, 'k, 'g> Head<'a, 'k, 'g> {
    /// Columns `first` to `first + cols` of a head of a row, the rows of a column shared out among `groups` threads.
    pub fn new(
        d: &'a Delta<'a, 'k, 'g>,
        (row, head): (V<'k, Index>, V<'k, Index>),
        (first, cols): (V<'k, Index>, u32),
        groups: u32,
    ) -> Self {
        let k = d.cx.k;
        let (state, key, query) = (k.shared(d.dk * cols), k.shared(d.dk), k.shared(d.dk));
        let (seen, told) = (k.shared(groups * cols), k.shared(groups * cols));
        Head { d, row, head, cols, first, groups, state, key, query, seen, told }
    }

    /// The columns of this CTA in memory.
    fn in_memory(&self) -> Ptr<'k, F32> {
        let d = self.d;
        d.cx.state::<F32>(d.state, self.row).aligned(16).at(self.head * (d.dk * d.dv)).at(self.first)
    }

    /// Asks for the state, which this kernel alone writes, a step ago; then brings key and query.
    pub fn ask(&self) {
        let (d, k, from, quads) = (self.d, self.d.cx.k, self.in_memory().settled(), self.cols / COLS);
        k.cta().each(d.dk * quads, |i| {
            let at = if self.cols == d.dv { i * COLS } else { i / quads * d.dv + i % quads * COLS };
            self.state.at(i * COLS).copy_async(from.at(at));
        });
        k.copy_commit();
        self.stage();
    }

    /// The step, given what [`Self::ask`] has asked for and the values of this thread's columns.
    pub fn step(&self, value: V<'k, F32>) {
        let (d, k, to) = (self.d, self.d.cx.k, self.in_memory().once());
        let (decay, beta) = (d.operand(3, self.row, self.head).load(1), d.operand(4, self.row, self.head).load(1));
        k.copy_wait(0);
        k.barrier();
        let zero = || k.splat(0.0, COLS as u16);
        let seen = self.active(zero(), || {
            self.walk(zero(), |i, seen| {
                let old = self.state.at(i * self.cols).at(self.col()).load(COLS as u16);
                old.fma(self.key.at(i).load_splat(COLS as u16), seen)
            })
        });
        let seen = self.over_groups(seen, self.seen);
        let decay = decay.splat(COLS as u16);
        let learn = (value - seen * decay) * beta.splat(COLS as u16);
        self.active((), || {
            let told = self.walk(zero(), |i, told| {
                let old = self.state.at(i * self.cols).at(self.col()).load(COLS as u16);
                let new = learn.fma(self.key.at(i).load_splat(COLS as u16), old * decay);
                to.at(i * d.dv).at(self.col()).store(new);
                new.fma(self.query.at(i).load_splat(COLS as u16), told)
            });
            self.part(self.told).store(told);
        });
        k.barrier();
        self.finish();
    }

    /// `body` in the threads that have columns, which are whole warps.
    pub fn active<C: Carry<'k>>(&self, others: C, body: impl FnOnce() -> C) -> C {
        let (k, n) = (self.d.cx.k, self.cols / COLS * self.groups);
        if k.cta().size == n { body() } else { k.choose(k.thread().lt(n), body, || others) }
    }

    /// CTAs that have the columns of a head together.
    fn peers(&self) -> u32 {
        self.d.dv / self.cols
    }

    /// The first of this thread's columns, among those of the CTA.
    pub fn col(&self) -> V<'k, Index> {
        self.d.cx.k.thread() % (self.cols / COLS) * COLS
    }

    /// Which of the threads of its columns this one is.
    fn group(&self) -> V<'k, Index> {
        self.d.cx.k.thread() / (self.cols / COLS)
    }

    /// Normalised key and query in shared memory.
    fn stage(&self) {
        let (d, k) = (self.d, self.d.cx.k);
        for (i, to, scaled) in [(0, self.query, true), (1, self.key, false)] {
            let from = d.operand(i, self.row, self.head * d.dk);
            let factor = d.norm.map(|n| n.factor(sum_of_squares(d.cx, from, d.dk), scaled));
            k.cta().each(d.dk, |i| {
                let x = from.at(i).load(1);
                to.at(i).store(factor.map_or(x, |f| x * f));
            });
        }
    }

    /// `body` of each row of this thread; neighbouring groups take neighbouring rows.
    fn walk(&self, sum: V<'k, F32>, body: impl Fn(V<'k, Index>, V<'k, F32>) -> V<'k, F32>) -> V<'k, F32> {
        let (k, rows) = (self.d.cx.k, self.d.dk / self.groups);
        match rows <= UNROLLED {
            true => (0..rows).fold(sum, |sum, j| body(self.group() + j * self.groups, sum)),
            false => k.range(0u32, self.d.dk, self.groups, sum, |i, sum| body(i + self.group(), sum)),
        }
    }

    /// Where this thread's group keeps its part of a sum of columns.
    fn part(&self, parts: Ptr<'k, F32>) -> Ptr<'k, F32> {
        parts.at(self.group() * self.cols).at(self.col())
    }

    /// The sum over the groups, in their order.
    fn over_groups(&self, mine: V<'k, F32>, parts: Ptr<'k, F32>) -> V<'k, F32> {
        if self.groups == 1 {
            return mine;
        }
        self.active((), || self.part(parts).store(mine));
        self.d.cx.k.barrier();
        let part = |g: u32| parts.at(g * self.cols).at(self.col()).load(COLS as u16);
        self.active(mine, || (1..self.groups).fold(part(0), |sum, g| sum + part(g)))
    }

    /// The output at column `c` of this CTA.
    fn out(&self, c: V<'k, Index>) -> V<'k, F32> {
        let part = |g: u32| self.told.at(g * self.cols).at(c).load(1);
        (1..self.groups).fold(part(0), |sum, g| sum + part(g))
    }

    /// The sum of squares of a head's output: warps have 32 columns each, in whatever CTA, and are added in their order.
    fn squares(&self) -> V<'k, F32> {
        let k = self.d.cx.k;
        let mine = k.cta().fold(self.cols, 0.0f32.on(k), |c, sum| {
            let o = self.out(c);
            o.fma(o, sum)
        });
        if self.peers() == 1 {
            return k.cta().sum(mine);
        }
        let (part, sum) = (k.shared::<F32>(1), k.warp().sum(mine));
        k.cta().leader(|| part.store(sum));
        k.cluster_barrier();
        (1..self.peers()).fold(part.peer(0u32).load(1), |sum, rank| sum + part.peer(rank).load(1))
    }

    /// The stores, a column for a thread at a time.
    fn finish(&self) {
        let (d, k) = (self.d, self.d.cx.k);
        let (results, is_push) = (d.results(), |store: &Id| d.cx.pushed(*store).is_some());
        let stores: Vec<Id> = results.stored().filter(|store| !is_push(store)).collect();
        let norms = stores.iter().any(|store| results.gated_norm(*store).is_some());
        let squares = norms.then(|| self.squares());
        for store in stores {
            let factor = results.gated_norm(store).zip(squares);
            let factor = factor.map(|(eps, squares)| (squares * (1.0 / d.dv as f32) + eps).rsqrt());
            k.cta().each(self.cols, |c| {
                results.store_columns(store, (self.row, self.head, self.first + c), factor, self.out(c));
            });
        }
        if norms && self.peers() > 1 {
            // nobody leaves while others read its shared memory
            k.cluster_barrier();
        }
    }
}
