//! How many kernels a graph is, and how many bytes they move through memory. The same count serves the unfused and the fused graph.

use crate::cost::Phase;
use jet_ir::{Graph, Group, Id, Leaf, Op, OutputKind, Rows, Type};

/// Kernels and the bytes that they read and write in one run of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Kernels.
    pub kernels: usize,
    /// Weights read.
    pub weight_bytes: u64,
    /// Activations and inputs read and written.
    pub activation_bytes: u64,
    /// States read and written, key-value caches included.
    pub state_bytes: u64,
}

impl Traffic {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.weight_bytes + self.activation_bytes + self.state_bytes
    }
}

/// What the kernels of a graph move in one run.
pub fn traffic(graph: &Graph, groups: &[Group], phase: &Phase) -> Traffic {
    let mut sum = Traffic { kernels: groups.len(), ..Traffic::default() };
    for group in groups {
        for &weight in &group.weights {
            sum.weight_bytes += match gathered(graph, group, weight) {
                Some(rows) => (row_bytes(graph.ty(weight)) * tensor_rows(rows, phase)) as u64,
                None => bytes(graph.ty(weight), phase) as u64,
            };
        }
        for &input in &group.inputs {
            let read = read_bytes(graph, group, input, phase) as u64;
            *(if is_state(graph, input) { &mut sum.state_bytes } else { &mut sum.activation_bytes }) += read;
        }
        for &store in &group.stores {
            let written = written_bytes(graph, store, phase) as u64;
            *(if is_state(graph, store) { &mut sum.state_bytes } else { &mut sum.activation_bytes }) += written;
        }
    }
    sum
}

/// The rows that an embedding picks from a table; nothing for a weight that is read as a whole.
fn gathered(graph: &Graph, group: &Group, weight: Id) -> Option<Rows> {
    let picks = |n: &&Id| matches!(graph.op(**n), Some(Op::Embed(_) | Op::Lookup(_)));
    let args = &graph.node(*group.nodes.iter().find(picks)?).args;
    (args[0] == weight).then(|| graph.ty(args[1]).rows()).flatten()
}

fn is_state(graph: &Graph, id: Id) -> bool {
    matches!(graph.leaf(id), Some((Leaf::State, _)))
        || graph.outputs.iter().any(|o| o.kind == OutputKind::Update && o.value == id)
}

fn row_bytes(ty: Type) -> usize {
    ty.elem().map_or(0, |e| e.row_bytes(ty.cols()))
}

fn tensor_rows(rows: Rows, phase: &Phase) -> usize {
    match rows {
        Rows::Tokens => phase.rows(),
        Rows::Context => phase.sequences * phase.context,
        Rows::Fixed(n) => n,
    }
}

fn bytes(ty: Type, phase: &Phase) -> usize {
    ty.rows().map_or(0, |rows| tensor_rows(rows, phase)) * row_bytes(ty)
}

/// Bytes of a value in memory: a state exists once for each sequence.
fn value_bytes(ty: Type, phase: &Phase) -> usize {
    let each = if matches!(ty.rows(), Some(Rows::Fixed(_))) { phase.sequences } else { 1 };
    bytes(ty, phase) * each
}

/// What a group reads of an input: nothing of a cache that it only appends to, of a windowed cache no more than the window.
fn read_bytes(graph: &Graph, group: &Group, input: Id, phase: &Phase) -> usize {
    let mut most = 0;
    for &node in group.nodes.iter().filter(|n| graph.node(**n).args.contains(&input)) {
        let ty = graph.ty(input);
        let window = match graph.op(node) {
            Some(Op::Attention(op)) => op.window,
            Some(Op::AttentionParts(op)) => op.window,
            _ => 0,
        };
        most = most.max(match graph.op(node) {
            Some(Op::KvAppend(_) | Op::StoreKv(_)) if graph.node(node).args[0] == input => 0,
            _ if ty.rows() == Some(Rows::Context) && window > 0 => {
                let rows = (window + phase.tokens - 1).min(phase.context);
                phase.sequences * rows * row_bytes(ty)
            }
            _ => value_bytes(ty, phase),
        });
    }
    most
}

/// What a store writes: of a cache only the new rows.
fn written_bytes(graph: &Graph, store: Id, phase: &Phase) -> usize {
    let node = graph.node(store);
    match graph.op(store) {
        Some(Op::KvAppend(_) | Op::StoreKv(_)) => phase.rows() * row_bytes(node.ty),
        _ => value_bytes(node.ty, phase),
    }
}
