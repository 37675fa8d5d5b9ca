//! A matrix-vector product over bf16 panels, written with the builder as kernels are.

use crate::{Engine, cases};
use jet_codegen::kir::{Bf16, Builder, F32, Kernel, V};
use jet_codegen::targets;

cases! { panels_match_plain_rust, a_call_covers_a_range_of_items }

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
