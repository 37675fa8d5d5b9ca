//! The type in which a target keeps keys and values.

use jet_ir::{Elem, Graph, Leaf, Rows, Type};

/// `graph` with key-value caches of `elem`, the states that have a row for every token. Rows are rounded to it where they are
/// appended; evaluation, which knows no types, does not round them.
///
/// # Errors
/// An op that takes no cache of this type.
pub fn with_cache_elem(graph: &Graph, elem: Elem) -> Result<Graph, String> {
    graph.with_leaf_types(|leaf, _, ty| match ty {
        Type::Tensor { place, rows: Rows::Context, cols, .. } if leaf == Leaf::State => {
            Type::tensor(place, Rows::Context, cols, elem)
        }
        other => other,
    })
}
