//! Fused groups and their kernels as the program that the runtime executes: buffers, steps, arguments, probes.

use super::states::SlotPlan;
use super::weights::WeightTable;
use anyhow::{Context, Result, bail};
use jet_codegen::{Binding, Built};
use jet_frontend::graph::{ROPE, TOKEN_IDS};
use jet_ir::{Graph, Group, Id, Leaf, OutputKind};
use jet_passes::{Domain as PlanDomain, MemoryPlan};
use jetbin::{Arg, Buffer, CandidateList, Domain, Phase, Probe, ProbeKind, ProbeSource, Program, Step};
use std::collections::HashMap;

/// The final norm as a result of its own.
pub const LAST_HIDDEN: &str = "last_hidden";

/// A fused graph with its kernels and its place in memory.
pub struct Parts<'a> {
    /// The fused graph.
    pub graph: &'a Graph,
    /// Its kernels in launch order.
    pub groups: &'a [Group],
    /// The code of each group.
    pub built: &'a [Built],
    /// Where the buffers lie.
    pub memory: &'a MemoryPlan,
    /// Where the states lie.
    pub slot: &'a SlotPlan,
    /// Most rows of a call, and of a head window.
    pub rows: (u32, u32),
    /// Width of the residual stream.
    pub hidden: usize,
}

/// The program of one target and phase. `kernel` gives the index of a kernel in the target's table.
///
/// # Errors
/// A kernel that asks for something that the plan does not have, which is a defect of the compiler.
pub fn assemble(
    parts: &Parts<'_>,
    (target, phase): (u32, Phase),
    weights: &mut WeightTable<'_>,
    kernel: &dyn Fn(&Built) -> Option<u32>,
) -> Result<Program> {
    // the largest logits of a CPU are in lists of its threads
    let listed = |id: Id| parts.built.iter().any(|b| b.params.contains(&Binding::Candidates(id)));
    let planned = || parts.memory.buffers.iter().filter(|b| !listed(b.value));
    let buffers: Vec<Buffer> = planned().map(|b| buffer(parts.graph, b)).collect();
    let index: HashMap<Id, u32> = planned().zip(0..).map(|(b, i)| (b.value, i)).collect();
    let mut steps = vec![];
    for (group, built) in parts.groups.iter().zip(parts.built) {
        let label = label(parts.graph, group);
        let args = built.params.iter().map(|p| argument(parts, &index, weights, p));
        let args = args.collect::<Result<Vec<_>>>().with_context(|| format!("step {label} ({})", built.name))?;
        steps.push(Step {
            kernel: kernel(built).with_context(|| format!("step {label}: no kernel {}", built.name))?,
            domain: domain(parts.memory.domain(group.id)),
            items_fixed: if built.items.per_row { 0 } else { built.items.fixed },
            items_per_row: if built.items.per_row { built.items.fixed } else { 0 },
            args,
            cost: built.cost,
            label,
        });
    }
    let output = |name: &str| {
        let found = parts.graph.outputs.iter().find(|o| o.kind == OutputKind::Return && o.name == name);
        found.and_then(|o| index.get(&o.value).copied())
    };
    let scratch = |b: &Built| b.scratch.fixed + b.scratch.per_row * u64::from(parts.rows.0.max(parts.rows.1));
    Ok(Program {
        target,
        phase,
        max_rows: parts.rows.0,
        head_rows: parts.rows.1,
        arena_bytes: parts.memory.arena_bytes,
        scratch_bytes: parts
            .built
            .iter()
            .flat_map(Built::chain)
            .map(scratch)
            .max()
            .unwrap_or(0)
            .next_multiple_of(jetbin::ALIGN),
        logits: output("logits").context("the graph has no output `logits`")?,
        argmax: output("argmax"),
        probes: probes(parts, &index),
        buffers,
        steps,
    })
}

fn domain(plan: PlanDomain) -> Domain {
    match plan {
        PlanDomain::Tokens => Domain::Tokens,
        PlanDomain::Head => Domain::Head,
    }
}

fn buffer(graph: &Graph, planned: &jet_passes::Buffer) -> Buffer {
    let ty = graph.ty(planned.value);
    let row_bytes = ty.elem().map_or(0, |e| e.row_bytes(ty.cols())) as u64;
    let name = planned.name.clone();
    Buffer { name, offset: planned.offset, row_bytes, domain: domain(planned.domain) }
}

/// The word that a kernel's parameter becomes.
fn argument(
    parts: &Parts<'_>,
    buffers: &HashMap<Id, u32>,
    weights: &mut WeightTable<'_>,
    binding: &Binding,
) -> Result<Arg> {
    let state = |id: Id| {
        let (_, name) = parts.graph.leaf(id).context("a state binding names no leaf")?;
        parts.slot.index(name).with_context(|| format!("no state `{name}` in the slot"))
    };
    Ok(match binding {
        Binding::Value(id) => match parts.graph.leaf(*id) {
            Some((Leaf::Input, TOKEN_IDS)) => Arg::TokenIds,
            Some((Leaf::Input, ROPE)) => Arg::Rope,
            Some((leaf, name)) => bail!("{} `{name}` is no activation", leaf.name()),
            None => Arg::Buffer(*buffers.get(id).with_context(|| format!("%{} has no buffer", id.0))?),
        },
        Binding::Weight { pack, sources } => Arg::Weight(weights.index(parts.graph, *pack, sources)?),
        Binding::State(id) => Arg::State(state(*id)?),
        Binding::StateRows(id) => Arg::Const(u64::from(parts.slot.states[state(*id)? as usize].rows)),
        Binding::SlotStride => Arg::SlotStride,
        Binding::Slots => Arg::Slots,
        Binding::Positions => Arg::Positions,
        Binding::Rows => Arg::Rows,
        Binding::ItemBegin => Arg::ItemBegin,
        Binding::ItemEnd => Arg::ItemEnd,
        Binding::Scratch => Arg::Scratch,
        Binding::Arrivals => Arg::Arrivals,
        Binding::Candidates(_) => Arg::Candidates(CandidateList::USUAL.len),
        Binding::KeepLogits => Arg::KeepLogits,
    })
}

/// What a step works on, for people: `layers.3: gate_proj, up_proj`, else the op.
fn label(graph: &Graph, group: &Group) -> String {
    let head = group.grid.unwrap_or(group.nodes[0]);
    let op = graph.op(head).map_or("leaf", |op| op.info().name);
    let mut names: Vec<&str> = vec![];
    for id in &group.weights {
        let mut leaf = *id;
        while let Some(next) = graph.node(leaf).args.first() {
            leaf = *next;
        }
        if let Some((Leaf::Weight, name)) = graph.leaf(leaf) {
            names.push(name.trim_start_matches("model."));
        }
    }
    let updated = group.updates.iter().filter_map(|(state, _)| graph.leaf(*state).map(|(_, name)| name));
    let names: Vec<&str> = names.into_iter().filter(|n| !n.ends_with(".bias")).chain(updated).collect();
    let Some(first) = names.first() else { return op.to_string() };
    let mut scope = String::new();
    for part in first.split('.') {
        let longer = format!("{scope}{part}.");
        if !names.iter().all(|n| n.starts_with(&longer)) {
            break;
        }
        scope = longer;
    }
    let short = |n: &&str| n[scope.len()..].trim_end_matches(".weight").rsplit('.').next().unwrap_or("").to_string();
    let mut parts: Vec<String> = names.iter().map(short).filter(|n| !n.is_empty() && n != "weight").collect();
    parts.dedup();
    format!("{op} {}{}", scope, parts.join("+")).trim_end_matches('.').to_string()
}

/// Values that an observer may read, with the step after which they are there.
fn probes(parts: &Parts<'_>, buffers: &HashMap<Id, u32>) -> Vec<Probe> {
    let step_of = |value: Id| parts.groups.iter().position(|g| g.nodes.contains(&value));
    let mut probes = vec![];
    for output in parts.graph.outputs.iter().filter(|o| o.kind == OutputKind::Probe) {
        let kind = match output.name.split_once('.').map(|(kind, l)| (kind, l.parse())) {
            Some(("layer_hidden", Ok(l))) => ProbeKind::LayerHidden(l),
            Some(("mixer_hidden", Ok(l))) => ProbeKind::MixerHidden(l),
            _ => continue,
        };
        if let (Some(step), Some(&buffer)) = (step_of(output.value), buffers.get(&output.value)) {
            probes.push(Probe { kind, step: step as u32, source: ProbeSource::Buffer(buffer) });
        }
    }
    probes.extend(last_hidden(parts, buffers));
    probes
}

/// The final norm: its buffer, or the rows that the kernel of the logits stages at the start of its scratch memory.
fn last_hidden(parts: &Parts<'_>, buffers: &HashMap<Id, u32>) -> Option<Probe> {
    let output = |name: &str| {
        let found = parts.graph.outputs.iter().find(|o| o.kind == OutputKind::Return && o.name == name);
        found.map(|o| o.value)
    };
    let step_of = |value: Id| parts.groups.iter().position(|g| g.nodes.contains(&value));
    let step = step_of(output("logits")?)?;
    let grid = parts.groups[step].grid?;
    let (step, source) = match parts.graph.op(grid)? {
        // a GPU has no scratch memory that outlives a kernel
        jet_ir::Op::SweepNorm(_) if parts.built[step].kernel.launch.is_some() => return None,
        jet_ir::Op::SweepNorm(_) => (step, ProbeSource::Scratch { offset: 0, row_bytes: 4 * parts.hidden as u64 }),
        jet_ir::Op::Sweep(_) => (step, ProbeSource::Buffer(*buffers.get(&parts.graph.node(grid).args[0])?)),
        jet_ir::Op::SweepScaled(_) => {
            let norm = output(LAST_HIDDEN)?;
            (step_of(norm)?, ProbeSource::Buffer(*buffers.get(&norm)?))
        }
        _ => return None,
    };
    Some(Probe { kind: ProbeKind::LastHidden, step: step as u32, source })
}
