//! Why a plan is as it is: for one part of a model, its kernels, how the rules derive each stored result, and what each rejected alternative
//! would have cost.
//!
//! A part is what lies between two probes: a mixer or an MLP. Explaining a whole model at once is possible and useless: a proof is printed as a
//! tree, and the residual stream alone would fill megabytes. For the same reason a derivation starts at the operands of the kernel.

use crate::cost::CostModel;
use crate::error::FuseError;
use crate::extract::{Choice, Problem};
use crate::fuse::{Fused, extract};
use crate::lang::{ENode, Row};
use crate::listing::listing;
use crate::saturate::{Options, Saturated, saturate};
use egg::{FlatTerm, RecExpr, Symbol};
use jet_ir::{Graph, Id, Leaf, NodeKind, OutputKind, Place};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// One step of a derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The rule.
    pub rule: String,
    /// The term after it.
    pub term: String,
}

/// How one result came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// The term of the source graph, over the operands of the kernel.
    pub source: String,
    /// Rule after rule; the last term is in the plan.
    pub steps: Vec<Step>,
}

/// An alternative that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regret {
    /// What was chosen.
    pub chosen: String,
    /// What was not.
    pub rejected: String,
    /// By how many picoseconds the plan would be dearer.
    pub ps: i64,
}

/// Everything there is to say about a part of a model.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Target and phase.
    pub name: String,
    /// The part as a plan of its own.
    pub fused: Fused,
    /// One for each stored result that rules have changed.
    pub derivations: Vec<Derivation>,
    /// Rejected alternatives, the closest first.
    pub regrets: Vec<Regret>,
}

/// Explains the part of a graph that ends in the output called `result`: back to the probes before it.
///
/// # Errors
/// No such output, or a part that cannot be fused.
pub fn explain(graph: &Graph, result: &str, cost: &dyn CostModel, options: &Options) -> Result<Explanation, FuseError> {
    let part = part_before(graph, result)?;
    let saturated = saturate(&part, options)?;
    let fused = extract(&part, &saturated, cost, false)?;
    let problem = Problem::new(&saturated, cost, false)?;
    let choice = problem.best(cost);
    let mut derivations = vec![];
    for class in problem.reach(&choice) {
        let stored = problem.types[class].place() == Some(Place::Mem);
        if stored && let Some(derivation) = derive(&part, &saturated, &problem, &choice, class, options)? {
            derivations.push(derivation);
        }
    }
    let mut regrets: Vec<Regret> = problem
        .regrets(cost, &choice)
        .into_iter()
        .map(|(class, other, ps)| Regret {
            chosen: short(&problem, &choice, class, choice[class]),
            rejected: short(&problem, &choice, class, other),
            ps,
        })
        .collect();
    regrets.sort_by(|a, b| (a.ps, &a.rejected).cmp(&(b.ps, &b.rejected)));
    Ok(Explanation { name: cost.name(), fused, derivations, regrets })
}

/// The part of a graph that ends in an output, with the probes before it as inputs, and the updates of states that it contains.
fn part_before(graph: &Graph, result: &str) -> Result<Graph, FuseError> {
    let unknown = || {
        let names: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
        FuseError::NoSuchOutput { name: result.to_string(), known: names.join(", ") }
    };
    let target = graph.outputs.iter().find(|o| o.name == result).ok_or_else(unknown)?;
    let probes = graph.outputs.iter().filter(|o| o.kind == OutputKind::Probe && o.value != target.value);
    let cuts: BTreeMap<Id, String> = probes.map(|o| (o.value, o.name.clone())).collect();
    let borders = |root: Id| -> Vec<Id> {
        let (mut found, mut seen, mut todo) = (vec![], vec![false; graph.nodes.len()], vec![root]);
        while let Some(id) = todo.pop() {
            if std::mem::replace(&mut seen[id.index()], true) {
                continue;
            }
            match id != root && cuts.contains_key(&id) {
                true => found.push(id),
                false => todo.extend(&graph.node(id).args),
            }
        }
        found.sort_unstable();
        found
    };
    let border = borders(target.value);
    let mut roots = vec![(OutputKind::Return, target.name.clone(), target.value)];
    for update in graph.outputs.iter().filter(|o| o.kind == OutputKind::Update && o.value != target.value) {
        if borders(update.value) == border {
            roots.push((update.kind, update.name.clone(), update.value));
        }
    }
    Ok(cut(graph, &cuts, &roots))
}

/// The subgraph of `roots` in which `leaves` are inputs; a root itself is never cut.
fn cut(graph: &Graph, leaves: &BTreeMap<Id, String>, roots: &[(OutputKind, String, Id)]) -> Graph {
    let mut out = Graph::new(graph.name.as_str());
    let mut place: HashMap<Id, Id> = HashMap::new();
    let mut needed = vec![false; graph.nodes.len()];
    roots.iter().for_each(|(_, _, id)| needed[id.index()] = true);
    let is_leaf = |id: Id| leaves.contains_key(&id) && !roots.iter().any(|r| r.2 == id);
    for id in graph.ids().rev() {
        if needed[id.index()] && !is_leaf(id) {
            graph.node(id).args.iter().for_each(|a| needed[a.index()] = true);
        }
    }
    for id in graph.ids().filter(|id| needed[id.index()]) {
        let mut node = graph.node(id).clone();
        if is_leaf(id) {
            (node.kind, node.args) = (NodeKind::Leaf(Leaf::Input, leaves[&id].clone()), vec![]);
        }
        node.args.iter_mut().for_each(|a| *a = place[a]);
        place.insert(id, Id(out.nodes.len() as u32));
        out.nodes.push(node);
    }
    for (kind, name, value) in roots {
        out.output(*kind, name.as_str(), place[value]);
    }
    out
}

/// The chosen term of a class down to values in memory.
fn short(problem: &Problem, choice: &Choice, class: usize, candidate: usize) -> String {
    let chosen = &problem.classes[class][candidate];
    match &chosen.kind {
        NodeKind::Leaf(_, name) => name.clone(),
        NodeKind::Op(op) => {
            let inner = |a: &usize| match &problem.classes[*a][choice[*a]].kind {
                NodeKind::Leaf(_, name) => name.clone(),
                NodeKind::Op(op) => format!("{}(..)", op.info().name),
            };
            format!("{}({})", op.info().name, chosen.args.iter().map(inner).collect::<Vec<_>>().join(", "))
        }
    }
}

/// The proof that a stored value of the plan equals its source term, over the values in memory that the plan's term reads. Nothing for a value
/// that is the same in both.
fn derive(
    part: &Graph,
    saturated: &Saturated,
    problem: &Problem,
    choice: &Choice,
    class: usize,
    options: &Options,
) -> Result<Option<Derivation>, FuseError> {
    let source_of = |class: usize| part.ids().find(|id| saturated.class_of[id.index()] == problem.ids[class]);
    let Some(root) = source_of(class) else { return Ok(None) };
    let mut leaves: BTreeMap<Id, String> = BTreeMap::new();
    let mut chosen: RecExpr<ENode> = RecExpr::default();
    let mut operand = |class: usize| {
        let id = source_of(class)?;
        let name = format!("v{}", id.0);
        leaves.insert(id, name.clone());
        Some(ENode::Leaf(Leaf::Input, name.as_str().into()))
    };
    if term_of(problem, choice, class, true, &mut chosen, &mut operand).is_none() {
        return Ok(None);
    }
    let small = cut(part, &leaves, &[(OutputKind::Return, "result".to_string(), root)]);
    let mut classes = saturate(&small, &Options { explain: true, ..*options })?.classes;
    let source = source_term(&small);
    let same = match (classes.lookup_expr(&source), classes.lookup_expr(&chosen)) {
        (Some(a), Some(b)) => classes.find(a) == classes.find(b),
        _ => false,
    };
    if !same {
        return Ok(None);
    }
    let mut proof = classes.explain_equivalence(&source, &chosen);
    let mut steps = proof.make_flat_explanation().iter();
    let start = steps.next().map(|term| term.remove_rewrites().to_string()).unwrap_or_default();
    let step = |term: &FlatTerm<ENode>| Step {
        rule: rule_of(term).map(|name| name.to_string()).unwrap_or_default(),
        term: term.remove_rewrites().to_string(),
    };
    let steps: Vec<Step> = steps.map(step).collect();
    Ok((!steps.is_empty()).then_some(Derivation { source: start, steps }))
}

/// Adds the chosen term of a class; operands in memory become what `leaf` makes of them. Nothing if one of them has no source.
fn term_of(
    problem: &Problem,
    choice: &Choice,
    class: usize,
    top: bool,
    out: &mut RecExpr<ENode>,
    leaf: &mut impl FnMut(usize) -> Option<ENode>,
) -> Option<egg::Id> {
    let candidate = &problem.classes[class][choice[class]];
    let op = match &candidate.kind {
        NodeKind::Op(op) if top || problem.types[class].place() != Some(Place::Mem) => op,
        NodeKind::Leaf(kind, name) => return Some(out.add(ENode::Leaf(*kind, name.as_str().into()))),
        NodeKind::Op(_) => return leaf(class).map(|node| out.add(node)),
    };
    let mut children = vec![];
    for &arg in &candidate.args {
        children.push(term_of(problem, choice, arg, false, out, leaf)?);
    }
    children.extend(op.attrs().into_iter().map(|text| out.add(ENode::Attr(text.into()))));
    Some(out.add(ENode::Op(Row::of(op), children.into())))
}

/// The term of the only output of a graph.
fn source_term(graph: &Graph) -> RecExpr<ENode> {
    let mut out = RecExpr::default();
    let mut ids = vec![];
    for node in &graph.nodes {
        let enode = match &node.kind {
            NodeKind::Leaf(leaf, name) => ENode::Leaf(*leaf, name.as_str().into()),
            NodeKind::Op(op) => {
                let mut children: Vec<egg::Id> = node.args.iter().map(|a| ids[a.index()]).collect();
                children.extend(op.attrs().into_iter().map(|text| out.add(ENode::Attr(text.into()))));
                ENode::Op(Row::of(op), children.into())
            }
        };
        ids.push(out.add(enode));
    }
    out
}

/// The rule of a step, which is noted at the subterm that it rewrote.
fn rule_of(term: &FlatTerm<ENode>) -> Option<Symbol> {
    term.forward_rule.or(term.backward_rule).or_else(|| term.children.iter().find_map(rule_of))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ps: i64| ps as f64 * 1e-6;
        writeln!(f, "{}: {:.2} us", self.name, us(self.fused.report.plan_ps as i64))?;
        f.write_str(&listing(&self.fused))?;
        for derivation in &self.derivations {
            writeln!(f, "\n{}", derivation.source)?;
            for step in &derivation.steps {
                writeln!(f, "  = {}  [{}]", step.term, step.rule)?;
            }
        }
        writeln!(f, "\nrejected")?;
        for regret in &self.regrets {
            writeln!(f, "  {:+10.2} us  {} instead of {}", us(regret.ps), regret.rejected, regret.chosen)?;
        }
        Ok(())
    }
}
