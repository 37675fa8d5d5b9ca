//! Products: segments, epilogues, layouts, tails.

use crate::harness::{Case, compile_on, compile_with};
use crate::tolerance::{DEEP, FUSED, PRODUCT, ROUNDED};
use jet_codegen::Activations;
use jet_codegen::targets::{TARGETS, runnable};
use jet_ir::ops::*;
use jet_ir::{Elem, Graph, Id, Leaf, OutputKind, Rows, Type};
use jetbin::Phase;

pub fn input(g: &mut Graph, name: &str, cols: usize) -> Id {
    g.add_leaf(Leaf::Input, name, Type::mem(Rows::Tokens, cols)).unwrap()
}

pub fn weight(g: &mut Graph, name: &str, rows: usize, cols: usize, elem: Elem) -> Id {
    g.add_leaf(Leaf::Weight, name, Type::weight(rows, cols, elem)).unwrap()
}

pub fn vector(g: &mut Graph, name: &str, n: usize) -> Id {
    weight(g, name, 1, n, Elem::F32)
}

pub fn state(g: &mut Graph, name: &str, rows: Rows, cols: usize) -> Id {
    g.add_leaf(Leaf::State, name, Type::mem(rows, cols)).unwrap()
}

pub fn acc(g: &mut Graph, grid: Id, name: &str, rows: usize, elem: Elem) -> Id {
    let cols = g.ty(grid).cols();
    let w = weight(g, name, rows, cols, elem);
    let w = g.add(PackPanel {}, &[w]).unwrap();
    g.add(Acc {}, &[grid, w]).unwrap()
}

pub fn give(g: &mut Graph, name: &str, r: Id) {
    let y = g.add(Store {}, &[r]).unwrap();
    g.output(OutputKind::Return, name, y);
}

/// Runs `graph` as a prefill of `tokens` and as a decode of as many sequences.
pub fn both(graph: &Graph, rows: &[usize], tolerance: f64) {
    both_within(graph, rows, Activations::F32, tolerance, tolerance);
}

fn both_with(graph: &Graph, rows: &[usize], activations: Activations, tolerance: f64) {
    both_within(graph, rows, activations, tolerance, tolerance);
}

/// The same with another tolerance where activations are quantised.
pub fn both_within(graph: &Graph, rows: &[usize], activations: Activations, tolerance: f64, tolerance_of_bytes: f64) {
    let [prefill, decode] = [Phase::Prefill, Phase::Decode].map(|phase| compile_with(graph, phase, activations));
    for &n in rows {
        let past: Vec<usize> = (0..n).map(|i| (i * 7) % 11).collect();
        let slots: Vec<usize> = (0..n).map(|i| (n - i) + i % 2 * n).collect();
        let case = |phase| Case {
            graph,
            phase,
            past: past.clone(),
            slots: slots.clone(),
            tokens: n,
            capacity: 160,
            rounded: false,
            tolerance,
            tolerance_of_bytes,
        };
        case(Phase::Decode).check(&decode);
        case(Phase::Prefill).check(&prefill);
    }
}

/// Seven and nine blocks for each of eight warps of a GPU, which takes four at a time.
#[test]
fn shares_that_are_no_whole_number_of_batches() {
    for k in [7 * 8 * 32, 9 * 8 * 32] {
        let mut g = Graph::new("shares");
        let x = input(&mut g, "x", k);
        let grid = g.add(Sweep {}, &[x]).unwrap();
        let y = acc(&mut g, grid, "w", 40, Elem::Bf16);
        give(&mut g, "y", y);
        both(&g, &[1, 9], PRODUCT);
    }
}

#[test]
fn plain_products_of_every_shape() {
    for elem in [Elem::Bf16, Elem::F32] {
        for (n, k) in [(1, 1), (16, 8), (17, 5), (7, 64), (40, 33), (12, 96)] {
            let mut g = Graph::new("plain");
            let x = input(&mut g, "x", k);
            let grid = g.add(Sweep {}, &[x]).unwrap();
            let y = acc(&mut g, grid, "w", n, elem);
            give(&mut g, "y", y);
            both(&g, &[1, 2, 3, 4, 5, 8, 9, 64, 130], PRODUCT);
            // `x` is bf16 as it is
            both_with(&g, &[1, 2, 4, 11, 12, 13, 130], Activations::Bf16, PRODUCT);
        }
    }
}

/// Columns of `k` that warps share out in numbers that no batch of loads divides: 43 blocks each, as in the 4B model; 7; 17.
#[test]
fn sums_over_many_columns() {
    for k in [11008, 8 * 7 * 32, 8 * 17 * 32 - 40] {
        let mut g = Graph::new("deep");
        let x = input(&mut g, "x", k);
        let grid = g.add(Sweep {}, &[x]).unwrap();
        let y = acc(&mut g, grid, "w", 16, Elem::Bf16);
        give(&mut g, "y", y);
        both(&g, &[1, 9], DEEP);
    }
}

/// The largest of all columns, of as many CTAs as there are, and in several tiles of rows; on a CPU, the best of what each thread has seen.
#[test]
fn the_largest_element_of_a_row() {
    for (n, k) in [(1, 8), (40, 33), (1000, 64), (9000, 32)] {
        largest(n, k, |_, logits| logits);
    }
}

#[test]
fn of_equal_elements_the_first_is_the_largest() {
    // zeros of both signs
    largest(300, 8, |g, logits| g.add(Scale { c: 0.0.into() }, &[logits]).unwrap());
}

fn largest(n: usize, k: usize, epilogue: impl Fn(&mut Graph, Id) -> Id) {
    let mut g = Graph::new("largest");
    let x = input(&mut g, "x", k);
    let grid = g.add(Sweep {}, &[x]).unwrap();
    let logits = acc(&mut g, grid, "w", n, Elem::Bf16);
    let y = epilogue(&mut g, logits);
    give(&mut g, "y", y);
    let top = g.add(StoreArgmax {}, &[y]).unwrap();
    g.output(OutputKind::Return, "top", top);
    for target in runnable().chain(TARGETS.iter().filter(|t| t.is_gpu())) {
        for (phase, rows) in [(Phase::Decode, 1), (Phase::Decode, 9), (Phase::Decode, 70), (Phase::Prefill, 33)] {
            let past = vec![0; if phase == Phase::Decode { rows } else { 1 }];
            let case = Case {
                graph: &g,
                phase,
                slots: (0..past.len()).collect(),
                past,
                tokens: rows,
                capacity: 1,
                rounded: false,
                tolerance: FUSED,
                tolerance_of_bytes: FUSED,
            };
            case.check(&compile_on(target, &g, phase));
        }
    }
}

#[test]
fn a_product_in_memory_needs_no_grid() {
    let mut g = Graph::new("matmul");
    let (x, w) = (input(&mut g, "x", 20), weight(&mut g, "w", 19, 20, Elem::Bf16));
    let y = g.add(Matmul {}, &[x, w]).unwrap();
    g.output(OutputKind::Return, "y", y);
    both(&g, &[1, 4, 7], PRODUCT);
}

/// Everything that the input projections of a JetBlock do, in one kernel, with weights of two types.
#[test]
fn segments_with_epilogues_behind_a_norm() {
    for k in [1, 13, 32, 100] {
        let mut g = Graph::new("segments");
        let (x, gain) = (input(&mut g, "x", k), vector(&mut g, "gain", k));
        let grid = g.add(SweepNorm { eps: 1e-6.into() }, &[x, gain]).unwrap();
        let q = acc(&mut g, grid, "q", 24, Elem::Bf16);
        let q = g.add(Silu {}, &[q]).unwrap();
        give(&mut g, "q", q);
        let v = acc(&mut g, grid, "v", 37, Elem::F32);
        give(&mut g, "v", v);
        let a = acc(&mut g, grid, "a", 3, Elem::Bf16);
        let bias = vector(&mut g, "dt_bias", 3);
        let a = g.add(Bias {}, &[a, bias]).unwrap();
        let a = g.add(Softplus {}, &[a]).unwrap();
        let rate = vector(&mut g, "a_log", 3);
        let rate = g.add(Exp {}, &[rate]).unwrap();
        let rate = g.add(Neg {}, &[rate]).unwrap();
        let a = g.add(ScaleCols {}, &[a, rate]).unwrap();
        let a = g.add(Exp {}, &[a]).unwrap();
        give(&mut g, "decay", a);
        let b = acc(&mut g, grid, "b", 3, Elem::Bf16);
        let b = g.add(Sigmoid {}, &[b]).unwrap();
        give(&mut g, "beta", b);
        let n = acc(&mut g, grid, "n", 18, Elem::Bf16);
        let n = g.add(Neg {}, &[n]).unwrap();
        let n = g.add(Scale { c: 0.3.into() }, &[n]).unwrap();
        give(&mut g, "n", n);
        both(&g, &[1, 2, 3, 7, 64], FUSED);
        both_with(&g, &[1, 3, 13], Activations::Bf16, ROUNDED);
    }
}

#[test]
fn gates_and_residuals() {
    for n in [1, 8, 11, 16, 35] {
        let mut g = Graph::new("gate");
        let x = input(&mut g, "x", 29);
        let grid = g.add(Sweep {}, &[x]).unwrap();
        let (gate, up) = (acc(&mut g, grid, "gate", n, Elem::Bf16), acc(&mut g, grid, "up", n, Elem::Bf16));
        let gate = g.add(Silu {}, &[gate]).unwrap();
        let h = g.add(Mul {}, &[gate, up]).unwrap();
        give(&mut g, "h", h);
        let residual = input(&mut g, "residual", n);
        let down = acc(&mut g, grid, "down", n, Elem::Bf16);
        let y = g.add(Add {}, &[down, residual]).unwrap();
        give(&mut g, "y", y);
        both(&g, &[1, 2, 5, 33], FUSED);
        both_with(&g, &[1, 2, 33], Activations::Bf16, FUSED);
    }
}

#[test]
fn rotated_heads_go_to_memory_and_to_the_cache() {
    for (heads, head_dim) in [(1, 2), (3, 6), (2, 16), (2, 20), (1, 128)] {
        let cols = heads * head_dim;
        let mut g = Graph::new("rope");
        let (x, table) = (input(&mut g, "x", 24), input(&mut g, "rope", head_dim));
        let grid = g.add(Sweep {}, &[x]).unwrap();
        let q = acc(&mut g, grid, "q", cols, Elem::Bf16);
        let bias = vector(&mut g, "q.bias", cols);
        let q = g.add(Bias {}, &[q, bias]).unwrap();
        let q = g.add(Rope { head_dim }, &[q, table]).unwrap();
        give(&mut g, "q", q);
        let keys = state(&mut g, "keys", Rows::Context, cols);
        let k = acc(&mut g, grid, "k", cols, Elem::Bf16);
        let k = g.add(Rope { head_dim }, &[k, table]).unwrap();
        let k = g.add(StoreKv {}, &[keys, k]).unwrap();
        g.output(OutputKind::Update, "keys", k);
        both(&g, &[1, 2, 4, 65], FUSED);
    }
}

#[test]
fn dynamic_convolution_of_every_width() {
    for taps in 1..=6 {
        for channels in [1, 8, 13, 32] {
            let mut g = Graph::new("conv");
            let (h, v0) = (input(&mut g, "x", 20), input(&mut g, "v0", channels));
            let ring = state(&mut g, "conv", Rows::Fixed(taps), channels);
            let grid = g.add(Sweep {}, &[h]).unwrap();
            let r = acc(&mut g, grid, "w2", channels * taps, Elem::Bf16);
            let bias = vector(&mut g, "b2", channels * taps);
            let r = g.add(Bias {}, &[r, bias]).unwrap();
            let r = g.add(DynamicConv { taps }, &[r, v0, ring]).unwrap();
            let r = g.add(Silu {}, &[r]).unwrap();
            give(&mut g, "v", r);
            // as a kernel of its own behind the convolution, and by the convolution's kernel
            let (mut apart, mut merged) = (g.clone(), g);
            let push = apart.add(RingPush { taps }, &[ring, v0]).unwrap();
            apart.output(OutputKind::Update, "conv", push);
            let values = merged.add(Load {}, &[grid, v0]).unwrap();
            let push = merged.add(StoreRing { taps }, &[ring, values]).unwrap();
            merged.output(OutputKind::Update, "conv", push);
            assert_eq!(jet_ir::group_kernels(&merged).unwrap().len(), 1);
            both(&apart, &[1, 5], FUSED);
            both(&merged, &[1, 2, 3, 4, 5, 64], FUSED);
            both_with(&merged, &[1, 2, 3, 64], Activations::Bf16, FUSED);
            if (taps, channels) == (4, 32) {
                // several tiles of rows, of which the first reads the ring
                both(&merged, &[130], FUSED);
            }
        }
    }
}

/// As many columns as make each tile of a GPU's prefill the fastest one; odd and even numbers of blocks of 32.
#[test]
fn tiles_of_every_size() {
    for (n, k, norm) in [(520, 96, true), (1536, 64, true), (2048, 32, false), (4096, 96, true), (4100, 40, false)] {
        let mut g = Graph::new("tiles");
        let x = input(&mut g, "x", k);
        let grid = match norm {
            true => {
                let gain = vector(&mut g, "gain", k);
                g.add(SweepNorm { eps: 1e-6.into() }, &[x, gain]).unwrap()
            }
            false => g.add(Sweep {}, &[x]).unwrap(),
        };
        let y = acc(&mut g, grid, "w", n, Elem::Bf16);
        give(&mut g, "y", y);
        let case = Case {
            graph: &g,
            phase: Phase::Prefill,
            past: vec![0],
            slots: vec![0],
            tokens: 130,
            capacity: 1,
            rounded: false,
            tolerance: FUSED,
            tolerance_of_bytes: FUSED,
        };
        case.check(&compile_with(&g, Phase::Prefill, Activations::F32));
    }
}
