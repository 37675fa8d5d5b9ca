//! The gated delta rule, with and without what the plan fuses into it.

use crate::harness::{Case, compile, compile_on};
use crate::product::{acc, both, input, state, vector, weight};
use crate::tolerance::{DELTA, HEAD_OF_ONE};
use jet_codegen::targets::Target;
use jet_ir::ops::*;
use jet_ir::{Elem, Graph, Id, OutputKind, Rows, group_kernels};
use jetbin::Phase;

fn operands(g: &mut Graph, heads: usize, dk: usize, dv: usize) -> [jet_ir::Id; 6] {
    let [q, k] = ["q", "k"].map(|n| input(g, n, heads * dk));
    let v = input(g, "v", heads * dv);
    let [decay, beta] = ["decay", "beta"].map(|n| input(g, n, heads));
    [q, k, v, decay, beta, state(g, "delta", Rows::Fixed(heads * dk), dv)]
}

/// One or more heads with the norms inside.
pub fn normed(heads: usize, dk: usize, dv: usize) -> Graph {
    let mut g = Graph::new("delta");
    let args = operands(&mut g, heads, dk, dv);
    let scale = (dk as f32).powf(-0.5).into();
    let d = g.add(DeltaL2 { head_dim: dk, eps: 1e-6.into(), scale }, &args).unwrap();
    finish(&mut g, d, (heads, dv));
    g
}

#[test]
fn with_norms_inside() {
    for (heads, dk, dv) in [(1, 1, 1), (2, 8, 16), (3, 12, 20), (2, 7, 13), (2, 24, 64), (1, 96, 256)] {
        both(
            &normed(heads, dk, dv),
            if dv > 100 { &[1, 70] } else { &[1, 2, 3, 16, 17, 63, 65, 130] },
            if dv == 1 { HEAD_OF_ONE } else { DELTA },
        );
    }
}

#[test]
fn plain() {
    for (heads, dk, dv) in [(1, 1, 1), (2, 8, 16), (3, 5, 9)] {
        let mut g = Graph::new("plain");
        let mut args = operands(&mut g, heads, dk, dv);
        for i in [0, 1] {
            args[i] = g.add(L2Norm { head_dim: dk, eps: 1e-6.into() }, &[args[i]]).unwrap();
        }
        let d = g.add(GatedDeltaRule {}, &args).unwrap();
        let (o, s) = (g.add(Get0 {}, &[d]).unwrap(), g.add(Get1 {}, &[d]).unwrap());
        g.output(OutputKind::Return, "o", o);
        g.output(OutputKind::Update, "delta", s);
        both(&g, &[1, 2, 5, 33], DELTA);
    }
}

/// Heads of the 2B and the 4B model over a few hundred tokens, on top of a state.
#[test]
fn heads_of_the_models() {
    for (dk, tokens) in [(96, 321), (128, 200)] {
        let graph = &normed(2, dk, 256);
        let case = Case {
            graph,
            phase: Phase::Prefill,
            past: vec![5],
            slots: vec![1],
            tokens,
            capacity: 1,
            rounded: false,
            tolerance: DELTA,
            tolerance_of_bytes: DELTA,
        };
        case.check(&compile(graph, Phase::Prefill));
    }
}

/// Heads whose values come from a convolution: as two kernels, or as one.
struct Convolved {
    heads: usize,
    dk: usize,
    dv: usize,
    taps: usize,
    hidden: usize,
}

impl Convolved {
    fn graph(&self, inside: bool) -> Graph {
        let Convolved { heads, dk, dv, taps, hidden } = *self;
        let (mut g, channels) = (Graph::new("convolved"), heads * dv);
        let [q, k, decay, beta] =
            [("q", dk), ("k", dk), ("decay", 1), ("beta", 1)].map(|(n, cols)| input(&mut g, n, heads * cols));
        let (h, v0) = (input(&mut g, "x", hidden), input(&mut g, "v0", channels));
        let ring = state(&mut g, "conv", Rows::Fixed(taps), channels);
        let matrix = state(&mut g, "delta", Rows::Fixed(heads * dk), dv);
        let (b2, scale, eps) = (vector(&mut g, "b2", channels * taps), (dk as f32).powf(-0.5).into(), 1e-6.into());
        let (grid, convolves) = match inside {
            true => {
                let w2 = weight(&mut g, "w2", channels * taps, hidden, Elem::Bf16);
                let op = DeltaConv { head_dim: dk, eps, scale, taps };
                let grid = g.add(op, &[q, k, h, w2, b2, v0, ring, decay, beta, matrix]).unwrap();
                (grid, grid)
            }
            false => {
                let sweep = g.add(Sweep {}, &[h]).unwrap();
                let r = acc(&mut g, sweep, "w2", channels * taps, Elem::Bf16);
                let r = g.add(Bias {}, &[r, b2]).unwrap();
                let r = g.add(DynamicConv { taps }, &[r, v0, ring]).unwrap();
                let r = g.add(Silu {}, &[r]).unwrap();
                let v = g.add(Store {}, &[r]).unwrap();
                let op = DeltaL2 { head_dim: dk, eps, scale };
                (g.add(op, &[q, k, v, decay, beta, matrix]).unwrap(), sweep)
            }
        };
        let values = g.add(Load {}, &[convolves, v0]).unwrap();
        let push = g.add(StoreRing { taps }, &[ring, values]).unwrap();
        finish(&mut g, grid, (heads, dv));
        g.output(OutputKind::Update, "conv", push);
        g
    }
}

/// The gated norm of a delta grid's output, and its state.
fn finish(g: &mut Graph, grid: Id, (heads, dv): (usize, usize)) {
    let o = g.add(Out {}, &[grid]).unwrap();
    let (gain, z) = (vector(g, "o_norm", dv), input(g, "z", heads * dv));
    let o = g.add(GatedNorm { head_dim: dv, eps: 1e-5.into() }, &[o, gain, z]).unwrap();
    let o = g.add(Store {}, &[o]).unwrap();
    let s = g.add(Get1 {}, &[grid]).unwrap();
    g.output(OutputKind::Return, "o", o);
    g.output(OutputKind::Update, "delta", s);
}

/// Which of the kernels serve a sequence depends on how many there are, and must not show.
#[test]
fn the_convolution_inside_changes_no_bit() {
    let target = Target::named("sm_90a").expect("a target with clusters");
    for (heads, dk, dv, taps, hidden) in
        [(2, 96, 256, 4, 384), (1, 128, 256, 4, 512), (3, 24, 64, 3, 40), (2, 8, 32, 4, 20)]
    {
        let convolved = Convolved { heads, dk, dv, taps, hidden };
        let (one, two) = (convolved.graph(true), convolved.graph(false));
        assert_eq!([&one, &two].map(|g| group_kernels(g).unwrap().len()), [1, 2]);
        let case = |graph| Case {
            graph,
            phase: Phase::Decode,
            past: vec![3, 0, 7],
            slots: vec![2, 0, 3],
            tokens: 3,
            capacity: 1,
            rounded: true,
            tolerance: DELTA,
            tolerance_of_bytes: DELTA,
        };
        let [one_on, two_on] = [&one, &two].map(|g| compile_on(target, g, Phase::Decode));
        case(&one).check(&one_on);
        case(&two).check(&two_on);
        case(&one).check_equal(&one_on, &case(&two), &two_on);
    }
}
