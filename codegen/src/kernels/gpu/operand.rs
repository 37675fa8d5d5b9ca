//! Activations as operands of tile products: read as f32, normalised, rounded to bf16.

use super::super::context::Context;
use crate::kir::{F32, Index, Operand, Ptr, V, WARP};
use crate::pack::PackSpec;
use jet_ir::{Id, Op};

/// Rows of an activation, of which a CTA works on a few.
pub struct Activation<'a, 'k, 'g> {
    pub cx: &'a Context<'k, 'g>,
    /// The buffer.
    pub from: Ptr<'k, F32>,
    /// Columns.
    pub cols: u32,
    /// The first row of the CTA, and the last one of all: rows beyond are that one.
    pub first: V<'k, Index>,
    pub last: V<'k, Index>,
    /// Norm weight, and the factor of each row of the CTA in shared memory.
    pub norm: Option<(Ptr<'k, F32>, Ptr<'k, F32>)>,
}

/// A pointer to rows of `cols` elements, for accesses at multiples of four columns.
pub fn rows_of_fours<'k>(from: Ptr<'k, F32>, cols: u32) -> Ptr<'k, F32> {
    from.aligned(if cols.is_multiple_of(4) { 16 } else { 4 })
}

impl<'a, 'k, 'g> Activation<'a, 'k, 'g> {
    /// The input of `grid`, `tokens` rows from `first` on; `sum` computes the factors of a norm.
    pub fn new(cx: &'a Context<'k, 'g>, grid: Id, first: V<'k, Index>, tokens: u32) -> Option<Self> {
        let x = cx.graph.node(grid).args[0];
        let cols = cx.cols(x) as u32;
        let mut a = Activation::plain(cx, x, first, cx.rows() - 1u32);
        match cx.graph.op(grid)? {
            Op::Sweep(_) | Op::Matmul(_) => {}
            Op::SweepNorm(op) => {
                let gain = cx.vector(PackSpec::vector(cols as usize), cx.graph.node(grid).args[1]).aligned(16);
                let factors = cx.k.shared::<F32>(tokens);
                a.factors(factors, tokens, op.eps.get());
                a.norm = Some((gain, factors));
            }
            _ => return None,
        }
        Some(a)
    }

    /// Rows `first` to `last` of `x` as they are.
    pub fn plain(cx: &'a Context<'k, 'g>, x: Id, first: V<'k, Index>, last: V<'k, Index>) -> Self {
        let cols = cx.cols(x) as u32;
        Activation { cx, from: rows_of_fours(cx.value(x), cols), cols, first, last, norm: None }
    }

    /// The address of row `token` of the CTA; of rows beyond the last, that one.
    fn row(&self, token: V<'k, Index>) -> Ptr<'k, F32> {
        let row = (self.first + token).imin(self.last);
        self.from.at(row * self.cols)
    }

    /// `1 / sqrt(mean(x^2) + eps)` of every row of the CTA, a warp for a row at a time.
    fn factors(&self, to: Ptr<'k, F32>, tokens: u32, eps: f32) {
        let (k, warp) = (self.cx.k, self.cx.k.warp());
        let left = (self.cx.rows() - self.first).imin(tokens);
        k.range(k.warp_id(), left, k.warps(), (), |token, ()| {
            let sum = sum_of_squares(self.cx, self.row(token), self.cols);
            let factor = (sum * (1.0 / self.cols as f32) + eps).rsqrt();
            warp.leader(|| to.at(token).store(factor));
        });
        // rows that do not exist are computed and thrown away
        k.range(left + k.thread(), tokens, k.warps() * WARP, (), |token, ()| to.at(token).store(1.0));
        k.barrier();
    }

    /// The weights of the norm of four columns from `col` on, which is a multiple of 4, if there is one; `ragged` says that there
    /// may be columns beyond the last.
    pub fn gain(&self, col: V<'k, Index>, ragged: bool) -> Option<V<'k, F32>> {
        let (gain, _) = self.norm?;
        Some(self.walk(col, ragged, |c, lanes| gain.at(c).load(lanes)))
    }

    /// Four elements of row `token` from column `col` on, normalised with their `gain`; zero beyond the last column if `ragged`.
    pub fn four(&self, token: V<'k, Index>, col: V<'k, Index>, ragged: bool, gain: Option<V<'k, F32>>) -> V<'k, F32> {
        let row = self.row(token);
        let x = self.walk(col, ragged, |c, lanes| row.at(c).load(lanes));
        match (self.norm, gain) {
            (Some((_, factors)), Some(gain)) => x * gain * factors.at(token).load_splat(4),
            _ => x,
        }
    }

    /// `load` of four columns, at once where they lie together and are there.
    fn walk(&self, col: V<'k, Index>, ragged: bool, load: impl Fn(V<'k, Index>, u16) -> V<'k, F32>) -> V<'k, F32> {
        let (k, cols) = (self.cx.k, self.cols);
        if cols.is_multiple_of(4) {
            if !ragged {
                return load(col, 4);
            }
            let x = load(col.imin(cols - 4), 4);
            return col.lt(cols).select(x, k.splat(0.0, 4));
        }
        let one = |i: u32| (col + i).lt(cols).select(load((col + i).imin(cols - 1), 1), 0.0);
        V::pack(&(0..4).map(one).collect::<Vec<_>>())
    }
}

/// Sum of squares of `n` elements by the lanes of a warp, in every lane.
pub fn sum_of_squares<'k>(cx: &Context<'k, '_>, from: Ptr<'k, F32>, n: u32) -> V<'k, F32> {
    let warp = cx.k.warp();
    let width: u16 = if n.is_multiple_of(4) { 4 } else { 1 };
    let parts = warp.fold(n / u32::from(width), 0.0f32.on(cx.k).splat(width), |i, sum| {
        let x = from.at(i * u32::from(width)).load(width);
        x.fma(x, sum)
    });
    warp.sum(parts.sum_lanes())
}
