//! Checks a graph, whether it was built, read or made by a pass.

use crate::graph::{Graph, Id, Leaf, Node, NodeKind, OutputKind};
use crate::ops::Op;
use crate::text::Quoted;
use crate::types::{Place, Rows, Type};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Where in a graph something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// The type that a node states.
    Type(Id),
    /// The op or leaf of a node.
    Op(Id),
    /// An operand of a node, by its number.
    Operand(Id, usize),
    /// An output, by its number.
    Output(usize),
}

/// What is wrong at one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Where.
    pub site: Site,
    /// What was found and what was expected.
    pub message: String,
}

/// Everything that is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The name of the graph.
    pub graph: String,
    /// At least one.
    pub issues: Vec<Issue>,
    /// For every issue the node or output that it is about, as it is printed.
    origins: Vec<String>,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (issue, origin)) in self.issues.iter().zip(&self.origins).enumerate() {
            let line_break = if i == 0 { "" } else { "\n" };
            write!(f, "{line_break}graph {}: {}\n  at {origin}", Quoted(&self.graph), issue.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for VerifyError {}

/// Checks that
/// - operands come before their users, and every type is what [`Op::infer`] says;
/// - leaves are unique and of a type that such a leaf can have;
/// - a value in registers depends on the registers of one grid only;
/// - a cache gets this run's tokens once, and before attention reads it;
/// - returned values are outside of kernels, no two outputs of a kind have one name, and an update has the type of its state.
///
/// Values that nothing uses are allowed.
///
/// # Errors
/// Everything that was found, in the order of the graph.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    verify_with_names(graph, &|id: Id| id.to_string())
}

/// The same; messages call a value by the name that it is given here.
pub(crate) fn verify_with_names(graph: &Graph, name: &dyn Fn(Id) -> String) -> Result<(), VerifyError> {
    let mut verifier = Verifier { graph, name, grids: vec![], caches: vec![], leaves: HashMap::new(), issues: vec![] };
    for id in graph.ids() {
        verifier.node(id);
    }
    verifier.outputs();
    let issues = verifier.issues;
    if issues.is_empty() {
        return Ok(());
    }
    let origins = issues.iter().map(|issue| origin(graph, issue.site)).collect();
    Err(VerifyError { graph: graph.name.clone(), issues, origins })
}

fn origin(graph: &Graph, site: Site) -> String {
    match site {
        Site::Type(id) | Site::Op(id) | Site::Operand(id, _) => graph.line(id).to_string(),
        Site::Output(i) => {
            let output = &graph.outputs[i];
            format!("{} {} as {}", output.kind.name(), output.value, Quoted(&output.name))
        }
    }
}

/// The grid whose kernel makes a node: a grid itself, what lives in its registers, and what is stored from there.
pub fn grid_of(graph: &Graph, id: Id) -> Option<Id> {
    let mut at = id;
    while !is_grid(graph.ty(at)) {
        let operands = &graph.node(at).args;
        at = *operands.iter().find(|arg| is_grid(graph.ty(**arg)) || in_registers(graph.ty(**arg)))?;
    }
    Some(at)
}

fn is_grid(ty: Type) -> bool {
    matches!(ty, Type::Grid { .. })
}

fn in_registers(ty: Type) -> bool {
    ty.place() == Some(Place::Reg)
}

/// The operands of a node that are grids or live in registers, with their grids.
fn of_operands<'a>(
    graph: &'a Graph,
    grids: &'a [Option<Id>],
    node: &'a Node,
) -> impl Iterator<Item = (usize, Id)> + 'a {
    node.args.iter().enumerate().filter_map(|(i, arg)| {
        let ty = graph.nodes.get(arg.index())?.ty;
        let depends = is_grid(ty) || in_registers(ty);
        depends.then(|| grids.get(arg.index()).copied().flatten()).flatten().map(|grid| (i, grid))
    })
}

/// Which tokens the rows of a value over the context hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    /// Those before this run: the state as it was.
    Past,
    /// Those of this run too.
    Full,
}

struct Verifier<'g> {
    graph: &'g Graph,
    name: &'g dyn Fn(Id) -> String,
    /// The grid of every node so far.
    grids: Vec<Option<Id>>,
    /// For every node so far what its rows hold, if they are rows of the context.
    caches: Vec<Option<Cache>>,
    leaves: HashMap<(Leaf, &'g str), Id>,
    issues: Vec<Issue>,
}

impl<'g> Verifier<'g> {
    fn issue(&mut self, site: Site, message: String) {
        self.issues.push(Issue { site, message });
    }

    fn node(&mut self, id: Id) {
        let node = self.graph.node(id);
        let ordered = self.operands(id, node);
        match &node.kind {
            NodeKind::Leaf(leaf, name) => self.leaf(id, *leaf, name, node),
            NodeKind::Op(op) if ordered => self.op(id, op, node),
            NodeKind::Op(_) => {}
        }
        let first = of_operands(self.graph, &self.grids, node).next();
        self.grids.push(if is_grid(node.ty) { Some(id) } else { first.map(|(_, grid)| grid) });
        let cache = if ordered { self.cache(id, node) } else { None };
        self.caches.push(cache);
    }

    /// Whether all operands come before the node.
    fn operands(&mut self, id: Id, node: &Node) -> bool {
        for (i, arg) in node.args.iter().enumerate().filter(|(_, arg)| **arg >= id) {
            let (found, before) = ((self.name)(*arg), (self.name)(id));
            self.issue(Site::Operand(id, i), format!("operand {i} is {found}, expected a value before {before}"));
        }
        node.args.iter().all(|arg| *arg < id)
    }

    fn leaf(&mut self, id: Id, leaf: Leaf, name: &'g str, node: &Node) {
        if !node.args.is_empty() {
            self.issue(Site::Op(id), format!("{} takes no operands, found {}", leaf.name(), node.args.len()));
        }
        if let Some(first) = self.leaves.insert((leaf, name), id) {
            self.leaves.insert((leaf, name), first);
            let first = (self.name)(first);
            self.issue(Site::Op(id), format!("{} {} is {first} already", leaf.name(), Quoted(name)));
        }
        let (fits, expected) = match (leaf, node.ty.place(), node.ty.rows()) {
            (Leaf::Input, place, _) => (place == Some(Place::Mem), "a tensor in memory"),
            (Leaf::Weight, place, Some(Rows::Fixed(_))) => (place == Some(Place::Const), "a constant"),
            (Leaf::Weight, ..) => (false, "a constant of a fixed number of rows"),
            (Leaf::State, place, Some(Rows::Fixed(_) | Rows::Context)) => {
                (place == Some(Place::Mem), "a tensor in memory")
            }
            (Leaf::State, ..) => (false, "a tensor in memory with a fixed number of rows or those of the context"),
        };
        if !fits {
            self.issue(Site::Type(id), format!("{} must be {expected}, found {}", leaf.name(), node.ty));
        }
    }

    fn op(&mut self, id: Id, op: &Op, node: &Node) {
        let types: Vec<Type> = node.args.iter().map(|arg| self.graph.ty(*arg)).collect();
        match op.infer(&types) {
            Ok(ty) if ty == node.ty => {}
            Ok(ty) => self.issue(Site::Type(id), format!("found type {}, expected {ty}", node.ty)),
            Err(message) => self.issue(Site::Op(id), message),
        }
        let grids: Vec<(usize, Id)> = of_operands(self.graph, &self.grids, node).collect();
        let first = grids.first().copied();
        for (i, grid) in grids {
            if let Some((j, other)) = first.filter(|(_, other)| *other != grid) {
                let (grid, other) = ((self.name)(grid), (self.name)(other));
                let message = format!(
                    "operand {i} lives in the kernel of grid {grid}, but operand {j} in that of {other}; expected one kernel"
                );
                self.issue(Site::Operand(id, i), message);
            }
        }
    }

    /// What the rows of a value over the context hold; reports operands that hold something else than the op needs.
    fn cache(&mut self, id: Id, node: &Node) -> Option<Cache> {
        let over_context = node.ty.rows() == Some(Rows::Context);
        let op = match &node.kind {
            NodeKind::Leaf(Leaf::State, _) => return over_context.then_some(Cache::Past),
            NodeKind::Leaf(..) => return over_context.then_some(Cache::Full),
            NodeKind::Op(op) => op,
        };
        let operands: Vec<(usize, Cache)> =
            node.args.iter().enumerate().filter_map(|(i, arg)| Some((i, self.caches[arg.index()]?))).collect();
        let (wanted, why) = match op {
            Op::KvAppend(_) | Op::StoreKv(_) => (Cache::Past, "holds this run's tokens already"),
            Op::Attention(_) | Op::AttentionParts(_) => {
                (Cache::Full, "does not hold this run's tokens, expected an appended cache")
            }
            _ => (operands.first()?.1, "does not hold the same tokens as the first of this op's caches"),
        };
        for (i, _) in operands.iter().filter(|(_, found)| *found != wanted) {
            self.issue(Site::Operand(id, *i), format!("operand {i} {why}"));
        }
        let appended = matches!(op, Op::KvAppend(_) | Op::StoreKv(_));
        over_context.then_some(if appended { Cache::Full } else { wanted })
    }

    fn outputs(&mut self) {
        let mut names = HashSet::new();
        for (i, output) in self.graph.outputs.iter().enumerate() {
            let (kind, name) = (output.kind.name(), Quoted(&output.name));
            if !names.insert((output.kind, &output.name)) {
                self.issue(Site::Output(i), format!("{kind} {name} is there already"));
            }
            let Some(node) = self.graph.nodes.get(output.value.index()) else {
                self.issue(
                    Site::Output(i),
                    format!("found {}, which is no value of this graph", (self.name)(output.value)),
                );
                continue;
            };
            // only a probe may look into a kernel
            if output.kind == OutputKind::Return && (is_grid(node.ty) || in_registers(node.ty)) {
                self.issue(Site::Output(i), format!("{kind} {name} must be outside of kernels, found {}", node.ty));
            }
            if output.kind == OutputKind::Update {
                self.update(i, &output.name, node.ty);
            }
        }
    }

    fn update(&mut self, i: usize, name: &'g str, found: Type) {
        match self.leaves.get(&(Leaf::State, name)).map(|state| self.graph.ty(*state)) {
            None => self.issue(Site::Output(i), format!("found no state {} to update", Quoted(name))),
            Some(ty) if ty == found => {}
            Some(ty) => self.issue(Site::Output(i), format!("state {} is {ty}, found {found}", Quoted(name))),
        }
    }
}
