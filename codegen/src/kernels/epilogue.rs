//! Register expressions on the results of a grid, compiled over vectors: maps, residuals, gates, rope, dynamic
//! convolution, and the stores that end them. Maps in memory are the same expressions whose leaves are loads.

use super::context::Context;
use super::lanes::{load_lanes, store_lanes};
use crate::kir::{Bf16, F32, Index, Operand, Ptr, Stored, V};
use crate::pack::{Form, PackSpec, RowOrder};
use crate::tiles::tiled_at;
use jet_ir::{Elem, Id, Op, Place};
use jetbin::Phase;

/// Where one vector lies in a row of memory.
#[derive(Clone, Copy)]
pub struct Lanes<'k> {
    /// Column of the first lane.
    pub col: V<'k, Index>,
    /// How many lanes exist; none means all.
    pub left: Option<V<'k, Index>>,
}

/// The columns that a few vectors hold.
#[derive(Clone)]
pub struct Domain<'k> {
    /// Each vector's place in a row of memory; while the taps of a convolution are apart, the places of their sums, of
    /// which there are fewer than vectors.
    pub lanes: Vec<Lanes<'k>>,
    /// Lanes of one vector.
    pub width: u16,
    /// The layout of a constant vector over these columns.
    pub vector: PackSpec,
    /// Where the first of these columns is in that layout.
    pub first: V<'k, Index>,
    /// Elements from one vector to the next in that layout.
    pub step: u32,
}

impl Domain<'_> {
    /// Whether the taps of a convolution are apart, so that the vectors are no columns of a tensor yet.
    fn is_apart(&self) -> bool {
        matches!(self.vector.order, RowOrder::Taps { .. })
    }
}

/// Values of one row over a domain.
#[derive(Clone)]
pub struct Fragment<'k> {
    /// One vector for each place.
    pub vecs: Vec<V<'k, F32>>,
    /// The columns.
    pub domain: Domain<'k>,
}

/// Evaluates expressions for one row.
pub struct Row<'a, 'k, 'g> {
    /// Where the kernel is built.
    pub cx: &'a Context<'k, 'g>,
    /// The row.
    pub row: V<'k, Index>,
    /// Registers of the grid: what `acc`, `out` (or an absorbed node) holds.
    pub leaf: &'a dyn Fn(Id) -> Option<Fragment<'k>>,
}

impl<'k> Row<'_, 'k, '_> {
    /// The value of `id`.
    pub fn eval(&self, id: Id) -> Fragment<'k> {
        if let Some(f) = (self.leaf)(id) {
            return f;
        }
        let (cx, args) = (self.cx, &self.cx.graph.node(id).args);
        match cx.graph.op(id) {
            Some(Op::Bias(_)) => self.with_vector(args[0], args[1], |x, b| x + b),
            Some(Op::ScaleCols(_)) => self.with_vector(args[0], args[1], |x, v| x * v),
            Some(Op::Add(_)) => self.with_tensor(args[0], args[1], |a, b| a + b),
            Some(Op::Mul(_)) => self.with_tensor(args[0], args[1], |a, b| a * b),
            Some(Op::Scale(op)) => self.map(args[0], |x| x * op.c.get()),
            Some(Op::Silu(_)) => self.map(args[0], V::silu),
            Some(Op::Sigmoid(_)) => self.map(args[0], V::sigmoid),
            Some(Op::Softplus(_)) => self.map(args[0], V::softplus),
            Some(Op::Exp(_)) => self.map(args[0], V::exp),
            Some(Op::Neg(_)) => self.map(args[0], |x| -x),
            Some(Op::RoundBf16(_)) => self.map(args[0], |x| x.round_bf16().widen()),
            Some(Op::Rope(op)) => self.rope(id, op.head_dim),
            Some(Op::DynamicConv(op)) => self.dynamic_conv(id, op.taps),
            _ => {
                cx.refuse(id, "not an elementwise op that a kernel can absorb here");
                self.empty()
            }
        }
    }

    /// Stands in for a result that is thrown away.
    fn empty(&self) -> Fragment<'k> {
        let first = 0u32.on(self.cx.k);
        let domain = Domain { lanes: vec![], width: 1, vector: PackSpec::vector(1), first, step: 1 };
        Fragment { vecs: vec![], domain }
    }

    fn map(&self, x: Id, f: impl Fn(V<'k, F32>) -> V<'k, F32>) -> Fragment<'k> {
        let x = self.eval(x);
        Fragment { vecs: x.vecs.iter().map(|v| f(*v)).collect(), domain: x.domain }
    }

    fn with_vector(&self, x: Id, vector: Id, f: impl Fn(V<'k, F32>, V<'k, F32>) -> V<'k, F32>) -> Fragment<'k> {
        let x = self.eval(x);
        let (base, width) = (self.cx.vector(x.domain.vector, vector), x.domain.width);
        let part = |i: usize| base.at(x.domain.first + i as u32 * x.domain.step).load(width);
        let vecs = x.vecs.iter().enumerate().map(|(i, v)| f(*v, part(i))).collect();
        Fragment { vecs, domain: x.domain }
    }

    /// A register value with another one, or with one in memory.
    fn with_tensor(&self, a: Id, b: Id, f: impl Fn(V<'k, F32>, V<'k, F32>) -> V<'k, F32>) -> Fragment<'k> {
        let held = |id: Id| self.cx.graph.ty(id).place() == Some(Place::Reg) || (self.leaf)(id).is_some();
        let (x, y) = match (held(a), held(b)) {
            (true, true) => (self.eval(a), self.eval(b).vecs),
            (true, false) => {
                let x = self.eval(a);
                let y = self.load(b, &x);
                (x, y)
            }
            (false, _) => {
                let y = self.eval(b);
                (Fragment { vecs: self.load(a, &y), domain: y.domain.clone() }, y.vecs)
            }
        };
        let vecs = x.vecs.iter().zip(&y).map(|(x, y)| f(*x, *y)).collect();
        Fragment { vecs, domain: x.domain }
    }

    /// The columns of `like` of a tensor in memory.
    fn load(&self, id: Id, like: &Fragment<'k>) -> Vec<V<'k, F32>> {
        if like.domain.is_apart() {
            self.cx.refuse(id, "cannot be combined with the kernels of a convolution before their taps are summed");
        }
        if self.cx.graph.ty(id).elem() != Some(Elem::F32) {
            self.cx.refuse(
                id,
                format!("is {} in memory, expected f32: rounded rows are for products", self.cx.graph.ty(id)),
            );
        }
        let base = self.base(id);
        like.domain.lanes.iter().map(|l| load_lanes(base.at(l.col), like.domain.width, l.left)).collect()
    }

    /// This row of a tensor in memory.
    fn base(&self, id: Id) -> Ptr<'k, F32> {
        self.cx.value::<F32>(id).at(self.row * self.cx.cols(id) as u32)
    }

    /// Low and high halves of a head, side by side as [`RowOrder::Rope`] puts them.
    fn rope(&self, id: Id, head_dim: usize) -> Fragment<'k> {
        let args = &self.cx.graph.node(id).args;
        let x = self.eval(args[0]);
        if x.domain.vector.order != (RowOrder::Rope { head_dim }) {
            self.cx.refuse(id, "heads are not laid out for this rotation");
            return self.empty();
        }
        let half = x.vecs.len() / 2;
        let (table, width) = (self.base(args[1]), x.domain.width);
        let mut out = x.clone();
        for i in 0..half {
            let (low, high) = (x.vecs[i], x.vecs[i + half]);
            let Lanes { col, left } = x.domain.lanes[i];
            let angle = col % head_dim as u32;
            let cos = load_lanes(table.at(angle), width, left);
            let sin = load_lanes(table.at(angle + (head_dim / 2) as u32), width, left);
            out.vecs[i] = low * cos - high * sin;
            out.vecs[i + half] = high * cos + low * sin;
        }
        out
    }

    /// `y[d] = sum_w kernels[d, w] past[t + w, d]` over the rows before and with this one; `ring` still holds the rows
    /// of the previous run.
    fn dynamic_conv(&self, id: Id, taps: usize) -> Fragment<'k> {
        let (cx, args) = (self.cx, &self.cx.graph.node(id).args);
        let x = self.eval(args[0]);
        let (channels, width) = (cx.cols(args[1]), x.domain.width);
        if x.domain.vector.order != (RowOrder::Taps { taps }) {
            cx.refuse(id, "kernels are not laid out by taps");
            return self.empty();
        }
        let lanes = x.domain.lanes;
        let first = lanes[0].col;
        let vecs = self.convolve((args[1], args[2]), taps, &lanes, width, &|w, i| x.vecs[w * lanes.len() + i]);
        Fragment {
            vecs,
            domain: Domain { lanes, width, vector: PackSpec::vector(channels), first, step: width.into() },
        }
    }

    /// The sums over taps of values and the ring before them; `kernel(w, i)` belongs to tap `w` of place `i`.
    pub fn convolve(
        &self,
        (values, ring): (Id, Id),
        taps: usize,
        places: &[Lanes<'k>],
        width: u16,
        kernel: &dyn Fn(usize, usize) -> V<'k, F32>,
    ) -> Vec<V<'k, F32>> {
        let first = self.past_row(values, ring, taps, 0, places, width);
        let mut sums: Vec<_> = first.iter().enumerate().map(|(i, v)| kernel(0, i) * *v).collect();
        for w in 1..taps {
            let past = self.past_row(values, ring, taps, w, places, width);
            past.iter().enumerate().for_each(|(i, v)| sums[i] = kernel(w, i).fma(*v, sums[i]));
        }
        sums
    }

    /// Tap `w` reads row `t + w - (taps - 1)` of the values, or the ring where that is before this run.
    fn past_row(
        &self,
        values: Id,
        ring: Id,
        taps: usize,
        w: usize,
        places: &[Lanes<'k>],
        width: u16,
    ) -> Vec<V<'k, F32>> {
        let (cx, k) = (self.cx, self.cx.k);
        let cols = cx.cols(values) as u32;
        let rows_at =
            |base: Ptr<'k, F32>| places.iter().map(|p| load_lanes(base.at(p.col), width, p.left)).collect::<Vec<_>>();
        let back = (taps - 1 - w) as u32;
        let now = |back: u32| rows_at(cx.value::<F32>(values).at((self.row - back) * cols));
        if back == 0 {
            return now(0);
        }
        let leaf = match cx.state_leaf(ring) {
            Ok(leaf) => leaf,
            Err(e) => {
                cx.refuse(ring, e.reason);
                return now(0);
            }
        };
        let state = cx.state::<F32>(leaf, self.row);
        match cx.phase {
            Phase::Decode => rows_at(state.at((w as u32 + 1) * cols)),
            Phase::Prefill => k.choose(
                back.on(k).le(self.row),
                || now(back),
                || rows_at(state.at((self.row + (w as u32 + 1)) * cols)),
            ),
        }
    }

    /// Evaluates what `store` stores and writes it.
    pub fn store(&self, store: Id) {
        self.put(store, self.stored(store));
    }

    /// What `store` stores.
    pub fn stored(&self, store: Id) -> Fragment<'k> {
        match self.cx.graph.op(store) {
            Some(Op::Matmul(_) | Op::Embed(_)) => self.eval(store),
            _ => self.eval(*self.cx.graph.node(store).args.last().expect("a store has operands")),
        }
    }

    /// Writes what `store` stores.
    pub fn put(&self, store: Id, f: Fragment<'k>) {
        let (cx, args) = (self.cx, &self.cx.graph.node(store).args);
        match cx.graph.op(store) {
            Some(Op::Store(_) | Op::Matmul(_) | Op::Embed(_)) => self.write(store, f),
            Some(Op::StoreKv(_) | Op::KvAppend(_)) => match cx.state_leaf(args[0]) {
                Ok(leaf) => {
                    let at = cx.position(self.row) % cx.state_rows(leaf) * cx.cols(store) as u32;
                    match cx.graph.ty(leaf).elem() {
                        // rows may have any number of columns, so nothing but whole elements is promised
                        Some(Elem::Bf16) => {
                            let base = cx.state::<Bf16>(leaf, self.row).aligned(2).at(at);
                            self.write_at(store, f, base, V::round_bf16);
                        }
                        _ => self.write_at(store, f, cx.state::<F32>(leaf, self.row).at(at), |v| v),
                    }
                }
                Err(e) => cx.refuse(store, e.reason),
            },
            _ => cx.refuse(store, "expected `store` or `store_kv`: rings are kernels of their own on a CPU"),
        }
    }

    /// Writes `f` to the buffer of `id`.
    pub fn write(&self, id: Id, f: Fragment<'k>) {
        match self.cx.graph.ty(id).elem() {
            Some(Elem::Bf16) if self.cx.tiled.contains(&id) => self.write_tiled(id, &f),
            Some(Elem::Bf16) => {
                let base = self.cx.value::<Bf16>(id).at(self.row * self.cx.cols(id) as u32);
                self.write_at(id, f, base, V::round_bf16);
            }
            _ => self.write_at(id, f, self.base(id), |v| v),
        }
    }

    /// Writes `f` to the buffer of `id`, whose rows are in tiles, by pairs of columns where vectors have such.
    fn write_tiled(&self, id: Id, f: &Fragment<'k>) {
        let (base, cols) = (self.cx.value::<Bf16>(id), self.cx.cols(id) as u32);
        for (lanes, v) in f.domain.lanes.iter().zip(&f.vecs) {
            if lanes.left.is_some() {
                self.cx.refuse(id, "expected whole vectors of rows in tiles");
            }
            let step = if v.lanes().is_multiple_of(2) { 2 } else { 1 };
            for i in (0..v.lanes()).step_by(step) {
                let some: Vec<_> = (i..i + step as u16).map(|i| v.lane(i)).collect();
                let to = tiled_at(base, cols, self.row, lanes.col + u32::from(i));
                to.store(V::pack(&some).round_bf16());
            }
        }
    }

    /// Writes `f` as `convert` makes it to a row at `base`.
    fn write_at<E: Stored>(
        &self,
        store: Id,
        f: Fragment<'k>,
        base: Ptr<'k, E>,
        convert: impl Fn(V<'k, F32>) -> V<'k, E>,
    ) {
        if f.domain.is_apart() {
            self.cx.refuse(store, "kernels of a convolution are stored only after their taps are summed");
        }
        f.domain.lanes.iter().zip(&f.vecs).for_each(|(l, v)| store_lanes(base.at(l.col), convert(*v), l.left));
    }
}

/// The layout of an f32 vector that goes with a weight's rows.
pub fn vector_like(spec: &PackSpec) -> PackSpec {
    PackSpec { form: Form::Panel, elem: Elem::F32, cols: 1, ..*spec }
}
