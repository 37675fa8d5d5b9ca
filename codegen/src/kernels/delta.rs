//! The gated delta rule: `S <- decay S; u = beta (v - S^T k); S <- S + k u^T; o = S^T q` for every head,
//! with the l2 norms of q and k and the gated norm of the output where the plan has them inside.

use super::chunk::chunked;
use super::context::{Context, Scratch, Shape, Unsupported};
use super::heads::Heads;
use super::lanes::{spans, sum_of_squares, widths};
use crate::kir::{F32, Index, Items, Ptr, V};
use jet_ir::{GridKind, Id, Op, Type};
use jetbin::{Cost, Phase};

/// The norms of q and k inside the kernel.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    eps: f32,
    scale: f32,
}

impl Norm {
    /// What a vector with this sum of squares is multiplied by; a query is scaled too.
    pub fn factor<'k>(&self, squares: V<'k, F32>, scaled: bool) -> V<'k, F32> {
        let factor = (squares + self.eps).rsqrt();
        if scaled { factor * self.scale } else { factor }
    }
}

/// A delta grid, taken apart.
pub(super) struct Delta<'a, 'k, 'g> {
    pub cx: &'a Context<'k, 'g>,
    pub stores: &'a [Id],
    pub norm: Option<Norm>,
    pub heads: u32,
    /// Rows of the state of one head.
    pub dk: u32,
    /// Columns of the state of one head.
    pub dv: u32,
    pub state: Id,
    /// Query, key, values, decay and beta; with the convolution inside, its values before it.
    inputs: [Id; 5],
}

impl<'a, 'k, 'g> Delta<'a, 'k, 'g> {
    /// Checks that the grid and its stores can be built.
    pub fn new(cx: &'a Context<'k, 'g>, grid: Id, stores: &'a [Id]) -> Result<Self, Unsupported> {
        let norm = match cx.graph.op(grid) {
            Some(Op::GatedDeltaRule(_)) => None,
            Some(Op::DeltaL2(op)) => Some(Norm { eps: op.eps.get(), scale: op.scale.get() }),
            Some(Op::DeltaConv(op)) => Some(Norm { eps: op.eps.get(), scale: op.scale.get() }),
            _ => return Err(Unsupported::new(cx.graph, grid, "expected a delta rule")),
        };
        let args = &cx.graph.node(grid).args;
        let places =
            if matches!(cx.graph.op(grid), Some(Op::DeltaConv(_))) { [0, 1, 5, 7, 8, 9] } else { [0, 1, 2, 3, 4, 5] };
        let [query, key, values, decay, beta, state] = places.map(|i| args[i]);
        let Type::Grid { kind: GridKind::Delta, state: (rows, cols), .. } = cx.graph.ty(grid) else {
            return Err(Unsupported::new(cx.graph, grid, "expected a delta grid"));
        };
        let heads = cx.cols(decay);
        if rows.checked_mul(cols).is_none_or(|n| n >= 1 << 28) {
            return Err(Unsupported::new(cx.graph, grid, format!("a state of {rows} by {cols} is too large")));
        }
        let (heads, dk, dv) = (heads as u32, (rows / heads) as u32, cols as u32);
        let inputs = [query, key, values, decay, beta];
        Ok(Delta { cx, stores, norm, heads, dk, dv, state: cx.state_leaf(state)?, inputs })
    }

    pub fn cost(&self) -> Cost {
        let (heads, dk, dv) = (u64::from(self.heads), u64::from(self.dk), u64::from(self.dv));
        Cost {
            weight_bytes: 0,
            state_bytes: 8 * heads * dk * dv,
            act_bytes: 4 * heads * (2 * dk + 3 * dv),
            flops: heads * dk * dv * 7,
        }
    }

    /// What is done with the output.
    pub fn results(&self) -> Heads<'a, 'k, 'g> {
        Heads { cx: self.cx, stores: self.stores, cols: self.heads * self.dv, head_dim: self.dv }
    }

    /// Query, key, value, decay or beta (`i` from 0 to 4) at `row`, column `col`.
    pub fn operand(&self, i: usize, row: V<'k, Index>, col: V<'k, Index>) -> Ptr<'k, F32> {
        let id = self.inputs[i];
        self.cx.value::<F32>(id).at(row * self.cx.cols(id) as u32).at(col)
    }

    /// `to = from`, normalised and scaled if the norms are inside.
    pub fn stage(&self, from: Ptr<'k, F32>, to: Ptr<'k, F32>, scaled: bool) {
        let (cx, k) = (self.cx, self.cx.k);
        let factor = self.norm.map(|n| n.factor(sum_of_squares(cx, from, self.dk), scaled));
        spans(k, self.dk, widths(k), |i, lanes| {
            let x = from.at(i).load(lanes);
            to.at(i).store(factor.map_or(x, |f| x * f.splat(lanes)));
        });
    }
}

/// The kernel of a delta grid with its stores.
pub(crate) fn delta(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    if matches!(cx.graph.op(grid), Some(Op::DeltaConv(_))) {
        return Err(Unsupported::new(cx.graph, grid, "the convolution is a kernel of its own"));
    }
    let d = Delta::new(cx, grid, stores)?;
    Ok(match cx.phase {
        Phase::Decode => recurrent(&d),
        Phase::Prefill => chunked(&d),
    })
}

/// One token of each sequence; items are heads of rows.
fn recurrent(d: &Delta<'_, '_, '_>) -> Shape {
    let (begin, end) = d.cx.item_range(Items { fixed: d.heads, per_row: true });
    d.cx.k.range(begin, end, 1, (), |item, ()| step(d, item / d.heads, item % d.heads));
    let fixed = 4 * (2 * u64::from(d.dk) + u64::from(d.dv));
    Shape { name: "gated_delta_recurrent", scratch: Scratch { fixed, per_row: 0 }, cost: d.cost() }
}

/// One token of one head. Columns of the state are independent; a few at a time walk over its rows twice.
fn step<'k>(d: &Delta<'_, 'k, '_>, row: V<'k, Index>, head: V<'k, Index>) {
    let (cx, k) = (d.cx, d.cx.k);
    let query = cx.scratch();
    let key = query.at(d.dk);
    let out = key.at(d.dk);
    d.stage(d.operand(0, row, head * d.dk), query, true);
    d.stage(d.operand(1, row, head * d.dk), key, false);
    let (decay, beta) = (d.operand(3, row, head).load(1), d.operand(4, row, head).load(1));
    let value = d.operand(2, row, head * d.dv);
    let state = cx.state::<F32>(d.state, row).at(head * (d.dk * d.dv));
    spans(k, d.dv, &[16, 4, 1], |c, lanes| {
        let (decay, zero) = (decay.splat(lanes), k.splat(0.0, lanes));
        let at = |i: V<'k, Index>| state.at(i * d.dv + c);
        let seen = k.range(0u32, d.dk, 1, zero, |i, seen| at(i).load(lanes).fma(key.at(i).load_splat(lanes), seen));
        let learn = (value.at(c).load(lanes) - seen * decay) * beta.splat(lanes);
        let o = k.range(0u32, d.dk, 1, zero, |i, o| {
            let s = learn.fma(key.at(i).load_splat(lanes), at(i).load(lanes) * decay);
            at(i).store(s);
            s.fma(query.at(i).load_splat(lanes), o)
        });
        out.at(c).store(o);
    });
    d.results().finish(row, head, &|c, lanes| out.at(c).load(lanes));
}
