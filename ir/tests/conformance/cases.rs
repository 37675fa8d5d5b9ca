//! The cases: ragged shapes, one row, one column, and the corners of each op.

use crate::oracle::*;
use jet_ir::ops::*;
use jet_ir::{F32, Mat, Op, Value};

/// An op, its operands and what it should give.
pub struct Case {
    pub op: Op,
    pub args: Vec<Value<f64>>,
    pub expected: Value<f64>,
}

/// Numbers in [-1, 1) that are exact in f32, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 41) as f64 / (1u64 << 22) as f64) - 1.0
    }

    fn mat(&mut self, rows: usize, cols: usize) -> M {
        Mat { rows, cols, data: (0..rows * cols).map(|_| self.next()).collect() }
    }

    /// In (0, 1): decays and write strengths.
    fn unit(&mut self, rows: usize, cols: usize) -> M {
        Mat { rows, cols, data: (0..rows * cols).map(|_| 0.5 + 0.5 * self.next().abs()).collect() }
    }
}

struct Cases {
    list: Vec<Case>,
    numbers: Numbers,
}

impl Cases {
    fn add(&mut self, op: impl Into<Op>, args: &[&M], expected: M) {
        let args = args.iter().map(|m| Value::Mat((*m).clone())).collect();
        self.list.push(Case { op: op.into(), args, expected: Value::Mat(expected) });
    }

    fn add_grid(&mut self, op: impl Into<Op>, args: &[&M], first: M, second: Option<M>) {
        let args = args.iter().map(|m| Value::Mat((*m).clone())).collect();
        self.list.push(Case { op: op.into(), args, expected: Value::Grid { first, second } });
    }

    fn of_grid(&mut self, op: impl Into<Op>, first: &M, second: Option<&M>, expected: M) {
        let grid = Value::Grid { first: first.clone(), second: second.cloned() };
        self.list.push(Case { op: op.into(), args: vec![grid], expected: Value::Mat(expected) });
    }
}

const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 7), (5, 1), (2, 16), (3, 5), (17, 33)];

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut cases = Cases { list: vec![], numbers: Numbers(1) };
    for (rows, cols) in SHAPES {
        maps(&mut cases, rows, cols);
        rows_of(&mut cases, rows, cols);
        products(&mut cases, rows, cols);
        stores(&mut cases, rows, cols);
    }
    softplus_threshold(&mut cases);
    roundings(&mut cases);
    embeddings(&mut cases);
    ties(&mut cases);
    for (tokens, heads, head_dim) in [(1, 1, 1), (1, 3, 2), (4, 2, 5), (3, 1, 8)] {
        norms_of_heads(&mut cases, tokens, heads, head_dim);
    }
    for taps in 1..=5 {
        for tokens in [1, 2, 3, 4, 9] {
            convolutions(&mut cases, tokens, 3, taps);
        }
    }
    for tokens in [1, 2, 7, 23] {
        for (heads, dk, dv) in [(1, 1, 1), (2, 3, 5), (3, 4, 2)] {
            deltas(&mut cases, tokens, heads, dk, dv);
        }
    }
    for (tokens, past) in [(1, 0), (1, 6), (5, 0), (3, 4)] {
        for (heads, kv_heads, head_dim) in [(1, 1, 2), (4, 2, 2), (6, 2, 4), (3, 3, 2), (4, 1, 6)] {
            attentions(&mut cases, tokens, past, heads, kv_heads, head_dim);
        }
    }
    cases.list
}

fn map(m: &M, f: impl Fn(f64) -> f64) -> M {
    Mat { rows: m.rows, cols: m.cols, data: m.data.iter().map(|x| f(*x)).collect() }
}

fn zip(a: &M, b: &M, f: impl Fn(f64, f64) -> f64) -> M {
    Mat { rows: a.rows, cols: a.cols, data: a.data.iter().zip(&b.data).map(|(a, b)| f(*a, *b)).collect() }
}

/// The row vector `v`, `rows` times.
fn spread(v: &M, rows: usize) -> M {
    Mat { rows, cols: v.cols, data: v.data.repeat(rows) }
}

fn maps(cases: &mut Cases, rows: usize, cols: usize) {
    let (a, b, v) = (cases.numbers.mat(rows, cols), cases.numbers.mat(rows, cols), cases.numbers.mat(1, cols));
    let a = map(&a, |x| 8.0 * x);
    cases.add(Add {}, &[&a, &b], zip(&a, &b, |a, b| a + b));
    cases.add(Mul {}, &[&a, &b], zip(&a, &b, |a, b| a * b));
    cases.add(Bias {}, &[&a, &v], zip(&a, &spread(&v, rows), |a, b| a + b));
    cases.add(ScaleCols {}, &[&a, &v], zip(&a, &spread(&v, rows), |a, b| a * b));
    cases.add(Scale { c: F32::from(0.1) }, &[&a], map(&a, |x| f64::from(0.1f32) * x));
    cases.add(Silu {}, &[&a], map(&a, |x| x * sigmoid(x)));
    cases.add(Sigmoid {}, &[&a], map(&a, sigmoid));
    cases.add(Softplus {}, &[&a], map(&a, |x| (1.0 + x.exp()).ln()));
    cases.add(Exp {}, &[&a], map(&a, |x| 1f64.exp().powf(x)));
    cases.add(Neg {}, &[&a], map(&a, |x| 0.0 - x));
}

/// Neighbours in bf16 are 2^-7 apart at 1: what lies between, ties to either side, and what carries into the exponent.
fn roundings(cases: &mut Cases) {
    const STEP: f64 = 1.0 / 128.0;
    for sign in [1.0, -1.0] {
        let pairs = [
            (1.0, 1.0),
            (1.0 + 0.25 * STEP, 1.0),
            (1.0 + 0.5 * STEP, 1.0),
            (1.0 + 0.75 * STEP, 1.0 + STEP),
            (1.0 + 1.5 * STEP, 1.0 + 2.0 * STEP),
            (2.0 - 0.5 * STEP, 2.0),
            (0.0, 0.0),
        ];
        let row = |data: Vec<f64>| Mat { rows: 1, cols: data.len(), data };
        let (x, y) = pairs.iter().map(|(x, y)| (sign * x, sign * y)).unzip();
        cases.add(RoundBf16 {}, &[&row(x)], row(y));
    }
}

/// One element a case, so that each has its own scale. Above 90 the exponential of f32 overflows; at 20 both branches differ by 2e-9.
fn softplus_threshold(cases: &mut Cases) {
    let below = (1.0 + 19.5f64.exp()).ln();
    for (x, y) in [(19.5, below), (20.5, 20.5), (90.0, 90.0), (1000.0, 1000.0), (-1000.0, 0.0)] {
        let one = |x| Mat { rows: 1, cols: 1, data: vec![x] };
        cases.add(Softplus {}, &[&one(x)], one(y));
    }
}

fn rows_of(cases: &mut Cases, rows: usize, cols: usize) {
    let (x, w) = (cases.numbers.mat(rows, cols), cases.numbers.mat(1, cols));
    let squares = Mat {
        rows,
        cols: 1,
        data: x.data.chunks(cols).map(|row| row.iter().map(|v| v * v).sum::<f64>() / cols as f64).collect(),
    };
    cases.add(RowMs {}, &[&x], squares.clone());
    cases.add(StoreMs {}, &[&x], squares.clone());
    for eps in [1e-6f32, 0.5] {
        let normed = rms_norm(&x, &w, f64::from(eps));
        let eps = F32::from(eps);
        cases.add(RmsNorm { eps }, &[&x, &w], normed.clone());
        cases.add_grid(SweepNorm { eps }, &[&x, &w], normed.clone(), None);
        cases.add_grid(SweepFold { eps }, &[&x, &w], normed.clone(), None);
        cases.add_grid(SweepFoldMs { eps }, &[&x, &w, &squares], normed, None);
    }
    for width in [1, 2, cols + 1] {
        let parts = |row: &[f64]| row.chunks(width).map(|part| part.iter().map(|v| v * v).sum()).collect::<Vec<f64>>();
        let data: Vec<f64> = x.data.chunks(cols).flat_map(parts).collect();
        let sums = Mat { rows, cols: cols.div_ceil(width), data };
        cases.add(StoreSquares { width }, &[&x], sums.clone());
        let scaled = zip(&x, &spread(&w, rows), |x, w| x * w);
        let eps = 0.25f32;
        let normed = rms_norm(&x, &w, f64::from(eps));
        cases.add_grid(SweepScaled { eps: F32::from(eps) }, &[&scaled, &sums], normed, None);
    }
    cases.add_grid(Sweep {}, &[&x], x.clone(), None);
    cases.add_grid(Sweep {}, &[&w], w.clone(), None);
}

fn products(cases: &mut Cases, rows: usize, cols: usize) {
    for n in [1, 6] {
        let (x, w) = (cases.numbers.mat(rows, cols), cases.numbers.mat(n, cols));
        cases.add(Matmul {}, &[&x, &w], matmul(&x, &w));
        let grid = Value::Grid { first: x.clone(), second: None };
        let args = vec![grid, Value::Mat(w.clone())];
        cases.list.push(Case { op: Acc {}.into(), args, expected: Value::Mat(matmul(&x, &w)) });
        let args = vec![Value::Grid { first: x.clone(), second: None }, Value::Mat(w.clone())];
        cases.list.push(Case { op: Load {}.into(), args, expected: Value::Mat(w.clone()) });
        cases.add(PackPanel {}, &[&w], w.clone());
        cases.add(PackFrag {}, &[&w], w.clone());
        cases.add(PackTile {}, &[&w], w.clone());
    }
}

fn stores(cases: &mut Cases, rows: usize, cols: usize) {
    let x = cases.numbers.mat(rows, cols);
    cases.add(Store {}, &[&x], x.clone());
    let mut best = vec![];
    for row in x.data.chunks(cols) {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        best.push(row.iter().position(|v| *v == top).unwrap_or(0) as f64);
    }
    let best = Mat { rows, cols: 1, data: best };
    cases.add(Argmax {}, &[&x], best.clone());
    cases.add(StoreArgmax {}, &[&x], best);
    for past in [0, 4] {
        let cache = cases.numbers.mat(past, cols);
        let longer = Mat { rows: past + rows, cols, data: cache.data.iter().chain(&x.data).copied().collect() };
        cases.add(KvAppend {}, &[&cache, &x], longer.clone());
        cases.add(StoreKv {}, &[&cache, &x], longer);
    }
}

/// The first of equals, among negative numbers, zeros of both signs and infinities too.
fn ties(cases: &mut Cases) {
    let inf = f64::INFINITY;
    let rows = [[-2.0, -1.0, -1.0], [3.0, 3.0, 3.0], [0.0, -0.0, 0.0], [-inf, -inf, -inf], [1.0, inf, inf]];
    let x = Mat { rows: 5, cols: 3, data: rows.concat() };
    let first = Mat { rows: 5, cols: 1, data: vec![1.0, 0.0, 0.0, 0.0, 1.0] };
    cases.add(Argmax {}, &[&x], first.clone());
    cases.add(StoreArgmax {}, &[&x], first);
}

fn embeddings(cases: &mut Cases) {
    let table = cases.numbers.mat(4, 3);
    for ids in [vec![3.0], vec![0.0, 3.0, 0.0, 1.0]] {
        let rows = ids.iter().flat_map(|id| table.data[*id as usize * 3..][..3].to_vec()).collect();
        let expected = Mat { rows: ids.len(), cols: 3, data: rows };
        let ids = Mat { rows: ids.len(), cols: 1, data: ids };
        cases.add(Embed {}, &[&table, &ids], expected.clone());
        cases.add_grid(Lookup {}, &[&table, &ids], expected.clone(), None);
        cases.of_grid(Out {}, &expected, None, expected.clone());
    }
}

fn norms_of_heads(cases: &mut Cases, tokens: usize, heads: usize, head_dim: usize) {
    let cols = heads * head_dim;
    let (x, z, w) = (cases.numbers.mat(tokens, cols), cases.numbers.mat(tokens, cols), cases.numbers.mat(1, head_dim));
    for eps in [1e-5f32, 0.25] {
        let e = f64::from(eps);
        let op = L2Norm { head_dim, eps: F32::from(eps) };
        cases.add(op, &[&x], l2_norm(&x, head_dim, e));
        let by_head = Mat { rows: tokens * heads, cols: head_dim, data: x.data.clone() };
        let normed = Mat { rows: tokens, cols, data: rms_norm(&by_head, &w, e).data };
        let gated = zip(&normed, &z, |o, z| o * z * sigmoid(z));
        cases.add(GatedNorm { head_dim, eps: F32::from(eps) }, &[&x, &w, &z], gated);
    }
}

fn last_rows(ring: &M, v: &M) -> M {
    let all: Vec<f64> = ring.data.iter().chain(&v.data).copied().collect();
    Mat { rows: ring.rows, cols: ring.cols, data: all[all.len() - ring.data.len()..].to_vec() }
}

fn convolutions(cases: &mut Cases, tokens: usize, channels: usize, taps: usize) {
    let kernels = cases.numbers.mat(tokens, channels * taps);
    let (v, ring) = (cases.numbers.mat(tokens, channels), cases.numbers.mat(taps, channels));
    cases.add(DynamicConv { taps }, &[&kernels, &v, &ring], dynamic_conv(&kernels, &v, &ring, taps));
    cases.add(RingPush { taps }, &[&ring, &v], last_rows(&ring, &v));
    cases.add(StoreRing { taps }, &[&ring, &v], last_rows(&ring, &v));
}

fn deltas(cases: &mut Cases, tokens: usize, heads: usize, dk: usize, dv: usize) {
    let n = &mut cases.numbers;
    let (q, k, v) = (n.mat(tokens, heads * dk), n.mat(tokens, heads * dk), n.mat(tokens, heads * dv));
    let (mut decay, beta, state) = (n.unit(tokens, heads), n.unit(tokens, heads), n.mat(heads * dk, dv));
    let (ring, h) = (n.mat(3, heads * dv), n.mat(tokens, 4));
    let (w2, b2) = (n.mat(heads * dv * 3, 4), n.mat(1, heads * dv * 3));
    // a head that forgets everything
    decay.data[tokens / 2 * heads] = 0.0;
    // keys of unit length, as the model has them: the recurrence does not grow
    let unit = l2_norm(&k, dk, 1e-6);
    let unit = map(&unit, |x| f64::from(x as f32));
    let (o, s) = gated_delta_rule([&q, &unit, &v, &decay, &beta, &state]);
    cases.add_grid(GatedDeltaRule {}, &[&q, &unit, &v, &decay, &beta, &state], o.clone(), Some(s.clone()));
    cases.of_grid(Get0 {}, &o, Some(&s), o.clone());
    cases.of_grid(Get1 {}, &o, Some(&s), s.clone());
    cases.of_grid(Out {}, &o, Some(&s), o.clone());

    let (eps, scale) = (1e-6f32, 0.25f32);
    let q_in = map(&l2_norm(&q, dk, f64::from(eps)), |x| x * f64::from(scale));
    let k_in = l2_norm(&k, dk, f64::from(eps));
    let (eps, scale) = (F32::from(eps), F32::from(scale));
    let (o, s) = gated_delta_rule([&q_in, &k_in, &v, &decay, &beta, &state]);
    let op = DeltaL2 { head_dim: dk, eps, scale };
    cases.add_grid(op, &[&q, &k, &v, &decay, &beta, &state], o, Some(s));

    let kernels = zip(&matmul(&h, &w2), &spread(&b2, tokens), |a, b| a + b);
    let mixed = map(&dynamic_conv(&kernels, &v, &ring, 3), |x| x * sigmoid(x));
    let (o, s) = gated_delta_rule([&q_in, &k_in, &mixed, &decay, &beta, &state]);
    let op = DeltaConv { head_dim: dk, eps, scale, taps: 3 };
    cases.add_grid(op, &[&q, &k, &h, &w2, &b2, &v, &ring, &decay, &beta, &state], o, Some(s));
}

fn attentions(cases: &mut Cases, tokens: usize, past: usize, heads: usize, kv_heads: usize, head_dim: usize) {
    let n = &mut cases.numbers;
    let (q, table) = (n.mat(tokens, heads * head_dim), n.mat(tokens, head_dim));
    let (keys, values) = (n.mat(past + tokens, kv_heads * head_dim), n.mat(past + tokens, kv_heads * head_dim));
    let q = map(&q, |x| 4.0 * x);
    for window in [0, 1, 2, 4, 100] {
        let o = attention(&q, &keys, &values, head_dim, window);
        cases.add_grid(Attention { head_dim, window }, &[&q, &keys, &values], o.clone(), None);
        for (parts, block) in [(1, 3), (3, 1), (4, 2), (2, 50)] {
            let of_parts = attention_parts(&q, &keys, &values, (head_dim, window), (parts, block));
            cases.add_grid(AttentionMerge { head_dim, parts }, &[&of_parts], o.clone(), None);
            cases.add(AttentionParts { head_dim, window, parts, block }, &[&q, &keys, &values], of_parts);
        }
    }
    cases.add(Rope { head_dim }, &[&q, &table], rope(&q, &table, head_dim));
}
