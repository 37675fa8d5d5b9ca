//! How register values reach memory, and the ops that work on what is there.

use super::conv::push;
use super::*;
use crate::types::Elem;
use crate::value::Mat;

/// Index of the largest element of each row, the first of equals.
fn argmax<R: Real>(x: &Mat<R>) -> Mat<R> {
    let best = |row: &[R]| (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b });
    Mat::new(x.rows, 1, |r, _| R::of(best(x.row(r)) as f64))
}

impl Semantics for Argmax {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        Ok(Type::tensor(Place::Mem, in_memory(args, 0)?.rows, 1, Elem::I32))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(argmax(args[0].mat()))
    }
}

impl Semantics for StoreArgmax {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        Ok(Type::tensor(Place::Mem, in_registers(args, 0)?.rows, 1, Elem::I32))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Argmax {}.eval(args)
    }
}

impl Semantics for Load {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        grid(args, 0, &GridKind::ALL)?;
        let x = in_memory(args, 1)?;
        ensure(x.rows == Rows::Tokens, || format!("operand 1 must have a row for each token, found {}", args[1]))?;
        Ok(args[1].at(Place::Reg))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        args[1].clone()
    }
}

impl Semantics for Store {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        in_registers(args, 0)?;
        Ok(args[0].at(Place::Mem))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        args[0].clone()
    }
}

impl Semantics for StoreMs {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        Ok(Type::mem(in_registers(args, 0)?.rows, 1))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        RowMs {}.eval(args)
    }
}

impl Semantics for StoreSquares {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let r = in_registers(args, 0)?;
        ensure(self.width > 0, || "sums of 0 columns".into())?;
        Ok(Type::mem(r.rows, r.cols.div_ceil(self.width)))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let x = args[0].mat();
        let sum = |r: usize, part: usize| {
            let some = x.row(r).iter().skip(part * self.width).take(self.width);
            some.map(|v| *v * *v).sum()
        };
        Value::Mat(Mat::new(x.rows, x.cols.div_ceil(self.width), sum))
    }
}

impl Semantics for StoreRing {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let r = in_registers(args, 1)?;
        super::conv::ring_state(args, 0, self.taps, r.cols)?;
        Ok(args[0])
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(push(args[0].mat(), args[1].mat()))
    }
}

impl Semantics for StoreKv {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        in_registers(args, 1)?;
        KvAppend {}.infer(&[args[0], args[1].at(Place::Mem)])
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        KvAppend {}.eval(args)
    }
}
