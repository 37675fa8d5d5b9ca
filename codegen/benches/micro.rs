//! Inner loops as Cranelift compiles them: tiles of a product in cache, and bf16 panels from memory, beside what plain Rust
//! reads. One thread; the best of many runs.
//!
//!     cargo bench -p jet-codegen --bench micro [-- name]

#[path = "../tests/loader/mod.rs"]
mod loader;

use jet_codegen::kir::{Bf16, Builder, F32, Kernel, Tile, V, outer_product};
use jet_codegen::{compile, targets};
use loader::{Buffer, Code};
use std::time::Instant;

/// The loop over the inner dimension and the weights it reads.
#[derive(Clone, Copy, Debug)]
enum Weights {
    /// f32, in the order of use.
    F32,
    /// bf16 in pair order, widened in the loop.
    Bf16,
}

/// `y[rows][4 vecs] = x[rows][k] w[k][16]`, the first `4 vecs` columns, `items` times.
fn tile(weights: Weights, rows: u32, vecs: u32, k_len: u32, unroll: u32) -> Kernel {
    Builder::build("tile", targets::host().unwrap(), |k| {
        let (x, w, y) = (k.input::<F32>("x"), k.input::<F32>("w"), k.output::<F32>("y"));
        k.items(1, false, |_| {
            let zeros: Tile = vec![vec![k.splat(0.0, 4); vecs as usize]; rows as usize];
            let acc = k.range(0u32, k_len, unroll, zeros, |i, acc| {
                (0..unroll).fold(acc, |acc, u| {
                    let w: Vec<V<F32>> = match weights {
                        Weights::F32 => (0..vecs).map(|v| w.at((i + u) * 16u32 + 4 * v).load(4)).collect(),
                        Weights::Bf16 => (0..vecs / 2)
                            .map(|v| w.cast::<Bf16>().at((i + u) * 16u32 + 8 * v).load(8).widen_pairs())
                            .flat_map(|(a, b)| [a, b])
                            .collect(),
                    };
                    outer_product(u, |r| x.at(i + u + r as u32 * k_len).load_splat(4), &w, acc)
                })
            });
            for (r, row) in acc.iter().enumerate() {
                row.iter().enumerate().for_each(|(v, a)| y.at(4 * (r * vecs as usize + v)).store(*a));
            }
        });
    })
}

/// `y[panels][16] = x[k] W^T`, an item a panel; `sets` of accumulators take turns.
fn matvec(k_len: u32, sets: u32, unroll: u32) -> Kernel {
    Builder::build("matvec", targets::host().unwrap(), |k| {
        let (x, w, y) = (k.input::<F32>("x"), k.input::<Bf16>("w"), k.output::<F32>("y"));
        k.items(1, false, |panel| {
            let w = w.at(panel * (16 * k_len));
            let zeros: Tile = vec![vec![k.splat(0.0, 4); 4]; sets as usize];
            let acc = k.range(0u32, k_len, unroll, zeros, |i, mut acc| {
                for u in 0..unroll {
                    let x = x.at(i + u).load_splat(4);
                    let halves = [0, 8].map(|h| w.at(i * 16u32 + 16 * u + h).load(8).widen_pairs());
                    let set = &mut acc[(u % sets) as usize];
                    halves.iter().flat_map(|(a, b)| [*a, *b]).zip(set).for_each(|(w, a)| *a = w.fma(x, *a));
                }
                acc
            });
            for v in 0..4 {
                let sum = acc[1..].iter().fold(acc[0][v], |sum, set| sum + set[v]);
                y.at(panel * 16u32 + 4 * v as u32).store(sum);
            }
        });
    })
}

fn best(runs: usize, mut f: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::MAX, f64::min)
}

fn tiles(only: &str) {
    let (k_len, items) = (768, 200);
    for (rows, vecs) in [(6, 2), (5, 2), (4, 2), (3, 4), (2, 4), (1, 4)] {
        for weights in [Weights::F32, Weights::Bf16] {
            for unroll in [1, 2, 4] {
                let name = format!("tile {weights:?} {rows}x{} by {unroll}", 4 * vecs);
                if !name.contains(only) {
                    continue;
                }
                let kernel = tile(weights, rows, vecs, k_len, unroll);
                dump(&name, &kernel);
                let code = Code::load(compile(&[kernel], targets::host().unwrap()).unwrap());
                let mut x = Buffer::new(&vec![1f32; (rows * k_len) as usize]);
                let mut w = Buffer::new(&vec![1f32; (16 * k_len) as usize]);
                let mut y = Buffer::new(&[0f32; 64]);
                let words = [x.word(), w.word(), y.word(), 0, items];
                // SAFETY: the buffers have the sizes of the kernel.
                let t = best(40, || unsafe { code.call("tile", &words) });
                let flops = 2.0 * (items as u32 * rows * 4 * vecs * k_len) as f64;
                println!("{name:28} {:6.1} GFLOP/s", flops / t / 1e9);
            }
        }
    }
}

fn matvecs(only: &str) {
    let (k_len, panels) = (1536usize, 2304usize);
    let mut x = Buffer::new(&vec![1f32; k_len]);
    let mut w = Buffer::new(&vec![0x3f80u16; 16 * k_len * panels]);
    let mut y = Buffer::new(&vec![0f32; 16 * panels]);
    let bytes = (32 * k_len * panels) as f64;
    let all = lines(&w);
    let read =
        best(10, || assert_ne!(all.iter().fold([0u64; 16], |s, l| std::array::from_fn(|i| s[i] ^ l[i])), [1; 16]));
    println!("{:28} {:6.1} GB/s", "plain read", bytes / read / 1e9);
    for (sets, unroll) in [(1, 1), (1, 2), (2, 2), (2, 4), (3, 3), (2, 8)] {
        let name = format!("matvec {sets} sets by {unroll}");
        if !name.contains(only) {
            continue;
        }
        let kernel = matvec(k_len as u32, sets, unroll);
        dump(&name, &kernel);
        let code = Code::load(compile(&[kernel], targets::host().unwrap()).unwrap());
        for (place, used) in [("memory", panels), ("cache", 10)] {
            let words = [x.word(), w.word(), y.word(), 0, used as u64];
            // SAFETY: the buffers have the sizes of the kernel.
            let t = best(400 / used.min(40), || unsafe { code.call("matvec", &words) });
            assert_eq!(y.get()[16 * used - 1], k_len as f32);
            println!("{:28} {:6.1} GB/s", format!("{name}, {place}"), (32 * k_len * used) as f64 / t / 1e9);
        }
    }
}

/// How long forty kernels of some size take to compile.
fn compiles() {
    let rename = |(i, k): (usize, Kernel)| Kernel { name: format!("tile_{i}"), ..k };
    let kernels: Vec<_> = (0..40).map(|i| tile(Weights::Bf16, 6, 2, 512 + i, 8)).enumerate().map(rename).collect();
    let target = targets::host().unwrap();
    let t = best(3, || assert_eq!(jet_codegen::compile(&kernels, target).unwrap().symbols.len(), 40));
    println!("{:28} {:6.1} ms", "40 tiles compiled", 1e3 * t);
}

/// Lines of a buffer.
fn lines(w: &Buffer<u16>) -> &[[u64; 16]] {
    // SAFETY: the buffer is aligned to 64 bytes and every pattern of bits is a number.
    let (_, lines, _) = unsafe { w.get().align_to::<[u64; 16]>() };
    lines
}

/// Writes the code where `JETC_DUMP` says, for `objdump -D -b binary -m i386:x86-64`.
fn dump(name: &str, kernel: &Kernel) {
    if let Ok(folder) = std::env::var("JETC_DUMP") {
        let blob = compile(std::slice::from_ref(kernel), targets::host().unwrap()).unwrap();
        std::fs::write(format!("{folder}/{}.bin", name.replace(' ', "_")), blob.bytes).unwrap();
    }
}

fn main() {
    let only = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    tiles(&only);
    matvecs(&only);
    compiles();
}
