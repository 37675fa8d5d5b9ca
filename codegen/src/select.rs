//! From a group of the fused graph to its kernel.
//!
//! The choice is short because a group says what it is by its grid or op; which strategy serves is decided by phase.
//! What no kernel can do is refused with the node and the reason.

use crate::kernels::{self, Activations, Binding, Built, Context, Drafted, Shape, Unsupported};
use crate::kir::Cap;
use crate::targets::Target;
use jet_ir::ops::Sort;
use jet_ir::{Graph, Group, Id, Op, Place, Type};
use jetbin::Phase;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Rows that the first kernel of a chain works on at a time.
const FEW: u32 = 8;

/// The kernel of `group`, with those that take over in calls of many rows, up to `most_rows`; rows of `tiled` are in tiles
/// ([`crate::tiled_rows`]).
///
/// # Errors
/// No kernel does what the group asks for; the message names the op and the limit.
pub fn select(
    graph: &Graph,
    group: &Group,
    target: &Target,
    phase: Phase,
    (activations, tiled): (Activations, &BTreeSet<Id>),
    most_rows: u32,
) -> Result<Built, Unsupported> {
    let how = (phase, activations);
    select_tile((graph, tiled), group, target, (how, most_rows), (FEW, &[]))
}

/// Whether kernels of `target` can have `op` in decode: what depends on the machine and on shapes, beyond what [`select`] refuses.
pub fn supports(target: &Target, op: &Op, args: &[Type], result: Type) -> bool {
    match op {
        _ if target.has(Cap::Threads) => kernels::gpu_supports(target, op, args, result),
        Op::DeltaConv(_) => false,
        _ => true,
    }
}

/// The kernel for `tile` rows at a time with the parameters `declared` in front, and those for more.
fn select_tile(
    (graph, tiled): (&Graph, &BTreeSet<Id>),
    group: &Group,
    target: &Target,
    (how, most_rows): ((Phase, Activations), u32),
    (tile, declared): (u32, &[Binding]),
) -> Result<Built, Unsupported> {
    let mut key = key((graph, tiled), group, target, how);
    if how.0 == Phase::Prefill && target.has(Cap::Threads) {
        // tiles are chosen by it
        let _ = write!(key, "\ncalls of {most_rows} rows");
    }
    if tile != FEW {
        let _ = write!(key, "\n{tile} rows at a time");
    }
    let digest = digest(&key);
    let Drafted { mut kernel, params, shape, wider, columns } =
        kernels::build((graph, tiled), target, (how, most_rows), (tile, declared), "kernel", |cx| one(cx, group))?;
    let name = format!("{}_{digest:016x}", shape.name);
    kernel.name.clone_from(&name);
    kernel.doc = doc(graph, group);
    let wider = match wider.filter(|(beyond, _)| most_rows > *beyond) {
        Some((beyond, tile)) => {
            let next = select_tile((graph, tiled), group, target, (how, most_rows), (tile, &params))?;
            assert_eq!(next.params, params, "{name}: two kernels for the same work differ in their parameters");
            Some((beyond, Box::new(next)))
        }
        None => None,
    };
    let Shape { scratch, cost, .. } = shape;
    Ok(Built { name, key, items: kernel.items, kernel, params, scratch, cost, columns, wider })
}

fn one(cx: &Context<'_, '_>, group: &Group) -> Result<Shape, Unsupported> {
    let Some(head) = group.grid.or(group.nodes.first().copied()) else {
        return Ok(Shape::default());
    };
    let stores: Vec<Id> = group.nodes.iter().copied().filter(|n| ends_work(cx.graph, *n)).collect();
    let refuse = |reason: &str| Err(Unsupported::new(cx.graph, head, reason));
    let Some(op) = cx.graph.op(head) else { return refuse("a leaf is no work") };
    if cx.k.target.has(Cap::Threads) {
        return kernels::gpu(cx, head, &stores);
    }
    match op {
        Op::Sweep(_) | Op::SweepNorm(_) | Op::SweepFold(_) | Op::SweepFoldMs(_) => kernels::product(cx, head, &stores),
        Op::Matmul(_) => kernels::product(cx, head, &[head]),
        Op::GatedDeltaRule(_) | Op::DeltaL2(_) | Op::DeltaConv(_) => kernels::delta(cx, head, &stores),
        Op::Attention(_) => kernels::attention(cx, head, &stores),
        Op::AttentionParts(_) => kernels::attention_parts(cx, head),
        Op::AttentionMerge(_) => kernels::attention_merge(cx, head, &stores),
        Op::Embed(_) => kernels::embed(cx, head),
        Op::Argmax(_) => kernels::argmax(cx, head),
        Op::RingPush(op) => kernels::ring_push(cx, head, op.taps),
        Op::KvAppend(_) => kernels::kv_append(cx, head),
        Op::RmsNorm(op) => Ok(kernels::rms_norm(cx, head, op.eps.get())),
        Op::RowMs(_) => Ok(kernels::row_ms(cx, head)),
        Op::L2Norm(op) => Ok(kernels::l2_norm(cx, head, op.head_dim, op.eps.get())),
        Op::GatedNorm(op) => Ok(kernels::gated_norm(cx, head, op.head_dim)),
        Op::Rope(op) => Ok(kernels::rope(cx, head, op.head_dim)),
        _ if op.sort() == Sort::Map => kernels::map(cx, head),
        _ => refuse("neither a grid nor an op in memory"),
    }
}

fn ends_work(graph: &Graph, id: Id) -> bool {
    graph.op(id).is_some_and(|op| matches!(op.sort(), Sort::Store | Sort::Project))
}

/// The group with values named by their order of appearance: what shapes the code, and nothing else.
fn key((graph, tiled): (&Graph, &BTreeSet<Id>), group: &Group, target: &Target, how: (Phase, Activations)) -> String {
    let mut known: Vec<Id> = vec![];
    let mut text = format!("{} {how:?}", target.name);
    let order = |id: Id| if tiled.contains(&id) { " in tiles" } else { "" };
    let mut number = |id: Id| {
        known.iter().position(|k| *k == id).unwrap_or_else(|| {
            known.push(id);
            known.len() - 1
        })
    };
    for &node in &group.nodes {
        let op = graph.op(node).map_or(String::new(), |op| format!("{}{:?}", op.info().name, op.attrs()));
        let _ = write!(text, "\n%{} = {op}", number(node));
        for &arg in &graph.node(node).args {
            // a constant under its layout is the same operand as the layout itself
            let _ = write!(text, " %{}: {}{}", number(arg), graph.ty(arg), order(arg));
            if graph.ty(arg).place() == Some(Place::Packed) {
                let _ = write!(text, " = {}", graph.op(arg).map_or("", |op| op.info().name));
            }
        }
        let _ = write!(text, " -> {}{}", graph.ty(node), order(node));
    }
    text
}

/// What the group computes: its head, then what is stored, with `_` for the head and types for what comes from outside.
fn doc(graph: &Graph, group: &Group) -> String {
    let Some(head) = group.grid.or(group.nodes.first().copied()) else { return String::new() };
    let mut text = expression(graph, group, None, head);
    for &end in group.nodes.iter().filter(|n| **n != head && ends_work(graph, **n)) {
        let _ = write!(text, "\n  {}", expression(graph, group, Some(head), end));
    }
    text
}

/// A node of a group as a nested expression.
fn expression(graph: &Graph, group: &Group, head: Option<Id>, id: Id) -> String {
    let Some(op) = graph.op(id).filter(|_| group.nodes.contains(&id)) else { return format!("[{}]", graph.ty(id)) };
    if head == Some(id) {
        return "_".into();
    }
    let args = graph.node(id).args.iter().map(|arg| expression(graph, group, head, *arg));
    let attrs = op.info().attrs.iter().zip(op.attrs()).map(|(name, value)| format!("{name}={value}"));
    format!("{}({})", op.info().name, args.chain(attrs).collect::<Vec<_>>().join(", "))
}

/// FNV-1a: names need no secrecy, only stability.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}
