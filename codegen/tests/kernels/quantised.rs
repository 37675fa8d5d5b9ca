//! Products with quantised weights, against the reference on what the codes stand for. Where activations are quantised too, inputs called
//! `whole` lose nothing by it and are held to the tolerance of f32.

use crate::product::{acc, both, both_within, give, input, state, vector, weight};
use crate::tolerance::{BYTES, BYTES_FUSED, EXACT, FUSED, PRODUCT};
use jet_codegen::Activations;
use jet_ir::ops::*;
use jet_ir::{Elem, Graph, Leaf, OutputKind, Place, Rows, Type};

const QUANTISED: [Elem; 2] = [Elem::Q8, Elem::Q4];
/// Part of a group, whole groups, whole runs of codes, odd ends.
const COLUMNS: [usize; 6] = [1, 24, 64, 100, 128, 203];

fn plain(x: &str, elem: Elem, n: usize, k: usize) -> Graph {
    let mut g = Graph::new("plain");
    let x = input(&mut g, x, k);
    let grid = g.add(Sweep {}, &[x]).unwrap();
    let y = acc(&mut g, grid, "w", n, elem);
    give(&mut g, "y", y);
    g
}

#[test]
fn products_of_every_shape() {
    for elem in QUANTISED {
        for (n, k) in [16, 17, 7, 33, 40, 12].into_iter().zip(COLUMNS) {
            if k == 24 || k == 203 {
                both_within(&plain("x", elem, n, k), &[1, 3, 70], Activations::F32, PRODUCT, BYTES);
            }
            both(&plain("whole", elem, n, k), &[1, 2, 3, 4, 5, 8, 13, 64], PRODUCT);
        }
    }
}

/// The projections of a layer as they are stored: most quantised, the gates in bf16, a convolution by taps.
#[test]
fn weights_of_all_types_behind_a_norm() {
    for k in [24, 64, 100] {
        let mut g = Graph::new("segments");
        let (x, gain) = (input(&mut g, "x", k), vector(&mut g, "gain", k));
        let grid = g.add(SweepNorm { eps: 1e-6.into() }, &[x, gain]).unwrap();
        for (name, n, elem) in [("q8", 24, Elem::Q8), ("f", 5, Elem::F32), ("q4", 37, Elem::Q4), ("b", 3, Elem::Bf16)] {
            let y = acc(&mut g, grid, name, n, elem);
            let y = g.add(Silu {}, &[y]).unwrap();
            give(&mut g, name, y);
        }
        both_within(&g, &[1, 2, 3, 7, 64], Activations::F32, FUSED, BYTES_FUSED);
    }
}

#[test]
fn epilogues_find_their_columns() {
    for elem in QUANTISED {
        let mut g = Graph::new("epilogues");
        let (x, table) = (input(&mut g, "whole", 70), input(&mut g, "rope", 20));
        let grid = g.add(Sweep {}, &[x]).unwrap();
        let (gate, up) = (acc(&mut g, grid, "gate", 11, elem), acc(&mut g, grid, "up", 11, elem));
        let h = g.add(Mul {}, &[gate, up]).unwrap();
        give(&mut g, "h", h);
        let q = acc(&mut g, grid, "q", 40, elem);
        let q = g.add(Rope { head_dim: 20 }, &[q, table]).unwrap();
        give(&mut g, "q", q);
        for taps in [3, 4, 6] {
            let (w, v, state_name) = (format!("w{taps}"), format!("v{taps}"), format!("conv{taps}"));
            let values = input(&mut g, &v, 13);
            let ring = state(&mut g, &state_name, Rows::Fixed(taps), 13);
            let r = acc(&mut g, grid, &w, 13 * taps, elem);
            let r = g.add(DynamicConv { taps }, &[r, values, ring]).unwrap();
            give(&mut g, &w, r);
        }
        both(&g, &[1, 2, 4, 30], FUSED);
    }
}

#[test]
fn embeddings_come_from_the_panels_of_the_head() {
    for elem in QUANTISED {
        for cols in COLUMNS {
            let mut g = Graph::new("embed");
            let table = weight(&mut g, "table", 40, cols, elem);
            let ids = g.add_leaf(Leaf::Input, "ids", Type::tensor(Place::Mem, Rows::Tokens, 1, Elem::I32)).unwrap();
            let y = g.add(Embed {}, &[table, ids]).unwrap();
            g.output(OutputKind::Return, "y", y);
            both(&g, &[1, 5], EXACT);
        }
    }
}
