//! The dynamic convolution on the values, and the ring of past values that it needs.

use super::*;
use crate::value::Mat;

/// The convolution; `ring` holds at least the last `taps - 1` rows before `v`.
pub(super) fn convolve<R: Real>(kernels: &Mat<R>, v: &Mat<R>, ring: &Mat<R>, taps: usize) -> Mat<R> {
    let past = ring.last_rows(taps - 1).below(v);
    Mat::new(v.rows, v.cols, |t, d| (0..taps).map(|w| kernels.at(t, d * taps + w) * past.at(t + w, d)).sum())
}

pub(super) fn push<R: Real>(ring: &Mat<R>, v: &Mat<R>) -> Mat<R> {
    ring.below(v).last_rows(ring.rows)
}

/// A state of `taps` rows and `cols` columns at operand `i`.
pub(super) fn ring_state(args: &[Type], i: usize, taps: usize, cols: usize) -> Result<(), String> {
    let ring = in_memory(args, i)?;
    let fits = taps > 0 && ring.rows == Rows::Fixed(taps) && ring.cols == cols;
    ensure(fits, || format!("operand {i} must hold {taps} rows of {cols} columns, found {}", args[i]))
}

impl Semantics for DynamicConv {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let (kernels, v) = (tensor(args, 0)?, in_memory(args, 1)?);
        let wide = v.cols.checked_mul(self.taps) == Some(kernels.cols) && kernels.rows == v.rows;
        ensure(wide, || format!("{} cannot hold {} taps for each element of {}", args[0], self.taps, args[1]))?;
        ring_state(args, 2, self.taps, v.cols)?;
        ensure(matches!(kernels.place, Place::Mem | Place::Reg), || {
            format!("operand 0 must be an activation, found {}", args[0])
        })?;
        Ok(Type::mem(v.rows, v.cols).at(kernels.place))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(convolve(args[0].mat(), args[1].mat(), args[2].mat(), self.taps))
    }
}

impl Semantics for RingPush {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let v = in_memory(args, 1)?;
        ring_state(args, 0, self.taps, v.cols)?;
        Ok(args[0])
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(push(args[0].mat(), args[1].mat()))
    }
}
