//! Kernels of a fused graph as text: what each sweeps, and every result as a term over its registers.

use crate::fuse::Fused;
use jet_ir::{Elem, Graph, Group, Id, NodeKind, Place};
use std::collections::HashMap;
use std::fmt::Write;

/// The kernels in the order of launch. Values between kernels are named `k3.0`, the first result of kernel 3; `_` is the kernel's own grid.
/// Results that are rounded where they are stored have the type behind them.
pub fn listing(fused: &Fused) -> String {
    let mut text = String::new();
    let mut names: HashMap<Id, String> = HashMap::new();
    for group in &fused.groups {
        names.extend(group.stores.iter().enumerate().map(|(i, s)| (*s, format!("k{}.{i}", group.id))));
    }
    for group in &fused.groups {
        let head = group.grid.unwrap_or(group.nodes[0]);
        let _ = writeln!(text, "k{:<3} {}", group.id, term(&fused.graph, group, &names, head, true));
        for store in group.stores.iter().filter(|s| **s != head) {
            let (value, stored) = (term(&fused.graph, group, &names, *store, true), stored_as(&fused.graph, *store));
            let _ = writeln!(text, "       {:7} {value}{stored}{}", names[store], output_name(&fused.graph, *store));
        }
        if group.grid.is_none() && !output_name(&fused.graph, head).is_empty() {
            let _ = writeln!(text, "       {:7}{}", names[&head], output_name(&fused.graph, head));
        }
    }
    text
}

/// ` : bf16`, the type of a result that is not stored as it is computed.
fn stored_as(graph: &Graph, id: Id) -> String {
    graph.ty(id).elem().filter(|e| *e == Elem::Bf16).map(|e| format!(" : {}", e.name())).unwrap_or_default()
}

/// ` = layers.3.keys`, the outputs that a value is.
fn output_name(graph: &Graph, id: Id) -> String {
    graph.outputs.iter().filter(|o| o.value == id).map(|o| format!("  => {} {}", o.kind.name(), o.name)).collect()
}

/// A value as a term; `top` expands it even if it has a name.
fn term(graph: &Graph, group: &Group, names: &HashMap<Id, String>, id: Id, top: bool) -> String {
    if !top && group.grid == Some(id) {
        return "_".into();
    }
    if !top
        && graph.ty(id).place() == Some(Place::Mem)
        && let Some(name) = names.get(&id)
    {
        return name.clone();
    }
    match &graph.node(id).kind {
        NodeKind::Leaf(_, name) => name.clone(),
        NodeKind::Op(op) => {
            let args = graph.node(id).args.iter().map(|a| term(graph, group, names, *a, false));
            let attrs = op.info().attrs.iter().zip(op.attrs()).map(|(name, value)| format!("{name}={value}"));
            format!("{}({})", op.info().name, args.chain(attrs).collect::<Vec<_>>().join(", "))
        }
    }
}
