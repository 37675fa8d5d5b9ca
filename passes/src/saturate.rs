//! Runs the rules on a graph until nothing is new. Anything but saturation is an error.

use crate::error::FuseError;
use crate::lang::{Classes, ENode, Row, Typing};
use crate::normalise::normalise;
use crate::rules::{Rule, rules};
use egg::{Id as Class, Runner, SimpleScheduler, StopReason};
use jet_ir::{Graph, NodeKind, OutputKind};
use std::collections::BTreeMap;
use std::time::Duration;

/// Limits and switches of saturation.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether rules that round differently are left out (the default).
    pub exact: bool,
    /// Whether egg records why classes are equal.
    pub explain: bool,
    /// E-nodes per node of the graph, beyond which rules count as endless.
    pub growth: usize,
    /// Rounds of rules, beyond which they count as endless.
    pub iterations: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { exact: true, explain: false, growth: 20, iterations: 40 }
    }
}

/// A named result and the class that it is in.
#[derive(Clone, Debug)]
pub struct Root {
    /// What the result is for.
    pub kind: OutputKind,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: Class,
}

/// All the ways to compute a graph that the rules know.
pub struct Saturated {
    /// The name of the graph.
    pub name: String,
    /// The e-graph.
    pub classes: Classes,
    /// Outputs of the graph, in order.
    pub roots: Vec<Root>,
    /// The class of every node of the source graph.
    pub class_of: Vec<Class>,
    /// Rounds until nothing was new.
    pub iterations: usize,
    /// How often each rule found something new.
    pub applied: BTreeMap<String, usize>,
}

/// Saturates a graph with the rules of this crate.
///
/// # Errors
/// The rules do not come to an end within the limits.
pub fn saturate(graph: &Graph, options: &Options) -> Result<Saturated, FuseError> {
    saturate_with(graph, &rules(options.exact), options)
}

/// Saturates a graph with any rules.
///
/// # Errors
/// The rules do not come to an end within the limits.
pub fn saturate_with(graph: &Graph, rules: &[Rule], options: &Options) -> Result<Saturated, FuseError> {
    let graph = normalise(graph);
    let (classes, class_of) = build(&graph, options.explain);
    // The back-off scheduler bans rules for a while and a time limit depends on the machine: neither belongs in a compiler.
    let runner = Runner::<ENode, Typing>::default()
        .with_egraph(classes)
        .with_scheduler(SimpleScheduler)
        .with_time_limit(Duration::from_secs(u64::from(u32::MAX)))
        .with_node_limit(options.growth * graph.nodes.len().max(100))
        .with_iter_limit(options.iterations)
        .run(rules);
    let iterations = runner.iterations.len();
    if !matches!(runner.stop_reason, Some(StopReason::Saturated)) {
        let nodes = runner.egraph.total_number_of_nodes();
        return Err(FuseError::Endless { graph: graph.name, nodes, iterations });
    }
    let mut applied = BTreeMap::new();
    for (name, n) in runner.iterations.iter().flat_map(|i| &i.applied) {
        *applied.entry(name.to_string()).or_insert(0) += n;
    }
    let classes = runner.egraph;
    let find = |id: jet_ir::Id| classes.find(class_of[id.index()]);
    let roots =
        graph.outputs.iter().map(|o| Root { kind: o.kind, name: o.name.clone(), class: find(o.value) }).collect();
    let class_of = class_of.iter().map(|id| classes.find(*id)).collect();
    Ok(Saturated { name: graph.name, classes, roots, class_of, iterations, applied })
}

fn build(graph: &Graph, explain: bool) -> (Classes, Vec<Class>) {
    let mut typing = Typing::default();
    for node in &graph.nodes {
        if let NodeKind::Leaf(leaf, name) = &node.kind {
            typing.leaves.insert((*leaf, name.as_str().into()), node.ty);
        }
    }
    let mut classes = Classes::new(typing);
    if explain {
        classes = classes.with_explanations_enabled();
    }
    let mut class_of: Vec<Class> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let enode = match &node.kind {
            NodeKind::Leaf(leaf, name) => ENode::Leaf(*leaf, name.as_str().into()),
            NodeKind::Op(op) => {
                let mut children: Vec<Class> = node.args.iter().map(|a| class_of[a.index()]).collect();
                children.extend(op.attrs().into_iter().map(|text| classes.add(ENode::Attr(text.into()))));
                ENode::Op(Row::of(op), children.into())
            }
        };
        class_of.push(classes.add(enode));
    }
    classes.rebuild();
    (classes, class_of)
}
