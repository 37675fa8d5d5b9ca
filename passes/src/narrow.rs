//! Values that only products read, as bf16 in memory: for targets whose products round their rows to bf16 anyway.
//!
//! A plain row is rounded by its producer instead of by every reader, which changes no bit of any result. Rows behind a norm are
//! rounded before the factor of the row is known, scaled by the norm's weight alone; their producer leaves sums of squares too, and the factor is applied
//! to the accumulators: `(bf16(x w) W) rsqrt(mean(x^2) + eps)` for `bf16(x w rsqrt(mean(x^2) + eps)) W`. Both round each element once.
//! Rows of an embedding are rounded likewise: it becomes a grid, which has what it looks up in registers. The residual stream itself stays f32.

use crate::cost::Phase;
use crate::error::FuseError;
use crate::fuse::{Fused, arrange};
use crate::traffic::traffic;
use jet_ir::ops::{Lookup, Out, RoundBf16, ScaleCols, Store, StoreSquares, SweepScaled};
use jet_ir::{Elem, F32, Graph, GridKind, Id, NodeKind, Op, Type, grid_of};
use std::collections::BTreeSet;

/// Columns that a sum of squares spans: a kernel of products has them in one panel, and that of an embedding adds as many.
const SQUARES: usize = 16;
/// Rows are rounded if their columns are a multiple of this, so that each begins at a multiple of 16 bytes.
const WHOLE: usize = 8;

/// The norm that a product's rows go through.
#[derive(Clone, Copy)]
struct Norm {
    /// What is normalised, in the registers of its producer.
    rows: Id,
    weight: Id,
    eps: F32,
}

/// The same kernels with rows of products in bf16 wherever nothing else reads them.
///
/// # Errors
/// The result is no sequence of kernels, which is a defect.
pub fn narrow(fused: Fused, phase: &Phase) -> Result<Fused, FuseError> {
    let (graph, groups) = arrange(&rounded(&looked_up(&fused.graph)?)?)?;
    let mut report = fused.report;
    report.after = traffic(&graph, &groups, phase);
    Ok(Fused { graph, groups, report })
}

/// The same graph with every embedding as a grid and a store.
fn looked_up(graph: &Graph) -> Result<Graph, FuseError> {
    let mut out = Graph::new(graph.name.as_str());
    let mut place: Vec<Id> = vec![];
    for id in graph.ids() {
        let node = graph.node(id);
        let args: Vec<Id> = node.args.iter().map(|arg| place[arg.index()]).collect();
        let made = match &node.kind {
            NodeKind::Leaf(leaf, name) => out.add_leaf(*leaf, name, node.ty),
            NodeKind::Op(Op::Embed(_)) => out
                .add(Lookup {}, &args)
                .and_then(|grid| out.add(Out {}, &[grid]))
                .and_then(|rows| out.add(Store {}, &[rows])),
            NodeKind::Op(op) => out.add(*op, &args),
        };
        place.push(made.map_err(FuseError::IllTyped)?);
    }
    for output in &graph.outputs {
        out.output(output.kind, &output.name, place[output.value.index()]);
    }
    Ok(out)
}

fn rounded(graph: &Graph) -> Result<Graph, FuseError> {
    let mut readers = vec![vec![]; graph.nodes.len()];
    for id in graph.ids() {
        graph.node(id).args.iter().for_each(|arg| readers[arg.index()].push(id));
    }
    let outputs = graph.outputs.iter().map(|o| o.value).collect();
    let mut narrow = Narrow { graph, readers, outputs, out: Graph::new(graph.name.as_str()), place: vec![] };
    narrow.place = vec![None; graph.nodes.len()];
    let needed = narrow.needed();
    for id in graph.ids().filter(|id| needed.contains(id)) {
        narrow.copy(id)?;
    }
    for output in &graph.outputs {
        let value = narrow.copy(output.value)?;
        narrow.out.output(output.kind, &output.name, value);
    }
    Ok(narrow.out)
}

struct Narrow<'g> {
    graph: &'g Graph,
    readers: Vec<Vec<Id>>,
    outputs: BTreeSet<Id>,
    out: Graph,
    place: Vec<Option<Id>>,
}

impl Narrow<'_> {
    /// What a store puts into memory as f32 with whole columns.
    fn stored(&self, id: Id) -> Option<Id> {
        let node = self.graph.node(id);
        let fits = node.ty.elem() == Some(Elem::F32) && node.ty.cols().is_multiple_of(WHOLE);
        matches!(self.graph.op(id), Some(Op::Store(_))).then(|| node.args[0]).filter(|_| fits)
    }

    /// What is to be rounded before it is stored as `id`: no result, and read by nothing but products as it is.
    fn to_round(&self, id: Id) -> Option<Id> {
        let readers = &self.readers[id.index()];
        let only_products = readers.iter().all(|r| matches!(self.graph.op(*r), Some(Op::Sweep(_))));
        self.stored(id).filter(|_| only_products && !readers.is_empty() && !self.outputs.contains(&id))
    }

    /// The norm in front of a grid, be it inside or in memory, if what is normalised comes from products or a table.
    fn norm(&self, grid: Id) -> Option<Norm> {
        let args = &self.graph.node(grid).args;
        let (x, weight, eps) = match self.graph.op(grid)? {
            Op::SweepNorm(op) => (args[0], args[1], op.eps),
            Op::Sweep(_) => match self.graph.op(args[0])? {
                Op::RmsNorm(op) => (self.graph.node(args[0]).args[0], self.graph.node(args[0]).args[1], op.eps),
                _ => return None,
            },
            _ => return None,
        };
        let rows = self.stored(x)?;
        let from = grid_of(self.graph, rows).map(|grid| self.graph.ty(grid));
        let whole_rows = matches!(from, Some(Type::Grid { kind: GridKind::Product | GridKind::Lookup, .. }));
        whole_rows.then_some(Norm { rows, weight, eps })
    }

    /// What the results depend on.
    fn needed(&self) -> BTreeSet<Id> {
        let mut needed = BTreeSet::new();
        let mut left: Vec<Id> = self.outputs.iter().copied().collect();
        while let Some(id) = left.pop() {
            if needed.insert(id) {
                match self.norm(id) {
                    Some(norm) => left.extend([norm.rows, norm.weight]),
                    None => left.extend(&self.graph.node(id).args),
                }
            }
        }
        needed
    }

    fn copy(&mut self, id: Id) -> Result<Id, FuseError> {
        if let Some(placed) = self.place[id.index()] {
            return Ok(placed);
        }
        let node = self.graph.node(id);
        let made = if let Some(norm) = self.norm(id) {
            self.scaled(norm)?
        } else if let Some(rows) = self.to_round(id) {
            let rows = self.copy(rows)?;
            self.store_rounded(rows)?
        } else {
            let args = node.args.iter().map(|arg| self.copy(*arg)).collect::<Result<Vec<_>, _>>()?;
            match &node.kind {
                NodeKind::Leaf(leaf, name) => self.out.add_leaf(*leaf, name, node.ty).map_err(FuseError::IllTyped)?,
                NodeKind::Op(op) => self.add(*op, &args)?,
            }
        };
        self.place[id.index()] = Some(made);
        Ok(made)
    }

    /// The grid over rows that their producer has scaled by the weight of the norm.
    fn scaled(&mut self, norm: Norm) -> Result<Id, FuseError> {
        let (rows, weight) = (self.copy(norm.rows)?, self.copy(norm.weight)?);
        let scaled = self.add(ScaleCols {}, &[rows, weight])?;
        let x = self.store_rounded(scaled)?;
        let squares = self.add(StoreSquares { width: SQUARES }, &[rows])?;
        self.add(SweepScaled { eps: norm.eps }, &[x, squares])
    }

    fn store_rounded(&mut self, rows: Id) -> Result<Id, FuseError> {
        let rounded = self.add(RoundBf16 {}, &[rows])?;
        self.add(Store {}, &[rounded])
    }

    fn add(&mut self, op: impl Into<Op>, args: &[Id]) -> Result<Id, FuseError> {
        self.out.add(op.into(), args).map_err(FuseError::IllTyped)
    }
}

#[cfg(test)]
#[path = "narrow_tests.rs"]
mod tests;
