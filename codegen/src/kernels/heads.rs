//! What is done with the output of one head of a delta or attention grid: register expressions, the gated norm, stores.

use super::context::Context;
use super::epilogue::{Domain, Fragment, Lanes, Row};
use super::lanes::{spans, widths};
use crate::kir::{F32, Index, Ptr, V};
use crate::pack::PackSpec;
use jet_ir::{Id, Op, Place};

/// The stores on a grid whose output has several heads in each row.
#[derive(Clone, Copy)]
pub struct Heads<'a, 'k, 'g> {
    /// Where the kernel is built.
    pub cx: &'a Context<'k, 'g>,
    /// What hangs on the grid.
    pub stores: &'a [Id],
    /// Columns of the output.
    pub cols: u32,
    /// Columns of a head.
    pub head_dim: u32,
}

impl<'k> Heads<'_, 'k, '_> {
    /// Finishes one head of one row; `out(c, lanes)` gives its output from column `c` of the head on.
    pub fn finish(&self, row: V<'k, Index>, head: V<'k, Index>, out: &dyn Fn(V<'k, Index>, u16) -> V<'k, F32>) {
        for store in self.stored() {
            let factor = self.gated_norm(store).map(|eps| self.norm_factor(eps, out));
            spans(self.cx.k, self.head_dim, widths(self.cx.k), |c, lanes| {
                self.store_columns(store, (row, head, c), factor, out(c, lanes));
            });
        }
    }

    /// Stores on a grid, without its second result.
    pub fn stored(&self) -> impl Iterator<Item = Id> {
        let graph = self.cx.graph;
        self.stores.iter().copied().filter(|s| !matches!(graph.op(*s), Some(Op::Get1(_))))
    }

    /// `store` of the output `out` from column `c` of a head on; `factor` is that of its gated norm.
    pub fn store_columns(
        &self,
        store: Id,
        (row, head, c): (V<'k, Index>, V<'k, Index>, V<'k, Index>),
        factor: Option<V<'k, F32>>,
        out: V<'k, F32>,
    ) {
        self.put(store, row, self.columns(store, (row, head, c), factor, out));
    }

    /// What [`Heads::store_columns`] writes.
    pub fn columns(
        &self,
        store: Id,
        (row, head, c): (V<'k, Index>, V<'k, Index>, V<'k, Index>),
        factor: Option<V<'k, F32>>,
        out: V<'k, F32>,
    ) -> Fragment<'k> {
        let (graph, lanes) = (self.cx.graph, out.lanes());
        let col = head * self.head_dim + c;
        let vector = PackSpec::vector(self.cols as usize);
        let place = vec![Lanes { col, left: None }];
        let domain = Domain { lanes: place, width: lanes, vector, first: col, step: lanes.into() };
        let fragment = |v| Fragment { vecs: vec![v], domain: domain.clone() };
        let leaf = |id: Id| match (graph.op(id), factor) {
            (Some(Op::Out(_)), _) => Some(fragment(out)),
            (Some(Op::GatedNorm(_)), Some(factor)) => {
                let args = &graph.node(id).args;
                let gain = self.cx.vector(PackSpec::vector(self.head_dim as usize), args[1]).at(c).load(lanes);
                let z = self.gate(args[2], lanes).at(row * self.cols + col).load(lanes);
                Some(fragment(out * factor.splat(lanes) * gain * z.silu()))
            }
            _ => None,
        };
        let at = Row { cx: self.cx, row, leaf: &leaf };
        match graph.op(store) {
            Some(Op::Get0(_)) => fragment(out),
            Some(Op::GatedNorm(_)) => at.eval(store),
            _ => at.stored(store),
        }
    }

    /// The buffer of a gate, for vectors of `lanes` at multiples of so many columns of a head.
    fn gate(&self, gate: Id, lanes: u16) -> Ptr<'k, F32> {
        let fours = lanes == 4 && self.head_dim.is_multiple_of(4);
        self.cx.value::<F32>(gate).aligned(if fours { 16 } else { 4 })
    }

    /// Writes what [`Heads::columns`] gave for a row.
    pub fn put(&self, store: Id, row: V<'k, Index>, value: Fragment<'k>) {
        let at = Row { cx: self.cx, row, leaf: &|_| None };
        match self.cx.graph.op(store) {
            Some(Op::Get0(_) | Op::GatedNorm(_)) => at.write(store, value),
            _ => at.put(store, value),
        }
    }

    /// `1 / sqrt(mean(o^2) + eps)` over the head.
    fn norm_factor(&self, eps: f32, out: &dyn Fn(V<'k, Index>, u16) -> V<'k, F32>) -> V<'k, F32> {
        let (k, n) = (self.cx.k, self.head_dim);
        let square = |c, lanes, acc| {
            let v = out(c, lanes);
            v.fma(v, acc)
        };
        let whole = n / 16 * 16;
        let wide = k.range(0u32, whole, 16, k.splat(0.0, 16), |c, acc| square(c, 16, acc));
        let rest = k.range(whole, n, 1, k.splat(0.0, 1), |c, acc| square(c, 1, acc));
        ((wide.sum_lanes() + rest) * (1.0 / n as f32) + eps).rsqrt()
    }

    /// The epsilon of a gated norm inside a stored expression.
    pub fn gated_norm(&self, id: Id) -> Option<f32> {
        let (graph, args) = (self.cx.graph, &self.cx.graph.node(id).args);
        match graph.op(id)? {
            Op::GatedNorm(op) => {
                let plain =
                    matches!(graph.op(args[0]), Some(Op::Out(_))) || graph.ty(args[0]).place() == Some(Place::Mem);
                if op.head_dim != self.head_dim as usize || !plain {
                    self.cx.refuse(
                        id,
                        format!("only the plain output of heads of {} can be normalised here", self.head_dim),
                    );
                }
                Some(op.eps.get())
            }
            Op::Out(_) => None,
            _ => {
                let inside = |a: &&Id| graph.ty(**a).place() == Some(Place::Reg);
                args.iter().filter(inside).find_map(|a| self.gated_norm(*a))
            }
        }
    }
}
