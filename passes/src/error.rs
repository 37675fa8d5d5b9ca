//! What can go wrong between a graph and its plan.

use jet_ir::GroupError;

/// Why a graph could not be fused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FuseError {
    /// The rules kept finding something new.
    #[error("{graph}: rules do not come to an end: {nodes} e-nodes after {iterations} rounds")]
    Endless {
        /// Name of the graph.
        graph: String,
        /// Size reached.
        nodes: usize,
        /// Rounds.
        iterations: usize,
    },
    /// The rules made a value depend on itself.
    #[error("{graph}: the e-graph has a cycle through `{node}`")]
    Cyclic {
        /// Name of the graph.
        graph: String,
        /// An op on the cycle.
        node: String,
    },
    /// The target has no kernel for any way to compute a result.
    #[error("{graph}: target has no kernel for {what}")]
    Unsupported {
        /// Name of the graph.
        graph: String,
        /// The results, with the ops that stand in the way.
        what: String,
    },
    /// An output that does not exist.
    #[error("no output `{name}`; expected one of {known}")]
    NoSuchOutput {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A chosen op does not fit its operands: a cost model or rule broke a promise.
    #[error("fused graph: {0}")]
    IllTyped(String),
    /// The chosen kernels cannot be launched one after the other.
    #[error(transparent)]
    Group(#[from] GroupError),
}
