//! The memory plan: which rows each step runs over, how long its results live, and where they lie in the arena.
//!
//! States are updated in place and graph inputs belong to the caller; everything else that a kernel stores is a buffer. Two buffers share
//! bytes when no step needs both. Buffers are placed largest first, each at the lowest offset where nothing that lives at the same time lies.

use jet_ir::{Graph, Group, Id, Leaf, OutputKind, Rows, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Offsets are multiples of this many bytes.
pub const ALIGN: u64 = 64;

/// Which rows a step runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// All rows of a call.
    Tokens,
    /// The window of rows whose logits are wanted. These steps may run again for another window of the same call.
    Head,
}

/// Most rows of each domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLimits {
    /// Rows of a call.
    pub tokens: u64,
    /// Rows of a window.
    pub head: u64,
}

/// A result of a step, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The value in the fused graph.
    pub value: Id,
    /// Its name as an output, or its number and op.
    pub name: String,
    /// Its rows.
    pub domain: Domain,
    /// Start in the arena in bytes.
    pub offset: u64,
    /// Size in bytes, at the most rows.
    pub bytes: u64,
    /// The step that writes it.
    pub first: usize,
    /// The last step that needs it.
    pub last: usize,
}

/// Where everything lies that one program stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// In the order of the steps that write them.
    pub buffers: Vec<Buffer>,
    /// The domain of each step.
    pub domains: Vec<Domain>,
    /// Size of the arena in bytes: the peak.
    pub arena_bytes: u64,
    /// Bytes of all buffers together, had none shared.
    pub unshared_bytes: u64,
}

/// Why a graph cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// A result whose rows are neither tokens nor a window.
    #[error("%{0}: a buffer of type {1} has no number of rows")]
    Shape(u32, Type),
    /// More bytes than can be addressed.
    #[error("%{0}: {1} rows of {2} bytes are more than can be addressed")]
    TooLarge(u32, u64, u64),
}

/// The domain of each group: `Head` where all results are returned, or read by such groups only. A group that touches a state works on the
/// whole sequence, not on a window, and may not run again after the state has been updated.
pub fn domains(graph: &Graph, groups: &[Group]) -> Vec<Domain> {
    let kept = |kind: OutputKind| -> BTreeSet<Id> {
        graph.outputs.iter().filter(|o| o.kind == kind).map(|o| o.value).collect()
    };
    let (returned, probed, updated) = (kept(OutputKind::Return), kept(OutputKind::Probe), kept(OutputKind::Update));
    let is_state = |id: &Id| updated.contains(id) || matches!(graph.leaf(*id), Some((Leaf::State, _)));
    let mut domains = vec![Domain::Tokens; groups.len()];
    for (g, group) in groups.iter().enumerate().rev() {
        let only_head = |value: &Id| {
            let mut readers = groups.iter().filter(|r| r.inputs.contains(value)).peekable();
            let read_by_head = readers.peek().is_some() && readers.all(|r| domains[r.id] == Domain::Head);
            !probed.contains(value) && (returned.contains(value) || read_by_head)
        };
        let stateful = !group.updates.is_empty() || group.inputs.iter().any(is_state);
        if !stateful && !group.stores.is_empty() && group.stores.iter().all(only_head) {
            domains[g] = Domain::Head;
        }
    }
    domains
}

/// Plans the arena of a program whose groups run in the given order.
///
/// # Errors
/// A result without a number of rows, or sizes beyond 2^63 bytes.
pub fn plan_memory(graph: &Graph, groups: &[Group], rows: RowLimits) -> Result<MemoryPlan, MemoryError> {
    let domains = domains(graph, groups);
    let mut buffers = vec![];
    for (step, group) in groups.iter().enumerate() {
        let updated: BTreeSet<Id> = group.updates.iter().map(|(_, value)| *value).collect();
        for &value in group.stores.iter().filter(|v| !updated.contains(v)) {
            buffers.push(buffer(graph, groups, &domains, (step, value), rows)?);
        }
    }
    let arena_bytes = place(&mut buffers);
    let unshared_bytes = buffers.iter().map(|b| b.bytes).sum();
    Ok(MemoryPlan { buffers, domains, arena_bytes, unshared_bytes })
}

fn buffer(
    graph: &Graph,
    groups: &[Group],
    domains: &[Domain],
    (step, value): (usize, Id),
    rows: RowLimits,
) -> Result<Buffer, MemoryError> {
    let ty = graph.ty(value);
    let (domain, end) = (domains[step], groups.len() - 1);
    let limit = if domain == Domain::Head { rows.head } else { rows.tokens };
    let (Type::Tensor { rows: Rows::Tokens, cols, .. }, Some(elem)) = (ty, ty.elem()) else {
        return Err(MemoryError::Shape(value.0, ty));
    };
    let row_bytes = elem.row_bytes(cols) as u64;
    let bytes = limit.checked_mul(row_bytes).filter(|b| *b < 1 << 62);
    let bytes = bytes.ok_or(MemoryError::TooLarge(value.0, limit, row_bytes))?.next_multiple_of(ALIGN);
    let readers = groups.iter().enumerate().filter(|(_, g)| g.inputs.contains(&value)).map(|(i, _)| i);
    let returned = graph.outputs.iter().any(|o| o.kind == OutputKind::Return && o.value == value);
    // What a head step reads must survive for the next window.
    let last = readers.map(|r| if domains[r] == Domain::Head { end } else { r }).max().unwrap_or(step);
    let last = if returned { end } else { last };
    Ok(Buffer { value, name: name(graph, value), domain, offset: 0, bytes, first: step, last })
}

fn name(graph: &Graph, value: Id) -> String {
    let op = graph.op(value).map_or("leaf", |op| op.info().name);
    match graph.outputs.iter().find(|o| o.value == value) {
        Some(output) => output.name.clone(),
        None => format!("{op} %{}", value.0),
    }
}

/// Gives every buffer its offset; the result is the size of the arena.
fn place(buffers: &mut [Buffer]) -> u64 {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(buffers[*i].bytes), *i));
    let mut placed: Vec<usize> = vec![];
    let mut arena = 0;
    for i in order {
        let (first, last, bytes) = (buffers[i].first, buffers[i].last, buffers[i].bytes);
        let neighbours = placed.iter().map(|p| &buffers[*p]).filter(|b| b.first <= last && first <= b.last);
        let mut taken: Vec<(u64, u64)> = neighbours.map(|b| (b.offset, b.offset + b.bytes)).collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if at + bytes <= start {
                break;
            }
            at = at.max(end);
        }
        buffers[i].offset = at;
        arena = arena.max(at + bytes);
        placed.push(i);
    }
    arena
}

impl MemoryPlan {
    /// The domain of a step.
    pub fn domain(&self, step: usize) -> Domain {
        self.domains[step]
    }

    /// The buffer of a value.
    pub fn buffer(&self, value: Id) -> Option<&Buffer> {
        self.buffers.iter().find(|b| b.value == value)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "arena {} bytes of {} without sharing", self.arena_bytes, self.unshared_bytes)?;
        for b in &self.buffers {
            let end = b.offset + b.bytes;
            writeln!(f, "  {:>12}..{end:<12} steps {:>4}..{:<4} {}", b.offset, b.first, b.last, b.name)?;
        }
        Ok(())
    }
}

/// What lies where while the program runs, replayed step by step. It knows the plan's offsets and the groups' reads and writes, nothing of
/// live ranges.
struct Replay<'a> {
    graph: &'a Graph,
    plan: BTreeMap<Id, (u64, u64)>,
    /// Start and end of what was written last, with the value.
    owned: Vec<(u64, u64, Id)>,
    /// States that hold their new content.
    updated: BTreeMap<Id, Id>,
    faults: Vec<String>,
}

/// Checks a plan by replaying it: every read finds the value that was written, no kernel writes what it reads, states are read before they
/// are overwritten, everything is aligned and inside the arena. Head steps are replayed twice, as for two windows.
///
/// # Errors
/// Every violation.
pub fn validate(graph: &Graph, groups: &[Group], plan: &MemoryPlan) -> Result<(), Vec<String>> {
    let places = plan.buffers.iter().map(|b| (b.value, (b.offset, b.offset + b.bytes))).collect();
    let mut replay = Replay { graph, plan: places, owned: vec![], updated: BTreeMap::new(), faults: vec![] };
    for b in &plan.buffers {
        if b.offset % ALIGN != 0 || b.offset + b.bytes > plan.arena_bytes {
            replay.faults.push(format!(
                "{}: bytes {}..{} are not aligned inside the arena",
                b.name,
                b.offset,
                b.offset + b.bytes
            ));
        }
    }
    let head = |g: &&Group| plan.domains[g.id] == Domain::Head;
    for group in groups.iter().chain(groups.iter().filter(head)) {
        replay.step(group);
    }
    for output in graph.outputs.iter().filter(|o| o.kind == OutputKind::Return) {
        replay.read(output.value, "the caller");
    }
    if replay.faults.is_empty() { Ok(()) } else { Err(replay.faults) }
}

impl Replay<'_> {
    fn step(&mut self, group: &Group) {
        let by = format!("step {}", group.id);
        let updates: BTreeMap<Id, Id> = group.updates.iter().map(|(leaf, value)| (*value, *leaf)).collect();
        for &input in &group.inputs {
            self.read(input, &by);
        }
        let written: Vec<Id> = group.stores.iter().copied().filter(|s| !updates.contains_key(s)).collect();
        for &value in &written {
            let Some(&(start, end)) = self.plan.get(&value) else {
                self.faults.push(format!("%{}: {by} writes it, but it has no place", value.0));
                continue;
            };
            let others = group.inputs.iter().chain(written.iter().filter(|o| **o != value));
            for other in others.filter(|o| self.plan.get(o).is_some_and(|(s, e)| *s < end && start < *e)) {
                self.faults.push(format!("%{}: {by} also uses %{} in the same bytes", value.0, other.0));
            }
        }
        for value in written {
            let Some(&(start, end)) = self.plan.get(&value) else { continue };
            self.owned.retain(|(s, e, _)| *e <= start || end <= *s);
            self.owned.push((start, end, value));
        }
        self.updated.extend(updates.into_iter().map(|(value, leaf)| (leaf, value)));
    }

    fn read(&mut self, value: Id, by: &str) {
        if self.graph.leaf(value).is_some() {
            if let Some(new) = self.updated.get(&value) {
                self.faults.push(format!("%{}: {by} reads the old state, but %{} has overwritten it", value.0, new.0));
            }
        } else if let Some(&(start, end)) = self.plan.get(&value) {
            if !self.owned.contains(&(start, end, value)) {
                self.faults.push(format!("%{}: {by} reads it, but it is not there", value.0));
            }
        } else if !self.updated.values().any(|new| *new == value) {
            self.faults.push(format!("%{}: {by} reads a state before its update, or a value without a place", value.0));
        }
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
