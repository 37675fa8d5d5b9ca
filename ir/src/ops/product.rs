//! Products with weights: the op of the source graph, and the grid and accumulators that it becomes.

use super::norm::rms;
use super::*;
use crate::value::Mat;

/// `x w^T`.
pub(super) fn matmul<R: Real>(x: &Mat<R>, w: &Mat<R>) -> Mat<R> {
    Mat::new(x.rows, w.rows, |r, c| x.row(r).iter().zip(w.row(c)).map(|(a, b)| *a * *b).sum())
}

impl Semantics for Embed {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        weight(args, 0, args[0].cols())?;
        let ids = in_memory(args, 1)?;
        ensure((ids.cols, ids.elem) == (1, crate::types::Elem::I32), || {
            format!("operand 1 must be one column of i32, found {}", args[1])
        })?;
        Ok(Type::mem(ids.rows, args[0].cols()))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let (table, ids) = (args[0].mat(), args[1].mat());
        Value::Mat(Mat::new(ids.rows, table.cols, |r, c| table.at(ids.at(r, 0).to_f64() as usize, c)))
    }
}

impl Semantics for Lookup {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let rows = Embed {}.infer(args)?;
        ensure(rows.rows() == Some(Rows::Tokens), || {
            format!("operand 1 must have a row for each token, found {}", args[1])
        })?;
        Ok(Type::Grid { kind: GridKind::Lookup, cols: rows.cols(), state: (0, 0) })
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Grid { first: Embed {}.eval(args).mat().clone(), second: None }
    }
}

impl Semantics for Matmul {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let x = in_memory(args, 0)?;
        Ok(Type::mem(x.rows, weight(args, 1, x.cols)?))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(matmul(args[0].mat(), args[1].mat()))
    }
}

/// The grid over an activation that is swept as it is or normalised.
fn sweep(args: &[Type]) -> Result<Type, String> {
    let x = in_memory(args, 0)?;
    if args.len() > 1 {
        vector(args, 1, x.cols)?;
    }
    if args.len() > 2 {
        let ms = in_memory(args, 2)?;
        ensure((ms.rows, ms.cols) == (x.rows, 1), || {
            format!("operand 2 must be one column with a value for each row, found {}", args[2])
        })?;
    }
    Ok(Type::Grid { kind: GridKind::Product, cols: x.cols, state: (0, 0) })
}

impl Semantics for Sweep {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        sweep(args)
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Grid { first: args[0].mat().clone(), second: None }
    }
}

macro_rules! norm_sweep {
    ($($Op:ident)+) => { $(
        impl Semantics for $Op {
            fn infer(&self, args: &[Type]) -> Result<Type, String> {
                sweep(args)
            }
            fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
                Value::Grid { first: rms(args[0].mat(), args[1].mat(), self.eps), second: None }
            }
        }
    )+ };
}
norm_sweep!(SweepNorm SweepFold SweepFoldMs);

impl Semantics for SweepScaled {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let (x, squares) = (in_memory(args, 0)?, in_memory(args, 1)?);
        ensure(x.rows == squares.rows, || format!("operands 0 and 1 differ in rows: {} and {}", args[0], args[1]))?;
        sweep(&args[..1])
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let (x, squares) = (args[0].mat(), args[1].mat());
        let (n, eps) = (R::of(x.cols as f64), R::of(f64::from(self.eps.get())));
        let factor = |r: usize| R::ONE / (squares.row(r).iter().copied().sum::<R>() / n + eps).sqrt();
        let factors: Vec<R> = (0..x.rows).map(factor).collect();
        let scaled = Mat::new(x.rows, x.cols, |r, c| x.at(r, c) * factors[r]);
        Value::Grid { first: scaled, second: None }
    }
}

impl Semantics for Acc {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let (cols, _) = grid(args, 0, &[GridKind::Product])?;
        Ok(Type::mem(Rows::Tokens, weight(args, 1, cols)?).at(Place::Reg))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(matmul(args[0].mat(), args[1].mat()))
    }
}

macro_rules! pack {
    ($($Op:ident)+) => { $(
        impl Semantics for $Op {
            fn infer(&self, args: &[Type]) -> Result<Type, String> {
                in_place(args, 0, Place::Const, "a weight that is not packed yet")?;
                Ok(args[0].at(Place::Packed))
            }
            fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
                args[0].clone()
            }
        }
    )+ };
}
pack!(PackPanel PackFrag PackTile);
