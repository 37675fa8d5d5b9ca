//! Before fusion: one order of operands where an op has none of its own.

use jet_ir::{Graph, NodeKind, Op};

/// The same graph with the operand that is computed later on the left of every `add` and `mul`.
///
/// The rules have no commutativity and absorb the left operand's kernel: the later one cannot be what the other waits for, so the residual
/// stream is read by the epilogue of the product that is added to it, never the other way round. Both ops commute in floating point too.
pub fn normalise(graph: &Graph) -> Graph {
    let mut depth: Vec<usize> = Vec::with_capacity(graph.nodes.len());
    let mut graph = graph.clone();
    for node in &mut graph.nodes {
        let below = node.args.iter().map(|a| depth[a.index()] + 1).max();
        depth.push(below.unwrap_or(0));
        if matches!(node.kind, NodeKind::Op(Op::Add(_) | Op::Mul(_))) {
            node.args.sort_by_key(|a| std::cmp::Reverse((depth[a.index()], *a)));
        }
    }
    graph
}

#[cfg(test)]
mod tests {
    use super::*;
    use jet_ir::ops::{Add, Silu};
    use jet_ir::{Leaf, Rows, Type};

    #[test]
    fn the_later_operand_goes_left() {
        let mut g = Graph::new("residual");
        let x = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 4)).unwrap();
        let y = g.add(Silu {}, &[x]).unwrap();
        let sum = g.add(Add {}, &[x, y]).unwrap();
        let other = g.add(Add {}, &[y, x]).unwrap();
        let normal = normalise(&g);
        assert_eq!(normal.node(sum).args, [y, x]);
        assert_eq!(normal.node(other).args, [y, x]);
    }
}
