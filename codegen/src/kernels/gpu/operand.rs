//! Activations as operands of tile products: bf16 as they lie in memory, or f32 that is normalised and rounded here.

use super::super::context::Context;
use crate::kir::{Bf16, F32, I32, Index, Operand, Ptr, V, WARP};
use crate::pack::PackSpec;
use crate::tiles::{TILE_ROWS, tiled_at};
use jet_ir::{Elem, Id, Op};

/// Rows of an activation, of which a CTA works on a few.
pub struct Activation<'a, 'k, 'g> {
    cx: &'a Context<'k, 'g>,
    /// The buffer.
    from: Rows<'k>,
    /// Columns.
    cols: u32,
    /// The first row of the CTA, and the last one of all: rows beyond are that one.
    first: V<'k, Index>,
    last: V<'k, Index>,
    /// The norm in front of the product.
    pub norm: Norm<'k>,
}

#[derive(Clone, Copy)]
enum Rows<'k> {
    Wide(Ptr<'k, F32>),
    /// Rounded by its producer; columns are a multiple of 8.
    Rounded(Ptr<'k, Bf16>),
    /// The same in tiles.
    Tiled(Ptr<'k, Bf16>),
}

/// What is done with the factor of each row of the CTA, which lies in shared memory.
#[derive(Clone, Copy)]
pub enum Norm<'k> {
    /// There is none.
    None,
    /// Elements are multiplied with it, and with these weights.
    Elements(Ptr<'k, F32>, Ptr<'k, F32>),
    /// Sums are multiplied with it.
    Sums(Ptr<'k, F32>),
}

/// The weights of a norm of eight columns.
pub type Gain<'k> = Option<[V<'k, F32>; 2]>;

/// A pointer to rows of `cols` elements, for accesses at multiples of four columns.
pub fn rows_of_fours<'k>(from: Ptr<'k, F32>, cols: u32) -> Ptr<'k, F32> {
    from.aligned(if cols.is_multiple_of(4) { 16 } else { 4 })
}

impl<'a, 'k, 'g> Activation<'a, 'k, 'g> {
    /// The input of `grid`, `tokens` rows from `first` on, with the factors of a norm.
    pub fn new(cx: &'a Context<'k, 'g>, grid: Id, first: V<'k, Index>, tokens: u32) -> Option<Self> {
        let x = cx.graph.node(grid).args[0];
        let cols = cx.cols(x) as u32;
        let mut a = Activation::plain(cx, x, first, cx.rows() - 1u32);
        match (cx.graph.op(grid)?, a.from) {
            (Op::Sweep(_) | Op::Matmul(_), _) => {}
            (Op::SweepNorm(op), Rows::Wide(x)) => {
                let gain = cx.vector(PackSpec::vector(cols as usize), cx.graph.node(grid).args[1]).aligned(16);
                let factors = a.factors(tokens, op.eps.get(), |row| sum_of_squares(cx, x.at(row * cols), cols));
                a.norm = Norm::Elements(factors, gain);
            }
            (Op::SweepScaled(op), _) => {
                let squares = cx.graph.node(grid).args[1];
                let (parts, n) = (cx.value::<F32>(squares), cx.cols(squares) as u32);
                a.norm = Norm::Sums(a.factors(tokens, op.eps.get(), |row| sum(cx, parts.at(row * n), n)));
            }
            _ => return None,
        }
        Some(a)
    }

    /// Rows `first` to `last` of `x` as they are.
    pub fn plain(cx: &'a Context<'k, 'g>, x: Id, first: V<'k, Index>, last: V<'k, Index>) -> Self {
        let cols = cx.cols(x) as u32;
        let from = match cx.graph.ty(x).elem() {
            Some(Elem::Bf16) if cx.tiled.contains(&x) => Rows::Tiled(cx.value::<Bf16>(x).aligned(16)),
            Some(Elem::Bf16) => Rows::Rounded(cx.value::<Bf16>(x).aligned(16)),
            _ => Rows::Wide(rows_of_fours(cx.value(x), cols)),
        };
        Activation { cx, from, cols, first, last, norm: Norm::None }
    }

    /// What the sums of row `token` of the CTA are to be multiplied with.
    pub fn factor(&self, token: V<'k, Index>) -> Option<V<'k, F32>> {
        match self.norm {
            Norm::Sums(factors) => Some(factors.at(token).load(1)),
            Norm::None | Norm::Elements(..) => None,
        }
    }

    /// Tile `number` of the CTA, whose first row is the first of a tile; of tiles beyond the last, that one.
    ///
    /// # Panics
    /// If rows are not in tiles, which the plan of the product excludes.
    pub fn tile(&self, number: V<'k, Index>) -> Ptr<'k, Bf16> {
        let Rows::Tiled(from) = self.from else { panic!("the rows of this product are not in tiles") };
        let tile = (self.first / TILE_ROWS + number).imin(self.last / TILE_ROWS);
        from.at(tile * (TILE_ROWS * self.cols))
    }

    /// Row `token` of the CTA; of rows beyond the last, that one.
    fn row(&self, token: V<'k, Index>) -> V<'k, Index> {
        (self.first + token).imin(self.last)
    }

    /// `1 / sqrt(mean(x^2) + eps)` of every row of the CTA, a warp for a row at a time.
    fn factors(&self, tokens: u32, eps: f32, squares: impl Fn(V<'k, Index>) -> V<'k, F32>) -> Ptr<'k, F32> {
        let (k, warp, to) = (self.cx.k, self.cx.k.warp(), self.cx.k.shared::<F32>(tokens));
        let left = (self.cx.rows() - self.first).imin(tokens);
        k.range(k.warp_id(), left, k.warps(), (), |token, ()| {
            let factor = (squares(self.row(token)) * (1.0 / self.cols as f32) + eps).rsqrt();
            warp.leader(|| to.at(token).store(factor));
        });
        // rows that do not exist are computed and thrown away
        k.range(left + k.thread(), tokens, k.warps() * WARP, (), |token, ()| to.at(token).store(1.0));
        k.barrier();
        to
    }

    /// The weights of the norm of eight columns from `col` on, which is a multiple of 8, if they are applied to elements; `ragged` says
    /// that there may be columns beyond the last.
    pub fn gain(&self, col: V<'k, Index>, ragged: bool) -> Gain<'k> {
        let Norm::Elements(_, gain) = self.norm else { return None };
        Some([0u32, 4].map(|i| self.four(col + i, ragged, |c, lanes| gain.at(c).load(lanes))))
    }

    /// Eight elements of row `token` from column `col` on, normalised with their `gain`; zero beyond the last column if `ragged`.
    pub fn eight(&self, token: V<'k, Index>, col: V<'k, Index>, ragged: bool, gain: Gain<'k>) -> Eight<'k> {
        let (k, row) = (self.cx.k, self.row(token));
        match self.from {
            Rows::Rounded(from) => {
                let words = |col: V<'k, Index>| from.at(row * self.cols).at(col).cast::<I32>().load(4);
                Eight::Rounded(match ragged {
                    false => words(col),
                    true => col.lt(self.cols).select(words(col.imin(self.cols - 8)), k.splat(0, 4)),
                })
            }
            Rows::Tiled(from) => {
                let pair = |i: u32| tiled_at(from, self.cols, row, col + 2 * i).cast::<I32>().load(1);
                let words = V::pack(&[0, 1, 2, 3].map(pair));
                Eight::Rounded(if ragged { col.lt(self.cols).select(words, k.splat(0, 4)) } else { words })
            }
            Rows::Wide(from) => {
                let row = from.at(row * self.cols);
                Eight::Wide([0u32, 4].map(|i| {
                    let x = self.four(col + i, ragged, |c, lanes| row.at(c).load(lanes));
                    match (self.norm, gain) {
                        (Norm::Elements(factors, _), Some(gain)) => {
                            x * gain[i as usize / 4] * factors.at(token).load_splat(4)
                        }
                        _ => x,
                    }
                }))
            }
        }
    }

    /// Starts to copy eight elements of row `token` from column `col` on, of rows that are rounded already; zeros beyond the last column if
    /// `ragged`.
    ///
    /// # Panics
    /// If they are not, which the plan of the product excludes.
    pub fn copy_eight(&self, to: Ptr<'k, Bf16>, token: V<'k, Index>, col: V<'k, Index>, ragged: bool) {
        let Rows::Rounded(from) = self.from else { panic!("the rows of this product are not rounded") };
        let row = from.at(self.row(token) * self.cols);
        match ragged {
            false => to.copy_async(row.at(col)),
            true => {
                let bytes: V<Index> = col.lt(self.cols).select(16u32, 0u32);
                to.copy_async_some(row.at(col.imin(self.cols - 8)), bytes);
            }
        }
    }

    /// `load` of four columns, at once where they lie together and are there.
    fn four(&self, col: V<'k, Index>, ragged: bool, load: impl Fn(V<'k, Index>, u16) -> V<'k, F32>) -> V<'k, F32> {
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

/// Eight neighbouring elements of a row.
#[derive(Clone, Copy)]
pub enum Eight<'k> {
    /// Pairs of bf16.
    Rounded(V<'k, I32>),
    /// Two fours that are to be rounded.
    Wide([V<'k, F32>; 2]),
}

impl<'k> Eight<'k> {
    /// Those at an address.
    pub fn at(from: Ptr<'k, Bf16>) -> Self {
        Eight::Rounded(from.cast::<I32>().load(4))
    }

    /// As they lie in memory.
    pub fn together(self) -> V<'k, Bf16> {
        match self {
            Eight::Rounded(words) => words.as_bf16_pairs(),
            Eight::Wide([low, high]) => {
                let lanes = [low, high].into_iter().flat_map(|four| (0..4).map(move |i| four.lane(i)));
                V::pack(&lanes.collect::<Vec<_>>()).round_bf16()
            }
        }
    }

    /// As the operands of two tile products.
    pub fn fours(self) -> [V<'k, Bf16>; 2] {
        match self {
            Eight::Rounded(words) => [0, 2].map(|i| V::pack(&[words.lane(i), words.lane(i + 1)]).as_bf16_pairs()),
            Eight::Wide(fours) => fours.map(V::round_bf16),
        }
    }
}

/// Sum of squares of `n` elements by the lanes of a warp, in every lane.
pub fn sum_of_squares<'k>(cx: &Context<'k, '_>, from: Ptr<'k, F32>, n: u32) -> V<'k, F32> {
    over_lanes(cx, from, n, |x, sum| x.fma(x, sum))
}

/// Sum of `n` elements by the lanes of a warp, in every lane.
fn sum<'k>(cx: &Context<'k, '_>, from: Ptr<'k, F32>, n: u32) -> V<'k, F32> {
    over_lanes(cx, rows_of_fours(from, n), n, |x, sum| sum + x)
}

fn over_lanes<'k>(
    cx: &Context<'k, '_>,
    from: Ptr<'k, F32>,
    n: u32,
    add: impl Fn(V<'k, F32>, V<'k, F32>) -> V<'k, F32>,
) -> V<'k, F32> {
    let warp = cx.k.warp();
    let width: u16 = if n.is_multiple_of(4) { 4 } else { 1 };
    let parts = warp.fold(n / u32::from(width), 0.0f32.on(cx.k).splat(width), |i, sum| {
        add(from.at(i * u32::from(width)).load(width), sum)
    });
    warp.sum(parts.sum_lanes())
}
