//! The kernels of the 2B model at its own shapes, compiled for every target that runs here, beside what the machine can
//! do: reading of memory by all threads, and the peak of 128-bit multiply-adds of one.
//!
//!     cargo bench -p jet-codegen --bench kernels [-- name]
//!
//! `ACTIVATIONS=bf16` compiles them for rounded activations, `WEIGHTS=q8` or `q4` for quantised weights; `TARGET=name` leaves the
//! other targets out.

#[path = "../tests/loader/mod.rs"]
#[allow(dead_code, reason = "shared with tests")]
mod loader;

use jet_codegen::{Activations, Binding, Built, compile, select, targets, targets::Target};
use jet_ir::ops::*;
use jet_ir::{Elem, Graph, Id, Leaf, Rows, Type, group_kernels};
use jetbin::Phase;
use loader::{Buffer, Code};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;

const THREADS: usize = 2;

/// f32, or bf16 where the environment says `ACTIVATIONS=bf16`.
fn activations() -> Activations {
    if std::env::var("ACTIVATIONS").is_ok_and(|a| a == "bf16") { Activations::Bf16 } else { Activations::F32 }
}

/// The element type of the weights: bf16, or what the environment says.
fn weights() -> Elem {
    match std::env::var("WEIGHTS").as_deref() {
        Ok("q8") => Elem::Q8,
        Ok("q4") => Elem::Q4,
        Ok("bf16") | Err(_) => Elem::Bf16,
        Ok(other) => panic!("WEIGHTS={other}: expected bf16, q8 or q4"),
    }
}

/// Seconds that this thread has been running: what other processes take from its core does not count (what they take
/// from caches and memory does).
fn thread_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists and `t` is room for the answer.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) }, 0);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Seconds of the best of `runs` runs in which every thread calls `f(thread)` at the same time; a run takes as long as
/// its slowest thread.
fn best(runs: usize, threads: usize, f: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let run = |t: usize| -> Vec<f64> {
        let time = |_| {
            barrier.wait();
            let start = thread_seconds();
            f(t);
            thread_seconds() - start
        };
        (0..runs).map(time).collect()
    };
    let times: Vec<Vec<f64>> = std::thread::scope(|s| {
        let run = &run;
        let others: Vec<_> = (1..threads).map(|t| s.spawn(move || run(t))).collect();
        let mine = run(0);
        std::iter::once(mine).chain(others.into_iter().map(|o| o.join().unwrap())).collect()
    });
    (0..runs).map(|i| times.iter().map(|t| t[i]).fold(0.0, f64::max)).fold(f64::MAX, f64::min)
}

/// Bytes per second that all threads read.
fn read_bandwidth() -> f64 {
    let memory = vec![1u64; 32 << 20];
    let share = memory.len() / THREADS;
    let t = best(8, THREADS, |t| {
        let sum =
            memory[t * share..][..share].chunks_exact(8).fold([0u64; 8], |s, l| std::array::from_fn(|i| s[i] ^ l[i]));
        assert_ne!(sum, [3; 8]);
    });
    (memory.len() * 8) as f64 / t
}

/// Operations per second of twelve independent chains of 128-bit multiply-adds.
#[cfg(target_arch = "x86_64")]
fn peak() -> f64 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "fma,avx2")]
    fn run(n: usize) -> f32 {
        let (mut acc, x, y) = ([_mm_setzero_ps(); 12], _mm_set1_ps(0.999), _mm_set1_ps(1e-3));
        for _ in 0..n {
            for a in &mut acc {
                *a = _mm_fmadd_ps(*a, x, y);
            }
        }
        acc.iter().map(|a| _mm_cvtss_f32(*a)).sum()
    }
    let n = 2_000_000;
    // SAFETY: the targets of this crate on x86-64 have these features, `targets::host` has checked.
    let t = best(8, 1, |_| assert!(unsafe { run(n) } > 0.0));
    (n * 12 * 8) as f64 / t
}

#[cfg(not(target_arch = "x86_64"))]
fn peak() -> f64 {
    f64::NAN
}

fn input(g: &mut Graph, name: &str, cols: usize) -> Id {
    g.add_leaf(Leaf::Input, name, Type::mem(Rows::Tokens, cols)).unwrap()
}

fn vector(g: &mut Graph, name: &str, n: usize) -> Id {
    g.add_leaf(Leaf::Weight, name, Type::weight(1, n, Elem::F32)).unwrap()
}

fn acc(g: &mut Graph, grid: Id, name: &str, rows: usize) -> Id {
    let w = g.add_leaf(Leaf::Weight, name, Type::weight(rows, g.ty(grid).cols(), weights())).unwrap();
    g.add(Acc {}, &[grid, w]).unwrap()
}

fn norm_sweep(g: &mut Graph) -> Id {
    let (x, w) = (input(g, "x", 1536), vector(g, "norm", 1536));
    g.add(SweepNorm { eps: 1e-6.into() }, &[x, w]).unwrap()
}

/// The kernels of a layer, by name; weights of at least 100 MB in all.
fn graphs() -> Vec<(&'static str, Graph)> {
    let mut all = vec![];
    let mut add = |name: &'static str, build: &dyn Fn(&mut Graph)| {
        let mut g = Graph::new(name);
        build(&mut g);
        all.push((name, g));
    };
    add("projections", &|g| {
        let grid = norm_sweep(g);
        for (name, n) in [("q", 1152), ("k", 1152), ("v", 3072), ("g", 3072), ("w1", 384)] {
            let r = acc(g, grid, name, n);
            let r = if name.len() == 1 && name < "v" && name != "g" { g.add(Silu {}, &[r]).unwrap() } else { r };
            g.add(Store {}, &[r]).unwrap();
        }
    });
    add("gate and up", &|g| {
        let grid = norm_sweep(g);
        let (gate, up) = (acc(g, grid, "gate", 8960), acc(g, grid, "up", 8960));
        let gate = g.add(Silu {}, &[gate]).unwrap();
        let h = g.add(Mul {}, &[gate, up]).unwrap();
        g.add(Store {}, &[h]).unwrap();
    });
    add("down", &|g| {
        let (x, residual) = (input(g, "x", 8960), input(g, "residual", 1536));
        let grid = g.add(Sweep {}, &[x]).unwrap();
        let y = acc(g, grid, "down", 1536);
        let y = g.add(Add {}, &[y, residual]).unwrap();
        g.add(Store {}, &[y]).unwrap();
    });
    add("convolution", &|g| {
        let (h, v) = (input(g, "h", 384), input(g, "v0", 3072));
        let ring = g.add_leaf(Leaf::State, "conv", Type::mem(Rows::Fixed(4), 3072)).unwrap();
        let grid = g.add(Sweep {}, &[h]).unwrap();
        let r = acc(g, grid, "w2", 12288);
        let b = vector(g, "b2", 12288);
        let r = g.add(Bias {}, &[r, b]).unwrap();
        let r = g.add(DynamicConv { taps: 4 }, &[r, v, ring]).unwrap();
        let r = g.add(Silu {}, &[r]).unwrap();
        g.add(Store {}, &[r]).unwrap();
    });
    add("head", &|g| {
        let grid = norm_sweep(g);
        let y = acc(g, grid, "lm_head", 75968);
        g.add(Store {}, &[y]).unwrap();
    });
    add("delta", &|g| {
        let [q, k] = ["q", "k"].map(|n| input(g, n, 1152));
        let [v, z] = ["v", "z"].map(|n| input(g, n, 3072));
        let [decay, beta] = ["decay", "beta"].map(|n| input(g, n, 12));
        let s = g.add_leaf(Leaf::State, "delta", Type::mem(Rows::Fixed(1152), 256)).unwrap();
        let op = DeltaL2 { head_dim: 96, eps: 1e-6.into(), scale: 0.1.into() };
        let d = g.add(op, &[q, k, v, decay, beta, s]).unwrap();
        let (o, w) = (g.add(Out {}, &[d]).unwrap(), vector(g, "o_norm", 256));
        let o = g.add(GatedNorm { head_dim: 256, eps: 1e-5.into() }, &[o, w, z]).unwrap();
        g.add(Store {}, &[o]).unwrap();
    });
    add("attention", &|g| {
        let q = input(g, "q", 1536);
        let [keys, values] =
            ["keys", "values"].map(|n| g.add_leaf(Leaf::State, n, Type::mem(Rows::Context, 256)).unwrap());
        let a = g.add(Attention { head_dim: 128, window: 0 }, &[q, keys, values]).unwrap();
        g.add(Get0 {}, &[a]).unwrap();
    });
    all
}

/// Rows that caches have room for, and the position of the first row.
const CONTEXT: usize = 2048;

/// Seconds of one kernel for `rows` rows on all threads. `copies` sets of weights keep them out of the caches.
fn measure(g: &Graph, built: &Built, code: &Code, rows: usize, copies: usize) -> f64 {
    let mut values: BTreeMap<Id, Buffer<f32>> = BTreeMap::new();
    let mut weights: Vec<Vec<Buffer<u16>>> = (0..copies).map(|_| vec![]).collect();
    let states = 64 * (1152 * 256 + 2 * CONTEXT * 256 + 4 * 3072);
    let mut state = Buffer::new(&vec![0.01f32; if rows > 64 { states / 16 } else { states }]);
    let mut slots = Buffer::new(&(0..rows as i32).map(|i| i % 4).collect::<Vec<_>>());
    let mut positions = Buffer::new(&vec![1024i32; rows]);
    let scratch_bytes = built.scratch.fixed + rows as u64 * built.scratch.per_row;
    let mut scratch: Vec<_> = (0..THREADS).map(|_| Buffer::new(&vec![0f32; scratch_bytes as usize / 4 + 1])).collect();
    let items = u64::from(built.items.fixed) * if built.items.per_row { rows as u64 } else { 1 };
    let mut words: Vec<Vec<Vec<u64>>> = vec![vec![vec![]; THREADS]; copies];
    for (copy, words) in words.iter_mut().enumerate() {
        for p in &built.params {
            let mut word = |t: usize| match p {
                Binding::Value(id) => {
                    let n = rows * g.ty(*id).cols();
                    values.entry(*id).or_insert_with(|| Buffer::new(&vec![0.5f32; n])).word()
                }
                Binding::Weight { pack, .. } => {
                    if t == 0 {
                        weights[copy].push(Buffer::new(&vec![0x3c00u16; pack.bytes() / 2]));
                    }
                    weights[copy].last_mut().unwrap().word()
                }
                Binding::State(id) if g.leaf(*id).is_some_and(|(_, n)| n == "values") => {
                    state.word() + (4 * CONTEXT * 256) as u64
                }
                Binding::State(_) => state.word(),
                Binding::StateRows(_) => CONTEXT as u64,
                Binding::SlotStride => 4 * (1152 * 256 + 2 * CONTEXT * 256) as u64,
                Binding::Slots => slots.word(),
                Binding::Positions => positions.word(),
                Binding::Rows => rows as u64,
                Binding::ItemBegin => items * t as u64 / THREADS as u64,
                Binding::ItemEnd => items * (t as u64 + 1) / THREADS as u64,
                Binding::Scratch => scratch[t].word(),
                Binding::Arrivals => unreachable!("a kernel of a CPU"),
                Binding::Candidates(_) | Binding::KeepLogits => unreachable!("no graph here has a search"),
            };
            (0..THREADS).for_each(|t| words[t].push(word(t)));
        }
    }
    let all = best(if rows > 16 { 5 } else { 9 }, THREADS, |t| {
        // SAFETY: every word is what its binding says, and threads work on different items.
        words.iter().for_each(|w| unsafe { code.call(&built.name, &w[t]) });
    });
    all / copies as f64
}

fn main() {
    let only = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    let (peak, bandwidth) = (peak(), read_bandwidth());
    println!("{THREADS} threads read {:.1} GB/s; peak of one {:.1} GFLOP/s", bandwidth / 1e9, peak / 1e9);
    let named = std::env::var("TARGET").ok();
    for target in targets::runnable().filter(|t| named.as_ref().is_none_or(|name| t.name == name)) {
        println!("{}:", target.name);
        run(target, &only, peak, bandwidth);
    }
}

/// Measures the kernels whose name contains `only`, compiled for `target`.
fn run(target: &'static Target, only: &str, peak: f64, bandwidth: f64) {
    for (name, g) in graphs().iter().filter(|(name, _)| name.contains(only)) {
        for (phase, counts) in [(Phase::Decode, &[1usize, 2, 3, 4, 8][..]), (Phase::Prefill, &[32, 128, 512])] {
            for group in group_kernels(g).unwrap().iter().filter(|k| k.grid.is_some()) {
                let built = select(g, group, target, phase, (activations(), &BTreeSet::new()), 64).unwrap();
                let blob = compile(std::slice::from_ref(&built.kernel), target).unwrap();
                if let Ok(folder) = std::env::var("JETC_DUMP") {
                    std::fs::write(format!("{folder}/{}.bin", built.name), &blob.bytes).unwrap();
                }
                let code = Code::load(blob);
                for &rows in counts {
                    let weights = built.cost.weight_bytes;
                    let copies = if weights > 0 && rows < 16 { (150_000_000 / weights).clamp(1, 20) } else { 1 };
                    let t = measure(g, &built, &code, rows, copies as usize);
                    let flops = (built.cost.flops * rows as u64) as f64 / t / THREADS as f64;
                    println!(
                        "{:32} {rows:3} rows {:9.1} us {:6.1} GB/s of weights ({:.2}) {:6.1} GFLOP/s a thread ({:.2})",
                        format!("{name}, {phase:?}"),
                        t * 1e6,
                        weights as f64 / t / 1e9,
                        weights as f64 / t / bandwidth,
                        flops / 1e9,
                        flops / peak
                    );
                }
            }
        }
    }
}
