//! Attention over a key-value cache, and the rotary embedding.

use super::*;
use crate::value::Mat;

impl Semantics for Rope {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let (x, table) = (tensor(args, 0)?, in_memory(args, 1)?);
        ensure(matches!(x.place, Place::Mem | Place::Reg), || {
            format!("operand 0 must be an activation, found {}", args[0])
        })?;
        whole_heads(args, 0, self.head_dim)?;
        ensure(self.head_dim.is_multiple_of(2), || format!("head_dim {} is odd", self.head_dim))?;
        let fits = (table.rows, table.cols) == (x.rows, self.head_dim);
        ensure(fits, || {
            format!("operand 1 must be a table of {} columns for each row, found {}", self.head_dim, args[1])
        })?;
        Ok(args[0])
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let (x, table, half) = (args[0].mat(), args[1].mat(), self.head_dim / 2);
        Value::Mat(Mat::new(x.rows, x.cols, |r, c| {
            let i = c % self.head_dim;
            let other = if i < half { -x.at(r, c + half) } else { x.at(r, c - half) };
            x.at(r, c) * table.at(r, i % half) + other * table.at(r, half + i % half)
        }))
    }
}

impl Semantics for KvAppend {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let (cache, rows) = (in_memory(args, 0)?, in_memory(args, 1)?);
        let fits = cache.rows == Rows::Context && rows.rows == Rows::Tokens && cache.cols == rows.cols;
        ensure(fits, || format!("{} cannot be appended to {}", args[1], args[0]))?;
        Ok(args[0])
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(args[0].mat().below(args[1].mat()))
    }
}

impl Semantics for Attention {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let (q, keys) = (in_memory(args, 0)?, in_memory(args, 1)?);
        in_memory(args, 2)?;
        same_shape(args, 1, 2)?;
        whole_heads(args, 0, self.head_dim)?;
        whole_heads(args, 1, self.head_dim)?;
        ensure(q.rows == Rows::Tokens && keys.rows == Rows::Context, || {
            format!("queries {} over keys {}", args[0], args[1])
        })?;
        ensure(keys.cols > 0 && q.cols.is_multiple_of(keys.cols), || {
            format!("{} query columns are no multiple of {} key columns", q.cols, keys.cols)
        })?;
        Ok(Type::Grid { kind: GridKind::Attention, cols: q.cols, state: (0, 0) })
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let (q, keys, values) = (args[0].mat(), args[1].mat(), args[2].mat());
        let (hd, group, past) = (self.head_dim, q.cols / keys.cols, keys.rows - q.rows);
        let mut o = Mat::zeros(q.rows, q.cols);
        for t in 0..q.rows {
            let last = past + t;
            let first = if self.window == 0 { 0 } else { (last + 1).saturating_sub(self.window) };
            for head in 0..q.cols / hd {
                let (query, kv) = (&q.row(t)[head * hd..][..hd], head / group * hd);
                let scale = R::of((hd as f64).powf(-0.5));
                let score = |j: usize| query.iter().zip(&keys.row(j)[kv..]).map(|(a, b)| *a * *b).sum::<R>() * scale;
                let scores: Vec<R> = (first..=last).map(score).collect();
                let top = scores.iter().copied().fold(scores[0], |m, s| if s > m { s } else { m });
                let weights: Vec<R> = scores.iter().map(|s| (*s - top).exp()).collect();
                let total: R = weights.iter().copied().sum();
                for c in 0..hd {
                    let sum: R = weights.iter().zip(first..).map(|(w, j)| *w * values.at(j, kv + c)).sum();
                    o.data[t * q.cols + head * hd + c] = sum / total;
                }
            }
        }
        Value::Grid { first: o, second: None }
    }
}

/// The score of parts without keys: low, and finite so that differences are.
const LOWEST: f64 = -1e30;

impl Semantics for AttentionParts {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let Self { head_dim, window, parts, block } = *self;
        let whole = Attention { head_dim, window }.infer(args)?;
        ensure(parts > 0 && block > 0, || format!("found {parts} parts of blocks of {block}, expected 1 at least"))?;
        Ok(Type::mem(Rows::Tokens, parts * (whole.cols() / head_dim) * (head_dim + 2)))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let (q, keys, values) = (args[0].mat(), args[1].mat(), args[2].mat());
        let (hd, heads, past) = (self.head_dim, q.cols / self.head_dim, keys.rows - q.rows);
        let group = q.cols / keys.cols;
        let one = |t: usize, part: usize, head: usize| -> Vec<R> {
            let (query, kv) = (&q.row(t)[head * hd..][..hd], head / group * hd);
            let sees = |j: &usize| self.window == 0 || j + self.window > past + t;
            let own: Vec<usize> = (0..=past + t).filter(sees).filter(|j| j / self.block % self.parts == part).collect();
            let scale = R::of((hd as f64).powf(-0.5));
            let score = |j: &usize| query.iter().zip(&keys.row(*j)[kv..]).map(|(a, b)| *a * *b).sum::<R>() * scale;
            let scores: Vec<R> = own.iter().map(score).collect();
            let top = scores.iter().copied().fold(R::of(LOWEST), |m, s| if s > m { s } else { m });
            let weights: Vec<R> = scores.iter().map(|s| (*s - top).exp()).collect();
            let sum = |c: usize| weights.iter().zip(&own).map(|(w, j)| *w * values.at(*j, kv + c)).sum();
            (0..hd).map(sum).chain([top, weights.iter().copied().sum()]).collect()
        };
        let row = |t: usize| (0..self.parts * heads).flat_map(move |i| one(t, i / heads, i % heads));
        Value::Mat(Mat { rows: q.rows, cols: self.parts * heads * (hd + 2), data: (0..q.rows).flat_map(row).collect() })
    }
}

impl Semantics for AttentionMerge {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let x = in_memory(args, 0)?;
        let each = self.parts * (self.head_dim + 2);
        ensure(each > 0 && x.cols.is_multiple_of(each), || {
            format!("operand 0 has {} columns, not a multiple of {} parts of {} + 2", x.cols, self.parts, self.head_dim)
        })?;
        Ok(Type::Grid { kind: GridKind::Attention, cols: x.cols / each * self.head_dim, state: (0, 0) })
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        let (x, hd) = (args[0].mat(), self.head_dim);
        let heads = x.cols / self.parts / (hd + 2);
        let first = Mat::new(x.rows, heads * hd, |t, c| {
            let part = |p: usize| &x.row(t)[(p * heads + c / hd) * (hd + 2)..][..hd + 2];
            let top = (0..self.parts).map(|p| part(p)[hd]).fold(part(0)[hd], |m, s| if s > m { s } else { m });
            let over = |at: usize| (0..self.parts).map(|p| (part(p)[hd] - top).exp() * part(p)[at]).sum::<R>();
            over(c % hd) / over(hd + 1)
        });
        Value::Grid { first, second: None }
    }
}

impl Semantics for Get0 {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let (cols, _) = grid(args, 0, &[GridKind::Delta, GridKind::Attention])?;
        Ok(Type::mem(Rows::Tokens, cols))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Value::Mat(args[0].mat().clone())
    }
}

impl Semantics for Out {
    fn infer(&self, args: &[Type]) -> Result<Type, String> {
        let (cols, _) = grid(args, 0, &[GridKind::Delta, GridKind::Attention, GridKind::Lookup])?;
        Ok(Type::mem(Rows::Tokens, cols).at(Place::Reg))
    }
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
        Get0 {}.eval(args)
    }
}
