//! Any bytes as a `.jir` file: errors have places, and a graph that is read is printed, read back, grouped and evaluated without a panic.

#![no_main]

use jet_ir::{Graph, Leaf, Mat, Named, Rows, Sequence, Type, group_kernels, read, read_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match read_bytes("f", bytes) {
        Ok(graph) => valid(&graph),
        Err(errors) => {
            assert!(!errors.list.is_empty());
            assert!(errors.list.iter().all(|e| e.position.line >= 1 && e.position.column >= 1));
        }
    }
});

fn valid(graph: &Graph) {
    let printed = graph.to_string();
    let again = read("printed", &printed).expect("a printed graph can be read");
    assert_eq!(again, *graph);
    assert_eq!(again.to_string(), printed);
    let _ = group_kernels(graph);
    if small(graph) {
        evaluate(graph);
    }
}

/// Whether evaluation takes little time and memory.
fn small(graph: &Graph) -> bool {
    let elements = |ty: Type| match ty {
        Type::Tensor { rows: Rows::Fixed(rows), cols, .. } => rows.saturating_mul(cols),
        Type::Tensor { cols, .. } | Type::Grid { cols, .. } => cols.saturating_mul(4),
    };
    graph.nodes.len() < 100 && graph.ids().all(|id| elements(graph.ty(id)) < 1000)
}

fn evaluate(graph: &Graph) {
    let zeros = |ty: Type, tokens: usize| match ty.rows() {
        Some(Rows::Fixed(rows)) => Mat::<f32>::zeros(rows, ty.cols()),
        _ => Mat::zeros(tokens, ty.cols()),
    };
    let mut sequence = Sequence::new(graph);
    for tokens in [1, 3] {
        let mut inputs = Named::new();
        for id in graph.ids() {
            if let Some((Leaf::Input, name)) = graph.leaf(id) {
                inputs.insert(name.to_string(), zeros(graph.ty(id), tokens));
            }
        }
        let _ = sequence.feed(tokens, &inputs, &|_, ty| Ok(zeros(ty, 0)));
    }
}
