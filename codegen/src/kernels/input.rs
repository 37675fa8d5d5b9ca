//! The rows of a product's input as its inner loop reads them: the activation itself, or a copy in scratch memory that is
//! normalised, rounded, or both. Every thread makes its own copy, so that no thread waits for another.

use super::context::{Activations, Context, Unsupported};
use super::lanes::{spans, sum_of_squares, widths};
use crate::kir::{Bf16, Cap, F32, Index, Operand, Pred, Ptr, V};
use crate::pack::PackSpec;
use jet_ir::{Id, Op};

/// Rows of a product's input.
#[derive(Clone, Copy)]
pub enum Rows<'k> {
    /// f32, as many elements apart as the sums have steps.
    Floats(Ptr<'k, F32>),
    /// bf16, an even number of elements apart.
    Pairs(Ptr<'k, Bf16>),
}

/// A product's input.
pub struct Input<'k> {
    /// Where the rows are.
    pub rows: Rows<'k>,
    /// Bytes at the start of scratch memory that each row takes. Normalised rows come first, in f32.
    pub row_bytes: u32,
}

impl<'k> Input<'k> {
    /// Makes the rows of `grid` ready if the thread is `busy`.
    ///
    /// # Errors
    /// The grid is none of a product on a CPU.
    pub fn stage(cx: &Context<'k, '_>, grid: Id, all_bf16: bool, busy: V<'k, Pred>) -> Result<Input<'k>, Unsupported> {
        let args = &cx.graph.node(grid).args;
        let (norm, n) = match cx.graph.op(grid) {
            Some(Op::Sweep(_) | Op::Matmul(_)) => (None, cx.cols(args[0]) as u32),
            Some(Op::SweepNorm(op)) => (Some((args[1], op.eps.get())), cx.cols(grid) as u32),
            _ => {
                let reason = "expected `sweep` or `sweep_norm`: norms are not folded on a CPU";
                return Err(Unsupported::new(cx.graph, grid, reason));
            }
        };
        let rounded = cx.activations == Activations::Bf16;
        let pairs = rounded && all_bf16 && cx.k.target.has(Cap::Bf16Dot);
        let from = cx.value::<F32>(args[0]);
        // where f32 rows and where pairs go, and the floats of a row of either
        let floats = cx.scratch();
        let floats_len = if norm.is_some() || (rounded && !pairs) { n } else { 0 };
        let halves = floats.at(cx.rows() * floats_len).cast::<Bf16>();
        let halves_len = if pairs { n.next_multiple_of(2) } else { 0 };
        let row = |r: V<'k, Index>| {
            let row = match norm {
                Some((gain, eps)) => {
                    let gain = cx.vector(PackSpec::vector(n as usize), gain);
                    normalise(cx, from.at(r * n), gain, floats.at(r * n), n, eps);
                    floats.at(r * n)
                }
                None => from.at(r * n),
            };
            if pairs {
                round_pairs(cx, row, halves.at(r * halves_len), n);
            } else if rounded {
                let to = floats.at(r * n);
                let round = |i, lanes| to.at(i).store(row.at(i).load(lanes).round_bf16().widen());
                spans(cx.k, n, widths(cx.k), round);
            }
        };
        if floats_len + halves_len > 0 {
            cx.k.when(busy, || cx.k.range(0u32, cx.rows(), 1, (), |r, ()| row(r)));
        }
        let rows = match (pairs, floats_len) {
            (true, _) => Rows::Pairs(halves),
            (false, 0) => Rows::Floats(from),
            (false, _) => Rows::Floats(floats),
        };
        Ok(Input { rows, row_bytes: 4 * floats_len + 2 * halves_len })
    }
}

/// `n` elements rounded, and a zero to fill the last pair.
fn round_pairs<'k>(cx: &Context<'k, '_>, from: Ptr<'k, F32>, to: Ptr<'k, Bf16>, n: u32) {
    spans(cx.k, n, widths(cx.k), |i, lanes| to.at(i).store(from.at(i).load(lanes).round_bf16()));
    if !n.is_multiple_of(2) {
        to.at(n).store(0.0f32.on(cx.k).round_bf16());
    }
}

/// `to = from * rsqrt(mean(from^2) + eps) * gain` over one row of `n`.
pub fn normalise<'k>(cx: &Context<'k, '_>, from: Ptr<'k, F32>, gain: Ptr<'k, F32>, to: Ptr<'k, F32>, n: u32, eps: f32) {
    let k = cx.k;
    let factor = (sum_of_squares(cx, from, n) * (1.0 / n as f32) + eps).rsqrt();
    spans(k, n, widths(k), |i, lanes| {
        to.at(i).store(from.at(i).load(lanes) * factor.splat(lanes) * gain.at(i).load(lanes));
    });
}
