//! Elementwise ops: in memory a kernel of their own, in registers an epilogue.

use super::*;
use crate::types::Elem;
use crate::value::Mat;

fn sigmoid<R: Real>(x: R) -> R {
    R::ONE / (R::ONE + (-x).exp())
}

/// `x sigmoid(x)`.
pub(super) fn silu<R: Real>(x: R) -> R {
    x * sigmoid(x)
}

/// PyTorch's softplus: linear above its threshold of 20.
fn softplus<R: Real>(x: R) -> R {
    if x > R::of(20.0) { x } else { x.exp().ln_1p() }
}

macro_rules! unary {
    ($($Op:ident |$x:ident| $e:expr;)+) => { $(
        impl Semantics for $Op {
            fn infer(&self, args: &[Type]) -> Result<Type, String> {
                let t = tensor(args, 0)?;
                ensure(t.place != Place::Packed, || "operand 0 is packed".into())?;
                Ok(Type::tensor(t.place, t.rows, t.cols, Elem::F32))
            }
            fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
                Value::Mat(args[0].mat().map(|$x| $e))
            }
        }
    )+ };
}
unary! {
    Silu |x| silu(x);
    Sigmoid |x| sigmoid(x);
    Softplus |x| softplus(x);
    Exp |x| x.exp();
    Neg |x| -x;
}

/// The nearest bf16, of two equally near ones the even.
fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let up = 0x7fff + (bits >> 16 & 1);
    if x.is_nan() { x } else { f32::from_bits(bits.wrapping_add(up) & 0xffff_0000) }
}

impl Semantics for RoundBf16 {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let t = tensor(args, 0)?;
        ensure(t.place != Place::Packed, || "operand 0 is packed".into())?;
        Ok(Type::tensor(t.place, t.rows, t.cols, Elem::Bf16))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(args[0].mat().map(|x| R::of(f64::from(round_bf16(x.to_f64() as f32)))))
    }
}

impl Semantics for Scale {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        Neg {}.infer(args)
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let c = R::of(f64::from(self.c.get()));
        Value::Mat(args[0].mat().map(|x| x * c))
    }
}

/// The result lives in registers if an operand does, else in memory if an operand does.
fn binary(args: &[Type]) -> Result<Type, String> {
    same_shape(args, 0, 1)?;
    let (a, b) = (tensor(args, 0)?, tensor(args, 1)?);
    ensure(a.place != Place::Packed && b.place != Place::Packed, || "an operand is packed".into())?;
    Ok(Type::tensor(a.place.max(b.place), a.rows, a.cols, Elem::F32))
}

fn zip<R: Real>(args: &[&Value<R>], f: impl Fn(R, R) -> R) -> Value<R> {
    let (a, b) = (args[0].mat(), args[1].mat());
    Value::Mat(Mat::new(a.rows, a.cols, |r, c| f(a.at(r, c), b.at(r, c))))
}

impl Semantics for Add {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        binary(args)
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        zip(args, |a, b| a + b)
    }
}

impl Semantics for Mul {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        binary(args)
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        zip(args, |a, b| a * b)
    }
}

fn with_vector(args: &[Type]) -> Result<Type, String> {
    let t = tensor(args, 0)?;
    vector(args, 1, t.cols)?;
    Neg {}.infer(args)
}

impl Semantics for Bias {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        with_vector(args)
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let (x, b) = (args[0].mat(), args[1].mat());
        Value::Mat(Mat::new(x.rows, x.cols, |r, c| x.at(r, c) + b.at(0, c)))
    }
}

impl Semantics for ScaleCols {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        with_vector(args)
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let (x, v) = (args[0].mat(), args[1].mat());
        Value::Mat(Mat::new(x.rows, x.cols, |r, c| x.at(r, c) * v.at(0, c)))
    }
}
