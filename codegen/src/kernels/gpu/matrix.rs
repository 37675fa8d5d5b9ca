//! Operands of tile products that a CTA shares, and operands made of the sums of other products.
//!
//! A matrix lies in shared memory in pieces of 8 by 8 bf16, each in 128 bytes without a gap: the rows of a piece are in
//! different banks, whichever way it is read. In a matrix for copies of rows, pieces with an odd column have their rows turned
//! by half a piece: then four rows of two neighbouring pieces are in different banks as well.

use crate::kir::{Bf16, Builder, F32, I32, Index, Operand, Ptr, V};

/// Rows and columns of a piece.
const PIECE: u32 = 8;
/// Elements of a piece.
const ELEMENTS: u32 = PIECE * PIECE;

/// A matrix of bf16 in shared memory; columns, as rows, are padded to multiples of 16.
#[derive(Clone, Copy)]
pub struct Pieces<'k> {
    base: Ptr<'k, Bf16>,
    /// Pieces of a row.
    across: u32,
}

impl<'k> Pieces<'k> {
    /// A matrix of `cols` columns at `base`.
    pub fn new(base: Ptr<'k, Bf16>, cols: u32) -> Self {
        Pieces { base, across: cols / PIECE }
    }

    /// The address of an element.
    pub fn at(&self, row: V<'k, Index>, col: V<'k, Index>) -> Ptr<'k, Bf16> {
        let piece = row / PIECE * self.across + col / PIECE;
        self.base.at(piece * ELEMENTS).at(row % PIECE * PIECE).at(col % PIECE)
    }

    /// Starts `sum + left B` by the warpgroup: columns of `B` are the rows of the matrix, as many as the sum has room for, of
    /// which it takes the 16 columns from piece `col` on.
    pub fn add_product(&self, left: V<'k, Bf16>, col: u32, sum: V<'k, F32>) -> V<'k, F32> {
        let bytes = 2 * ELEMENTS;
        sum.wgmma(left, self.base.at(col * ELEMENTS), (bytes, self.across * bytes))
    }
}

/// The same with what `mma` needs of it.
#[derive(Clone, Copy)]
pub struct Matrix<'k> {
    pieces: Pieces<'k>,
    /// The row that this lane addresses of four pieces, two rows of two: first along the rows, or first down the columns.
    along: Ptr<'k, Bf16>,
    down: Ptr<'k, Bf16>,
    /// Rows by which pieces with an odd column are turned.
    turn: u32,
}

impl<'k> Matrix<'k> {
    /// A matrix of `cols` columns at `base`.
    pub fn new(k: &'k Builder, base: Ptr<'k, Bf16>, cols: u32) -> Self {
        Matrix::laid_out(k, base, cols, 0)
    }

    /// A matrix of `cols` columns at `base` for copies of rows, see [`Matrix::row`]; operands start at an even piece of its rows.
    pub fn for_copies(k: &'k Builder, base: Ptr<'k, Bf16>, cols: u32) -> Self {
        Matrix::laid_out(k, base, cols, PIECE / 2)
    }

    fn laid_out(k: &'k Builder, base: Ptr<'k, Bf16>, cols: u32, turn: u32) -> Self {
        let (lane, across) = (k.warp().rank, cols / PIECE);
        let (row, first, second) = (lane % PIECE, lane / PIECE % 2u32, lane / (2 * PIECE));
        let four = |right: V<'k, Index>, below: V<'k, Index>| {
            let row = if turn == 0 { row } else { row.xor(right * turn) };
            base.at(right * ELEMENTS).at(below * (across * ELEMENTS)).at(row * PIECE)
        };
        Matrix { pieces: Pieces { base, across }, along: four(first, second), down: four(second, first), turn }
    }

    /// The address of an element of a matrix that is not for copies.
    pub fn at(&self, row: V<'k, Index>, col: V<'k, Index>) -> Ptr<'k, Bf16> {
        self.pieces.at(row, col)
    }

    /// The address of the 16 bytes of a row in the pieces of column `piece`.
    pub fn row(&self, row: V<'k, Index>, piece: V<'k, Index>) -> Ptr<'k, Bf16> {
        let turned = (row % PIECE).xor(piece % 2u32 * self.turn);
        let (above, base) = (row / PIECE * self.pieces.across, self.pieces.base);
        base.at(above * ELEMENTS).at(piece * ELEMENTS).at(turned * PIECE)
    }

    /// The first operand of `mma`: 16 rows from piece `row` on, 16 columns from piece `col` on.
    pub fn left(&self, row: impl Operand<'k, Index>, col: impl Operand<'k, Index>) -> V<'k, Bf16> {
        self.four(self.down, row, col, false).as_bf16_pairs()
    }

    /// Two second operands of `mma` for the product with the transposed matrix: 8 rows each from piece `row` on, 16 columns from
    /// piece `col` on.
    pub fn right_rows(&self, row: impl Operand<'k, Index>, col: impl Operand<'k, Index>) -> [V<'k, Bf16>; 2] {
        halves(self.four(self.along, row, col, false))
    }

    /// Two second operands of `mma`: 16 rows from piece `row` on, 8 columns each from piece `col` on.
    pub fn right_cols(&self, row: impl Operand<'k, Index>, col: impl Operand<'k, Index>) -> [V<'k, Bf16>; 2] {
        halves(self.four(self.down, row, col, true))
    }

    fn four(
        &self,
        from: Ptr<'k, Bf16>,
        row: impl Operand<'k, Index>,
        col: impl Operand<'k, Index>,
        trans: bool,
    ) -> V<'k, I32> {
        let k = from.builder();
        let piece = row.on(k) * self.pieces.across + col.on(k);
        from.at(piece * ELEMENTS).load_matrix(trans)
    }
}

fn halves(four: V<'_, I32>) -> [V<'_, Bf16>; 2] {
    [0, 2].map(|i| V::pack(&[four.lane(i), four.lane(i + 1)]).as_bf16_pairs())
}

/// The first operand of `mma` whose 16 columns are two neighbouring results of it.
pub fn left_of_sums<'k>(low: V<'k, F32>, high: V<'k, F32>) -> V<'k, Bf16> {
    let lanes: Vec<_> = [low, high].iter().flat_map(|sum| (0..4).map(|i| sum.lane(i))).collect();
    V::pack(&lanes).round_bf16()
}
