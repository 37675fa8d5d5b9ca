//! Plans of small programs, and faults that the validator must see.

use super::*;
use jet_ir::group::group_kernels;
use jet_ir::ops::{Add, RingPush, RowMs, Silu};

/// A chain `x -> a -> b -> c` in which `a` is needed again at the end, and a state that is pushed.
fn graph() -> Graph {
    let mut g = Graph::new("chain");
    let ring = g.add_leaf(Leaf::State, "layers.0.conv", Type::mem(Rows::Fixed(2), 8)).expect("leaf");
    let x = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 8)).expect("leaf");
    let a = g.add(Silu {}, &[x]).expect("silu");
    let b = g.add(Silu {}, &[a]).expect("silu");
    let c = g.add(Silu {}, &[b]).expect("silu");
    let d = g.add(Add {}, &[c, a]).expect("add");
    let pushed = g.add(RingPush { taps: 2 }, &[ring, d]).expect("push");
    let ms = g.add(RowMs {}, &[d]).expect("row_ms");
    g.output(OutputKind::Probe, "layer_hidden.0", d);
    g.output(OutputKind::Update, "layers.0.conv", pushed);
    g.output(OutputKind::Return, "logits", ms);
    g
}

const ROWS: RowLimits = RowLimits { tokens: 16, head: 4 };

#[test]
fn buffers_share_when_nobody_needs_both() {
    let graph = graph();
    let groups = group_kernels(&graph).expect("groups");
    let plan = plan_memory(&graph, &groups, ROWS).expect("plan");
    validate(&graph, &groups, &plan).expect("valid");
    let row = 16 * 8 * 4;
    assert_eq!(plan.unshared_bytes, 4 * row + 64);
    assert_eq!(plan.arena_bytes, 3 * row);
    assert_eq!(plan.domains.iter().filter(|d| **d == Domain::Head).count(), 1);
}

#[test]
fn planted_faults_are_found() {
    let graph = graph();
    let groups = group_kernels(&graph).expect("groups");
    let plan = plan_memory(&graph, &groups, ROWS).expect("plan");
    let n = plan.buffers.len();
    for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|(i, j)| i != j) {
        let mut bad = plan.clone();
        bad.buffers[i].offset = plan.buffers[j].offset;
        bad.arena_bytes += 4096;
        let moved = &bad.buffers[i];
        let clashes = |b: &Buffer| {
            let together = moved.first <= b.last && b.first <= moved.last;
            together && moved.offset < b.offset + b.bytes && b.offset < moved.offset + moved.bytes
        };
        let expected = bad.buffers.iter().any(|b| b.value != moved.value && clashes(b));
        assert_eq!(validate(&graph, &groups, &bad).is_err(), expected, "{} at {}", moved.name, moved.offset);
    }
    let mut outside = plan.clone();
    outside.arena_bytes -= 64;
    assert!(validate(&graph, &groups, &outside).is_err());
    let mut crooked = plan.clone();
    crooked.buffers[0].offset += 4;
    assert!(validate(&graph, &groups, &crooked).is_err());
}

#[test]
fn a_state_is_read_before_it_is_overwritten() {
    let mut graph = graph();
    let ring = graph.ids().find(|id| graph.leaf(*id).is_some_and(|(l, _)| l == Leaf::State)).expect("ring");
    let ms = graph.add(RowMs {}, &[ring]).expect("row_ms");
    graph.output(OutputKind::Probe, "layer_hidden.1", ms);
    let mut groups = group_kernels(&graph).expect("groups");
    let reader = groups.iter().position(|g| g.inputs.contains(&ring) && g.updates.is_empty()).expect("reader");
    let writer = groups.iter().position(|g| !g.updates.is_empty()).expect("writer");
    assert!(reader < writer);
    let plan_of = |groups: &[Group]| {
        let buffers = vec![];
        MemoryPlan { buffers, domains: vec![Domain::Tokens; groups.len()], arena_bytes: 0, unshared_bytes: 0 }
    };
    let complaints = |groups: &[Group]| validate(&graph, groups, &plan_of(groups)).expect_err("no buffers");
    let old = |faults: &[String]| faults.iter().any(|f| f.contains("reads the old state"));
    assert!(!old(&complaints(&groups)));
    groups.swap(reader, writer);
    groups.iter_mut().enumerate().for_each(|(i, g)| g.id = i);
    assert!(old(&complaints(&groups)));
}
