//! The text form of a graph (`.jir`): what is printed here, [`crate::parse()`] reads back as the same graph.
//!
//! ```text
//! // comments reach to the end of the line
//! graph "block" {
//!   %0: f32[T, 4] = input "x"
//!   %1: const bf16[1, 4] = weight "norm.weight"
//!   %2: f32[T, 4] = rms_norm %0, %1 {eps = 1e-6}
//!   return %2 as "y"
//! }
//! ```
//!
//! Every node states its type, so that a file stands alone; keywords and names of ops come from the tables of [`crate::types`],
//! [`crate::graph`] and [`crate::ops`].

use crate::graph::{Graph, Id, NodeKind};
use std::fmt::{self, Write};

/// The keyword at the start of a file.
pub(crate) const GRAPH: &str = "graph";
/// The keyword between an output's value and its name.
pub(crate) const AS: &str = "as";

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{GRAPH} {} {{", Quoted(&self.name))?;
        self.ids().try_for_each(|id| writeln!(f, "  {}", Line { graph: self, id }))?;
        for output in &self.outputs {
            writeln!(f, "  {} {} {AS} {}", output.kind.name(), output.value, Quoted(&output.name))?;
        }
        f.write_str("}\n")
    }
}

impl Graph {
    /// The definition of a node as it stands in the text form, without indentation: `%2: f32[T, 4] = silu %1`.
    pub fn line(&self, id: Id) -> impl fmt::Display + '_ {
        Line { graph: self, id }
    }
}

struct Line<'a> {
    graph: &'a Graph,
    id: Id,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.graph.node(self.id);
        write!(f, "{}: {} = ", self.id, node.ty)?;
        let op = match &node.kind {
            NodeKind::Leaf(leaf, name) => return write!(f, "{} {}", leaf.name(), Quoted(name)),
            NodeKind::Op(op) => op,
        };
        let info = op.info();
        f.write_str(info.name)?;
        for (i, arg) in node.args.iter().enumerate() {
            write!(f, "{}{arg}", if i == 0 { " " } else { ", " })?;
        }
        let attrs: Vec<String> =
            info.attrs.iter().zip(op.attrs()).map(|(name, value)| format!("{name} = {value}")).collect();
        if attrs.is_empty() { Ok(()) } else { write!(f, " {{{}}}", attrs.join(", ")) }
    }
}

/// A name in quotes; quotes, backslashes and control characters are escaped.
pub(crate) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}
