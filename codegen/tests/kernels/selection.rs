//! What shares code, and what is refused.

use crate::product::{acc, give, input, state, vector, weight};
use jet_codegen::{Activations, Binding, Built, Unsupported, select, targets};
use jet_ir::ops::*;
use jet_ir::{Elem, Graph, Id, Rows, group_kernels};
use jetbin::Phase;
use std::collections::BTreeSet;

fn first(g: &Graph, phase: Phase) -> Result<Built, Unsupported> {
    let groups = group_kernels(g).unwrap_or_else(|e| panic!("{e}"));
    select(g, &groups[0], targets::host().unwrap(), phase, (Activations::F32, &BTreeSet::new()), 64)
}

fn layer(name: &str, eps: f32, elem: Elem) -> Graph {
    let mut g = Graph::new(name);
    let (x, gain) = (input(&mut g, "x", 24), vector(&mut g, &format!("{name}.norm"), 24));
    let grid = g.add(SweepNorm { eps: eps.into() }, &[x, gain]).unwrap();
    let r = acc(&mut g, grid, &format!("{name}.w"), 40, elem);
    let r = g.add(Silu {}, &[r]).unwrap();
    give(&mut g, "y", r);
    g
}

#[test]
fn layers_of_one_shape_share_code() {
    let base = first(&layer("layers.0", 1e-6, Elem::Bf16), Phase::Decode).unwrap();
    let same = first(&layer("layers.7", 1e-6, Elem::Bf16), Phase::Decode).unwrap();
    assert_eq!((&base.key, &base.name, base.kernel.to_string()), (&same.key, &same.name, same.kernel.to_string()));
    for (g, phase) in [
        (layer("layers.0", 1e-5, Elem::Bf16), Phase::Decode),
        (layer("layers.0", 1e-6, Elem::F32), Phase::Decode),
        (layer("layers.0", 1e-6, Elem::Bf16), Phase::Prefill),
    ] {
        let other = first(&g, phase).unwrap();
        assert_ne!(base.key, other.key);
        assert_ne!(base.name, other.name);
    }
}

#[test]
fn a_kernel_says_what_it_needs() {
    let built = first(&layer("l", 1e-6, Elem::Bf16), Phase::Prefill).unwrap();
    assert_eq!((built.items.fixed, built.items.per_row), (3, false));
    // the staged rows lie in front of the tile
    assert_eq!(built.scratch.per_row, 4 * 24);
    assert_eq!(built.cost.weight_bytes, 48 * 24 * 2);
    assert_eq!(built.cost.flops, 2 * 48 * 24);
    assert_eq!(built.params.len(), built.kernel.params.len());
    let weights = built.params.iter().filter(|p| matches!(p, Binding::Weight { .. })).count();
    assert_eq!(weights, 2);
    assert!(built.name.starts_with("norm_product_prefill_"), "{}", built.name);
}

fn refusal(build: impl Fn(&mut Graph) -> Id) -> String {
    let mut g = Graph::new("refused");
    build(&mut g);
    first(&g, Phase::Decode).unwrap_err().to_string()
}

fn swept(g: &mut Graph) -> Id {
    let x = input(g, "x", 16);
    g.add(Sweep {}, &[x]).unwrap()
}

#[test]
fn what_no_kernel_does_is_refused_by_name() {
    let cases: Vec<(&str, String)> = vec![
        (
            "store_argmax",
            refusal(|g| {
                let grid = swept(g);
                let (r, s) = (acc(g, grid, "w", 8, Elem::Bf16), acc(g, grid, "v", 8, Elem::Bf16));
                let gated = g.add(Mul {}, &[r, s]).unwrap();
                g.add(StoreArgmax {}, &[gated]).unwrap()
            }),
        ),
        (
            "store_ring",
            refusal(|g| {
                let (grid, ring) = (swept(g), state(g, "conv", Rows::Fixed(4), 8));
                let r = acc(g, grid, "w", 8, Elem::Bf16);
                g.add(StoreRing { taps: 4 }, &[ring, r]).unwrap()
            }),
        ),
        (
            "sweep_fold",
            refusal(|g| {
                let (x, gain) = (input(g, "x", 16), vector(g, "norm", 16));
                let grid = g.add(SweepFold { eps: 1e-6.into() }, &[x, gain]).unwrap();
                let r = acc(g, grid, "w", 8, Elem::Bf16);
                g.add(Store {}, &[r]).unwrap()
            }),
        ),
        (
            "one of f32, bf16, q8, q4",
            refusal(|g| {
                let grid = swept(g);
                let r = acc(g, grid, "w", 8, Elem::F16);
                g.add(Store {}, &[r]).unwrap()
            }),
        ),
        (
            "packed in panels",
            refusal(|g| {
                let (grid, w) = (swept(g), weight(g, "w", 8, 16, Elem::Bf16));
                let w = g.add(PackTile {}, &[w]).unwrap();
                let r = g.add(Acc {}, &[grid, w]).unwrap();
                g.add(Store {}, &[r]).unwrap()
            }),
        ),
        (
            "3 accumulators",
            refusal(|g| {
                let grid = swept(g);
                let [a, b, c] = ["a", "b", "c"].map(|n| acc(g, grid, n, 8, Elem::Bf16));
                let ab = g.add(Mul {}, &[a, b]).unwrap();
                let abc = g.add(Mul {}, &[ab, c]).unwrap();
                g.add(Store {}, &[abc]).unwrap()
            }),
        ),
        (
            "differ in type",
            refusal(|g| {
                let grid = swept(g);
                let (a, b) = (acc(g, grid, "a", 8, Elem::Bf16), acc(g, grid, "b", 8, Elem::F32));
                let ab = g.add(Mul {}, &[a, b]).unwrap();
                g.add(Store {}, &[ab]).unwrap()
            }),
        ),
        (
            "two purposes",
            refusal(|g| {
                let (grid, table, small) = (swept(g), input(g, "rope", 8), input(g, "small", 4));
                let r = acc(g, grid, "w", 8, Elem::Bf16);
                let r = g.add(Rope { head_dim: 8 }, &[r, table]).unwrap();
                let r = g.add(Rope { head_dim: 4 }, &[r, small]).unwrap();
                g.add(Store {}, &[r]).unwrap()
            }),
        ),
    ];
    for (expected, found) in cases {
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    }
}
