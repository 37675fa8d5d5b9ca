//! Types, op table, graph, text form, verifier and reference evaluation of jetc.
//!
//! A [`Graph`] describes what a model does to *one sequence*: `Tokens` new rows on top of the states of that sequence. Every tensor has two
//! dimensions, `[rows, cols]`; heads are attributes of the ops that know them. One table ([`ops`]) declares every op; names, arity, the text
//! form, type inference, reference evaluation and the e-graph language of `jet-passes` are derived from it.

pub mod diagnostic;
pub mod docs;
pub mod eval;
pub mod graph;
pub mod group;
mod lex;
pub mod ops;
pub mod parse;
pub mod quant;
pub mod rounding;
pub mod text;
pub mod types;
pub mod value;
pub mod verify;

pub use diagnostic::{Diagnostic, Diagnostics, Position};
pub use eval::{
    Bindings, EvalError, Manner, Named, Results, Sequence, Weights, eval, eval_as, fresh_states, rope_table,
};
pub use graph::{Graph, Id, Leaf, Node, NodeKind, Output, OutputKind};
pub use group::{Group, GroupError, dependencies, group_kernels, owners};
pub use ops::{Op, OpInfo};
pub use parse::{Parsed, parse, read, read_bytes};
pub use rounding::Rounding;
pub use types::{Elem, F32, GridKind, Place, Rows, Type};
pub use value::{Mat, Real, Value};
pub use verify::{Issue, Site, VerifyError, grid_of, verify};
