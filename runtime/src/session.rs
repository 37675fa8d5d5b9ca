//! Sequences of one model on one device: prefill, decode, logits.

use crate::cpu::Cpu;
use crate::device::{Code, Content, Device, Growing, ListName, Piece};
use crate::error::{Error, Result};
use crate::head::{Choices, Window};
use crate::machine::DeviceChoice;
use crate::model::Model;
use crate::observe::{Observation, Observer, Seen};
use crate::plan::{PHASES, Places, Plan, arrivals};
use crate::states::States;
use jetbin::{Arg, DType, Phase};
use std::collections::BTreeSet;
use std::ops::Range;

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads, the calling one included; 0 means one for each core.
    pub threads: u32,
    /// Sequences that can be held at once.
    pub sequences: u32,
    /// Whether each thread but the calling one stays on one of the processors that the caller may use; each has its own as
    /// long as there are enough. For machines that run nothing else.
    pub pin: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 0, sequences: 1, pin: false }
    }
}

/// Memory of a session, in bytes. All but `weights` is anonymous memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// States of all sequences; pages that were never touched take none.
    pub states: u64,
    /// Arena of activations, shared by all programs.
    pub arena: u64,
    /// Scratch of all threads, with their lists of candidates.
    pub scratch: u64,
    /// Counters of arrivals on a GPU.
    pub arrivals: u64,
    /// Token ids, slots, positions, rotary input; a row of logits; the words of all steps.
    pub small: u64,
    /// Copy of the machine code.
    pub code: u64,
    /// Packed weights that the target reads, mapped from the file.
    pub weights: u64,
}

/// Sequences of a model, with everything that is needed to run it. One call runs at a time.
pub struct Session {
    /// Before the model, so that it is dropped before the weights that it was given.
    pub(crate) device: Box<dyn Device>,
    pub(crate) model: Model,
    pub(crate) places: Places,
    pub(crate) sequences: Vec<Sequence>,
    /// Prefill, decode, and decode of few sequences where the target has a program for it.
    pub(crate) plans: Vec<Plan>,
    pub(crate) states: States,
    inputs: Inputs,
    /// What the arena holds: the rows of the last call, and which of them the head has seen.
    pub(crate) last: Option<Last>,
    pub(crate) choices: Choices,
    memory: Memory,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sequence {
    pub length: u32,
    /// A call failed half-way: what the states hold is unknown.
    pub interrupted: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub phase: Phase,
    /// The plan that it ran.
    pub serving: usize,
    pub rows: u32,
    /// The rows that the head has seen.
    pub head: Option<Window>,
}

/// Inputs of a call on the host, as they lie on the device: ids, slots, positions, `capacity` each; then `cos | sin` of each row's
/// position, `rope_dim` numbers.
struct Inputs {
    block: Vec<u32>,
    rows: usize,
    capacity: usize,
    inv_freq: Vec<f32>,
}

/// The processors, with threads as asked for.
fn cpu(options: Options) -> Result<Cpu> {
    let cpu = Cpu::new(options.threads)?;
    if options.pin {
        cpu.pin()?;
    }
    Ok(cpu)
}

impl Session {
    /// A session on the device that the model was opened for, with the target that the model has chosen.
    ///
    /// # Errors
    /// If memory or threads are refused.
    pub fn new(model: &Model, options: Options) -> Result<Self> {
        model.will_need_weights();
        let device: Box<dyn Device> = match model.device() {
            DeviceChoice::Cpu => Box::new(cpu(options)?),
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda(ordinal) => Box::new(crate::cuda::Cuda::new(ordinal)?),
            #[cfg(feature = "ptxsim")]
            DeviceChoice::PtxSim => Box::new(crate::ptxsim::PtxSim::new()),
        };
        Self::with_device(model, device, options.sequences)
    }

    /// A session on a device of the caller's, which must be able to run the model's chosen target.
    ///
    /// # Errors
    /// If the device fails, or if no sequence is asked for.
    pub fn with_device(model: &Model, mut device: Box<dyn Device>, sequences: u32) -> Result<Self> {
        if sequences == 0 {
            return Err(Error::request("0 sequences asked for, expected 1 at least"));
        }
        let (reader, facts, target) = (model.reader(), model.facts(), model.target());
        let program = |phase| {
            let absent = || Error::request(format!("the artifact has no {phase} program for target {target}"));
            reader.program(target, phase).ok_or_else(absent)
        };
        let mut programs = vec![program(PHASES[0])?, program(PHASES[1])?];
        programs.extend(reader.program_of_few(target));
        let kernels: Vec<_> = reader.kernels(target).iter().collect();
        let launches: Vec<_> = reader.launches(target).iter().collect();
        let desc = reader.targets().get(target).ok_or_else(|| Error::request(format!("no target {target}")))?;
        let (bytes, cubin) = (reader.code(target), reader.cubin(target));
        let code = Code { target: &desc.name, bytes, cubin, arch: &desc.arch, kernels: &kernels, launches: &launches };
        let inputs = Inputs::new(facts, reader.inv_freq().collect());
        let weights = used_weights(model, &programs);
        let mut memory = requirements(model, &programs, sequences)?;
        memory.scratch *= u64::from(device.threads());
        memory.arrivals = 4 * programs.iter().map(|p| arrivals(p, &launches)).max().unwrap_or(0);
        memory.weights = weights.iter().map(|(_, data)| data.len() as u64).sum();
        let mut states = States::new(&reader, target, sequences);
        let pieces = pieces(&memory, &weights, &inputs, device.threads());
        device.reserve(&code, &pieces, &Growing { bytes: memory.states, at_start: &states.at_start() })?;
        // SAFETY: the target was chosen for this machine, and the hash of its code was checked against the artifact.
        unsafe { device.load(&code)? };
        let places =
            place(model, device.as_mut(), &memory, &weights, &mut states, (&inputs, scratch_bytes(&programs)))?;
        let plan = |program| Plan::new(program, &launches, &places);
        let plans = programs.iter().map(plan).collect::<Result<Vec<_>>>()?;
        let choices = Choices::new(&plans, facts.vocab_size, device.threads());
        memory.small += plans.iter().map(|p| p.words.len() as u64 * 8).sum::<u64>();
        memory.small += 2 * inputs.bytes() + choices.bytes();
        let sequences = vec![Sequence::default(); sequences as usize];
        let (model, last) = (model.clone(), None);
        Ok(Self { model, device, places, sequences, plans, states, inputs, last, choices, memory })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Threads that steps are shared out among.
    pub fn threads(&self) -> u32 {
        self.device.threads()
    }

    /// What the session takes.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// What a user should know about the device and the code that it runs; empty if all is as expected.
    pub fn notes(&self) -> &[String] {
        self.device.notes()
    }

    /// Tokens that a sequence holds.
    ///
    /// # Errors
    /// If there is no such sequence.
    pub fn length(&self, sequence: u32) -> Result<u32> {
        Ok(self.sequence(sequence)?.length)
    }

    pub(crate) fn sequence(&self, sequence: u32) -> Result<&Sequence> {
        let n = self.sequences.len();
        let absent = || Error::request(format!("sequence {sequence} of {n}: expected 0 to {}", n - 1));
        self.sequences.get(sequence as usize).ok_or_else(absent)
    }

    /// Starts a sequence anew: no tokens, zeroed states.
    ///
    /// # Errors
    /// If there is no such sequence, or if the device fails.
    pub fn reset(&mut self, sequence: u32) -> Result<()> {
        self.sequence(sequence)?;
        self.sequences[sequence as usize].interrupted = true;
        self.states.reset(self.device.as_mut(), sequence)?;
        self.sequences[sequence as usize] = Sequence::default();
        Ok(())
    }

    /// Appends tokens to a sequence, in chunks. Afterwards the rows are those of the last chunk.
    ///
    /// # Errors
    /// If the tokens do not fit the sequence or the vocabulary (nothing has happened then), or if the device fails
    /// (the sequence must be reset).
    pub fn prefill(&mut self, sequence: u32, ids: &[u32]) -> Result<()> {
        self.prefill_observed(sequence, ids, None)
    }

    /// [`prefill`](Self::prefill), showing the values that the program has probes for.
    ///
    /// # Errors
    /// As there.
    pub fn prefill_observed(&mut self, sequence: u32, ids: &[u32], mut observer: Observer<'_>) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::request("no tokens given, expected 1 at least"));
        }
        self.check(sequence, ids)?;
        for chunk in ids.chunks(self.model.facts().prefill_chunk as usize) {
            self.inputs.clear();
            let start = self.sequences[sequence as usize].length;
            (start..).zip(chunk).for_each(|(position, &id)| self.inputs.push(id, sequence, position));
            let observer = observer.as_mut().map(|o| &mut **o as &mut dyn FnMut(Observation<'_>));
            self.step(Phase::Prefill, observer)?;
        }
        Ok(())
    }

    /// Appends one token to each of several sequences. Row `i` is then that of `tokens[i]`.
    ///
    /// # Errors
    /// As for [`prefill`](Self::prefill); also if a sequence appears twice or there are too many.
    pub fn decode(&mut self, tokens: &[(u32, u32)]) -> Result<()> {
        self.decode_observed(tokens, None)
    }

    /// [`decode`](Self::decode), showing the values that the program has probes for.
    ///
    /// # Errors
    /// As there.
    pub fn decode_observed(&mut self, tokens: &[(u32, u32)], observer: Observer<'_>) -> Result<()> {
        let max = self.model.facts().max_batch;
        if tokens.is_empty() || tokens.len() > max as usize {
            return Err(Error::request(format!("{} sequences in a batch, expected 1 to {max}", tokens.len())));
        }
        for (i, &(sequence, id)) in tokens.iter().enumerate() {
            if tokens[..i].iter().any(|t| t.0 == sequence) {
                return Err(Error::request(format!("sequence {sequence} appears twice in the batch")));
            }
            self.check(sequence, &[id])?;
        }
        self.inputs.clear();
        for &(sequence, id) in tokens {
            self.inputs.push(id, sequence, self.sequences[sequence as usize].length);
        }
        self.step(Phase::Decode, observer)
    }

    fn check(&self, sequence: u32, ids: &[u32]) -> Result<()> {
        let facts = self.model.facts();
        let Sequence { length, interrupted } = *self.sequence(sequence)?;
        if interrupted {
            return Err(Error::request(format!("a call failed while sequence {sequence} took part: reset it first")));
        }
        let free = (facts.max_context - length) as usize;
        if ids.len() > free {
            let held = format!("sequence {sequence} holds {length} of {} tokens", facts.max_context);
            return Err(Error::request(format!("{held}: {} given, {free} more are possible", ids.len())));
        }
        match ids.iter().find(|&&id| id >= facts.vocab_size) {
            Some(id) => Err(Error::request(format!("token id {id}, expected below {}", facts.vocab_size))),
            None => Ok(()),
        }
    }

    /// Runs the token steps of a program on the inputs.
    fn step(&mut self, phase: Phase, observer: Observer<'_>) -> Result<()> {
        self.last = None;
        self.choices.clear();
        let rows = self.inputs.rows as u32;
        for (slot, tokens) in self.inputs.lengths() {
            self.states.grow(self.device.as_mut(), slot, tokens)?;
        }
        for &slot in self.inputs.slots() {
            self.sequences[slot as usize].interrupted = true;
        }
        self.inputs.upload(self.device.as_mut(), &self.places)?;
        let serving = self.serving(phase, rows);
        let plan = &mut self.plans[serving];
        plan.set_rows(rows);
        let steps = 0..plan.first_head_step;
        self.run((phase, serving), steps, (0, rows), observer)?;
        for &slot in self.inputs.slots() {
            let sequence = &mut self.sequences[slot as usize];
            sequence.length += 1;
            sequence.interrupted = false;
        }
        self.last = Some(Last { phase, serving, rows, head: None });
        Ok(())
    }

    /// The plan that serves a call of so many rows.
    fn serving(&self, phase: Phase, rows: u32) -> usize {
        let few = |plan: &&Plan| phase == Phase::Decode && rows <= plan.max_rows;
        if self.plans.get(PHASES.len()).filter(few).is_some() { PHASES.len() } else { phase.code() as usize }
    }

    /// Launches steps of a plan in order, stopping at probes if somebody looks.
    pub(crate) fn run(
        &mut self,
        (phase, serving): (Phase, usize),
        steps: Range<usize>,
        window: (u32, u32),
        observer: Observer<'_>,
    ) -> Result<()> {
        let again = window.0 == 0 && self.comes_again(phase, window.1);
        let plan = &self.plans[serving];
        let device = self.device.as_mut();
        let Some(observer) = observer else {
            let launches = &plan.launches[steps.clone()];
            let name = ListName { phase, head: steps.end > plan.first_head_step, rows: window.1 };
            if again {
                // SAFETY: the words of a plan are places in this device, laid out as the program's kernels expect. Those of a phase's
                // token steps or head steps for a number of rows from row 0 on are always the same: the number chooses the plan.
                unsafe { device.launch_named(name, launches, &plan.words)? };
            } else {
                // SAFETY: as above.
                unsafe { device.launch(launches, &plan.words)? };
            }
            return Ok(());
        };
        let hidden = self.model.facts().hidden_size as usize;
        let mut next = steps.start;
        for probe in plan.probes.iter().filter(|p| steps.contains(&(p.probe.step as usize))) {
            let end = probe.probe.step as usize + 1;
            // SAFETY: as above.
            unsafe { device.launch(&plan.launches[next..end], &plan.words)? };
            device.sync()?;
            next = end;
            observer(Seen::read(device, probe, window, hidden)?.view());
        }
        // SAFETY: as above.
        unsafe { device.launch(&plan.launches[next..steps.end], &plan.words)? };
        Ok(())
    }

    /// Whether calls with so many rows are worth recording: any batch, but of prompts only whole chunks, whose remainders have any length.
    fn comes_again(&self, phase: Phase, rows: u32) -> bool {
        phase == Phase::Decode || rows == self.model.facts().prefill_chunk
    }

    /// Rows of the last call: the tokens of its last chunk, or the sequences of the batch. 0 before the first call.
    pub fn rows(&self) -> u32 {
        self.last.map_or(0, |l| l.rows)
    }
}

impl Inputs {
    fn new(facts: &jetbin::Facts, inv_freq: Vec<f32>) -> Self {
        // Every column starts at a multiple of 64 bytes.
        let capacity = (facts.prefill_chunk.max(facts.max_batch) as usize).next_multiple_of(jetbin::ALIGN as usize / 4);
        let block = vec![0; capacity * (3 + facts.rope_dim as usize)];
        Self { block, rows: 0, capacity, inv_freq }
    }

    fn bytes(&self) -> u64 {
        self.block.len() as u64 * 4
    }

    fn clear(&mut self) {
        self.rows = 0;
    }

    /// The slot of each row's sequence.
    fn slots(&self) -> &[u32] {
        &self.block[self.capacity..self.capacity + self.rows]
    }

    /// Each sequence that takes part, and the tokens that it will hold.
    fn lengths(&self) -> impl Iterator<Item = (u32, u32)> {
        let positions = &self.block[2 * self.capacity..][..self.rows];
        let runs = self.slots().chunk_by(|a, b| a == b);
        runs.scan(0, |row, run| {
            *row += run.len();
            Some((run[0], positions[*row - 1] + 1))
        })
    }

    fn push(&mut self, id: u32, slot: u32, position: u32) {
        for (column, value) in [id, slot, position].into_iter().enumerate() {
            self.block[column * self.capacity + self.rows] = value;
        }
        let half = self.inv_freq.len();
        let rope = &mut self.block[3 * self.capacity + self.rows * 2 * half..][..2 * half];
        for (i, frequency) in self.inv_freq.iter().enumerate() {
            // The product is an f32, as in the official model: another rounding would shift late positions.
            let angle = position as f32 * frequency;
            (rope[i], rope[half + i]) = (angle.cos().to_bits(), angle.sin().to_bits());
        }
        self.rows += 1;
    }

    /// One copy of everything up to the last row's rotary input.
    fn upload(&self, device: &mut dyn Device, places: &Places) -> Result<()> {
        let used = 3 * self.capacity + self.rows * 2 * self.inv_freq.len();
        Ok(device.upload(places.ids, bytes_of(&self.block[..used]))?)
    }
}

/// What a session needs, but for the host's small things; `scratch` is that of one thread.
fn requirements(model: &Model, programs: &[jetbin::ProgramView<'_>], sequences: u32) -> Result<Memory> {
    let slot_bytes = model.reader().slot_bytes(model.target());
    let too_many = || Error::request(format!("{sequences} sequences of {slot_bytes} bytes each"));
    Ok(Memory {
        states: slot_bytes.checked_mul(sequences.into()).ok_or_else(too_many)?,
        arena: programs.iter().map(|p| p.arena_bytes()).max().unwrap_or(0),
        scratch: scratch_bytes(programs) + programs.iter().map(list_bytes).max().unwrap_or(0),
        arrivals: 0,
        small: 0,
        code: model.reader().code(model.target()).len() as u64,
        weights: 0,
    })
}

/// Scratch of a thread, in front of its lists of candidates.
fn scratch_bytes(programs: &[jetbin::ProgramView<'_>]) -> u64 {
    programs.iter().map(|p| p.scratch_bytes()).max().unwrap_or(0).next_multiple_of(jetbin::ALIGN)
}

/// Lists of candidates of a thread.
fn list_bytes(program: &jetbin::ProgramView<'_>) -> u64 {
    program.candidates().map_or(0, |list| list.bytes() * u64::from(program.head_rows()))
}

/// The weights that the programs read, by their index: an artifact holds those of its other targets as well.
fn used_weights<'m>(model: &'m Model, programs: &[jetbin::ProgramView<'_>]) -> Vec<(u32, &'m [u8])> {
    let (table, data) = (model.reader().weights(), model.weight_data());
    let read = |arg| if let Arg::Weight(index) = arg { Some(index) } else { None };
    let used: BTreeSet<u32> =
        programs.iter().flat_map(|p| p.args().iter().filter_map(read).collect::<Vec<_>>()).collect();
    let bytes = |index| {
        let w = table.get(index)?;
        Some((index, data.get(w.offset as usize..(w.offset + w.length) as usize)?))
    };
    used.into_iter().filter_map(bytes).collect()
}

/// The calls for memory that [`place`] makes, in their order.
fn pieces(memory: &Memory, weights: &[(u32, &[u8])], inputs: &Inputs, threads: u32) -> Vec<Piece> {
    let weights = weights.iter().map(|(_, data)| ("weights", data.len() as u64));
    let fixed = [("arena", memory.arena), ("inputs", inputs.bytes())];
    let scratch = (0..threads).map(|_| ("scratch", memory.scratch / u64::from(threads)));
    let arrivals = (memory.arrivals > 0).then_some(("arrivals", memory.arrivals));
    weights.chain(fixed).chain(scratch).chain(arrivals).collect()
}

/// Gives everything its place on the device.
fn place(
    model: &Model,
    device: &mut dyn Device,
    memory: &Memory,
    used: &[(u32, &[u8])],
    states: &mut States,
    (inputs, lists_at): (&Inputs, u64),
) -> Result<Places> {
    let (reader, target) = (model.reader(), model.target());
    let mut weights = vec![0; reader.weights().len()];
    for (index, data) in used {
        // SAFETY: the mapping belongs to the model, which the session holds for as long as the device.
        weights[*index as usize] = unsafe { device.constant(data)? };
        let vector = reader.weights().get(*index).is_some_and(|w| w.dtype == DType::F32);
        let content = if vector { Content::Vector } else { Content::Matrix };
        device.note(weights[*index as usize], data.len() as u64, content)?;
    }
    let states = states.place(device)?;
    let arena = device.alloc(memory.arena)?;
    let ids = device.alloc(inputs.bytes())?;
    let column = inputs.capacity as u64 * 4;
    let mut places = Places {
        arena,
        weights,
        states: reader.states(target).iter().map(|s| states + s.offset).collect(),
        slot_bytes: reader.slot_bytes(target),
        ids,
        slots: ids + column,
        positions: ids + 2 * column,
        rope: ids + 3 * column,
        rope_row_bytes: u64::from(model.facts().rope_dim) * 4,
        scratch: Vec::new(),
        candidates: Vec::new(),
        arrivals: 0,
    };
    let threads = device.threads();
    for _ in 0..threads {
        let scratch = device.alloc(memory.scratch / u64::from(threads))?;
        places.scratch.push(scratch);
        places.candidates.push(scratch + lists_at);
    }
    if memory.arrivals > 0 {
        places.arrivals = device.alloc(memory.arrivals)?;
    }
    Ok(places)
}

/// Numbers without padding and without invalid bit patterns.
pub(crate) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for i32 {}
impl Plain for u32 {}

/// The bytes of numbers.
pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: the same memory; the numbers have no padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of numbers, to write to.
pub(crate) fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: the same memory; the numbers have no padding, and every bit pattern is one.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
