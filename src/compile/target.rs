//! One target: fused graphs, kernels, code and programs for both phases.

use super::dump::Dump;
use super::options::{ProgramSummary, TargetSummary};
use super::program::{Parts, assemble};
use super::states::SlotPlan;
use super::weights::WeightTable;
use super::{Limits, Model};
use anyhow::{Context, Result};
use jet_codegen::targets::Target;
use jet_codegen::{Built, PhaseSpec};
use jet_ir::{Graph, Group};
use jet_passes::{MemoryPlan, RowLimits};
use jetbin::{DeviceKind, KernelDesc, Phase, Program, TargetDesc};

/// Rows of a head window in a prefill program.
const HEAD_ROWS: u32 = 32;

/// What the artifact gets for a target.
pub struct Compiled {
    /// The target.
    pub desc: TargetDesc,
    /// Its kernels.
    pub kernels: Vec<KernelDesc>,
    /// Their code.
    pub code: Vec<u8>,
    /// Prefill and decode.
    pub programs: Vec<Program>,
    /// For the report.
    pub summary: TargetSummary,
}

/// A phase after fusion and selection.
struct Selected {
    phase: Phase,
    rows: (u32, u32),
    graph: Graph,
    groups: Vec<Group>,
    built: Vec<Built>,
    memory: MemoryPlan,
    summary: ProgramSummary,
}

/// Compiles both programs of the target called `name`.
///
/// # Errors
/// A group without a kernel, or a defect of the compiler that a verifier found.
pub fn compile_target(
    model: &Model,
    slot: &SlotPlan,
    (index, name): (u32, &str),
    weights: &mut WeightTable<'_>,
    dump: &Dump,
) -> Result<Compiled> {
    let target = Target::named(name).with_context(|| format!("no target `{name}`"))?;
    let mut phases = vec![];
    for phase in [Phase::Prefill, Phase::Decode] {
        let selected = select_phase(model, target, phase).with_context(|| format!("{name}, {phase}"))?;
        dump.phase(name, phase, &selected.graph, &selected.memory)?;
        phases.push(selected);
    }
    let mut distinct: Vec<&Built> = vec![];
    for built in phases.iter().flat_map(|p| &p.built) {
        if !distinct.iter().any(|d| d.name == built.name) {
            distinct.push(built);
        }
    }
    let kernels: Vec<_> = distinct.iter().map(|b| b.kernel.clone()).collect();
    dump.kernels(name, &kernels)?;
    let blob = jet_codegen::compile(&kernels, target).with_context(|| format!("code for {name}"))?;
    let mut programs = vec![];
    for p in &phases {
        let (graph, groups, built, memory) = (&p.graph, &p.groups[..], &p.built[..], &p.memory);
        let parts = Parts { graph, groups, built, memory, slot, rows: p.rows, hidden: model.config.hidden };
        let number = |b: &Built| distinct.iter().position(|d| d.name == b.name).unwrap_or(0) as u32;
        programs.push(assemble(&parts, (index, p.phase), weights, &number)?);
    }
    let summary = TargetSummary {
        name: name.to_string(),
        kernels: kernels.len(),
        code_bytes: blob.bytes.len(),
        programs: phases.into_iter().map(|p| p.summary).collect(),
    };
    let mut table = vec![];
    for built in distinct {
        let symbol = blob.symbols.get(&built.name).with_context(|| format!("kernel {} has no code", built.name))?;
        let (offset, length) = (symbol.offset as u64, symbol.length as u64);
        table.push(KernelDesc { name: built.name.clone(), key: built.key.clone(), offset, length });
    }
    let desc = TargetDesc {
        name: name.to_string(),
        device: DeviceKind::Cpu,
        arch: target.triple.to_string(),
        features: target.host_features.iter().map(ToString::to_string).collect(),
        rank: target.rank,
    };
    Ok(Compiled { desc, kernels: table, code: blob.bytes, programs, summary })
}

/// Rows of a call and of a head window.
fn rows(phase: Phase, limits: Limits) -> (u32, u32) {
    match phase {
        Phase::Prefill => (limits.prefill_chunk, HEAD_ROWS.min(limits.prefill_chunk)),
        Phase::Decode => (limits.max_batch, limits.max_batch),
    }
}
