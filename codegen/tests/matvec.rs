//! A matrix-vector product over bf16 panels, written with the builder as kernels are, against plain Rust.

mod loader;

use jet_codegen::kir::{Bf16, Builder, F32, Kernel, V};
use jet_codegen::targets::Target;
use loader::{Buffer, Code, on_every_target};

/// `y[rows][n] = x[rows][k] W^T` with W in panels of 16 columns, bf16 in pair order. An item is a panel of a row.
fn panel_matvec(target: &Target, n: u32, k_len: u32) -> Kernel {
    Builder::build("panel_matvec", target, |k| {
        let (x, w, y) = (k.input::<F32>("x"), k.input::<Bf16>("w"), k.output::<F32>("y"));
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

fn bf16(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}

#[test]
fn matches_plain_rust() {
    on_every_target(|target| {
        let (rows, n, k_len) = (3, 48, 40);
        let weight = |r: usize, c: usize| ((r * 7 + c * 3) % 31) as f32 - 15.0;
        let mut packed = vec![0u16; n * k_len];
        for r in 0..n {
            let slot = [0, 2, 4, 6, 1, 3, 5, 7][r % 8] + r / 8 % 2 * 8;
            (0..k_len).for_each(|c| packed[r / 16 * 16 * k_len + c * 16 + slot] = bf16(weight(r, c)));
        }
        let x: Vec<f32> = (0..rows * k_len).map(|i| (i % 13) as f32 - 6.0).collect();
        let (mut px, mut pw, mut py) = (Buffer::new(&x), Buffer::new(&packed), Buffer::new(&vec![0f32; rows * n]));
        let code = Code::of(&[panel_matvec(target, n as u32, k_len as u32)], target);
        // two calls share the items, as threads do
        for range in [0..5, 5..(rows * n / 16) as u64] {
            let words = [px.word(), pw.word(), py.word(), range.start, range.end];
            // SAFETY: the buffers have the sizes that the kernel was built for.
            unsafe { code.call("panel_matvec", &words) };
        }
        for t in 0..rows {
            for r in 0..n {
                // integers of this size add exactly in f32
                let want: f32 = (0..k_len).map(|c| weight(r, c) * x[t * k_len + c]).sum();
                assert_eq!(py.get()[t * n + r], want, "row {t}, column {r}");
            }
        }
    });
}
