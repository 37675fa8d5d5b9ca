//! The gated delta rule, token by token.

use super::conv::{convolve, ring_state};
use super::elementwise::silu;
use super::norm::l2;
use super::product::matmul;
use super::*;
use crate::value::Mat;

/// Output and final state. `S <- decay S; u = beta (v - S^T k); S <- S + k u^T; o = S^T q` for every token and head.
fn recurrence<R: Real>([q, k, v, decay, beta, state]: [&Mat<R>; 6]) -> Value<R> {
    let heads = decay.cols;
    let (dk, dv) = (q.cols / heads, v.cols / heads);
    let (mut s, mut o) = (state.clone(), Mat::zeros(v.rows, v.cols));
    for t in 0..q.rows {
        for h in 0..heads {
            let s = &mut s.data[h * dk * dv..][..dk * dv];
            s.iter_mut().for_each(|x| *x *= decay.at(t, h));
            for j in 0..dv {
                let read: R = (0..dk).map(|i| s[i * dv + j] * k.at(t, h * dk + i)).sum();
                let u = beta.at(t, h) * (v.at(t, h * dv + j) - read);
                (0..dk).for_each(|i| s[i * dv + j] += k.at(t, h * dk + i) * u);
                o.data[t * v.cols + h * dv + j] = (0..dk).map(|i| s[i * dv + j] * q.at(t, h * dk + i)).sum();
            }
        }
    }
    Value::Grid { first: o, second: Some(s) }
}

/// Checks shapes of `q, k, decay, beta, state` at the given operands against values of `v_cols` columns.
fn shapes(args: &[Type], [q, k, decay, beta, state]: [usize; 5], v_cols: usize) -> Result<Type, String> {
    same_shape(args, q, k)?;
    same_shape(args, decay, beta)?;
    for i in [q, k, decay, beta] {
        ensure(in_memory(args, i)?.rows == Rows::Tokens, || {
            format!("operand {i} must have a row for each token, found {}", args[i])
        })?;
    }
    let (heads, q_cols, s) = (args[decay].cols(), args[q].cols(), in_memory(args, state)?);
    let divides = heads > 0 && q_cols.is_multiple_of(heads) && v_cols.is_multiple_of(heads);
    ensure(divides, || format!("{q_cols} key columns and {v_cols} value columns do not divide into {heads} heads"))?;
    let (rows, cols) = (q_cols, v_cols / heads);
    let fits = s.rows == Rows::Fixed(rows) && s.cols == cols;
    ensure(fits, || {
        format!("operand {state} must be a state of {rows} rows and {cols} columns, found {}", args[state])
    })?;
    Ok(Type::Grid { kind: GridKind::Delta, cols: v_cols, state: (rows, cols) })
}

fn key_heads(args: &[Type], head_dim: usize, decay: usize) -> Result<(), String> {
    whole_heads(args, 0, head_dim)?;
    let (found, want) = (args[0].cols() / head_dim, args[decay].cols());
    ensure(found == want, || format!("operand 0 has {found} heads of {head_dim}, operand {decay} has {want}"))
}

fn normalised<R: Real>(args: &[&Value<R>], head_dim: usize, eps: F32, scale: F32) -> [Mat<R>; 2] {
    let c = R::of(f64::from(scale.get()));
    [l2(args[0].mat(), head_dim, eps).map(|x| x * c), l2(args[1].mat(), head_dim, eps)]
}

impl Semantics for GatedDeltaRule {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let v = in_memory(args, 2)?;
        shapes(args, [0, 1, 3, 4, 5], v.cols)
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        recurrence([0, 1, 2, 3, 4, 5].map(|i| args[i].mat()))
    }
}

impl Semantics for DeltaL2 {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        key_heads(args, self.head_dim, 3)?;
        GatedDeltaRule {}.infer(args)
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let [q, k] = normalised(args, self.head_dim, self.eps, self.scale);
        let [v, decay, beta, state] = [2, 3, 4, 5].map(|i| args[i].mat());
        recurrence([&q, &k, v, decay, beta, state])
    }
}

impl Semantics for DeltaConv {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        key_heads(args, self.head_dim, 7)?;
        let (h, v0) = (in_memory(args, 2)?, in_memory(args, 5)?);
        let rows = weight(args, 3, h.cols)?;
        let wide = v0.cols.checked_mul(self.taps) == Some(rows);
        ensure(wide, || format!("operand 3 has {rows} rows, not {} taps for {} channels", self.taps, v0.cols))?;
        vector(args, 4, rows)?;
        ring_state(args, 6, self.taps, v0.cols)?;
        shapes(args, [0, 1, 7, 8, 9], v0.cols)
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let [q, k] = normalised(args, self.head_dim, self.eps, self.scale);
        let [h, w2, b2, v0, ring, decay, beta, state] = [2, 3, 4, 5, 6, 7, 8, 9].map(|i| args[i].mat());
        let product = matmul(h, w2);
        let kernels = Mat::new(product.rows, product.cols, |r, c| product.at(r, c) + b2.at(0, c));
        let v = convolve(&kernels, v0, ring, self.taps).map(silu);
        recurrence([&q, &k, &v, decay, beta, state])
    }
}

impl Semantics for Get1 {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let (_, (rows, cols)) = grid(args, 0, &[GridKind::Delta])?;
        Ok(Type::mem(Rows::Fixed(rows), cols))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        match args[0] {
            Value::Grid { second: Some(state), .. } => Value::Mat(state.clone()),
            other => other.clone(),
        }
    }
}
