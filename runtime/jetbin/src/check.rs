//! Checks what the tables say about each other: every index and every range, before anybody uses one.

use crate::candidates::CandidateList;
use crate::error::ReadError;
use crate::reader::{Reader, WeightPlace, decode_facts, program_section};
use crate::record::*;
use crate::types::*;
use crate::view::*;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Sizes above this are refused, so that sums of a few of them cannot overflow.
const MAX_BYTES: u64 = 1 << 48;

/// Checks all tables of an artifact whose sections and string pool are in place.
pub(crate) fn check_tables(reader: &Reader<'_>) -> Result<(), ReadError> {
    let facts = decode_facts(reader.required(SectionKind::Facts, 0)?, reader.strings())?;
    check_facts(reader, &facts)?;
    check_weights(reader)?;
    let targets = reader.required(SectionKind::Targets, 0)?;
    let targets = Table::<TargetDesc>::checked("targets", targets, reader.strings())?.len();
    for s in reader.sections() {
        let bound = match s.kind {
            SectionKind::Kernels
            | SectionKind::Code
            | SectionKind::Launches
            | SectionKind::Cubin
            | SectionKind::Prefill
            | SectionKind::Decode
            | SectionKind::DecodeFew => targets,
            SectionKind::States => targets.max(1),
            _ => 1,
        };
        if s.index as usize >= bound {
            let problem = format!("section {} has index {}, expected below {bound}", s.kind, s.index);
            return Err(ReadError::damaged("section table", problem));
        }
    }
    // without a target nobody reads the states, but they must be there
    check_states(reader, &facts, 0)?;
    for t in 0..targets as u32 {
        check_states(reader, &facts, reader.states_index(t))?;
        check_kernels(reader, t)?;
        for phase in [Phase::Prefill, Phase::Decode] {
            let rows = match phase {
                Phase::Prefill => facts.prefill_chunk,
                Phase::Decode => facts.max_batch,
            };
            check_program(reader, &facts, t, (program_section(phase), rows..=rows))?;
        }
        if reader.section(SectionKind::DecodeFew, t).is_some() {
            check_program(reader, &facts, t, (SectionKind::DecodeFew, 1..=facts.max_batch - 1))?;
        }
    }
    Ok(())
}

fn require(ok: bool, origin: &str, problem: impl FnOnce() -> String) -> Result<(), ReadError> {
    if ok { Ok(()) } else { Err(ReadError::damaged(origin, problem())) }
}

/// Whether `length` bytes at `offset` lie within `bytes`.
fn within(offset: u64, length: u64, bytes: u64) -> bool {
    offset.checked_add(length).is_some_and(|end| end <= bytes)
}

fn check_facts(reader: &Reader<'_>, facts: &Facts) -> Result<(), ReadError> {
    let limit = i32::MAX as u32;
    let sizes = [facts.vocab_size, facts.max_context, facts.max_batch, facts.prefill_chunk];
    require(sizes.iter().all(|&n| (1..=limit).contains(&n)), "facts", || {
        format!("vocabulary, context, batch and chunk are {sizes:?}, expected 1 to {limit} each")
    })?;
    let found = reader.inv_freq().len();
    let bytes = reader.section(SectionKind::InvFreq, 0).map_or(0, <[u8]>::len);
    require(found * 2 == facts.rope_dim as usize && bytes == found * 4, "inv-freq", || {
        format!("{bytes} bytes for {found} values, expected half of rope_dim = {}", facts.rope_dim)
    })
}

fn check_states(reader: &Reader<'_>, facts: &Facts, index: u32) -> Result<(), ReadError> {
    let bytes = reader.required(SectionKind::States, index)?;
    let origin = "states";
    require(bytes.len() >= StatesRecord::SIZE, origin, || format!("{} bytes", bytes.len()))?;
    let (head, rest) = bytes.split_at(StatesRecord::SIZE);
    let head = StatesRecord::get(head);
    let states = Table::<StateDesc<&str>>::checked(origin, rest, reader.strings())?;
    require(states.len() as u64 == head.n_states, origin, || {
        format!("{} rows, the header says {}", states.len(), head.n_states)
    })?;
    require(head.slot_bytes <= MAX_BYTES && head.slot_bytes.is_multiple_of(ALIGN), origin, || {
        format!("{} bytes a slot, expected a multiple of {ALIGN} up to {MAX_BYTES}", head.slot_bytes)
    })?;
    let mut end = 0;
    for s in states.iter() {
        let origin = format!("state {}", s.name);
        require(s.offset >= end && within(s.offset, s.bytes(), head.slot_bytes), &origin, || {
            format!("{} bytes at {}, expected between {end} and {}", s.bytes(), s.offset, head.slot_bytes)
        })?;
        require(s.layer < facts.n_layers, &origin, || format!("layer {} of {}", s.layer, facts.n_layers))?;
        let (divided, needed) = match s.kind {
            StateKind::Conv => (s.cols, 0),
            StateKind::Delta => (s.rows, 0),
            StateKind::Keys | StateKind::Values if s.window == 0 => (s.cols, facts.max_context),
            StateKind::Keys | StateKind::Values => {
                (s.cols, facts.max_context.min(s.window.saturating_add(facts.prefill_chunk - 1)))
            }
        };
        require(divided.is_multiple_of(s.heads), &origin, || format!("{} heads do not divide {divided}", s.heads))?;
        require(s.rows >= needed, &origin, || format!("{} rows, expected {needed} at least", s.rows))?;
        end = s.offset + s.bytes();
    }
    Ok(())
}

fn check_weights(reader: &Reader<'_>) -> Result<(), ReadError> {
    let bytes = reader.required(SectionKind::Weights, 0)?;
    let weights = Table::<WeightView>::checked("weights", bytes, reader.strings())?;
    let (inside, length) = match reader.weight_place() {
        WeightPlace::Inside(data) => (true, data.len() as u64),
        WeightPlace::External { length, .. } => (false, length),
    };
    require(inside || reader.section(SectionKind::WeightData, 0).is_none(), "section table", || {
        "weights both inside and in a second file".into()
    })?;
    let mut end = 0;
    for w in weights.iter() {
        require(w.offset >= end && within(w.offset, w.length, length), &format!("weight {}", w.name), || {
            format!("{} bytes at {}, expected between {end} and {length}", w.length, w.offset)
        })?;
        let block = w.dtype.block_bytes();
        require(w.length.is_multiple_of(block), &format!("weight {}", w.name), || {
            format!("{} bytes of {}, expected a multiple of {block}", w.length, w.dtype)
        })?;
        end = w.offset + w.length;
    }
    Ok(())
}

fn check_kernels(reader: &Reader<'_>, target: u32) -> Result<(), ReadError> {
    let code = reader.required(SectionKind::Code, target)?.len() as u64;
    let bytes = reader.required(SectionKind::Kernels, target)?;
    let kernels = Table::<KernelDesc<&str>>::checked("kernels", bytes, reader.strings())?;
    for k in kernels.iter() {
        require(k.length > 0 && within(k.offset, k.length, code), &format!("kernel {}", k.name), || {
            format!("{} bytes at {}, the code has {code}", k.length, k.offset)
        })?;
    }
    check_cubin(reader, target)?;
    check_launches(reader, target, kernels.len())
}

/// Only a GPU's code can be assembled; the driver checks the rest.
fn check_cubin(reader: &Reader<'_>, target: u32) -> Result<(), ReadError> {
    let Some(section) = reader.section(SectionKind::Cubin, target) else { return Ok(()) };
    let is_gpu = reader.targets().get(target).is_some_and(|t| t.device == DeviceKind::Cuda);
    require(is_gpu, "cubin", || format!("found one for target {target}, which is a CPU"))?;
    let bytes = section.len();
    let good = section
        .split_at_checked(CubinRecord::SIZE)
        .is_some_and(|(head, file)| CubinRecord::get(head).reserved == 0 && file.starts_with(b"\x7fELF"));
    require(good, "cubin", || format!("{bytes} bytes for target {target}, expected a version and an ELF file"))
}

/// A GPU knows how to launch each of its kernels, a CPU has nothing to know.
fn check_launches(reader: &Reader<'_>, target: u32, kernels: usize) -> Result<(), ReadError> {
    let is_gpu = reader.targets().get(target).is_some_and(|t| t.device == DeviceKind::Cuda);
    if !is_gpu {
        let none = reader.section(SectionKind::Launches, target).is_none();
        return require(none, "launches", || format!("found a table for target {target}, which is a CPU"));
    }
    let bytes = reader.required(SectionKind::Launches, target)?;
    let table = Table::<LaunchDesc>::checked("launches", bytes, reader.strings())?;
    let found = table.len();
    require(found == kernels, "launches", || format!("{found} rows for target {target}, expected {kernels}"))?;
    for (i, launch) in table.iter().enumerate() {
        let Some(wider) = launch.wider else { continue };
        let next = table.get(wider.kernel).filter(|_| wider.kernel as usize > i);
        let good = next.is_some_and(|n| n.wider.is_none_or(|w| w.beyond > wider.beyond));
        require(good, &format!("launch {i}"), || {
            format!(
                "kernel {} takes over beyond {} rows, expected a later one that serves more",
                wider.kernel, wider.beyond
            )
        })?;
    }
    Ok(())
}

/// The program under check with what its rows refer to.
struct Context<'a> {
    program: ProgramView<'a>,
    facts: &'a Facts,
    kernels: usize,
    weights: usize,
    states: usize,
    is_gpu: bool,
}

fn check_program(
    reader: &Reader<'_>,
    facts: &Facts,
    target: u32,
    (kind, expected): (SectionKind, RangeInclusive<u32>),
) -> Result<(), ReadError> {
    let origin = format!("{kind} program of target {target}");
    let bytes = reader.required(kind, target)?;
    let program = ProgramView::cut(&origin, bytes, reader.strings())?;
    program.check_rows(&origin)?;
    let (rows, head) = (program.max_rows(), program.head_rows());
    require(expected.contains(&rows) && (1..=rows).contains(&head), &origin, || {
        let (least, most) = expected.into_inner();
        let expected = if least == most { format!("{most}") } else { format!("{least} to {most}") };
        format!("{rows} rows and {head} head rows, expected {expected} and 1 to as many")
    })?;
    let sizes = [program.arena_bytes(), program.scratch_bytes()];
    require(sizes.iter().all(|&n| n <= MAX_BYTES), &origin, || format!("arena and scratch have {sizes:?} bytes"))?;
    let context = Context {
        program,
        facts,
        kernels: reader.kernels(target).len(),
        weights: reader.weights().len(),
        states: reader.states(target).len(),
        is_gpu: reader.targets().get(target).is_some_and(|t| t.device == DeviceKind::Cuda),
    };
    context.check_buffers(&origin)?;
    context.check_steps(&origin)?;
    context.check_probes(&origin)
}

impl Context<'_> {
    fn check_buffers(&self, origin: &str) -> Result<(), ReadError> {
        let (p, arena) = (&self.program, self.program.arena_bytes());
        for b in p.buffers().iter() {
            let length = b.row_bytes.checked_mul(u64::from(p.rows_of(b.domain)));
            require(
                length.is_some_and(|n| within(b.offset, n, arena)),
                &format!("{origin}, buffer {}", b.name),
                || format!("{} bytes a row at {}, the arena has {arena}", b.row_bytes, b.offset),
            )?;
        }
        let vocab = u64::from(self.facts.vocab_size);
        let outputs = [("logits", Some(p.logits()), vocab * 4), ("argmax", p.argmax(), 4)];
        for (name, index, row_bytes) in outputs.iter().filter_map(|&(n, i, bytes)| Some((n, i?, bytes))) {
            let found = p.buffers().get(index);
            require(
                found.as_ref().is_some_and(|b| b.domain == Domain::Head && b.row_bytes >= row_bytes),
                &format!("{origin}, {name}"),
                || format!("buffer {index} is {found:?}, expected head rows of {row_bytes} bytes"),
            )?;
        }
        Ok(())
    }

    fn check_steps(&self, origin: &str) -> Result<(), ReadError> {
        let (mut next_arg, mut domain) = (0u32, Domain::Tokens);
        for (i, step) in self.program.steps().iter().enumerate() {
            let origin = format!("{origin}, step {i} ({})", step.label);
            require((step.kernel as usize) < self.kernels, &origin, || {
                format!("kernel {} of {}", step.kernel, self.kernels)
            })?;
            require(step.domain >= domain, &origin, || "a step over tokens after one over head rows".into())?;
            domain = step.domain;
            let end = step.first_arg.checked_add(step.n_args);
            let n_args = self.program.args().len();
            require(step.first_arg == next_arg && end.is_some_and(|e| e as usize <= n_args), &origin, || {
                format!("{} arguments at {}, expected at {next_arg} of {n_args}", step.n_args, step.first_arg)
            })?;
            next_arg += step.n_args;
            for arg in self.program.args_of(&step) {
                require(self.is_valid(arg, domain), &origin, || format!("{arg:?} refers to nothing that fits"))?;
            }
        }
        self.check_head_inputs(origin)?;
        let keep = self.program.args().iter().filter(|arg| matches!(arg, Arg::Candidates(_))).count();
        require(keep <= 1, origin, || format!("{keep} arguments are lists of candidates, expected 1 at most"))?;
        let found = self.program.args().len();
        require(next_arg as usize == found, origin, || format!("{found} arguments, the steps use {next_arg}"))
    }

    /// Head steps run once for every window of rows, so no buffer of the head may overwrite what they read.
    fn check_head_inputs(&self, origin: &str) -> Result<(), ReadError> {
        let p = &self.program;
        let steps = p.steps();
        let head = steps.iter().filter(|s| s.domain == Domain::Head).flat_map(|s| p.args_of(&s));
        let used: BTreeSet<u32> = head.filter_map(|a| if let Arg::Buffer(b) = a { Some(b) } else { None }).collect();
        let span = |b: &Buffer<&str>| b.offset..b.offset + b.row_bytes * u64::from(p.rows_of(b.domain));
        let (inputs, outputs): (Vec<_>, Vec<_>) =
            used.iter().filter_map(|&b| p.buffers().get(b)).partition(|b| b.domain == Domain::Tokens);
        for (input, output) in inputs.iter().flat_map(|i| outputs.iter().map(move |o| (i, o))) {
            let (a, b) = (span(input), span(output));
            require(a.end <= b.start || b.end <= a.start, origin, || {
                format!("{}, which head steps read, overlaps {} of the head", input.name, output.name)
            })?;
        }
        Ok(())
    }

    fn is_valid(&self, arg: Arg, domain: Domain) -> bool {
        match arg {
            Arg::Buffer(b) => self.program.buffers().get(b).is_some_and(|b| b.domain <= domain),
            Arg::Weight(w) => (w as usize) < self.weights,
            Arg::State(s) => (s as usize) < self.states,
            Arg::Rope => self.facts.rope_dim > 0,
            Arg::Arrivals => self.is_gpu,
            Arg::Candidates(len) => !self.is_gpu && domain == Domain::Head && CandidateList { len }.is_valid(),
            Arg::KeepLogits => domain == Domain::Head,
            _ => true,
        }
    }

    fn check_probes(&self, origin: &str) -> Result<(), ReadError> {
        let p = &self.program;
        for (i, probe) in p.probes().iter().enumerate() {
            let origin = format!("{origin}, probe {i}");
            let step = p.steps().get(probe.step);
            let known = match probe.kind {
                ProbeKind::LayerHidden(l) => l <= self.facts.n_layers,
                ProbeKind::MixerHidden(l) => l < self.facts.n_layers,
                ProbeKind::LastHidden => true,
            };
            require(known, &origin, || format!("{:?} in a model of {} layers", probe.kind, self.facts.n_layers))?;
            let width = u64::from(self.facts.hidden_size) * 4;
            let fits = step.is_some_and(|step| match probe.source {
                ProbeSource::Buffer(b) => {
                    p.buffers().get(b).is_some_and(|b| b.domain <= step.domain && b.row_bytes >= width)
                }
                ProbeSource::Scratch { offset, row_bytes } => {
                    let rows = u64::from(p.rows_of(step.domain));
                    let length = row_bytes.checked_mul(rows);
                    (offset | row_bytes).is_multiple_of(4)
                        && length.is_some_and(|n| within(offset, n, p.scratch_bytes()))
                }
            });
            require(fits, &origin, || format!("{probe:?} refers to nothing that fits"))?;
        }
        Ok(())
    }
}
