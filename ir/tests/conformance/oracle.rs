//! The formulas, in f64 and over functions of indices; nothing of the crate but the matrix that carries the numbers.

use jet_ir::Mat;

pub type M = Mat<f64>;

/// `x_i w_i / sqrt(mean(x^2) + eps)` of every row.
pub fn rms_norm(x: &M, w: &M, eps: f64) -> M {
    let mut out = x.clone();
    for row in out.data.chunks_mut(x.cols) {
        let mut squares = 0.0;
        for v in row.iter() {
            squares += v.powi(2);
        }
        let root = (squares / row.len() as f64 + eps).sqrt();
        row.iter_mut().zip(&w.data).for_each(|(v, w)| *v = *v * w / root);
    }
    out
}

/// `x_i / sqrt(sum(x^2) + eps)` of every head.
pub fn l2_norm(x: &M, head_dim: usize, eps: f64) -> M {
    let mut out = x.clone();
    for head in out.data.chunks_mut(head_dim) {
        let root = (head.iter().map(|v| v.powi(2)).sum::<f64>() + eps).sqrt();
        head.iter_mut().for_each(|v| *v /= root);
    }
    out
}

/// `y[r, c] = sum_i x[r, i] w[c, i]`.
pub fn matmul(x: &M, w: &M) -> M {
    let mut out = M { rows: x.rows, cols: w.rows, data: vec![0.0; x.rows * w.rows] };
    for i in 0..x.cols {
        for r in 0..x.rows {
            for c in 0..w.rows {
                out.data[r * w.rows + c] += x.data[r * x.cols + i] * w.data[c * w.cols + i];
            }
        }
    }
    out
}

pub fn sigmoid(x: f64) -> f64 {
    x.exp() / (x.exp() + 1.0)
}

/// `y[t, d] = sum_w kernels[t, d, w] v[t - (taps - 1) + w, d]`; rows before the first are those of the ring, newest last.
pub fn dynamic_conv(kernels: &M, v: &M, ring: &M, taps: usize) -> M {
    let mut out = v.clone();
    for t in 0..v.rows {
        for d in 0..v.cols {
            let mut sum = 0.0;
            for w in 0..taps {
                let row = t as isize - (taps as isize - 1) + w as isize;
                let past = match usize::try_from(row) {
                    Ok(row) => v.data[row * v.cols + d],
                    Err(_) => ring.data[(ring.rows as isize + row) as usize * v.cols + d],
                };
                sum += kernels.data[(t * v.cols + d) * taps + w] * past;
            }
            out.data[t * v.cols + d] = sum;
        }
    }
    out
}

/// The gated delta rule in its chunked form: all tokens of a head at once, one triangular system for the written values.
///
/// With `g_t = decay_0 .. decay_t`: `u_t = beta_t (v_t - g_t S0^T k_t - sum_(j<t) g_t/g_j (k_j k_t) u_j)`,
/// `o_t = g_t S0^T q_t + sum_(j<=t) g_t/g_j (k_j q_t) u_j`, `S = g_T S0 + sum_j g_T/g_j k_j u_j^T`.
pub fn gated_delta_rule([q, k, v, decay, beta, state]: [&M; 6]) -> (M, M) {
    let (tokens, heads) = (q.rows, decay.cols);
    let (dk, dv) = (q.cols / heads, v.cols / heads);
    let (mut o, mut s) = (v.clone(), state.clone());
    for h in 0..heads {
        let key = |t: usize| &k.data[t * k.cols + h * dk..][..dk];
        let query = |t: usize| &q.data[t * q.cols + h * dk..][..dk];
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        // the decay between two tokens, the first excluded: never a quotient, so a decay of zero does no harm
        let between = |from: usize, to: usize| (from + 1..=to).map(|t| decay.data[t * heads + h]).product::<f64>();
        let since_start = |to: usize| (0..=to).map(|t| decay.data[t * heads + h]).product::<f64>();
        for c in 0..dv {
            let s0: Vec<f64> = (0..dk).map(|i| state.data[(h * dk + i) * dv + c]).collect();
            let mut u = vec![0.0; tokens];
            for t in 0..tokens {
                let mut rest = v.data[t * v.cols + h * dv + c] - since_start(t) * dot(&s0, key(t));
                (0..t).for_each(|j| rest -= between(j, t) * dot(key(j), key(t)) * u[j]);
                u[t] = beta.data[t * heads + h] * rest;
            }
            for t in 0..tokens {
                let seen: f64 = (0..=t).map(|j| between(j, t) * dot(key(j), query(t)) * u[j]).sum();
                o.data[t * v.cols + h * dv + c] = since_start(t) * dot(&s0, query(t)) + seen;
            }
            for (i, first) in s0.iter().enumerate() {
                let written: f64 = (0..tokens).map(|j| between(j, tokens - 1) * key(j)[i] * u[j]).sum();
                s.data[(h * dk + i) * dv + c] = since_start(tokens - 1) * first + written;
            }
        }
    }
    (o, s)
}

/// Softmax over exactly the visible keys: token at position `p` sees `p - window < j <= p`; query head `e` reads key-value head
/// `e / (heads / kv_heads)`.
pub fn attention(q: &M, keys: &M, values: &M, head_dim: usize, window: usize) -> M {
    let (heads, kv_heads) = (q.cols / head_dim, keys.cols / head_dim);
    let mut out = q.clone();
    for t in 0..q.rows {
        let position = keys.rows - q.rows + t;
        for e in 0..heads {
            let kv = e / (heads / kv_heads);
            let mut weights = vec![0.0; keys.rows];
            for (j, weight) in weights.iter_mut().enumerate() {
                let visible = j <= position && (window == 0 || j + window > position);
                let score: f64 = (0..head_dim)
                    .map(|i| q.data[t * q.cols + e * head_dim + i] * keys.data[j * keys.cols + kv * head_dim + i])
                    .sum();
                *weight = if visible { (score / (head_dim as f64).sqrt()).exp() } else { 0.0 };
            }
            let total: f64 = weights.iter().sum();
            for i in 0..head_dim {
                let sum: f64 =
                    (0..keys.rows).map(|j| weights[j] * values.data[j * values.cols + kv * head_dim + i]).sum();
                out.data[t * q.cols + e * head_dim + i] = sum / total;
            }
        }
    }
    out
}

/// Every pair `(x_i, x_(i + d/2))` turned by its angle: the complex product with `cos + i sin`.
pub fn rope(x: &M, table: &M, head_dim: usize) -> M {
    let (mut out, half) = (x.clone(), head_dim / 2);
    for t in 0..x.rows {
        for head in 0..x.cols / head_dim {
            for i in 0..half {
                let (low, high) = (t * x.cols + head * head_dim + i, t * x.cols + head * head_dim + half + i);
                let (cos, sin) = (table.data[t * head_dim + i], table.data[t * head_dim + half + i]);
                out.data[low] = x.data[low] * cos - x.data[high] * sin;
                out.data[high] = x.data[low] * sin + x.data[high] * cos;
            }
        }
    }
    out
}

/// Key `j` belongs to part `j / block % parts`; of every part and head the sums relative to its own largest score, that score, the weights' sum.
pub fn attention_parts(
    q: &M,
    keys: &M,
    values: &M,
    (head_dim, window): (usize, usize),
    (parts, block): (usize, usize),
) -> M {
    let (heads, kv_heads) = (q.cols / head_dim, keys.cols / head_dim);
    let width = head_dim + 2;
    let mut out = M { rows: q.rows, cols: parts * heads * width, data: vec![0.0; q.rows * parts * heads * width] };
    for t in 0..q.rows {
        let position = keys.rows - q.rows + t;
        for e in 0..heads {
            let kv = e / (heads / kv_heads) * head_dim;
            let score = |j: usize| -> f64 {
                let product = |i: usize| q.data[t * q.cols + e * head_dim + i] * keys.data[j * keys.cols + kv + i];
                (0..head_dim).map(product).sum::<f64>() / (head_dim as f64).sqrt()
            };
            for part in 0..parts {
                let to = &mut out.data[t * parts * heads * width + (part * heads + e) * width..][..width];
                let mine = |j: &usize| j / block % parts == part && (window == 0 || j + window > position);
                let mine: Vec<usize> = (0..=position).filter(mine).collect();
                to[head_dim] = mine.iter().map(|j| score(*j)).fold(-1e30, f64::max);
                for j in mine {
                    let weight = (score(j) - to[head_dim]).exp();
                    (0..head_dim).for_each(|i| to[i] += weight * values.data[j * values.cols + kv + i]);
                    to[head_dim + 1] += weight;
                }
            }
        }
    }
    out
}
