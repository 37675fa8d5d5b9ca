//! The gated delta rule token by token, one CTA for a head: `S <- decay S; u = beta (v - S^T k); S <- S + k u^T; o = S^T q`.
//!
//! A thread, or a few neighbours that share out its rows, has a column of the state. Where registers suffice, the state stays
//! in them from the first token to the last; else a thread walks over its columns in memory, twice for each token.

use super::super::context::{Context, Scratch, Shape, Unsupported};
use super::super::delta::Delta;
use super::operand::sum_of_squares;
use super::threads_for;
use super::{chunk, chunk_head};
use crate::kir::{Carry, F32, Index, Items, Launch, Operand, Ptr, STATIC_SHARED, V, WARP};
use jet_ir::Id;
use jetbin::Phase;

/// Registers of a multiprocessor.
const REGISTERS: u32 = 65536;
/// Rows of a state that a thread has registers for, whatever else it needs.
const MOST_ROWS: u32 = 96;
/// Registers that a thread needs beside the state.
const OTHERS: u32 = 72;
/// Threads of a CTA whose state stays in memory.
const THREADS: u32 = 256;
/// Elements between the rows of two neighbours, so that they do not meet in a bank.
const GAP: u32 = 4;
/// Independent sums that hide the latency of a multiply-add.
const CHAINS: usize = 4;

/// What the threads of a CTA share about one token.
#[derive(Clone, Copy)]
struct Token<'k> {
    query: Ptr<'k, F32>,
    key: Ptr<'k, F32>,
}

/// The kernel of a delta grid with its stores.
pub fn delta(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    let d = Delta::new(cx, grid, stores)?;
    if chunk::supports(&d) {
        return Ok(chunk::chunked(&d));
    }
    if chunk_head::supports(&d) {
        return Ok(chunk_head::chunked(&d));
    }
    if 4 * (2 * (d.dk + 4 * GAP) + d.dv) + 256 > STATIC_SHARED {
        let reason = format!("heads of {} by {} need more shared memory than there is", d.dk, d.dv);
        return Err(Unsupported::new(cx.graph, grid, reason));
    }
    let (k, split) = (cx.k, split(&d));
    let threads = split.map_or(threads_for(d.dv, THREADS), |split| (d.dv * split).next_multiple_of(WARP));
    let decode = cx.phase == Phase::Decode;
    let launch = Launch { threads, ctas: 1, rows: 1 };
    let item = k.launch(Items { fixed: d.heads, per_row: decode }, launch);
    let (row, head) = (item / d.heads, item % d.heads);
    let room = d.dk + GAP * split.unwrap_or(1);
    let token = Token { query: k.shared(room), key: k.shared(room) };
    let head = Head { d: &d, head, token, split: split.unwrap_or(1) };
    let resident = split.is_some();
    let one = |row, state| if resident { head.in_registers(row, state) } else { head.in_memory(row, state) };
    let state = head.load(row, resident);
    let last = match decode {
        true => one(row, state),
        false => k.range(0u32, cx.rows(), 1, state, one),
    };
    head.keep(row, &last);
    let name = if resident { "gated_delta_resident" } else { "gated_delta_streamed" };
    Ok(Shape { name, scratch: Scratch::default(), cost: d.cost() })
}

/// Threads that share a column of the state so that it fits into registers; none if it does not.
fn split(d: &Delta<'_, '_, '_>) -> Option<u32> {
    [1, 2, 4].into_iter().find(|split| {
        let threads = (d.dv * split).next_multiple_of(WARP);
        let rows = d.dk / split;
        threads <= 1024 && d.dk.is_multiple_of(*split) && rows <= MOST_ROWS && rows + OTHERS <= REGISTERS / threads
    })
}

struct Head<'a, 'k, 'g> {
    d: &'a Delta<'a, 'k, 'g>,
    head: V<'k, Index>,
    token: Token<'k>,
    /// Threads that share a column.
    split: u32,
}

impl<'k> Head<'_, 'k, '_> {
    /// Column `c` of the state of the sequence of `row`.
    fn column(&self, row: V<'k, Index>, c: V<'k, Index>) -> Ptr<'k, F32> {
        let d = self.d;
        d.cx.state::<F32>(d.state, row).at(self.head * (d.dk * d.dv)).at(c)
    }

    /// Rows of the state that a thread has.
    fn rows(&self) -> u32 {
        self.d.dk / self.split
    }

    /// Which of the threads of its column this one is.
    fn part(&self) -> V<'k, Index> {
        self.d.cx.k.thread() % self.split
    }

    /// This thread's column.
    fn mine(&self) -> V<'k, Index> {
        let (c, dv) = (self.d.cx.k.thread() / self.split, self.d.dv);
        if self.is_ragged() { c.imin(dv - 1) } else { c }
    }

    /// Whether some threads have no column.
    fn is_ragged(&self) -> bool {
        !(self.d.dv * self.split).is_multiple_of(WARP)
    }

    /// `body` in the threads that `speak`: the first of each column, and none without one.
    fn speak(&self, alone: bool, body: impl FnOnce()) {
        let (k, dv) = (self.d.cx.k, self.d.dv);
        let exists = self.is_ragged().then(|| k.thread().lt(dv * self.split));
        let first = (alone && self.split > 1).then(|| self.part().equals(0u32));
        match [exists, first].into_iter().flatten().reduce(|a, b| a.and(b)) {
            Some(p) => k.when(p, body),
            None => body(),
        }
    }

    /// The state of this thread before the first token; nothing if it stays in memory.
    fn load(&self, row: V<'k, Index>, resident: bool) -> Vec<V<'k, F32>> {
        let (d, rows) = (self.d, if resident { self.rows() } else { 0 });
        let column = self.column(row, self.mine()).at(self.part() * (self.rows() * d.dv));
        (0..rows).map(|i| column.at(i * d.dv).load(1)).collect()
    }

    /// Writes the state of this thread after the last token.
    fn keep(&self, row: V<'k, Index>, state: &[V<'k, F32>]) {
        let d = self.d;
        let column = self.column(row, self.mine()).at(self.part() * (self.rows() * d.dv));
        self.speak(false, || (0..).zip(state).for_each(|(i, s): (u32, _)| column.at(i * d.dv).store(*s)));
    }

    /// The sum over the threads of a column.
    fn over_column(&self, parts: &[V<'k, F32>]) -> V<'k, F32> {
        let bits = [1u8, 2].into_iter().filter(|b| u32::from(*b) < self.split);
        bits.fold(total(parts), |sum, bits| sum + sum.shuffle_xor(bits))
    }

    /// Normalised key and query of `row` in shared memory.
    fn stage(&self, row: V<'k, Index>) {
        let (d, k) = (self.d, self.d.cx.k);
        // nobody reads those of the token before any more
        k.barrier();
        for (i, to, scaled) in [(0, self.token.query, true), (1, self.token.key, false)] {
            let from = d.operand(i, row, self.head * d.dk);
            let factor = d.norm.map(|n| n.factor(sum_of_squares(d.cx, from, d.dk), scaled));
            k.cta().each(d.dk, |i| {
                let x = from.at(i).load(1);
                to.at(i + i / self.rows() * GAP).store(factor.map_or(x, |f| x * f));
            });
        }
        k.barrier();
    }

    /// Decay and beta of `row`.
    fn gates(&self, row: V<'k, Index>) -> (V<'k, F32>, V<'k, F32>) {
        (self.d.operand(3, row, self.head).load(1), self.d.operand(4, row, self.head).load(1))
    }

    /// This thread's elements of a shared row.
    fn elements(&self, row: Ptr<'k, F32>) -> impl Iterator<Item = V<'k, F32>> {
        let width: u16 = if self.rows().is_multiple_of(4) { 4 } else { 1 };
        let row = row.at(self.part() * (self.rows() + GAP));
        (0..self.rows() / u32::from(width)).flat_map(move |i| {
            let v = row.at(i * u32::from(width)).load(width);
            (0..width).map(move |lane| v.lane(lane))
        })
    }

    /// One token, the state in registers.
    fn in_registers(&self, row: V<'k, Index>, state: Vec<V<'k, F32>>) -> Vec<V<'k, F32>> {
        let (d, k) = (self.d, self.d.cx.k);
        self.stage(row);
        let (decay, beta) = self.gates(row);
        let c = self.mine();
        let dot = |sums: &mut [V<'k, F32>], i: usize, s: V<'k, F32>, x: V<'k, F32>| {
            sums[i % CHAINS] = s.fma(x, sums[i % CHAINS]);
        };
        let zeros = || vec![0.0f32.on(k); CHAINS];
        let mut seen = zeros();
        self.elements(self.token.key).enumerate().for_each(|(i, key)| dot(&mut seen, i, state[i], key));
        let value = d.operand(2, row, self.head * d.dv).at(c).load(1);
        let learn = (value - self.over_column(&seen) * decay) * beta;
        let mut state = state;
        let mut told = zeros();
        for (i, (key, query)) in self.elements(self.token.key).zip(self.elements(self.token.query)).enumerate() {
            state[i] = learn.fma(key, state[i] * decay);
            dot(&mut told, i, state[i], query);
        }
        let o = self.over_column(&told);
        let results = d.results();
        for store in results.stored() {
            let factor = results.gated_norm(store).map(|eps| {
                let exists = self.is_ragged().then(|| k.thread().lt(d.dv * self.split));
                let squares = k.cta().sum(exists.map_or(o * o, |e| e.select(o * o, 0.0)));
                // every thread of a column adds the same
                (squares * (1.0 / (d.dv * self.split) as f32) + eps).rsqrt()
            });
            self.speak(true, || results.store_columns(store, (row, self.head, c), factor, o));
        }
        state
    }

    /// One token, the state in memory: each column is walked over twice.
    fn in_memory<C: Carry<'k>>(&self, row: V<'k, Index>, state: C) -> C {
        let (d, k) = (self.d, self.d.cx.k);
        self.stage(row);
        let (decay, beta) = self.gates(row);
        let out = k.shared::<F32>(d.dv);
        let zero = || 0.0f32.on(k);
        let squares = k.cta().fold(d.dv, zero(), |c, squares| {
            let column = self.column(row, c);
            let at = |i: V<'k, Index>| column.at(i * d.dv);
            let key = |i: V<'k, Index>| self.token.key.at(i).load(1);
            let seen = k.range(0u32, d.dk, 1, zero(), |i, seen| at(i).load(1).fma(key(i), seen));
            let value = d.operand(2, row, self.head * d.dv).at(c).load(1);
            let learn = (value - seen * decay) * beta;
            let o = k.range(0u32, d.dk, 1, zero(), |i, o| {
                let s = learn.fma(key(i), at(i).load(1) * decay);
                at(i).store(s);
                s.fma(self.token.query.at(i).load(1), o)
            });
            out.at(c).store(o);
            o.fma(o, squares)
        });
        let results = d.results();
        for store in results.stored() {
            let factor = results.gated_norm(store).map(|eps| {
                let squares = k.cta().sum(squares);
                (squares * (1.0 / d.dv as f32) + eps).rsqrt()
            });
            // each thread reads what it wrote itself
            k.cta().each(d.dv, |c| results.store_columns(store, (row, self.head, c), factor, out.at(c).load(1)));
        }
        state
    }
}

/// The sum of a few chains, by pairs.
fn total<'k>(parts: &[V<'k, F32>]) -> V<'k, F32> {
    match parts {
        [one] => *one,
        _ => {
            let (a, b) = parts.split_at(parts.len() / 2);
            total(a) + total(b)
        }
    }
}
