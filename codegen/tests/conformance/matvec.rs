//! Products, written with the builder as kernels are: a row over bf16 panels, and tiles.

use crate::{Engine, cases};
use jet_codegen::kir::{Bf16, Builder, F32, Index, Kernel, Ptr, Tile, V, outer_product};
use jet_codegen::targets;

cases! { panels_match_plain_rust, a_call_covers_a_range_of_items, tiles_walk_forth_and_back }

/// `y[rows][n] = x[rows][k] W^T` with W in panels of 16 columns, bf16 in pair order; an item is a panel of a row. The
/// activations lie behind the weights.
fn panel_matvec(n: u32, k_len: u32) -> Kernel {
    Builder::build("panel_matvec", &targets::TARGETS[0], |k| {
        let (w, y) = (k.input::<Bf16>("w"), k.output::<F32>("y"));
        let x = w.at(n * k_len).cast::<F32>();
        let panels = n / 16;
        k.items(panels, true, |item| {
            let (row, panel) = (item / panels, item % panels);
            let (x, w) = (x.at(row * k_len), w.at(panel * (16 * k_len)));
            let zeros = [k.splat(0.0, 4); 4];
            let sums = k.range(0u32, k_len, 1, zeros, |i, acc| {
                let scale = x.at(i).load_splat(4);
                let half = |h: u32| w.at(i * 16u32 + 8 * h).load(8).widen_pairs();
                let ((a, b), (c, d)) = (half(0), half(1));
                [a.fma(scale, acc[0]), b.fma(scale, acc[1]), c.fma(scale, acc[2]), d.fma(scale, acc[3])]
            });
            let out = y.at(item * 16u32);
            sums.iter().enumerate().for_each(|(i, s): (usize, &V<F32>)| out.at(4 * i).store(*s));
        });
    })
}

const ROWS: usize = 3;
const N: usize = 48;
const K: usize = 40;

fn weight(r: usize, c: usize) -> f32 {
    ((r * 7 + c * 3) % 31) as f32 - 15.0
}

fn activation(t: usize, c: usize) -> f32 {
    ((t * K + c) % 13) as f32 - 6.0
}

/// Both as halfwords: panels in pair order, then the activations.
fn input() -> Vec<u16> {
    let mut all = vec![0u16; N * K];
    for r in 0..N {
        let slot = [0, 2, 4, 6, 1, 3, 5, 7][r % 8] + r / 8 % 2 * 8;
        (0..K).for_each(|c| all[r / 16 * 16 * K + c * 16 + slot] = (weight(r, c).to_bits() >> 16) as u16);
    }
    let bits = (0..ROWS * K).map(|i| activation(i / K, i % K).to_bits());
    all.extend(bits.flat_map(|b| [b as u16, (b >> 16) as u16]));
    all
}

/// Integers of this size add exactly in f32.
fn product(t: usize, r: usize) -> f32 {
    (0..K).map(|c| weight(r, c) * activation(t, c)).sum()
}

fn panels_match_plain_rust(e: &Engine) {
    let items = (ROWS * N / 16) as u64;
    let y: Vec<f32> = e.run(&input(), ROWS * N, &[0, items], panel_matvec(N as u32, K as u32));
    let want: Vec<f32> = (0..ROWS * N).map(|i| product(i / N, i % N)).collect();
    assert_eq!(y, want);
}

fn a_call_covers_a_range_of_items(e: &Engine) {
    let y: Vec<f32> = e.run(&input(), ROWS * N, &[2, 5], panel_matvec(N as u32, K as u32));
    let want: Vec<f32> =
        (0..ROWS * N).map(|i| if (2..5).contains(&(i / 16)) { product(i / N, i % N) } else { 0.0 }).collect();
    assert_eq!(y, want);
}

/// Adds the product of column `i + u` of `x` and row `i + u` of `w`.
fn step<'k>(x: Ptr<'k, F32>, w: Ptr<'k, F32>, k_len: u32, i: V<'k, Index>, u: u32, acc: Tile<'k>) -> Tile<'k> {
    let weights = [0, 4].map(|c| w.at((i + u) * 8u32 + c).load(4));
    outer_product(u, |r| x.at(i + (u + r as u32 * k_len)).load_splat(4), &weights, acc)
}

/// `y[rows][8] = x[rows][k] w[k][8]`, `w` behind `x`; two steps a turn, the last one alone if `k` is odd.
fn tile(rows: usize, k_len: u32) -> Kernel {
    crate::kernel(|k| {
        let (x, y) = (k.input::<F32>("x"), k.output::<F32>("y"));
        let w = x.at(rows as u32 * k_len).aligned(4);
        let zeros: Tile = vec![vec![k.splat(0.0, 4); 2]; rows];
        let whole = k_len / 2 * 2;
        let step = |i, u, acc| step(x, w, k_len, i, u, acc);
        let acc = k.range(0u32, whole, 2, zeros, |i, acc| step(i, 1, step(i, 0, acc)));
        let acc = k.range(whole, k_len, 1, acc, |i, acc| step(i, 0, acc));
        acc.iter().flatten().enumerate().for_each(|(i, v)| y.at(4 * i).store(*v));
    })
}

fn tiles_walk_forth_and_back(e: &Engine) {
    for (rows, k_len) in [(1, 6), (3, 7), (6, 8), (6, 1)] {
        let x: Vec<f32> = (0..(rows + 8) * k_len).map(|i| ((i * 5) % 17) as f32 - 8.0).collect();
        let (a, w) = x.split_at(rows * k_len);
        let y: Vec<f32> = e.run(&x, rows * 8, &[], tile(rows, k_len as u32));
        let dot = |i: usize| (0..k_len).map(|k| a[i / 8 * k_len + k] * w[k * 8 + i % 8]).sum::<f32>();
        assert_eq!(y, (0..rows * 8).map(dot).collect::<Vec<_>>(), "{rows} rows of {k_len}");
    }
}
