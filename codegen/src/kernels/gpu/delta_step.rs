//! One token of the gated delta rule for each sequence: `S <- decay S; u = beta (v - S^T k); S <- S + k u^T; o = S^T q`.
//!
//! A CTA has the state of one head. All of it is asked for at once, in copies to shared memory that take no registers; every
//! element is read from memory once and written once. A thread has four columns of every few rows.

use super::super::context::{Context, Scratch, Shape, Unsupported};
use super::super::delta::Delta;
use super::operand::sum_of_squares;
use crate::kir::{F32, Index, Items, Launch, Operand, Ptr, V, WARP};
use jet_ir::Id;

/// Most threads of a CTA.
const THREADS: u32 = 256;
/// Columns of a thread.
const COLS: u32 = 4;
/// Rows of a thread up to which the walks over them are unrolled.
const UNROLLED: u32 = 64;

/// One head of one sequence.
struct Head<'a, 'k, 'g> {
    d: &'a Delta<'a, 'k, 'g>,
    row: V<'k, Index>,
    head: V<'k, Index>,
    /// Threads that share the rows of a column.
    groups: u32,
    /// `[dk][dv]`.
    state: Ptr<'k, F32>,
    /// `[dk]` each, normalised.
    key: Ptr<'k, F32>,
    query: Ptr<'k, F32>,
    /// `[groups][dv]`: what each group of threads adds to `S^T k`, and to the output.
    seen: Ptr<'k, F32>,
    told: Ptr<'k, F32>,
}

/// Threads that share the rows of a column; none if the heads do not divide among whole warps.
fn groups(d: &Delta<'_, '_, '_>) -> Option<u32> {
    let quads = d.dv / COLS;
    let fits = |g: &u32| quads * g <= THREADS && (quads * g).is_multiple_of(WARP) && d.dk.is_multiple_of(*g);
    let divides = d.dv.is_multiple_of(COLS) && quads > 0;
    [16, 8, 4, 2, 1].into_iter().filter(|_| divides).find(fits)
}

/// Bytes of shared memory, what the sum over a CTA takes included.
fn shared(d: &Delta<'_, '_, '_>, groups: u32) -> u32 {
    4 * (d.dk * d.dv + 2 * d.dk + 2 * groups * d.dv + THREADS / WARP) + 64
}

/// The kernel of a delta grid with its stores in decode; none if the state of a head has no room.
pub fn delta_step(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Option<Shape>, Unsupported> {
    let (d, k) = (Delta::new(cx, grid, stores)?, cx.k);
    let fits = |g: &u32| shared(&d, *g) <= k.target.most_shared(1);
    let Some(groups) = groups(&d).filter(fits) else { return Ok(None) };
    let ctas = if shared(&d, groups) <= k.target.most_shared(2) { 2 } else { 1 };
    let launch = Launch { threads: d.dv / COLS * groups, ctas, rows: 1 };
    let item = k.launch(Items { fixed: d.heads, per_row: true }, launch);
    let head = Head {
        d: &d,
        row: item / d.heads,
        head: item % d.heads,
        groups,
        state: k.shared(d.dk * d.dv),
        key: k.shared(d.dk),
        query: k.shared(d.dk),
        seen: k.shared(groups * d.dv),
        told: k.shared(groups * d.dv),
    };
    head.run();
    Ok(Some(Shape { name: "gated_delta_step", scratch: Scratch::default(), cost: d.cost() }))
}

impl<'k> Head<'_, 'k, '_> {
    fn run(&self) {
        let (d, k) = (self.d, self.d.cx.k);
        let from = d.cx.state::<F32>(d.state, self.row).aligned(16).at(self.head * (d.dk * d.dv));
        k.cta().each(d.dk * d.dv / COLS, |i| self.state.at(i * COLS).copy_async(from.at(i * COLS)));
        k.copy_commit();
        self.stage();
        let (decay, beta) = (d.operand(3, self.row, self.head).load(1), d.operand(4, self.row, self.head).load(1));
        let value = d.operand(2, self.row, self.head * d.dv).at(self.col()).load(COLS as u16);
        k.copy_wait(0);
        k.barrier();
        let zero = || k.splat(0.0, COLS as u16);
        let seen = self.walk(zero(), |i, seen| {
            self.state.at(i * d.dv).at(self.col()).load(COLS as u16).fma(self.key.at(i).load_splat(COLS as u16), seen)
        });
        let seen = self.over_groups(seen, self.seen);
        let decay = decay.splat(COLS as u16);
        let learn = (value - seen * decay) * beta.splat(COLS as u16);
        let told = self.walk(zero(), |i, told| {
            let old = self.state.at(i * d.dv).at(self.col()).load(COLS as u16);
            let new = learn.fma(self.key.at(i).load_splat(COLS as u16), old * decay);
            from.at(i * d.dv).at(self.col()).store(new);
            new.fma(self.query.at(i).load_splat(COLS as u16), told)
        });
        self.part(self.told).store(told);
        k.barrier();
        self.finish();
    }

    /// The first of this thread's columns.
    fn col(&self) -> V<'k, Index> {
        self.d.cx.k.thread() % (self.d.dv / COLS) * COLS
    }

    /// Which of the threads of its columns this one is.
    fn group(&self) -> V<'k, Index> {
        self.d.cx.k.thread() / (self.d.dv / COLS)
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
        parts.at(self.group() * self.d.dv).at(self.col())
    }

    /// The sum over the groups, in their order.
    fn over_groups(&self, mine: V<'k, F32>, parts: Ptr<'k, F32>) -> V<'k, F32> {
        if self.groups == 1 {
            return mine;
        }
        self.part(parts).store(mine);
        self.d.cx.k.barrier();
        let part = |g: u32| parts.at(g * self.d.dv).at(self.col()).load(COLS as u16);
        (1..self.groups).fold(part(0), |sum, g| sum + part(g))
    }

    /// Column `c` of the output.
    fn out(&self, c: V<'k, Index>) -> V<'k, F32> {
        let part = |g: u32| self.told.at(g * self.d.dv).at(c).load(1);
        (1..self.groups).fold(part(0), |sum, g| sum + part(g))
    }

    /// The stores, a column for a thread at a time.
    fn finish(&self) {
        let (d, k) = (self.d, self.d.cx.k);
        let results = d.results();
        for store in results.stored() {
            let factor = results.gated_norm(store).map(|eps| {
                let squares = k.cta().fold(d.dv, 0.0f32.on(k), |c, sum| {
                    let o = self.out(c);
                    o.fma(o, sum)
                });
                (k.cta().sum(squares) * (1.0 / d.dv as f32) + eps).rsqrt()
            });
            k.cta().each(d.dv, |c| results.store_columns(store, (self.row, self.head, c), factor, self.out(c)));
        }
    }
}
