//! Ops in memory that no other kernel absorbed.

use crate::product::{both, input, state, vector, weight};
use crate::tolerance::{EXACT, FUSED};
use jet_ir::ops::*;
use jet_ir::{Elem, Graph, Id, Leaf, OutputKind, Rows, Type};

fn check(name: &str, rows: &[usize], tolerance: f64, build: impl Fn(&mut Graph) -> Id) {
    let mut g = Graph::new(name);
    let y = build(&mut g);
    g.output(OutputKind::Return, "y", y);
    both(&g, rows, tolerance);
}

#[test]
fn embedding_rows_come_out_of_panels() {
    for elem in [Elem::Bf16, Elem::F32] {
        for cols in [1, 7, 32] {
            check("embed", &[1, 5, 40], EXACT, |g| {
                let ids = g
                    .add_leaf(Leaf::Input, "ids", Type::tensor(jet_ir::Place::Mem, Rows::Tokens, 1, Elem::I32))
                    .unwrap();
                let table = weight(g, "table", 37, cols, elem);
                g.add(Embed {}, &[table, ids]).unwrap()
            });
        }
    }
}

#[test]
fn norms() {
    for n in [1, 6, 30, 66] {
        let rows = &[1, 3, 10];
        check("rms_norm", rows, FUSED, |g| {
            let (x, w) = (input(g, "x", n), vector(g, "w", n));
            g.add(RmsNorm { eps: 1e-6.into() }, &[x, w]).unwrap()
        });
        check("row_ms", rows, FUSED, |g| {
            let x = input(g, "x", n);
            g.add(RowMs {}, &[x]).unwrap()
        });
        check("l2_norm", rows, FUSED, |g| {
            let x = input(g, "x", 3 * n);
            g.add(L2Norm { head_dim: n, eps: 1e-6.into() }, &[x]).unwrap()
        });
        check("gated_norm", rows, FUSED, |g| {
            let (o, z, w) = (input(g, "o", 2 * n), input(g, "z", 2 * n), vector(g, "w", n));
            g.add(GatedNorm { head_dim: n, eps: 1e-5.into() }, &[o, w, z]).unwrap()
        });
    }
}

#[test]
fn maps() {
    for n in [1, 8, 21] {
        let unary: [(&str, jet_ir::Op); 6] = [
            ("silu", Silu {}.into()),
            ("sigmoid", Sigmoid {}.into()),
            ("softplus", Softplus {}.into()),
            ("exp", Exp {}.into()),
            ("neg", Neg {}.into()),
            ("scale", Scale { c: 1.5.into() }.into()),
        ];
        for (name, op) in unary {
            check(name, &[1, 3], FUSED, |g| {
                let x = input(g, "x", n);
                g.add(op, &[x]).unwrap()
            });
        }
        for op in [jet_ir::Op::from(Add {}), Mul {}.into()] {
            check("binary", &[1, 3], FUSED, |g| {
                let (a, b) = (input(g, "a", n), input(g, "b", n));
                g.add(op, &[a, b]).unwrap()
            });
        }
        for op in [jet_ir::Op::from(Bias {}), ScaleCols {}.into()] {
            check("vector", &[1, 3], FUSED, |g| {
                let (a, b) = (input(g, "a", n), vector(g, "b", n));
                g.add(op, &[a, b]).unwrap()
            });
        }
    }
}

#[test]
fn rope_and_convolution_in_memory() {
    for head_dim in [2, 10, 32] {
        check("rope", &[1, 5], FUSED, |g| {
            let (x, table) = (input(g, "x", 3 * head_dim), input(g, "rope", head_dim));
            g.add(Rope { head_dim }, &[x, table]).unwrap()
        });
    }
    for taps in 1..=5 {
        check("conv", &[1, 2, 9], FUSED, |g| {
            let (kernels, v) = (input(g, "kernels", 11 * taps), input(g, "v", 11));
            let ring = state(g, "conv", Rows::Fixed(taps), 11);
            g.add(DynamicConv { taps }, &[kernels, v, ring]).unwrap()
        });
    }
}

#[test]
fn argmax_finds_the_first_of_equals() {
    for n in [1, 5, 16, 100] {
        check("argmax", &[1, 6], EXACT, |g| {
            let x = input(g, "x", n);
            g.add(Argmax {}, &[x]).unwrap()
        });
        // coarse values, so that the largest occurs more than once
        check("ties", &[1, 6], EXACT, |g| {
            let ids =
                g.add_leaf(Leaf::Input, "ids", Type::tensor(jet_ir::Place::Mem, Rows::Tokens, 1, Elem::I32)).unwrap();
            let table = weight(g, "ties", 37, n, Elem::F32);
            let x = g.add(Embed {}, &[table, ids]).unwrap();
            let zero = g.add(Scale { c: 0.0.into() }, &[x]).unwrap();
            g.add(Argmax {}, &[zero]).unwrap()
        });
    }
}
