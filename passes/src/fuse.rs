//! From a graph to the fused graph and its kernels.

use crate::cost::{CostModel, Layout, Work};
use crate::error::FuseError;
use crate::extract::{Choice, Problem};
use crate::merge::merge_updates;
use crate::saturate::{Options, Saturated, saturate};
use crate::traffic::{Traffic, traffic};
use jet_ir::{Graph, Group, Id, Node, NodeKind, Op, Output, OutputKind, Place, Type, group_kernels};
use std::collections::HashMap;

/// A fused graph, its kernels and what is to be said about them.
#[derive(Clone, Debug)]
pub struct Fused {
    /// The fused graph; nodes are in the order of the kernels.
    pub graph: Graph,
    /// Its kernels in the order of launch.
    pub groups: Vec<Group>,
    /// Figures.
    pub report: Report,
}

/// Figures of a fusion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Target and phase.
    pub name: String,
    /// Kernels and bytes of the source graph.
    pub before: Traffic,
    /// Kernels and bytes of the fused graph.
    pub after: Traffic,
    /// Estimated time of the plan.
    pub plan_ps: u64,
    /// Size of the saturated e-graph in e-nodes.
    pub e_nodes: usize,
    /// Rounds of rules.
    pub iterations: usize,
    /// Probes whose value no kernel stores.
    pub unstored_probes: Vec<String>,
}

/// Fuses a graph for one target and phase: the choice of kernels with the lowest price of the whole plan that local search finds.
///
/// # Errors
/// The target lacks a kernel for some op, or the graph is no sequence of kernels.
pub fn fuse(graph: &Graph, cost: &dyn CostModel, options: &Options) -> Result<Fused, FuseError> {
    extract(graph, &saturate(graph, options)?, cost, false)
}

/// Chooses from what saturation of `source` has found. With `probes`, every probe is stored; without, those that a kernel stores anyway.
///
/// # Errors
/// As for [`fuse`].
pub fn extract(source: &Graph, saturated: &Saturated, cost: &dyn CostModel, probes: bool) -> Result<Fused, FuseError> {
    let problem = Problem::new(saturated, cost, probes)?;
    let choice = problem.best(cost);
    let (graph, saved) = merge_updates(rebuild(saturated, &problem, &choice, cost)?, cost);
    let (graph, groups) = arrange(&graph)?;
    let stored = |name: &str| graph.outputs.iter().any(|o| o.kind == OutputKind::Probe && o.name == name);
    let wanted = source.outputs.iter().filter(|o| o.kind == OutputKind::Probe);
    let report = Report {
        name: cost.name(),
        before: traffic(source, &group_kernels(source)?, cost.phase()),
        after: traffic(&graph, &groups, cost.phase()),
        plan_ps: problem.value(cost, &choice).ps - saved,
        e_nodes: saturated.classes.total_number_of_nodes(),
        iterations: saturated.iterations,
        unstored_probes: wanted.filter(|o| !stored(&o.name)).map(|o| o.name.clone()).collect(),
    };
    Ok(Fused { graph, groups, report })
}

/// The chosen nodes as a graph: constants first, then the rest in the order of the problem.
///
/// # Errors
/// A choice that is ill typed.
pub fn rebuild(
    saturated: &Saturated,
    problem: &Problem,
    choice: &Choice,
    cost: &dyn CostModel,
) -> Result<Graph, FuseError> {
    let mut graph = Graph::new(saturated.name.as_str());
    let mut ids: HashMap<usize, Id> = HashMap::new();
    let (constants, rest): (Vec<usize>, Vec<usize>) =
        problem.reach(choice).into_iter().partition(|&c| problem.types[c].is_const());
    for c in constants.into_iter().chain(rest) {
        let candidate = &problem.classes[c][choice[c]];
        let mut args: Vec<Id> = candidate.args.iter().map(|a| ids[a]).collect();
        if let NodeKind::Op(op @ Op::Embed(_)) = &candidate.kind {
            args[0] = shared_table(&graph, op, problem.types[c], &args, cost);
        }
        let types: Vec<Type> = args.iter().map(|a| graph.ty(*a)).collect();
        let ty = match &candidate.kind {
            NodeKind::Leaf(..) => problem.types[c],
            NodeKind::Op(op) => op.infer(&types).map_err(FuseError::IllTyped)?,
        };
        ids.insert(c, Id(graph.nodes.len() as u32));
        graph.nodes.push(Node { kind: candidate.kind.clone(), args, ty });
    }
    for root in &saturated.roots {
        let goal = problem.goals.iter().chain(&problem.probes).find(|g| (g.kind, &g.name) == (root.kind, &root.name));
        let value = goal.and_then(|goal| ids.get(&goal.class)).filter(|id| graph.ty(**id).place() == Some(Place::Mem));
        graph.outputs.extend(value.map(|&value| Output { kind: root.kind, name: root.name.clone(), value }));
    }
    Ok(graph)
}

/// The table of an embedding in the layout that a product wants it in, if the target's embedding can read that: a tied table is stored once.
fn shared_table(graph: &Graph, embed: &Op, result: Type, args: &[Id], cost: &dyn CostModel) -> Id {
    let packed = graph.ids().find(|id| {
        let layout = graph.op(*id).and_then(Layout::of);
        let types = [graph.ty(*id), graph.ty(args[1])];
        layout.is_some()
            && graph.node(*id).args == args[..1]
            && cost.price(&Work { op: embed, result, args: &types, layout }).is_some()
    });
    packed.unwrap_or(args[0])
}

/// The same graph with its nodes in the order of launch, each kernel's leaves and constants before the first kernel that needs them.
///
/// # Errors
/// The graph is no sequence of kernels.
pub fn arrange(graph: &Graph) -> Result<(Graph, Vec<Group>), FuseError> {
    let mut out = Graph::new(graph.name.as_str());
    let mut place: Vec<Option<Id>> = vec![None; graph.nodes.len()];
    for group in group_kernels(graph)? {
        let members = group.nodes.iter().flat_map(|id| graph.node(*id).args.iter().chain([id]));
        members.for_each(|id| copy(graph, *id, &mut out, &mut place));
    }
    graph.outputs.iter().for_each(|o| copy(graph, o.value, &mut out, &mut place));
    for output in &graph.outputs {
        if let Some(value) = place[output.value.index()] {
            out.outputs.push(Output { value, ..output.clone() });
        }
    }
    let groups = group_kernels(&out)?;
    Ok((out, groups))
}

fn copy(graph: &Graph, id: Id, out: &mut Graph, place: &mut [Option<Id>]) {
    if place[id.index()].is_some() {
        return;
    }
    let node = graph.node(id);
    node.args.iter().for_each(|arg| copy(graph, *arg, out, place));
    let args = node.args.iter().filter_map(|arg| place[arg.index()]).collect();
    place[id.index()] = Some(Id(out.nodes.len() as u32));
    out.nodes.push(Node { kind: node.kind.clone(), args, ty: node.ty });
}
