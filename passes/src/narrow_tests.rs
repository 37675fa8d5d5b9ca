//! Which rows are rounded where they are made, that the value stays what it is, and what is left alone.

use super::*;
use jet_ir::ops::{Acc, Add, Embed, Silu, Sweep, SweepNorm};
use jet_ir::{Bindings, Leaf, Mat, Named, OutputKind, Place, Rows, eval, group_kernels, verify};

/// A residual of `n` columns, a norm, and two products in a row behind it; the value between them is returned if `probed`.
fn block(n: usize, probed: bool) -> Graph {
    let mut g = Graph::new("block");
    let x = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, n)).unwrap();
    let acc = |g: &mut Graph, grid: Id, name: &str| {
        let w = g.add_leaf(Leaf::Weight, name, Type::weight(n, n, Elem::Bf16)).unwrap();
        g.add(Acc {}, &[grid, w]).unwrap()
    };
    let sweep = g.add(Sweep {}, &[x]).unwrap();
    let first = acc(&mut g, sweep, "first");
    let first = g.add(Add {}, &[first, x]).unwrap();
    let hidden = g.add(Store {}, &[first]).unwrap();
    let gain = g.add_leaf(Leaf::Weight, "gain", Type::weight(1, n, Elem::F32)).unwrap();
    let normed = g.add(SweepNorm { eps: 1e-6.into() }, &[hidden, gain]).unwrap();
    let second = acc(&mut g, normed, "second");
    let second = g.add(Silu {}, &[second]).unwrap();
    let between = g.add(Store {}, &[second]).unwrap();
    let sweep = g.add(Sweep {}, &[between]).unwrap();
    let third = acc(&mut g, sweep, "third");
    let third = g.add(Add {}, &[third, hidden]).unwrap();
    let y = g.add(Store {}, &[third]).unwrap();
    g.output(OutputKind::Return, "y", y);
    if probed {
        g.output(OutputKind::Probe, "between", between);
    }
    g
}

fn count(graph: &Graph, name: &str) -> usize {
    graph.ids().filter(|id| graph.op(*id).is_some_and(|op| op.info().name == name)).count()
}

/// Values between -0.5 and 0.5.
fn number(seed: usize) -> f64 {
    f64::from((seed as u32).wrapping_mul(0x9E37_79B9) >> 16) / 65536.0 - 0.5
}

/// Relative to the norm.
fn difference(before: &Mat<f64>, after: &Mat<f64>) -> f64 {
    let error: f64 = before.data.iter().zip(&after.data).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = before.data.iter().map(|a| a * a).sum();
    (error / norm).sqrt()
}

fn run(graph: &Graph, n: usize) -> Mat<f64> {
    let inputs = Named::from([
        ("x".to_string(), Mat::new(3, n, |r, c| number(r * n + c))),
        ("ids".to_string(), Mat::new(3, 1, |r, _| [4.0, 0.0, 2.0][r])),
    ]);
    let weights = |name: &str, ty: Type| {
        let Some(Rows::Fixed(rows)) = ty.rows() else { panic!("{name} of {ty}") };
        Ok(Mat::new(rows, n, |r, c| number(name.len() * 1000 + r * n + c)))
    };
    let bindings = Bindings { inputs: &inputs, states: &Named::new(), weights: &weights };
    eval(graph, &bindings, 3).unwrap().returns["y"].clone()
}

#[test]
fn what_products_read_is_rounded_where_it_is_made() {
    let graph = block(24, false);
    let narrow = rounded(&graph).unwrap();
    verify(&narrow).unwrap();
    assert_eq!(
        ["round_bf16", "store_squares", "sweep_scaled", "sweep_norm", "sweep"].map(|op| count(&narrow, op)),
        [2, 1, 1, 0, 2]
    );
    assert_eq!(group_kernels(&narrow).unwrap().len(), group_kernels(&graph).unwrap().len());
    let (before, after) = (run(&graph, 24), run(&narrow, 24));
    // two values are rounded on the way, each element by at most 2^-9 of itself
    let difference = difference(&before, &after);
    assert!(difference > 0.0 && difference < 1.0 / 256.0, "{difference}");
}

/// An embedding of `n` columns, a norm, and two products behind it.
fn start(n: usize) -> Graph {
    let mut g = Graph::new("start");
    let ids = g.add_leaf(Leaf::Input, "ids", Type::tensor(Place::Mem, Rows::Tokens, 1, Elem::I32)).unwrap();
    let table = g.add_leaf(Leaf::Weight, "table", Type::weight(5, n, Elem::Bf16)).unwrap();
    let hidden = g.add(Embed {}, &[table, ids]).unwrap();
    let gain = g.add_leaf(Leaf::Weight, "gain", Type::weight(1, n, Elem::F32)).unwrap();
    let grid = g.add(SweepNorm { eps: 1e-6.into() }, &[hidden, gain]).unwrap();
    let w = g.add_leaf(Leaf::Weight, "w", Type::weight(n, n, Elem::Bf16)).unwrap();
    let y = g.add(Acc {}, &[grid, w]).unwrap();
    let y = g.add(Add {}, &[y, hidden]).unwrap();
    let y = g.add(Store {}, &[y]).unwrap();
    g.output(OutputKind::Return, "y", y);
    g.output(OutputKind::Probe, "embedded", hidden);
    g
}

#[test]
fn an_embedding_leaves_what_a_norm_needs() {
    let graph = start(24);
    let narrow = rounded(&looked_up(&graph).unwrap()).unwrap();
    verify(&narrow).unwrap();
    assert_eq!(
        ["embed", "lookup", "round_bf16", "store_squares", "sweep_scaled", "sweep_norm"].map(|op| count(&narrow, op)),
        [0, 1, 1, 1, 1, 0]
    );
    assert_eq!(group_kernels(&narrow).unwrap().len(), group_kernels(&graph).unwrap().len());
    let difference = difference(&run(&graph, 24), &run(&narrow, 24));
    assert!(difference > 0.0 && difference < 1.0 / 256.0, "{difference}");
}

#[test]
fn results_and_odd_rows_stay_as_they_are() {
    let probed = rounded(&block(24, true)).unwrap();
    assert_eq!(["round_bf16", "sweep_scaled"].map(|op| count(&probed, op)), [1, 1]);
    assert_eq!(rounded(&block(12, false)).unwrap().to_string(), block(12, false).to_string());
}
