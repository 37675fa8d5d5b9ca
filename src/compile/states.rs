//! The states of one sequence: where each lies in a slot, and how much of it there is.

use anyhow::{Context, Result, bail};
use jet_ir::{Elem, Graph, Leaf, Op, Rows, Type};
use jetbin::{ALIGN, DType, StateDesc, StateKind};

/// What a sequence may hold at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens of a sequence.
    pub max_context: u32,
    /// Sequences in one decode call.
    pub max_batch: u32,
    /// Tokens in one prefill call.
    pub prefill_chunk: u32,
}

/// The states of a slot.
#[derive(Clone, Debug)]
pub struct SlotPlan {
    /// In the order of their offsets.
    pub states: Vec<StateDesc>,
    /// Distance between two slots in bytes.
    pub slot_bytes: u64,
}

impl SlotPlan {
    /// Index of the state with this name.
    pub fn index(&self, name: &str) -> Option<u32> {
        self.states.iter().position(|s| s.name == name).map(|i| i as u32)
    }
}

/// Rows that a cache needs: a window must survive until the oldest query of a chunk has been answered, and the chunk is appended first.
fn capacity(window: u32, limits: Limits) -> u32 {
    match window {
        0 => limits.max_context,
        w => limits.max_context.min((w + limits.prefill_chunk - 1).next_multiple_of(16)),
    }
}

/// `layers.3.keys` -> layer 3, keys.
fn parse_name(name: &str) -> Result<(u32, StateKind)> {
    let mut parts = name.split('.');
    let (head, layer, kind) = (parts.next(), parts.next().and_then(|l| l.parse().ok()), parts.next());
    let kind = match kind {
        Some("conv") => StateKind::Conv,
        Some("delta") => StateKind::Delta,
        Some("keys") => StateKind::Keys,
        Some("values") => StateKind::Values,
        _ => bail!("state `{name}`: expected layers.N.conv, delta, keys or values"),
    };
    let layer = layer.filter(|_| head == Some("layers")).with_context(|| format!("state `{name}` names no layer"))?;
    Ok((layer, kind))
}

/// Heads and window of a state, as the op that uses it says.
fn heads_and_window(graph: &Graph, state: jet_ir::Id, cols: u32) -> (u32, u32) {
    let users = |id: jet_ir::Id| graph.ids().filter(move |u| graph.node(*u).args.contains(&id));
    for user in users(state) {
        match graph.op(user) {
            Some(Op::GatedDeltaRule(_)) => return (graph.ty(graph.node(user).args[3]).cols() as u32, 0),
            Some(Op::KvAppend(_)) => {
                for reader in users(user) {
                    if let Some(Op::Attention(a)) = graph.op(reader) {
                        return (cols / a.head_dim as u32, a.window as u32);
                    }
                }
            }
            _ => {}
        }
    }
    (1, 0)
}

/// Lays the states of `graph` (that of a target, before it is fused) out in a slot.
///
/// # Errors
/// A state whose name or shape the runtime does not know, or a slot beyond 2^63 bytes.
pub fn plan_slot(graph: &Graph, limits: Limits) -> Result<SlotPlan> {
    let (mut states, mut end) = (Vec::new(), 0u64);
    for id in graph.ids() {
        let Some((Leaf::State, name)) = graph.leaf(id) else { continue };
        let (layer, kind) = parse_name(name)?;
        let Type::Tensor { rows, cols, elem, .. } = graph.ty(id) else { bail!("state `{name}` is no tensor") };
        let dtype = match elem {
            Elem::F32 => DType::F32,
            Elem::Bf16 => DType::Bf16,
            other => bail!("state `{name}` is of type {}, expected f32 or bf16", other.name()),
        };
        let cols = u32::try_from(cols).with_context(|| format!("state `{name}` has {cols} columns"))?;
        let (heads, window) = heads_and_window(graph, id, cols);
        let rows = match rows {
            Rows::Fixed(n) => u32::try_from(n).with_context(|| format!("state `{name}` has {n} rows"))?,
            Rows::Context => capacity(window, limits),
            Rows::Tokens => bail!("state `{name}` has a row for each token"),
        };
        let zero_at_start = matches!(kind, StateKind::Conv | StateKind::Delta);
        let name = name.to_string();
        let desc = StateDesc { name, kind, dtype, layer, offset: end, rows, cols, heads, window, zero_at_start };
        end = end
            .checked_add(desc.bytes().next_multiple_of(ALIGN))
            .filter(|e| *e < 1 << 63)
            .with_context(|| format!("state `{}` of {rows} rows does not fit an address space", desc.name))?;
        states.push(desc);
    }
    Ok(SlotPlan { states, slot_bytes: end })
}
