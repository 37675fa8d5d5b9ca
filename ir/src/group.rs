//! Kernels of a fused graph: every grid with all that hangs on it is one kernel, and so is every memory op that no grid absorbed.
//!
//! States are updated in place, so besides the dependences of values the order of launch obeys *anti-dependences*: whoever reads the old
//! content of a state runs before the kernel that overwrites it.

use crate::graph::{Graph, Id, Leaf, OutputKind};
use crate::ops::Sort;
use crate::types::Place;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use std::collections::{BTreeMap, BTreeSet};

/// One kernel of a fused graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Position in the order of launch.
    pub id: usize,
    /// The grid; none for a memory op that is a kernel by itself.
    pub grid: Option<Id>,
    /// All its nodes, operands before users: the grid, register values, stores and projections; or the one memory op.
    pub nodes: Vec<Id>,
    /// Of these, its results in memory: stores, `get0` and `get1`, or the one memory op. New contents of states are among them.
    pub stores: Vec<Id>,
    /// What it reads from memory, in the order of first use: inputs, states, results of earlier kernels.
    pub inputs: Vec<Id>,
    /// What it reads of weights, in the order of first use: the outermost terms that are known at compile time (`pack_panel(w)`, `neg(exp(w))`,
    /// a leaf).
    pub weights: Vec<Id>,
    /// States that it overwrites in place: the leaf, and the store among [`Group::stores`] that is its new content.
    pub updates: Vec<(Id, Id)>,
    /// Earlier kernels that must have run: producers of what it reads, readers of what it overwrites.
    pub after: Vec<usize>,
}

/// Why a graph is no sequence of kernels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// A register value or store that belongs to no grid or to several.
    #[error("%{node}: `{op}` must work on the registers of one grid, found {found}")]
    Grids {
        /// Index of the node.
        node: usize,
        /// Name of its op.
        op: &'static str,
        /// Number of grids.
        found: usize,
    },
    /// Kernels that wait for each other.
    #[error("no order of launch: kernels wait for each other or overwrite a state too early: {0}")]
    Order(String),
}

/// The kernel that each node belongs to, named by its grid or by the memory op itself; leaves and constants belong to none.
///
/// # Errors
/// A register value or store over no grid or over several.
pub fn owners(graph: &Graph) -> Result<Vec<Option<Id>>, GroupError> {
    let mut owner: Vec<Option<Id>> = vec![None; graph.nodes.len()];
    for id in graph.ids() {
        let Some(op) = graph.op(id) else { continue };
        let ty = graph.ty(id);
        if ty.is_const() {
            continue;
        }
        let member = ty.place() == Some(Place::Reg) || matches!(op.sort(), Sort::Store | Sort::Project);
        owner[id.index()] = if member {
            let args = graph.node(id).args.iter().filter(|a| in_kernel(graph, **a));
            let grids: BTreeSet<Id> = args.filter_map(|a| owner[a.index()]).collect();
            if grids.len() != 1 {
                return Err(GroupError::Grids { node: id.index(), op: op.info().name, found: grids.len() });
            }
            grids.first().copied()
        } else {
            Some(id)
        };
    }
    Ok(owner)
}

/// Whether a value never leaves its kernel.
fn in_kernel(graph: &Graph, id: Id) -> bool {
    matches!(graph.ty(id).place(), None | Some(Place::Reg))
}

/// The kernels of a fused graph in an order in which they can be launched one after the other. Among those that are ready, one that only
/// updates states goes first, since it frees its inputs; then the order of the graph decides.
///
/// # Errors
/// The graph is no sequence of kernels.
pub fn group_kernels(graph: &Graph) -> Result<Vec<Group>, GroupError> {
    let owner = owners(graph)?;
    let mut groups: Vec<Group> = vec![];
    let mut number: BTreeMap<Id, usize> = BTreeMap::new();
    for id in graph.ids() {
        let Some(key) = owner[id.index()] else { continue };
        let at = *number.entry(key).or_insert_with(|| {
            let grid = (graph.op(key).map(|op| op.sort()) == Some(Sort::Grid)).then_some(key);
            groups.push(Group { id: groups.len(), grid, ..Group::default() });
            groups.len() - 1
        });
        add_node(graph, &mut groups[at], id);
    }
    connect(graph, &owner, &number, &mut groups);
    launch_order(graph, groups)
}

fn add_node(graph: &Graph, group: &mut Group, id: Id) {
    group.nodes.push(id);
    if graph.ty(id).place() == Some(Place::Mem) {
        group.stores.push(id);
    }
    for &arg in &graph.node(id).args {
        let list = match graph.ty(arg).place() {
            Some(Place::Mem) => &mut group.inputs,
            Some(Place::Const | Place::Packed) => &mut group.weights,
            Some(Place::Reg) | None => continue,
        };
        if !list.contains(&arg) {
            list.push(arg);
        }
    }
}

/// Fills in which states a kernel overwrites and which kernels it has to wait for.
fn connect(graph: &Graph, owner: &[Option<Id>], number: &BTreeMap<Id, usize>, groups: &mut [Group]) {
    let group_of = |id: Id| owner[id.index()].map(|key| number[&key]);
    let mut readers: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
    for group in groups.iter_mut() {
        for input in &group.inputs {
            readers.entry(*input).or_default().push(group.id);
            group.after.extend(group_of(*input));
        }
    }
    for output in graph.outputs.iter().filter(|o| o.kind == OutputKind::Update) {
        let Some(writer) = group_of(output.value) else { continue };
        let state = graph.ids().find(|id| graph.leaf(*id) == Some((Leaf::State, &output.name)));
        let Some(state) = state else { continue };
        groups[writer].updates.push((state, output.value));
        let earlier = readers.get(&state).into_iter().flatten().filter(|r| **r != writer);
        groups[writer].after.extend(earlier);
    }
    for group in groups {
        group.after.sort_unstable();
        group.after.dedup();
    }
}

/// Who waits for whom: an edge leads from a kernel to each that has to run after it; nodes are numbered as the kernels.
pub fn dependencies(graph: &Graph, groups: &[Group]) -> DiGraph<String, ()> {
    let mut waiting = DiGraph::new();
    let nodes: Vec<_> = groups.iter().map(|g| waiting.add_node(describe(graph, g))).collect();
    for group in groups {
        for &earlier in &group.after {
            waiting.add_edge(nodes[earlier], nodes[group.id], ());
        }
    }
    waiting
}

fn launch_order(graph: &Graph, groups: Vec<Group>) -> Result<Vec<Group>, GroupError> {
    let waiting = dependencies(graph, &groups);
    let users = |g: usize| waiting.neighbors(NodeIndex::new(g)).map(NodeIndex::index);
    let mut waits: Vec<usize> = groups.iter().map(|g| g.after.len()).collect();
    let sink = |g: usize| !groups[g].updates.is_empty() && users(g).next().is_none();
    let mut ready: BTreeSet<(bool, usize)> =
        (0..groups.len()).filter(|g| waits[*g] == 0).map(|g| (!sink(g), g)).collect();
    let mut order = vec![];
    while let Some((_, g)) = ready.pop_first() {
        order.push(g);
        for user in users(g) {
            waits[user] -= 1;
            if waits[user] == 0 {
                ready.insert((!sink(user), user));
            }
        }
    }
    if order.len() < groups.len() {
        // a kernel that waits for itself is a cycle of its own
        let circle = |nodes: &Vec<NodeIndex>| nodes.len() > 1 || waiting.contains_edge(nodes[0], nodes[0]);
        let stuck = tarjan_scc(&waiting).into_iter().find(circle).unwrap_or_default();
        let mut stuck: Vec<usize> = stuck.into_iter().map(NodeIndex::index).collect();
        stuck.sort_unstable();
        let names: Vec<String> = stuck.iter().map(|&g| describe(graph, &groups[g])).collect();
        return Err(GroupError::Order(names.join("; ")));
    }
    let mut place = vec![0; groups.len()];
    order.iter().enumerate().for_each(|(at, &g)| place[g] = at);
    let mut groups = groups;
    groups.sort_by_key(|g| place[g.id]);
    for (at, group) in groups.iter_mut().enumerate() {
        group.id = at;
        group.after.iter_mut().for_each(|a| *a = place[*a]);
        group.after.sort_unstable();
    }
    Ok(groups)
}

/// `%12 sweep_norm -> %14, %17`: the node that names a kernel, and its results.
pub fn describe(graph: &Graph, group: &Group) -> String {
    let head = group.grid.unwrap_or(group.nodes[0]);
    let name = graph.op(head).map_or("leaf", |op| op.info().name);
    let results: Vec<String> = group.stores.iter().map(|s| s.to_string()).collect();
    format!("{head} {name} -> {}", results.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::*;
    use crate::types::{Elem, Rows, Type};

    /// `v = x wv^T`; a dynamic convolution over the old ring; the ring's update as `store_ring` on the first product or as `ring_push`.
    fn conv(early: bool) -> Graph {
        let mut g = Graph::new("conv");
        let x = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 4)).unwrap();
        let ring = g.add_leaf(Leaf::State, "layers.0.conv", Type::mem(Rows::Fixed(3), 2)).unwrap();
        let wv = g.add_leaf(Leaf::Weight, "wv", Type::weight(2, 4, Elem::Bf16)).unwrap();
        let wk = g.add_leaf(Leaf::Weight, "wk", Type::weight(6, 4, Elem::Bf16)).unwrap();
        let sweep = g.add(Sweep {}, &[x]).unwrap();
        let acc = g.add(Acc {}, &[sweep, wv]).unwrap();
        let v = g.add(Store {}, &[acc]).unwrap();
        let push =
            if early { g.add(StoreRing { taps: 3 }, &[ring, acc]) } else { g.add(RingPush { taps: 3 }, &[ring, v]) };
        let h = g.add(Silu {}, &[v]).unwrap();
        let h = g.add(Add {}, &[h, v]).unwrap();
        let wide = g.add_leaf(Leaf::Weight, "wide", Type::weight(4, 2, Elem::F32)).unwrap();
        let h = g.add(Matmul {}, &[h, wide]).unwrap();
        let sweep = g.add(Sweep {}, &[h]).unwrap();
        let kernels = g.add(Acc {}, &[sweep, wk]).unwrap();
        let y = g.add(DynamicConv { taps: 3 }, &[kernels, v, ring]).unwrap();
        let y = g.add(Store {}, &[y]).unwrap();
        g.output(OutputKind::Return, "y", y);
        g.output(OutputKind::Update, "layers.0.conv", push.unwrap());
        g
    }

    #[test]
    fn whoever_reads_a_state_runs_before_its_writer() {
        let g = conv(false);
        let groups = group_kernels(&g).unwrap();
        let heads: Vec<&str> = groups.iter().map(|k| g.op(k.grid.unwrap_or(k.nodes[0])).unwrap().info().name).collect();
        assert_eq!(heads, ["sweep", "silu", "add", "matmul", "sweep", "ring_push"]);
        assert_eq!(groups[5].after, [0, 4]);
        assert_eq!(groups[5].updates.len(), 1);
        assert_eq!(groups[4].nodes.len(), 4);
        assert_eq!((groups[4].inputs.len(), groups[4].weights.len(), groups[4].stores.len()), (3, 1, 1));
    }

    #[test]
    fn a_state_overwritten_too_early_is_no_plan() {
        let error = group_kernels(&conv(true)).unwrap_err();
        assert!(matches!(error, GroupError::Order(_)), "{error}");
    }

    #[test]
    fn registers_of_two_grids_do_not_mix() {
        let mut g = Graph::new("mixed");
        let mut acc = |name: &str| {
            let x = g.add_leaf(Leaf::Input, name, Type::mem(Rows::Tokens, 4)).unwrap();
            let w = g.add_leaf(Leaf::Weight, "w", Type::weight(2, 4, Elem::Bf16)).unwrap();
            let sweep = g.add(Sweep {}, &[x]).unwrap();
            g.add(Acc {}, &[sweep, w]).unwrap()
        };
        let (a, b) = (acc("x"), acc("y"));
        g.add(Mul {}, &[a, b]).unwrap();
        assert_eq!(group_kernels(&g).unwrap_err(), GroupError::Grids { node: 7, op: "mul", found: 2 });
    }
}
