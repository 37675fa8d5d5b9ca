//! The e-graph language, derived from the op table: one generic e-node, and the analysis that types every e-class with [`Op::infer`].
//!
//! The children of an op are its operands, then its attributes as leaves, so that rules bind both by name. Text in e-nodes is ordered by
//! content; egg's `Symbol` would order by the time of interning, and the order of nodes in a class would depend on what ran before.

use egg::{Analysis, DidMerge, EGraph, FromOp, Id, Language};
use jet_ir::{Leaf, Op, OpInfo, Place, Type};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// An e-node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ENode {
    /// A row of [`Op::TABLE`] with operands, then attributes.
    Op(Row, Box<[Id]>),
    /// An attribute as text.
    Attr(Arc<str>),
    /// A leaf of the graph.
    Leaf(Leaf, Arc<str>),
}

/// A row of [`Op::TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(u8);

impl Row {
    /// The row of an op.
    pub fn of(op: &Op) -> Row {
        Row::named(op.info().name).unwrap_or(Row(u8::MAX))
    }

    /// The row with this name.
    pub fn named(name: &str) -> Option<Row> {
        Op::TABLE.iter().position(|info| info.name == name).map(|at| Row(at as u8))
    }

    /// What the table says.
    pub fn info(self) -> &'static OpInfo {
        &Op::TABLE[self.0 as usize]
    }
}

/// What makes two e-nodes the same function of their children.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An op.
    Op(Row),
    /// An attribute.
    Attr(Arc<str>),
    /// A leaf.
    Leaf(Leaf, Arc<str>),
}

impl ENode {
    /// The row of an op.
    pub fn row(&self) -> Option<Row> {
        match self {
            ENode::Op(row, _) => Some(*row),
            ENode::Attr(_) | ENode::Leaf(..) => None,
        }
    }

    /// Whether this is the op called `name`.
    pub fn is(&self, name: &str) -> bool {
        self.row().is_some_and(|row| row.info().name == name)
    }
}

impl Language for ENode {
    type Discriminant = Kind;

    fn discriminant(&self) -> Kind {
        match self {
            ENode::Op(row, _) => Kind::Op(*row),
            ENode::Attr(text) => Kind::Attr(text.clone()),
            ENode::Leaf(leaf, name) => Kind::Leaf(*leaf, name.clone()),
        }
    }

    fn matches(&self, other: &ENode) -> bool {
        match (self, other) {
            (ENode::Op(a, x), ENode::Op(b, y)) => a == b && x.len() == y.len(),
            _ => self == other,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            ENode::Op(_, children) => children,
            ENode::Attr(_) | ENode::Leaf(..) => &[],
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            ENode::Op(_, children) => children,
            ENode::Attr(_) | ENode::Leaf(..) => &mut [],
        }
    }
}

impl fmt::Display for ENode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ENode::Op(row, _) => f.write_str(row.info().name),
            ENode::Attr(text) => f.write_str(text),
            ENode::Leaf(leaf, name) => write!(f, "{}:{name}", leaf.name()),
        }
    }
}

impl FromOp for ENode {
    type Error = String;

    fn from_op(text: &str, children: Vec<Id>) -> Result<ENode, String> {
        if let Some(row) = Row::named(text) {
            let want = row.info().operands.len() + row.info().attrs.len();
            return match children.len() == want {
                true => Ok(ENode::Op(row, children.into())),
                false => Err(format!("{text} takes {want} operands and attributes, found {}", children.len())),
            };
        }
        if !children.is_empty() {
            return Err(format!("unknown op `{text}`"));
        }
        let leaf = text.split_once(':').and_then(|(kind, name)| {
            Leaf::ALL.into_iter().find(|leaf| leaf.name() == kind).map(|leaf| ENode::Leaf(leaf, name.into()))
        });
        Ok(leaf.unwrap_or_else(|| ENode::Attr(text.into())))
    }
}

/// What is known of an e-class.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// The text of an attribute.
    Attr(Arc<str>),
    /// A value.
    Value {
        /// Its type.
        ty: Type,
        /// For a register value: the grid in whose kernel it lives. Stale under unions, so compare through [`grid_of`].
        grid: Option<Id>,
    },
}

impl Data {
    /// The type of a value.
    pub fn ty(&self) -> Option<Type> {
        match self {
            Data::Value { ty, .. } => Some(*ty),
            Data::Attr(_) => None,
        }
    }

    /// Where a tensor lives.
    pub fn place(&self) -> Option<Place> {
        self.ty().and_then(|ty| ty.place())
    }
}

/// The analysis: types of the leaves, from which every class gets its type.
#[derive(Clone, Debug, Default)]
pub struct Typing {
    /// Types of the leaves of the graph.
    pub leaves: BTreeMap<(Leaf, Arc<str>), Type>,
}

/// The e-graph of this language.
pub type Classes = EGraph<ENode, Typing>;

/// The op of a row with the attributes that its children hold.
///
/// # Errors
/// An attribute that cannot be parsed, or a value in its place.
pub fn op_of<'a>(row: Row, children: &[Id], of: impl Fn(Id) -> &'a Data) -> Result<Op, String> {
    let info = row.info();
    let attrs = children[info.operands.len()..].iter().map(|&c| match of(c) {
        Data::Attr(text) => Ok(&**text),
        Data::Value { ty, .. } => Err(format!("{}: expected an attribute, found {ty}", info.name)),
    });
    Op::from_parts(info.name, &attrs.collect::<Result<Vec<_>, _>>()?)
}

/// What is known of an e-node, given what is known of its children. `same` compares two grids.
///
/// # Errors
/// Operands that do not fit.
pub fn data_of<'a>(
    node: &ENode,
    typing: &Typing,
    of: impl Fn(Id) -> &'a Data,
    same: impl Fn(Id, Id) -> bool,
) -> Result<Data, String> {
    let (row, children) = match node {
        ENode::Attr(text) => return Ok(Data::Attr(text.clone())),
        ENode::Leaf(leaf, name) => {
            let ty = typing.leaves.get(&(*leaf, name.clone())).ok_or_else(|| format!("undeclared leaf {node}"))?;
            return Ok(Data::Value { ty: *ty, grid: None });
        }
        ENode::Op(row, children) => (*row, children),
    };
    let op = op_of(row, children, &of)?;
    let operands = &children[..row.info().operands.len()];
    let types = operands.iter().map(|&c| of(c).ty().ok_or_else(|| format!("{node}: operand is an attribute")));
    let ty = op.infer(&types.collect::<Result<Vec<_>, _>>()?)?;
    let mut grid = None;
    if ty.place() == Some(Place::Reg) {
        for &c in operands {
            let found = match of(c) {
                Data::Value { ty: Type::Grid { .. }, .. } => Some(c),
                Data::Value { grid, .. } => *grid,
                Data::Attr(_) => None,
            };
            match (grid, found) {
                (Some(a), Some(b)) if !same(a, b) => return Err(format!("{node} mixes registers of two grids")),
                _ => grid = grid.or(found),
            }
        }
    }
    Ok(Data::Value { ty, grid })
}

impl Analysis<ENode> for Typing {
    type Data = Data;

    /// Rules are checked before they are applied ([`crate::rules`]) and graphs by their builder, so a failure here is a bug of this crate.
    fn make(egraph: &mut Classes, node: &ENode, _: Id) -> Data {
        data_of(node, &egraph.analysis, |id| &egraph[id].data, |a, b| egraph.find(a) == egraph.find(b))
            .unwrap_or_else(|e| panic!("ill-typed rewrite: {e}"))
    }

    fn merge(&mut self, a: &mut Data, b: Data) -> DidMerge {
        assert_eq!(a.ty(), b.ty(), "a rewrite merged two types");
        DidMerge(false, false)
    }
}

/// The canonical grid of a register value.
pub fn grid_of(classes: &Classes, id: Id) -> Option<Id> {
    match classes[id].data {
        Data::Value { grid, .. } => grid.map(|g| classes.find(g)),
        Data::Attr(_) => None,
    }
}
