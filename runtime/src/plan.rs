//! A program ready to run: the words of every step and thread are laid out once and patched in place.

use crate::device::Launch;
use crate::error::{Error, Result};
use jetbin::{Arg, CandidateList, Domain, LaunchDesc, Phase, Probe, ProbeSource, ProgramView, StepView, partition};

/// Where the executor has put things, as device addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub arena: u64,
    pub weights: Vec<u64>,
    pub states: Vec<u64>,
    pub slot_bytes: u64,
    pub slots: u64,
    pub positions: u64,
    pub ids: u64,
    pub rope: u64,
    pub rope_row_bytes: u64,
    /// Scratch of every thread.
    pub scratch: Vec<u64>,
    /// Lists of candidates of every thread.
    pub candidates: Vec<u64>,
    /// Counters of arrivals on a GPU.
    pub arrivals: u64,
}

/// A word that changes from call to call.
#[derive(Clone, Copy, Debug)]
enum Patch {
    Rows,
    ItemBegin,
    ItemEnd,
    KeepLogits,
    /// An address that follows the first row of the head window.
    Row {
        base: u64,
        row_bytes: u64,
    },
}

#[derive(Clone, Debug)]
struct PlannedStep {
    /// The kernel for few rows.
    kernel: u32,
    items_fixed: u64,
    items_per_row: u64,
    /// Range of `patches`.
    patches: std::ops::Range<usize>,
}

/// A probe with its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedProbe {
    pub probe: Probe,
    pub address: u64,
    pub row_bytes: u64,
    /// Whether the source has a row for every token while the step runs over a window of them.
    pub follows_window: bool,
}

/// A program of one phase, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Most rows of a call, and of a head window.
    pub max_rows: u32,
    pub head_rows: u32,
    /// Place of the logits and distance between their rows.
    pub logits: (u64, u64),
    /// Place of the greedy choice and distance between its rows.
    pub argmax: Option<(u64, u64)>,
    /// The lists that threads leave behind the head, and the step that makes them.
    pub candidates: Option<(CandidateList, usize)>,
    pub launches: Vec<Launch>,
    pub words: Vec<u64>,
    /// In the order of their steps.
    pub probes: Vec<PlannedProbe>,
    /// Steps before this one run over tokens, the others over head rows.
    pub first_head_step: usize,
    threads: u32,
    steps: Vec<PlannedStep>,
    /// How a GPU launches its kernels; empty for a CPU.
    table: Vec<LaunchDesc>,
    /// Place of the word within a thread's words, and what it is.
    patches: Vec<(u32, Patch)>,
    /// Rows that the words of the token steps are for.
    token_rows: u32,
    /// First row and number of rows that the words of the head steps are for, and whether these store logits.
    head_window: (u32, u32, bool),
}

impl Plan {
    /// Lays out the words of all steps for all threads.
    ///
    /// # Errors
    /// If the program has more words than can be counted.
    pub fn new(program: &ProgramView<'_>, launches: &[LaunchDesc], places: &Places) -> Result<Self> {
        let buffer = |index: u32| {
            let b = program.buffers().get(index)?;
            Some((places.arena + b.offset, b.row_bytes))
        };
        let missing = |what: &str| Error::request(format!("{what}: the program has no such buffer"));
        let steps = program.steps();
        let mut plan = Self {
            max_rows: program.max_rows(),
            head_rows: program.head_rows(),
            logits: buffer(program.logits()).ok_or_else(|| missing("logits"))?,
            argmax: program.argmax().and_then(buffer),
            candidates: program.candidates().and_then(|list| Some((list, listing_step(program)?))),
            launches: Vec::with_capacity(steps.len()),
            words: Vec::new(),
            probes: Vec::new(),
            first_head_step: steps.iter().position(|s| s.domain == Domain::Head).unwrap_or(steps.len()),
            threads: places.scratch.len() as u32,
            steps: Vec::with_capacity(steps.len()),
            table: launches.to_vec(),
            patches: Vec::new(),
            token_rows: 0,
            head_window: (0, 0, false),
        };
        for step in steps.iter() {
            plan.add_step(program, &step, places)?;
        }
        for probe in program.probes().iter() {
            let (address, row_bytes, domain) = match probe.source {
                ProbeSource::Buffer(b) => {
                    let b = program.buffers().get(b).ok_or_else(|| missing("probe"))?;
                    (places.arena + b.offset, b.row_bytes, b.domain)
                }
                ProbeSource::Scratch { offset, row_bytes } => (places.scratch[0] + offset, row_bytes, Domain::Head),
            };
            let head = probe.step as usize >= plan.first_head_step;
            let follows_window = head && domain == Domain::Tokens;
            plan.probes.push(PlannedProbe { probe, address, row_bytes, follows_window });
        }
        plan.probes.sort_by_key(|p| p.probe.step);
        Ok(plan)
    }

    fn add_step(&mut self, program: &ProgramView<'_>, step: &StepView<'_>, places: &Places) -> Result<()> {
        let first_word = u32::try_from(self.words.len())
            .ok()
            .filter(|&w| w.checked_add(step.n_args.saturating_mul(self.threads)).is_some())
            .ok_or_else(|| Error::request("the program has more than 2^32 words"))?;
        let first_patch = self.patches.len();
        for thread in 0..self.threads {
            for (at, arg) in (0..).zip(program.args_of(step)) {
                let (word, patch) = resolve(program, arg, step.domain, places, thread as usize);
                self.words.push(word);
                if let Some(patch) = patch.filter(|_| thread == 0) {
                    self.patches.push((at, patch));
                }
            }
        }
        let launch = Launch { kernel: step.kernel, first_word, n_words: step.n_args, ..Launch::default() };
        self.launches.push(launch);
        self.steps.push(PlannedStep {
            kernel: step.kernel,
            items_fixed: step.items_fixed.into(),
            items_per_row: step.items_per_row.into(),
            patches: first_patch..self.patches.len(),
        });
        Ok(())
    }

    /// Sets the number of rows of the token steps.
    pub fn set_rows(&mut self, rows: u32) {
        if self.token_rows != rows {
            self.token_rows = rows;
            self.patch(0..self.first_head_step, (0, rows), true);
        }
    }

    /// Sets the window of the head steps, and whether they store logits where that is a question.
    pub fn set_head(&mut self, first: u32, rows: u32, logits: bool) {
        if self.head_window != (first, rows, logits) {
            self.head_window = (first, rows, logits);
            self.patch(self.first_head_step..self.steps.len(), (first, rows), logits);
        }
    }

    fn patch(&mut self, steps: std::ops::Range<usize>, (first_row, rows): (u32, u32), logits: bool) {
        for i in steps {
            let step = &self.steps[i];
            let launch = &mut self.launches[i];
            let items = match serving(&self.table, step.kernel, rows) {
                None => {
                    let items = step.items_fixed + step.items_per_row * u64::from(rows);
                    launch.active = items.min(u64::from(self.threads)) as u32;
                    items
                }
                Some((kernel, gpu)) => {
                    let tiles = if step.items_per_row > 0 { rows.div_ceil(gpu.rows) } else { 1 };
                    let items = u64::from(gpu.items) * u64::from(tiles);
                    launch.active = u32::try_from(items).unwrap_or(u32::MAX);
                    (launch.kernel, launch.cta_threads) = (kernel, gpu.threads);
                    (launch.shared_bytes, launch.overlaps) = (gpu.shared_bytes, gpu.overlaps);
                    items
                }
            };
            for thread in 0..self.threads {
                let range = partition(items, self.threads, thread);
                let start = launch.first_word as usize + thread as usize * launch.n_words as usize;
                for &(at, patch) in &self.patches[step.patches.clone()] {
                    self.words[start + at as usize] = match patch {
                        Patch::Rows => rows.into(),
                        Patch::ItemBegin => range.start,
                        Patch::ItemEnd => range.end,
                        Patch::KeepLogits => logits.into(),
                        Patch::Row { base, row_bytes } => base + row_bytes * u64::from(first_row),
                    };
                }
            }
        }
    }
}

/// The step whose threads leave lists of candidates.
fn listing_step(program: &ProgramView<'_>) -> Option<usize> {
    program.steps().iter().position(|step| program.args_of(&step).any(|arg| matches!(arg, Arg::Candidates(_))))
}

/// CTAs of the largest launch of a program whose CTAs count their arrivals.
pub(crate) fn arrivals(program: &ProgramView<'_>, table: &[LaunchDesc]) -> u64 {
    let counts = |step: &StepView<'_>| program.args_of(step).any(|arg| arg == Arg::Arrivals);
    let ctas = |step: StepView<'_>| {
        let of = |i: u32| table.get(i as usize);
        let chain = std::iter::successors(of(step.kernel), |l| l.wider.and_then(|w| of(w.kernel)));
        let rows = program.rows_of(step.domain);
        chain.map(|l| u64::from(l.items) * u64::from(rows.div_ceil(l.rows))).max().unwrap_or(0)
    };
    program.steps().iter().filter(counts).map(ctas).max().unwrap_or(0)
}

/// The kernel that serves so many rows on a GPU, and how it is launched.
fn serving(table: &[LaunchDesc], mut kernel: u32, rows: u32) -> Option<(u32, LaunchDesc)> {
    let mut launch = *table.get(kernel as usize)?;
    while let Some(wider) = launch.wider.filter(|w| rows > w.beyond) {
        kernel = wider.kernel;
        launch = *table.get(kernel as usize)?;
    }
    Some((kernel, launch))
}

/// The word of an argument, and how it changes.
fn resolve(
    program: &ProgramView<'_>,
    arg: Arg,
    domain: Domain,
    places: &Places,
    thread: usize,
) -> (u64, Option<Patch>) {
    let fixed = |word| (word, None);
    // In a head step, what has a row for every token starts at the first row of the window.
    let by_row = |base, row_bytes| (base, (domain == Domain::Head).then_some(Patch::Row { base, row_bytes }));
    match arg {
        Arg::Buffer(index) => match program.buffers().get(index) {
            Some(b) if b.domain == Domain::Tokens => by_row(places.arena + b.offset, b.row_bytes),
            Some(b) => fixed(places.arena + b.offset),
            None => fixed(0),
        },
        Arg::Weight(index) => fixed(places.weights[index as usize]),
        Arg::State(index) => fixed(places.states[index as usize]),
        Arg::SlotStride => fixed(places.slot_bytes),
        Arg::Slots => by_row(places.slots, 4),
        Arg::Positions => by_row(places.positions, 4),
        Arg::TokenIds => by_row(places.ids, 4),
        Arg::Rope => by_row(places.rope, places.rope_row_bytes),
        Arg::Scratch => fixed(places.scratch[thread]),
        Arg::Arrivals => fixed(places.arrivals),
        Arg::Candidates(_) => fixed(places.candidates[thread]),
        Arg::Const(value) => fixed(value),
        Arg::Rows => (0, Some(Patch::Rows)),
        Arg::ItemBegin => (0, Some(Patch::ItemBegin)),
        Arg::ItemEnd => (0, Some(Patch::ItemEnd)),
        Arg::KeepLogits => (0, Some(Patch::KeepLogits)),
    }
}

/// The phases in the order of their codes.
pub(crate) const PHASES: [Phase; 2] = [Phase::Prefill, Phase::Decode];
