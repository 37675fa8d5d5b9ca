//! A graph: nodes in an order in which every operand comes before its users, and named outputs.

use crate::ops::Op;
use crate::types::Type;
use std::collections::HashMap;

/// Names a node of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u32);

impl Id {
    /// Position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a leaf stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leaf {
    /// Given with every run: token ids, the rotary table.
    Input,
    /// A tensor of the checkpoint, by its name there.
    Weight,
    /// Kept between runs, one for each sequence: `layers.3.conv`.
    State,
}

impl Leaf {
    /// Every kind of leaf, in declaration order.
    pub const ALL: [Leaf; 3] = [Leaf::Input, Leaf::Weight, Leaf::State];

    /// The keyword in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Leaf::Input => "input",
            Leaf::Weight => "weight",
            Leaf::State => "state",
        }
    }
}

/// A leaf with its name, or an op.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKind {
    /// A named leaf.
    Leaf(Leaf, String),
    /// An op with its attributes.
    Op(Op),
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What makes it.
    pub kind: NodeKind,
    /// Operands, all earlier in the graph.
    pub args: Vec<Id>,
    /// Its type, as inferred (ops) or declared (leaves).
    pub ty: Type,
}

/// What an output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputKind {
    /// A result of the program.
    Return,
    /// The new content of the state of the same name.
    Update,
    /// Must be readable after some step, for comparisons: `layer_hidden.3`.
    Probe,
}

impl OutputKind {
    /// Every kind of output, in declaration order.
    pub const ALL: [OutputKind; 3] = [OutputKind::Return, OutputKind::Update, OutputKind::Probe];

    /// The keyword in the text form.
    pub fn name(self) -> &'static str {
        match self {
            OutputKind::Return => "return",
            OutputKind::Update => "update",
            OutputKind::Probe => "probe",
        }
    }
}

/// A named result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What it is for.
    pub kind: OutputKind,
    /// Its name.
    pub name: String,
    /// The value.
    pub value: Id,
}

/// A function of one sequence's new tokens and states.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Operands before users.
    pub nodes: Vec<Node>,
    /// Named results, in order.
    pub outputs: Vec<Output>,
    /// Where a node is, by what it is; holds for the first nodes, whose number follows it.
    known: HashMap<(NodeKind, Vec<Id>), Id>,
    n_known: usize,
}

impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        (&self.name, &self.nodes, &self.outputs) == (&other.name, &other.nodes, &other.outputs)
    }
}

impl Eq for Graph {}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// The node of `id`.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.index()]
    }

    /// The type of `id`.
    pub fn ty(&self, id: Id) -> Type {
        self.node(id).ty
    }

    /// The op of `id`, unless it is a leaf.
    pub fn op(&self, id: Id) -> Option<&Op> {
        match &self.node(id).kind {
            NodeKind::Op(op) => Some(op),
            NodeKind::Leaf(..) => None,
        }
    }

    /// The leaf of `id` and its name, unless it is an op.
    pub fn leaf(&self, id: Id) -> Option<(Leaf, &str)> {
        match &self.node(id).kind {
            NodeKind::Leaf(leaf, name) => Some((*leaf, name)),
            NodeKind::Op(_) => None,
        }
    }

    /// Every id, operands before users.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = Id> + use<> {
        (0..self.nodes.len() as u32).map(Id)
    }

    /// Adds a leaf; the same leaf twice is one node.
    ///
    /// # Errors
    /// The leaf exists with another type.
    pub fn add_leaf(&mut self, leaf: Leaf, name: &str, ty: Type) -> Result<Id, String> {
        let kind = NodeKind::Leaf(leaf, name.to_string());
        let id = self.shared(Node { kind, args: vec![], ty });
        match self.ty(id) {
            found if found == ty => Ok(id),
            found => Err(format!("{} `{name}` declared as {ty} and as {found}", leaf.name())),
        }
    }

    /// Adds an op with the type that [`Op::infer`] gives it; equal nodes are shared.
    ///
    /// # Errors
    /// The operands do not fit the op.
    pub fn add(&mut self, op: impl Into<Op>, args: &[Id]) -> Result<Id, String> {
        let op = op.into();
        let types: Vec<Type> = args.iter().map(|a| self.ty(*a)).collect();
        let ty = op.infer(&types)?;
        Ok(self.shared(Node { kind: NodeKind::Op(op), args: args.to_vec(), ty }))
    }

    /// The same graph with other types of leaves: `ty` is asked for each leaf, ops are inferred anew.
    ///
    /// # Errors
    /// An op whose operands no longer fit.
    pub fn with_leaf_types(&self, ty: impl Fn(Leaf, &str, Type) -> Type) -> Result<Graph, String> {
        let mut graph = self.clone();
        for id in self.ids() {
            graph.nodes[id.index()].ty = match &self.node(id).kind {
                NodeKind::Leaf(leaf, name) => ty(*leaf, name, self.ty(id)),
                NodeKind::Op(op) => {
                    let args: Vec<Type> = self.node(id).args.iter().map(|a| graph.ty(*a)).collect();
                    op.infer(&args).map_err(|e| format!("%{} = {}: {e}", id.0, op.info().name))?
                }
            };
        }
        Ok(graph)
    }

    /// Names a result.
    pub fn output(&mut self, kind: OutputKind, name: impl Into<String>, value: Id) {
        self.outputs.push(Output { kind, name: name.into(), value });
    }

    /// The node of the same kind and operands, or this one, added.
    fn shared(&mut self, node: Node) -> Id {
        // `nodes` is public: what was added or changed there since is learnt, or noticed by comparing
        for at in self.n_known..self.nodes.len() {
            let Node { kind, args, .. } = &self.nodes[at];
            self.known.entry((kind.clone(), args.clone())).or_insert(Id(at as u32));
        }
        let key = (node.kind.clone(), node.args.clone());
        let found = self
            .known
            .get(&key)
            .filter(|id| self.nodes.get(id.index()).is_some_and(|n| (&n.kind, &n.args) == (&node.kind, &node.args)));
        if let Some(id) = found {
            self.n_known = self.nodes.len();
            return *id;
        }
        let id = Id(self.nodes.len() as u32);
        self.known.insert(key, id);
        self.nodes.push(node);
        self.n_known = self.nodes.len();
        id
    }
}
