//! One target: fused graphs, kernels, code and programs for both phases.

use super::dump::Dump;
use super::options::{ProgramSummary, TargetSummary};
use super::price::{self, Prices};
use super::program::{LAST_HIDDEN, Parts, assemble};
use super::states::{SlotPlan, plan_slot};
use super::weights::WeightTable;
use super::{Limits, Model};
use anyhow::{Context, Result, bail, ensure};
use jet_codegen::kir::{Cap, Launch, reads_settled};
use jet_codegen::targets::Target;
use jet_codegen::{Activations, Built, TILE_ROWS};
use jet_ir::{Graph, Group, Id, Op, OutputKind};
use jet_passes::{CostModel, Fused, MemoryPlan, RowLimits};
use jetbin::{DeviceKind, KernelDesc, LaunchDesc, Phase, Program, TargetDesc, Wider};
use std::collections::BTreeSet;

/// Rows of a head window in a prefill program.
const HEAD_ROWS: u32 = 32;

/// What the artifact gets for a target.
pub struct Compiled {
    /// The target.
    pub desc: TargetDesc,
    /// The states of a sequence.
    pub slot: SlotPlan,
    /// Its kernels.
    pub kernels: Vec<KernelDesc>,
    /// How a GPU launches them.
    pub launches: Vec<LaunchDesc>,
    /// Their code.
    pub code: Vec<u8>,
    /// For a GPU, the same assembled.
    pub cubin: Option<Vec<u8>>,
    /// Prefill and decode.
    pub programs: Vec<Program>,
    /// Decode of few sequences.
    pub few: Option<Program>,
    /// For the report.
    pub summary: TargetSummary,
}

/// A phase after fusion and selection.
pub struct Selected {
    phase: Phase,
    activations: Activations,
    rows: (u32, u32),
    graph: Graph,
    /// Its groups, one for each kernel.
    pub groups: Vec<Group>,
    /// The kernel of each group.
    pub built: Vec<Built>,
    /// The plan with its rows in f32: prices know of no others.
    priced: (Graph, Vec<Group>),
    memory: MemoryPlan,
    summary: ProgramSummary,
}

/// Compiles both programs of the target called `name`.
///
/// # Errors
/// A group without a kernel, or a defect of the compiler that a verifier found.
pub fn compile_target(
    model: &Model,
    (index, name): (u32, &str),
    weights: &mut WeightTable<'_>,
    dump: &Dump,
) -> Result<Compiled> {
    let target = Target::named(name).with_context(|| format!("no target `{name}`"))?;
    let slot = &plan_slot(&target_graph(&model.graph, target, Phase::Decode)?, model.settings.limits)?;
    if target.is_gpu() && u32::try_from(slot.slot_bytes).is_err() {
        bail!(
            "{name}: the states of a sequence take {} bytes, expected less than 2^32; shorten max_context",
            slot.slot_bytes
        );
    }
    let (limits, activations) = (model.settings.limits, model.settings.activations);
    let mut phases = vec![];
    for phase in [Phase::Prefill, Phase::Decode] {
        let selected = select_phase(&model.graph, limits, target, (phase, activations))
            .with_context(|| format!("{name}, {phase}"))?;
        phases.push(selected);
    }
    // behind the program for many: equal kernels are those of its table, which serve any number of rows
    phases.extend(select_few(&model.graph, limits, target, &phases[1]).with_context(|| format!("{name}, few rows"))?);
    for p in &phases {
        dump.phase(name, &p.label(), (&p.graph, &p.groups), &p.memory)?;
    }
    let mut distinct: Vec<&Built> = vec![];
    for built in phases.iter().flat_map(|p| &p.built).flat_map(Built::chain) {
        if !distinct.iter().any(|d| d.name == built.name) {
            distinct.push(built);
        }
    }
    for first in phases.iter().filter_map(|p| p.built.first()).flat_map(Built::chain) {
        // the step before it may be the last one of another call
        ensure!(!reads_settled(&first.kernel), "{}: a first step that reads states before it waits", first.name);
    }
    let kernels: Vec<_> = distinct.iter().map(|b| b.kernel.clone()).collect();
    dump.kernels(name, &kernels)?;
    let blob = jet_codegen::compile(&kernels, target).with_context(|| format!("code for {name}"))?;
    let (mut programs, mut few) = (vec![], None);
    for p in &phases {
        let (graph, groups, built, memory) = (&p.graph, &p.groups[..], &p.built[..], &p.memory);
        let parts = Parts { graph, groups, built, memory, slot, rows: p.rows, hidden: model.config.hidden };
        let kernel = |b: &Built| distinct.iter().position(|d| d.name == b.name).map(|i| i as u32);
        let program = assemble(&parts, (index, p.phase), weights, &kernel)?;
        if p.summary.few.is_some() { few = Some(program) } else { programs.push(program) }
    }
    let mut table = vec![];
    for built in &distinct {
        let offset = blob.symbols.get(&built.name).with_context(|| format!("kernel {} has no code", built.name))?;
        let end = blob.symbols.values().filter(|o| *o > offset).min().copied().unwrap_or(blob.bytes.len());
        let (offset, length) = (*offset as u64, (end - offset) as u64);
        table.push(KernelDesc { name: built.name.clone(), key: built.key.clone(), offset, length });
    }
    let index = |b: &Built| distinct.iter().position(|d| d.name == b.name).map(|i| i as u32);
    let launches = distinct.iter().filter_map(|b| launch(b, target, &index)).collect();
    let summary = TargetSummary {
        name: name.to_string(),
        kernels: kernels.len(),
        code_bytes: blob.bytes.len(),
        assembled: None,
        programs: phases.iter().map(|p| p.summary.clone()).collect(),
    };
    let (desc, slot) = (target_desc(target), slot.clone());
    Ok(Compiled { desc, slot, kernels: table, launches, code: blob.bytes, cubin: None, programs, few, summary })
}

/// What an artifact says of a target.
pub fn target_desc(target: &Target) -> TargetDesc {
    TargetDesc {
        name: target.name.to_string(),
        device: if target.is_gpu() { DeviceKind::Cuda } else { DeviceKind::Cpu },
        arch: target.arch.to_string(),
        features: target.requires.iter().map(ToString::to_string).collect(),
        rank: target.rank,
    }
}

/// How a kernel of a GPU is launched.
fn launch(built: &Built, target: &Target, index: &dyn Fn(&Built) -> Option<u32>) -> Option<LaunchDesc> {
    let kernel = &built.kernel;
    let Launch { threads, rows, .. } = kernel.launch?;
    let (items, shared_bytes, overlaps) =
        (kernel.items.fixed, kernel.dynamic_shared_bytes(), target.has(Cap::DependentLaunch));
    let wider = match &built.wider {
        Some((beyond, next)) => Some(Wider { beyond: *beyond, kernel: index(next)? }),
        None => None,
    };
    Some(LaunchDesc { threads, rows, items, shared_bytes, overlaps, wider })
}

/// The graph of a model as a target computes it: key-value caches have the type in which the target keeps them, and on a GPU, whose kernels
/// leave it nowhere, prefill has the final norm as a result of its own, for observers.
///
/// # Errors
/// A state that has no place in a cache of this type, which is a defect of jetc.
pub fn target_graph(graph: &Graph, target: &Target, phase: Phase) -> Result<Graph> {
    let typed = jet_codegen::with_cache_elem(graph, target.cache_elem());
    let graph = typed.map_err(|e| anyhow::anyhow!("{}: caches of {}: {e}", target.name, target.cache_elem().name()))?;
    Ok(if target.is_gpu() && phase == Phase::Prefill { with_last_hidden(graph) } else { graph })
}

/// The graph with the final norm as a result.
fn with_last_hidden(mut graph: Graph) -> Graph {
    let logits = graph.outputs.iter().find(|o| o.kind == OutputKind::Return && o.name == "logits").map(|o| o.value);
    let norm = logits.and_then(|id| graph.node(id).args.first().copied());
    if let Some(norm) = norm.filter(|id| matches!(graph.op(*id), Some(Op::RmsNorm(_)))) {
        graph.output(OutputKind::Return, LAST_HIDDEN, norm);
    }
    graph
}

/// Rows of a call and of a head window.
fn rows(phase: Phase, limits: Limits) -> (u32, u32) {
    match phase {
        Phase::Prefill => (limits.prefill_chunk, HEAD_ROWS.min(limits.prefill_chunk)),
        Phase::Decode => (limits.max_batch, limits.max_batch),
    }
}

/// Most sequences of a batch that may count as few.
const FEW: u32 = 4;

impl Selected {
    /// What the program is called: its phase, and the most rows if they are few.
    fn label(&self) -> String {
        self.summary.few.map_or(self.phase.to_string(), |n| format!("{}-{n}", self.phase))
    }

    /// Whose decode call of up to so many rows this program serves, if there is another for more.
    pub fn few(&self) -> Option<u32> {
        self.summary.few
    }
}

/// Fuses the graph of a model for one phase and selects its kernels.
///
/// # Errors
/// A group without a kernel, or a defect of the compiler that a verifier found.
pub fn select_phase(graph: &Graph, limits: Limits, target: &Target, how: (Phase, Activations)) -> Result<Selected> {
    let graph = &target_graph(graph, target, how.0)?;
    let cost = price::cost_model(target, how.0, limits);
    let fused = jet_passes::fuse(graph, &cost, &jet_passes::Options::default())?;
    let fused = in_parts(fused, target, (how.0, limits), &cost)?;
    select_fused(fused, target, how, &cost, (rows(how.0, limits), None))
}

/// A plan of kernels with attention over long caches in parts, as the decode programs of CPUs have it.
///
/// # Errors
/// The plan is no sequence of kernels, which would be a defect.
pub fn in_parts(fused: Fused, target: &Target, (phase, limits): (Phase, Limits), cost: &Prices) -> Result<Fused> {
    if phase != Phase::Decode || target.is_gpu() {
        return Ok(fused);
    }
    Ok(jet_passes::split_attention(fused, limits.max_context as usize, cost)?)
}

/// A plan of kernels with the rows that only tile products read rounded in memory, on targets that have them.
///
/// # Errors
/// The plan is no sequence of kernels, which would be a defect.
pub fn narrowed(fused: Fused, target: &Target, cost: &Prices) -> Result<Fused> {
    if target.has(Cap::Mma) { Ok(jet_passes::narrow(fused, cost.phase())?) } else { Ok(fused) }
}

/// The decode program for few sequences, if another plan than that for `many` is faster for them.
///
/// # Errors
/// As for [`select_phase`].
pub fn select_few(graph: &Graph, limits: Limits, target: &Target, many: &Selected) -> Result<Option<Selected>> {
    if !target.is_gpu() {
        return Ok(None);
    }
    let of = |n: u32| price::of_sequences(target, n, limits);
    let graph = &target_graph(graph, target, Phase::Decode)?;
    let fused = jet_passes::fuse(graph, &of(1), &jet_passes::Options::default())?;
    let faster = |n: &u32| {
        let time = |graph: &Graph, groups: &[Group]| jet_passes::plan_ps(graph, groups, &of(*n));
        let (few, many) = (time(&fused.graph, &fused.groups), time(&many.priced.0, &many.priced.1));
        few.zip(many).is_some_and(|(few, many)| few < many)
    };
    let most = (1..=FEW.min(limits.max_batch - 1)).take_while(faster).last();
    let how = (Phase::Decode, many.activations);
    most.map(|most| select_fused(fused, target, how, &of(1), ((most, most), Some(most)))).transpose()
}

/// Kernels for a plan as it was fused, in calls of at most `rows` rows.
///
/// # Errors
/// As for [`select_phase`].
pub fn select_plan(fused: Fused, target: &Target, phase: Phase, cost: &Prices, rows: u32) -> Result<Selected> {
    let head = if phase == Phase::Prefill { HEAD_ROWS.min(rows) } else { rows };
    select_fused(fused, target, (phase, Activations::F32), cost, ((rows, head), None))
}

/// Kernels and places for a fused graph that runs on so many rows.
fn select_fused(
    fused: Fused,
    target: &Target,
    (phase, activations): (Phase, Activations),
    cost: &Prices,
    (rows, few): ((u32, u32), Option<u32>),
) -> Result<Selected> {
    let priced = (fused.graph.clone(), fused.groups.clone());
    let fused = narrowed(fused, target, cost)?;
    jet_ir::verify(&fused.graph).context("fusion made an invalid graph, which is a defect of jetc")?;
    // rows in tiles are padded
    let tokens = if phase == Phase::Prefill { rows.0.next_multiple_of(TILE_ROWS) } else { rows.0 };
    let row_limits = RowLimits { tokens: u64::from(tokens), head: u64::from(rows.1) };
    let memory = jet_passes::plan_memory(&fused.graph, &fused.groups, row_limits)?;
    jet_passes::validate(&fused.graph, &fused.groups, &memory).map_err(|faults| {
        anyhow::anyhow!("the memory plan is wrong, which is a defect of jetc:\n{}", faults.join("\n"))
    })?;
    let most_rows = rows.0.max(rows.1);
    // head steps begin at any row
    let head = fused.groups.iter().filter(|g| memory.domains[g.id] == jet_passes::Domain::Head);
    let windowed: BTreeSet<Id> = head.flat_map(|g| g.inputs.iter().chain(&g.stores).copied()).collect();
    let tiled = jet_codegen::tiled_rows(&fused.graph, target, phase, |id| windowed.contains(&id));
    let select = |g: &Group| jet_codegen::select(&fused.graph, g, target, phase, (activations, &tiled), most_rows);
    let built = fused.groups.iter().map(select).collect::<Result<Vec<_>, _>>()?;
    let report = &fused.report;
    let summary = ProgramSummary {
        phase,
        few,
        kernels: (report.before.kernels, report.after.kernels),
        bytes_per_call: (report.before.bytes(), report.after.bytes()),
        arena: (memory.arena_bytes, memory.unshared_bytes),
    };
    Ok(Selected { phase, activations, rows, graph: fused.graph, groups: fused.groups, built, priced, memory, summary })
}
