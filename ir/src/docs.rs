//! The op reference, written from the table.

use crate::ops::{Op, OpInfo, Sort};
use std::fmt::Write;

/// The op reference in Markdown: every op with its operands, attributes and meaning, by role.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Ops\n\nWritten from the table in `ir/src/ops.rs`; `JETC_BLESS=1 cargo test -p jet-ir --test docs` rewrites it.\n\n\
         A value is a tensor `[rows, cols]`, in memory, in registers or constant, or it is a grid, the skeleton of a kernel.\n",
    );
    for &sort in Sort::ALL {
        let _ = write!(out, "\n## {}\n\n{}\n\n| op | meaning |\n|---|---|\n", sort.title(), sort.doc());
        for info in Op::TABLE.iter().filter(|info| info.sort == sort) {
            let doc: Vec<&str> = info.doc.split_whitespace().collect();
            // a bar would end the cell
            let _ = writeln!(out, "| `{}` | {} |", signature(info), doc.join(" ").replace('|', "\\|"));
        }
    }
    out
}

/// `rms_norm(x, w) {eps: F32}`
fn signature(info: &OpInfo) -> String {
    let attrs = info.attrs.iter().zip(info.attr_types).map(|(name, ty)| format!("{name}: {ty}"));
    let attrs: Vec<String> = attrs.collect();
    let attrs = if attrs.is_empty() { String::new() } else { format!(" {{{}}}", attrs.join(", ")) };
    format!("{}({}){attrs}", info.name, info.operands.join(", "))
}
