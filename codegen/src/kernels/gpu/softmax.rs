//! Attention of a tile of 16 queries by a warp: scores, the online softmax, weighted sums, all in registers.
//!
//! Scores, weights and sums are f32; queries are rounded to bf16 as operands, weights where they multiply the values.

use super::super::attention::{Attention, LOWEST};
use super::matrix::{Matrix, left_of_sums};
use super::operand::rows_of_fours;
use crate::kir::{Bf16, F32, Index, Operand, Ptr, V};

/// Queries of a warp: the rows of a tile product.
pub const TILE: u32 = 16;
/// Columns of a head that a thread has registers for.
pub const MOST_DIM: u32 = 128;
/// Where running maxima start: above every hidden score when that is scaled, below every other.
pub const FLOOR: f32 = LOWEST * 1e-2;

/// What a warp knows of its queries so far: the sums of each block of 8 columns; largest score and sum of weights of each of
/// the two queries of a lane, the latter over the keys of this lane alone.
pub type Sums<'k> = (Vec<V<'k, F32>>, [V<'k, F32>; 2], [V<'k, F32>; 2]);

/// A tile of queries.
pub struct Queries<'a, 'k, 'g> {
    a: &'a Attention<'a, 'k, 'g>,
    /// Left operands, 16 columns each; zero beyond the last column.
    left: Vec<V<'k, Bf16>>,
}

/// The first of the two neighbouring columns, of keys or of a head, that this lane has of each 8.
pub fn column<'k>(a: &Attention<'_, 'k, '_>) -> V<'k, Index> {
    a.cx.k.warp().rank % 4u32 * 2u32
}

/// Sums of no keys, for `padded` columns.
pub fn nothing<'k>(a: &Attention<'_, 'k, '_>, padded: u32) -> Sums<'k> {
    let zero = 0.0f32.on(a.cx.k);
    (vec![zero.splat(4); padded as usize / 8], [FLOOR.on(a.cx.k); 2], [zero; 2])
}

/// `combine` over the four lanes that share a query.
pub fn quad<'k>(v: V<'k, F32>, combine: impl Fn(V<'k, F32>, V<'k, F32>) -> V<'k, F32>) -> V<'k, F32> {
    [1u8, 2].into_iter().fold(v, |v, bits| combine(v, v.shuffle_xor(bits)))
}

impl<'a, 'k, 'g> Queries<'a, 'k, 'g> {
    /// Those of which this lane has two, each given by its row and head.
    pub fn load(a: &'a Attention<'a, 'k, 'g>, two: [(V<'k, Index>, V<'k, Index>); 2], padded: u32) -> Self {
        let cols = a.kv_heads * a.group * a.head_dim;
        let from = two.map(|(row, head)| rows_of_fours(a.cx.value(a.query), cols).at(row * cols).at(head * a.head_dim));
        let pair = |of: Ptr<'k, F32>, first: u32| {
            let c = column(a) + first;
            if first + 8 <= a.head_dim {
                return of.at(c).load(2);
            }
            c.lt(a.head_dim).select(of.at(c.imin(a.head_dim - 2)).load(2), a.cx.k.splat(0.0, 2))
        };
        let tile = |first: u32| {
            let [low, high] = [first, first + 8].map(|c| {
                let [above, below] = from.map(|f| pair(f, c));
                V::pack(&[above.lane(0), above.lane(1), below.lane(0), below.lane(1)])
            });
            left_of_sums(low, high)
        };
        Queries { a, left: (0..padded).step_by(TILE as usize).map(tile).collect() }
    }

    /// Products with `count` keys from piece `first` of the matrix on, 8 in a piece; not scaled.
    pub fn scores(&self, keys: Matrix<'k>, first: V<'k, Index>, count: u32) -> Vec<V<'k, F32>> {
        let mut scores = vec![self.a.cx.k.splat(0.0, 4); count as usize / 8];
        for (step, left) in (0..).zip(&self.left) {
            for pair in 0..count / TILE {
                let right = keys.right_rows(first + 2 * pair, 2 * step as u32);
                for (half, right) in right.iter().enumerate() {
                    let score = &mut scores[2 * pair as usize + half];
                    *score = left.mma(*right, *score);
                }
            }
        }
        scores
    }

    /// Turns scores of keys into weights and adds the weighted values, which start at piece `first` of the matrix.
    pub fn weigh(
        &self,
        scores: &[V<'k, F32>],
        (values, first): (Matrix<'k>, V<'k, Index>),
        (sums, largest, totals): Sums<'k>,
    ) -> Sums<'k> {
        // weights are powers of two
        let scale = (std::f64::consts::LOG2_E * f64::from(self.a.head_dim).powf(-0.5)) as f32;
        let of_query = |i: u16| scores.iter().flat_map(move |s| [s.lane(2 * i), s.lane(2 * i + 1)]);
        let top = [0, 1].map(|i| {
            let mine = of_query(i).reduce(|a, b| a.max(b)).expect("some keys");
            (quad(mine, |a, b| a.max(b)) * scale).max(largest[usize::from(i)])
        });
        let factors: [_; 2] = std::array::from_fn(|i| (largest[i] - top[i]).exp2());
        let weigh = |s: &V<'k, F32>| {
            let one = |i: u16| s.lane(i).fma(scale, -top[usize::from(i / 2)]).exp2();
            V::pack(&[one(0), one(1), one(2), one(3)])
        };
        let weights: Vec<V<'k, F32>> = scores.iter().map(weigh).collect();
        let total = |i: usize| {
            let mine = weights.iter().flat_map(|w| [w.lane(2 * i as u16), w.lane(2 * i as u16 + 1)]);
            mine.fold(totals[i] * factors[i], |sum, w| sum + w)
        };
        let totals = std::array::from_fn(total);
        let [above, below] = factors;
        let four = V::pack(&[above, above, below, below]);
        let mut sums: Vec<_> = sums.into_iter().map(|s| s * four).collect();
        for (step, pair) in (0..).zip(weights.chunks(2)) {
            let left = left_of_sums(pair[0], pair[1]);
            for (block, two) in (0..).zip(sums.chunks_mut(2)) {
                let right = values.right_cols(first + 2 * step as u32, 2 * block as u32);
                two.iter_mut().zip(right).for_each(|(sum, right)| *sum = left.mma(right, *sum));
            }
        }
        (sums, top, totals)
    }
}
