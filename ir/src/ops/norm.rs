//! Normalisation: of rows, and of the heads within a row.

use super::elementwise::silu;
use super::*;
use crate::value::Mat;

/// Mean of squares of a row.
fn mean_of_squares<R: Real>(row: &[R]) -> R {
    row.iter().map(|v| *v * *v).sum::<R>() / R::of(row.len() as f64)
}

/// `x * rsqrt(mean(x^2) + eps) * w` over each row.
pub(super) fn rms<R: Real>(x: &Mat<R>, w: &Mat<R>, eps: F32) -> Mat<R> {
    let eps = R::of(f64::from(eps.get()));
    let factor: Vec<R> = (0..x.rows).map(|r| R::ONE / (mean_of_squares(x.row(r)) + eps).sqrt()).collect();
    Mat::new(x.rows, x.cols, |r, c| w.at(0, c) * (x.at(r, c) * factor[r]))
}

/// `x * rsqrt(sum(x^2) + eps)` over each head.
pub(super) fn l2<R: Real>(x: &Mat<R>, head_dim: usize, eps: F32) -> Mat<R> {
    let eps = R::of(f64::from(eps.get()));
    let head = |r: usize, c: usize| &x.row(r)[c / head_dim * head_dim..][..head_dim];
    Mat::new(x.rows, x.cols, |r, c| x.at(r, c) / (head(r, c).iter().map(|v| *v * *v).sum::<R>() + eps).sqrt())
}

impl Semantics for RmsNorm {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let x = in_memory(args, 0)?;
        vector(args, 1, x.cols)?;
        Ok(Type::mem(x.rows, x.cols))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(rms(args[0].mat(), args[1].mat(), self.eps))
    }
}

impl Semantics for RowMs {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        Ok(Type::mem(in_memory(args, 0)?.rows, 1))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let x = args[0].mat();
        Value::Mat(Mat::new(x.rows, 1, |r, _| mean_of_squares(x.row(r))))
    }
}

impl Semantics for L2Norm {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let x = in_memory(args, 0)?;
        whole_heads(args, 0, self.head_dim)?;
        Ok(Type::mem(x.rows, x.cols))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(l2(args[0].mat(), self.head_dim, self.eps))
    }
}

impl Semantics for GatedNorm {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let o = tensor(args, 0)?;
        ensure(matches!(o.place, Place::Mem | Place::Reg), || {
            format!("operand 0 must be an activation, found {}", args[0])
        })?;
        vector(args, 1, self.head_dim)?;
        in_memory(args, 2)?;
        same_shape(args, 0, 2)?;
        whole_heads(args, 0, self.head_dim)?;
        Ok(args[0])
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let (o, w, z) = (args[0].mat(), args[1].mat(), args[2].mat());
        let heads = o.cols / self.head_dim;
        let split = Mat { rows: o.rows * heads, cols: self.head_dim, data: o.data.clone() };
        let normed = Mat { rows: o.rows, cols: o.cols, data: rms(&split, w, self.eps).data };
        Value::Mat(Mat::new(o.rows, o.cols, |r, c| normed.at(r, c) * silu(z.at(r, c))))
    }
}
