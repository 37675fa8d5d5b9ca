//! Values of the reference evaluation: dense matrices over f32 (the reference) or f64 (to prove rewrites).

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

/// A floating-point type that the reference evaluation can run in.
pub trait Real:
    Copy
    + PartialOrd
    + std::fmt::Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
    + Sum
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Rounds to this type.
    fn of(value: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// `e^x`.
    fn exp(self) -> Self;
    /// `ln(1 + x)`.
    fn ln_1p(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
}

macro_rules! real {
    ($($t:ident)+) => { $(
        impl Real for $t {
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;
            fn of(value: f64) -> $t { value as $t }
            fn to_f64(self) -> f64 { f64::from(self) }
            fn exp(self) -> $t { $t::exp(self) }
            fn ln_1p(self) -> $t { $t::ln_1p(self) }
            fn sqrt(self) -> $t { $t::sqrt(self) }
        }
    )+ };
}
real!(f32 f64);

/// A dense matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Mat<R> {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows * cols` elements.
    pub data: Vec<R>,
}

impl<R: Real> Mat<R> {
    /// A matrix from a function of row and column.
    pub fn new(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> R) -> Mat<R> {
        let mut data = Vec::with_capacity(rows * cols);
        for r in 0..rows {
            data.extend((0..cols).map(|c| f(r, c)));
        }
        Mat { rows, cols, data }
    }

    /// All zero.
    pub fn zeros(rows: usize, cols: usize) -> Mat<R> {
        Mat { rows, cols, data: vec![R::ZERO; rows * cols] }
    }

    /// Element at row `r`, column `c`.
    pub fn at(&self, r: usize, c: usize) -> R {
        self.data[r * self.cols + c]
    }

    /// Row `r`.
    pub fn row(&self, r: usize) -> &[R] {
        &self.data[r * self.cols..][..self.cols]
    }

    /// Every element through `f`.
    pub fn map(&self, f: impl FnMut(R) -> R) -> Mat<R> {
        Mat { rows: self.rows, cols: self.cols, data: self.data.iter().copied().map(f).collect() }
    }

    /// `other` under `self`.
    pub fn below(&self, other: &Mat<R>) -> Mat<R> {
        Mat { rows: self.rows + other.rows, cols: self.cols, data: [&self.data[..], &other.data[..]].concat() }
    }

    /// The last `n` rows.
    pub fn last_rows(&self, n: usize) -> Mat<R> {
        Mat { rows: n, cols: self.cols, data: self.data[(self.rows - n) * self.cols..].to_vec() }
    }
}

/// A value of the reference evaluation.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<R> {
    /// A tensor, wherever it lives: placement is no mathematics.
    Mat(Mat<R>),
    /// What a grid stands for: the swept operand (product), or its results.
    Grid {
        /// The swept operand or the first result.
        first: Mat<R>,
        /// The second result: the state of the delta rule.
        second: Option<Mat<R>>,
    },
}

impl<R: Real> Value<R> {
    /// The matrix, or the first result of a grid. The verifier has ruled out the rest.
    pub fn mat(&self) -> &Mat<R> {
        match self {
            Value::Mat(m) | Value::Grid { first: m, .. } => m,
        }
    }
}
