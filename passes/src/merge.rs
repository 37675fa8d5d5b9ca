//! Behind extraction: an update that only moves rows of a state becomes part of the kernel that reads the state.
//!
//! As a rule this would need the grid of another class on its right side, and the order of launch decides whether it may fire at all. On the
//! chosen graph both are plain.

use crate::cost::{CostModel, Layout, Price, Work};
use jet_ir::ops::{Load, StoreRing};
use jet_ir::{Graph, Group, Id, Leaf, Op, Output, OutputKind, Type, group_kernels};

/// The time of a plan in a phase: the sum of its kernels. Nothing if the target lacks a kernel.
pub fn plan_ps(graph: &Graph, groups: &[Group], cost: &dyn CostModel) -> Option<u64> {
    groups.iter().map(|group| kernel_ps(graph, group, cost)).sum()
}

fn kernel_ps(graph: &Graph, group: &Group, cost: &dyn CostModel) -> Option<u64> {
    let mut sum = Price::default();
    for &id in &group.nodes {
        let Some(op) = graph.op(id) else { continue };
        let args: Vec<Type> = graph.node(id).args.iter().map(|a| graph.ty(*a)).collect();
        let matrix = match op {
            Op::Acc(_) | Op::Matmul(_) => Some(graph.node(id).args[1]),
            _ => None,
        };
        let layout = matrix.map(|w| graph.op(w).and_then(Layout::of).unwrap_or(Layout::Rows));
        sum += cost.price(&Work { op, result: graph.ty(id), args: &args, layout })?;
    }
    Some(cost.kernel_ps(&sum))
}

/// Merges each `ring_push` with the kernel that reads the ring, where that is one kernel and cheaper.
///
/// Legal is a merge if one kernel alone reads the old rows, and reads the new ones beside them: then every element of the state belongs to the
/// thread, or the few threads, that have read it, and nobody else can see when it changes. A kernel that waits for itself is no plan.
///
/// Gives the graph and the picoseconds that it saves.
pub fn merge_updates(mut graph: Graph, cost: &dyn CostModel) -> (Graph, u64) {
    let mut saved = 0;
    for at in 0..graph.outputs.len() {
        let Some(merged) = merged(&graph, at) else { continue };
        let time = |g: &Graph| group_kernels(g).ok().and_then(|groups| plan_ps(g, &groups, cost));
        let less = time(&merged).zip(time(&graph)).and_then(|(after, before)| before.checked_sub(after));
        if let Some(less) = less.filter(|less| *less > 0) {
            saved += less;
            graph = merged;
        }
    }
    (graph, saved)
}

/// The graph with the update that is output `at` stored by the kernel that reads its state; nothing if there is no such update or kernel.
fn merged(graph: &Graph, at: usize) -> Option<Graph> {
    let Output { kind: OutputKind::Update, value: push, .. } = graph.outputs[at] else { return None };
    let Some(Op::RingPush(op)) = graph.op(push) else { return None };
    let [old, new] = graph.node(push).args[..] else { return None };
    let users = |id: Id| graph.ids().filter(move |user| graph.node(*user).args.contains(&id));
    let mut readers = users(old).filter(|user| *user != push);
    let (Some(reader), None) = (readers.next(), readers.next()) else { return None };
    let beside = graph.node(reader).args.contains(&new);
    let last = users(push).next().is_none() && graph.outputs.iter().filter(|o| o.value == push).count() == 1;
    if !beside || !last || !matches!(graph.leaf(old), Some((Leaf::State, _))) {
        return None;
    }
    let grid = jet_ir::owners(graph).ok()?[reader.index()].filter(|g| matches!(graph.ty(*g), Type::Grid { .. }))?;
    let mut out = graph.clone();
    let load = out.add(Load {}, &[grid, new]).ok()?;
    let store = out.add(StoreRing { taps: op.taps }, &[old, load]).ok()?;
    out.outputs[at].value = store;
    Some(without(&out, push))
}

/// The graph without a node that nobody uses.
fn without(graph: &Graph, gone: Id) -> Graph {
    let moved = |id: Id| if id > gone { Id(id.0 - 1) } else { id };
    let mut out = graph.clone();
    out.nodes.remove(gone.index());
    out.nodes.iter_mut().flat_map(|node| &mut node.args).for_each(|arg| *arg = moved(*arg));
    out.outputs.iter_mut().for_each(|output| output.value = moved(output.value));
    out
}
