//! The gated delta rule, with and without what the plan fuses into it.

use crate::harness::{Case, compile};
use crate::product::{both, input, state, vector};
use crate::tolerance::{DELTA, HEAD_OF_ONE};
use jet_ir::ops::*;
use jet_ir::{Graph, OutputKind, Rows};
use jetbin::Phase;

fn operands(g: &mut Graph, heads: usize, dk: usize, dv: usize) -> [jet_ir::Id; 6] {
    let [q, k] = ["q", "k"].map(|n| input(g, n, heads * dk));
    let v = input(g, "v", heads * dv);
    let [decay, beta] = ["decay", "beta"].map(|n| input(g, n, heads));
    [q, k, v, decay, beta, state(g, "delta", Rows::Fixed(heads * dk), dv)]
}

fn normed(heads: usize, dk: usize, dv: usize) -> Graph {
    let mut g = Graph::new("delta");
    let args = operands(&mut g, heads, dk, dv);
    let scale = (dk as f32).powf(-0.5).into();
    let d = g.add(DeltaL2 { head_dim: dk, eps: 1e-6.into(), scale }, &args).unwrap();
    let o = g.add(Out {}, &[d]).unwrap();
    let (gain, z) = (vector(&mut g, "o_norm", dv), input(&mut g, "z", heads * dv));
    let o = g.add(GatedNorm { head_dim: dv, eps: 1e-5.into() }, &[o, gain, z]).unwrap();
    let o = g.add(Store {}, &[o]).unwrap();
    let s = g.add(Get1 {}, &[d]).unwrap();
    g.output(OutputKind::Return, "o", o);
    g.output(OutputKind::Update, "delta", s);
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
