//! Behind fusion, for CPUs: attention of one token over a long cache as parts that any number of threads can share, and what merges them.
//!
//! Items of attention are key-value heads, of which a model has few. The parts are fixed by the positions of keys alone, so bits do not
//! depend on threads; they are dealt out in blocks, so that a sequence of any length fills them evenly.

use crate::cost::CostModel;
use crate::error::FuseError;
use crate::fuse::{Fused, arrange};
use crate::traffic::traffic;
use jet_ir::ops::{AttentionMerge, AttentionParts};
use jet_ir::{Graph, Id, Node, NodeKind, Op};

/// Parts of each key-value head: enough for 64 threads where there are two such heads, and for one head a merge of some microseconds.
pub const PARTS: usize = 32;
/// Positions of a block: some tens of kilobytes of keys and values in one piece.
pub const BLOCK: usize = 128;
/// Keys from which it pays, if a query can come to see so many: two blocks for each part. Below, one thread of each head reads them in
/// less time than the threads need to meet once more in some of the models.
pub const MIN_KEYS: usize = 2 * PARTS * BLOCK;

/// Splits each attention whose queries may see [`MIN_KEYS`] keys in sequences of up to `max_context` tokens.
///
/// # Errors
/// The graph is no sequence of kernels, which would be a defect.
pub fn split_attention(fused: Fused, max_context: usize, cost: &dyn CostModel) -> Result<Fused, FuseError> {
    let most = |window: usize| if window == 0 { max_context } else { window.min(max_context) };
    let long = |op: Option<&Op>| matches!(op, Some(Op::Attention(a)) if most(a.window) >= MIN_KEYS);
    if !fused.graph.ids().any(|id| long(fused.graph.op(id))) {
        return Ok(fused);
    }
    let (mut out, mut place) = (Graph::new(fused.graph.name.as_str()), Vec::with_capacity(fused.graph.nodes.len()));
    for id in fused.graph.ids() {
        let node = fused.graph.node(id);
        let args: Vec<Id> = node.args.iter().map(|a| place[a.index()]).collect();
        place.push(match (&node.kind, long(fused.graph.op(id))) {
            (NodeKind::Op(Op::Attention(a)), true) => {
                let (head_dim, window) = (a.head_dim, a.window);
                let parts = AttentionParts { head_dim, window, parts: PARTS, block: BLOCK };
                let parts = out.add(parts, &args).map_err(FuseError::IllTyped)?;
                out.add(AttentionMerge { head_dim, parts: PARTS }, &[parts]).map_err(FuseError::IllTyped)?
            }
            (kind, _) => {
                out.nodes.push(Node { kind: kind.clone(), args, ty: node.ty });
                Id(out.nodes.len() as u32 - 1)
            }
        });
    }
    out.outputs.clone_from(&fused.graph.outputs);
    out.outputs.iter_mut().for_each(|o| o.value = place[o.value.index()]);
    let (graph, groups) = arrange(&out)?;
    let mut report = fused.report;
    report.after = traffic(&graph, &groups, cost.phase());
    Ok(Fused { graph, groups, report })
}
