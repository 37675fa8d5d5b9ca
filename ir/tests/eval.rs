//! Evaluation of whole graphs: chunks, states, weights on demand, and what is refused.

use jet_ir::ops::{Add, Embed, Exp, KvAppend, Matmul, Neg, RingPush, ScaleCols};
use jet_ir::{
    Bindings, Elem, Graph, Leaf, Manner, Mat, Named, OutputKind, Place, Rows, Sequence, Type, eval, fresh_states,
    rope_table,
};
use std::cell::RefCell;

fn named<const N: usize>(entries: [(&str, Mat<f32>); N]) -> Named<f32> {
    entries.into_iter().map(|(name, mat)| (name.to_string(), mat)).collect()
}

fn mat(rows: usize, cols: usize, data: &[f32]) -> Mat<f32> {
    Mat { rows, cols, data: data.to_vec() }
}

/// `x W^T * -exp(a)`, a ring of the last two rows and a cache of all rows.
fn graph() -> Graph {
    let mut g = Graph::new("test");
    let x = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 2)).unwrap();
    let w = g.add_leaf(Leaf::Weight, "w", Type::weight(2, 2, Elem::F32)).unwrap();
    let a = g.add_leaf(Leaf::Weight, "a", Type::weight(1, 2, Elem::F32)).unwrap();
    let ring = g.add_leaf(Leaf::State, "ring", Type::mem(Rows::Fixed(2), 2)).unwrap();
    let cache = g.add_leaf(Leaf::State, "cache", Type::mem(Rows::Context, 2)).unwrap();
    let rate = g.add(Exp {}, &[a]).unwrap();
    let rate = g.add(Neg {}, &[rate]).unwrap();
    let y = g.add(Matmul {}, &[x, w]).unwrap();
    let z = g.add(ScaleCols {}, &[y, rate]).unwrap();
    let ring = g.add(RingPush { taps: 2 }, &[ring, y]).unwrap();
    let cache = g.add(KvAppend {}, &[cache, y]).unwrap();
    g.output(OutputKind::Return, "z", z);
    g.output(OutputKind::Return, "rate", rate);
    g.output(OutputKind::Probe, "y", y);
    g.output(OutputKind::Update, "ring", ring);
    g.output(OutputKind::Update, "cache", cache);
    g
}

fn weights(name: &str, _: Type) -> Result<Mat<f32>, String> {
    match name {
        "w" => Ok(mat(2, 2, &[1.0, 2.0, 3.0, 4.0])),
        "a" => Ok(mat(1, 2, &[0.0, 2f32.ln()])),
        _ => Err("found no such tensor".into()),
    }
}

#[test]
fn a_sequence_carries_its_states_from_chunk_to_chunk() {
    let g = graph();
    let mut sequence = Sequence::new(&g);
    let first = sequence.feed(1, &named([("x", mat(1, 2, &[1.0, 0.0]))]), &weights).unwrap();
    assert_eq!(first.probes["y"].data, [1.0, 3.0]);
    assert_eq!(first.returns["z"].data, [-1.0, -6.0]);
    assert_eq!(first.returns["rate"].data, [-1.0, -2.0]);
    assert_eq!(sequence.states()["ring"].data, [0.0, 0.0, 1.0, 3.0]);
    let x = mat(3, 2, &[0.0, 1.0, 1.0, 1.0, 2.0, 0.0]);
    sequence.feed(3, &named([("x", x)]), &weights).unwrap();
    assert_eq!(sequence.states()["ring"].data, [3.0, 7.0, 2.0, 6.0]);
    assert_eq!(sequence.states()["cache"], mat(4, 2, &[1.0, 3.0, 2.0, 4.0, 3.0, 7.0, 2.0, 6.0]));
    assert_eq!(sequence.position(), 4);
}

#[test]
fn weights_are_fetched_when_needed_and_only_then() {
    let g = graph();
    let asked = RefCell::new(Vec::new());
    let spy = |name: &str, ty: Type| {
        asked.borrow_mut().push(format!("{name}: {ty}"));
        weights(name, ty)
    };
    let inputs = named([("x", mat(1, 2, &[1.0, 0.0]))]);
    let bindings = Bindings { inputs: &inputs, states: &fresh_states(&g), weights: &spy };
    eval(&g, &bindings, 1).unwrap();
    // `w` by the product, `a` by `scale_cols`, and again for the returned rate
    assert_eq!(asked.take(), ["w: const f32[2, 2]", "a: const f32[1, 2]", "a: const f32[1, 2]"]);
}

#[test]
fn values_that_do_not_fit_their_leaves_are_refused() {
    let g = graph();
    let refused = |inputs: Named<f32>, states: Named<f32>, tokens: usize| {
        let bindings = Bindings { inputs: &inputs, states: &states, weights: &weights };
        eval(&g, &bindings, tokens).unwrap_err().to_string()
    };
    let x = || named([("x", mat(1, 2, &[1.0, 0.0]))]);
    assert_eq!(refused(named([]), fresh_states(&g), 1), "input \"x\": found no value, expected f32[T, 2]");
    assert_eq!(refused(x(), fresh_states(&g), 2), "input \"x\": found [1, 2], expected f32[T, 2] for 2 tokens");
    let mut states = fresh_states(&g);
    states.insert("ring".into(), mat(1, 2, &[0.0, 0.0]));
    assert_eq!(refused(x(), states, 1), "state \"ring\": found [1, 2], expected f32[2, 2] for 1 tokens");
    let none = |_: &str, _: Type| Err("found no such tensor".to_string());
    let bindings = Bindings { inputs: &x(), states: &fresh_states(&g), weights: &none };
    assert_eq!(eval(&g, &bindings, 1).unwrap_err().to_string(), "weight \"w\": found no such tensor");
}

/// Users of a probed value go on with the one given; the probe holds what was computed.
#[test]
fn a_given_value_takes_the_place_of_a_probe() {
    let g = graph();
    let inputs = named([("x", mat(1, 2, &[1.0, 0.0]))]);
    let feed = |name: &str, given: Mat<f32>| {
        let manner = Manner { given: named([(name, given)]), ..Manner::default() };
        Sequence::new(&g).feed_as(1, &inputs, &weights, &manner).map_err(|e| e.to_string())
    };
    let results = feed("y", mat(1, 2, &[5.0, 7.0])).unwrap();
    assert_eq!(results.probes["y"].data, [1.0, 3.0]);
    assert_eq!(results.returns["z"].data, [-5.0, -14.0]);
    assert_eq!(results.states["ring"].data, [0.0, 0.0, 5.0, 7.0]);
    assert_eq!(feed("z", mat(1, 2, &[0.0; 2])).unwrap_err(), "given \"z\": found no such probe");
    assert_eq!(feed("y", mat(2, 1, &[0.0; 2])).unwrap_err(), "given \"y\": found [2, 1], expected [1, 2]");
}

#[test]
fn ids_outside_the_table_and_caches_of_different_lengths_are_refused() {
    let mut g = Graph::new("ids");
    let ids = g.add_leaf(Leaf::Input, "ids", Type::tensor(Place::Mem, Rows::Tokens, 1, Elem::I32)).unwrap();
    let table = g.add_leaf(Leaf::Weight, "table", Type::weight(2, 1, Elem::F32)).unwrap();
    let embedded = g.add(Embed {}, &[table, ids]).unwrap();
    g.output(OutputKind::Return, "embedded", embedded);
    let table = |_: &str, _: Type| Ok(mat(2, 1, &[5.0, 6.0]));
    for (id, expected) in [(1.0, Ok(6.0)), (2.0, Err("2.0")), (-1.0, Err("-1.0")), (f32::NAN, Err("NaN"))] {
        let results = Sequence::new(&g).feed(1, &named([("ids", mat(1, 1, &[id]))]), &table);
        match expected {
            Ok(value) => assert_eq!(results.unwrap().returns["embedded"].data, [value]),
            Err(id) => {
                let message = format!("%2 embed: found id {id}, expected less than 2");
                assert_eq!(results.unwrap_err().to_string(), message);
            }
        }
    }
    let mut g = Graph::new("caches");
    let [a, b] = ["a", "b"].map(|name| g.add_leaf(Leaf::State, name, Type::mem(Rows::Context, 1)).unwrap());
    let sum = g.add(Add {}, &[a, b]).unwrap();
    g.output(OutputKind::Return, "sum", sum);
    let states = named([("a", mat(1, 1, &[0.0])), ("b", mat(2, 1, &[0.0, 0.0]))]);
    let bindings = Bindings { inputs: &named([]), states: &states, weights: &weights };
    let message = "%2 add: found operands of {1, 2} rows of context, expected equal numbers";
    assert_eq!(eval(&g, &bindings, 1).unwrap_err().to_string(), message);
}

#[test]
fn the_rotary_table_rounds_its_angles_to_f32() {
    let table = rope_table::<f64>(3, 2, &[1.0, 0.1]);
    assert_eq!((table.rows, table.cols), (2, 4));
    let angle = 4f32 * 0.1f32;
    assert_eq!(table.row(1), [4f32.cos(), angle.cos(), 4f32.sin(), angle.sin()].map(f64::from));
}

#[test]
fn equal_nodes_are_one_also_after_nodes_were_added_by_hand() {
    let mut g = Graph::new("shared");
    let x = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 2)).unwrap();
    let negated = g.add(Neg {}, &[x]).unwrap();
    let mut node = g.node(negated).clone();
    node.args = vec![negated];
    g.nodes.push(node);
    assert_eq!(g.add(Neg {}, &[negated]).unwrap().0, 2);
    assert_eq!(g.add(Neg {}, &[x]).unwrap(), negated);
    g.nodes[1].kind = jet_ir::NodeKind::Op(Exp {}.into());
    let again = g.add(Neg {}, &[x]).unwrap();
    assert_eq!((again.0, g.nodes.len()), (3, 4));
    let error = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 3)).unwrap_err();
    assert_eq!(error, "input `x` declared as f32[T, 3] and as f32[T, 2]");
}

/// A linear search would need some 10^10 comparisons here.
#[test]
fn a_large_graph_is_built_quickly() {
    let mut g = Graph::new("large");
    let mut at = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 2)).unwrap();
    for _ in 0..200_000 {
        at = g.add(Neg {}, &[at]).unwrap();
    }
    assert_eq!(g.nodes.len(), 200_001);
}
