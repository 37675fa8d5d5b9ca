//! Runs the kernels of a graph on poisoned memory and compares with the reference evaluation in f64.
//!
//! Every run checks more than values: bits do not depend on how items are split over threads, nor on how many rows run
//! together; nothing outside a buffer, a state or the scratch memory is written; whatever is read was written before
//! (all outputs, scratch and unused cache rows start as NaN).

use crate::candidates;
use crate::machine::{Machine, Word};
use crate::tolerance;
use jet_codegen::kir::Kernel;
use jet_codegen::targets::{Backend, TARGETS, Target, runnable};
use jet_codegen::{Activations, Binding, Built, PackSpec, TILE_ROWS, select, tiled_rows, with_cache_elem};
use jet_ir::eval::{Bindings, Named, eval};
use jet_ir::quant::{Format, quantise, round_trip};
use jet_ir::{Elem, Graph, Id, Leaf, Mat, NodeKind, OutputKind, Rows, Type, Value, group_kernels};
use jet_ptxsim::Counters;
use jetbin::{CandidateList, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// Elements after every buffer that nobody may touch.
const GUARD: usize = 64;
const SENTINEL: u32 = 0x5eed_5eed;
/// No case has calls of more rows.
const MOST_ROWS: u32 = 256;

/// A graph and the sequences that run it.
#[derive(Clone)]
pub struct Case<'a> {
    /// What runs.
    pub graph: &'a Graph,
    /// What rows are.
    pub phase: Phase,
    /// Tokens that each sequence has seen. Decode: one row for each. Prefill: only the first runs.
    pub past: Vec<usize>,
    /// Slot of each of these sequences.
    pub slots: Vec<usize>,
    /// Rows of a prefill.
    pub tokens: usize,
    /// Rows of the caches.
    pub capacity: usize,
    /// Whether inputs and states hold bf16 values.
    pub rounded: bool,
    /// Largest relative L2 error of an output.
    pub tolerance: f64,
    /// The same on targets that quantise the activations of this graph.
    pub tolerance_of_bytes: f64,
}

/// A number in [-1, 1) from a name in two parts and an index.
fn noise(name: &str, tag: &str, i: usize) -> f32 {
    let seed = name
        .bytes()
        .chain(tag.bytes())
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ z >> 31) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// Values of a leaf: weights have unit gain, names that start with `decay` or `beta` lie in (0, 1), ids are small.
fn leaf_value(name: &str, tag: &str, row: usize, c: usize, ty: Type) -> f32 {
    let x = noise(name, tag, row * ty.cols() + c);
    match (ty.elem(), ty.is_const()) {
        (Some(Elem::I32), _) => ((x + 1.0) * 16.0).floor(),
        (Some(Elem::Bf16), true) => round_bf16(x * (3.0 / ty.cols() as f32).sqrt()),
        (_, true) if ty.rows() != Some(Rows::Fixed(1)) => x * (3.0 / ty.cols() as f32).sqrt(),
        // integers, the largest in every group of 64: quantising them loses nothing
        _ if name.starts_with("whole") => {
            if c.is_multiple_of(64) {
                127.0
            } else {
                (x * 127.0).round()
            }
        }
        _ if name.starts_with("decay") => (x * 0.5 + 0.5).powi(8),
        _ if name.starts_with("beta") => x * 0.5 + 0.5,
        // what a product rounds to bf16 is as it was
        _ if name == "x" => round_bf16(x),
        _ => x,
    }
}

/// A weight before it is quantised.
fn source(name: &str, ty: Type) -> Mat<f32> {
    let Some(Rows::Fixed(rows)) = ty.rows() else { panic!("weight {name} of {ty}") };
    Mat::new(rows, ty.cols(), |r, c| leaf_value(name, "", r, c, ty))
}

fn weight(name: &str, ty: Type) -> Mat<f64> {
    let mat = source(name, ty);
    let mat = match ty.elem().and_then(Format::of) {
        Some(format) => round_trip(format, mat).unwrap_or_else(|e| panic!("{name}: {e}")),
        None => mat,
    };
    Mat { rows: mat.rows, cols: mat.cols, data: mat.data.iter().map(|x| f64::from(*x)).collect() }
}

/// A constant expression, in f32 as it is packed.
fn constant(graph: &Graph, id: Id) -> Mat<f32> {
    let node = graph.node(id);
    match &node.kind {
        NodeKind::Leaf(_, name) => weight(name, node.ty).map32(),
        NodeKind::Op(op) => {
            let args: Vec<Value<f32>> = node.args.iter().map(|a| Value::Mat(constant(graph, *a))).collect();
            op.eval(&args.iter().collect::<Vec<_>>()).mat().clone()
        }
    }
}

trait Narrow {
    fn map32(&self) -> Mat<f32>;
}
impl Narrow for Mat<f64> {
    fn map32(&self) -> Mat<f32> {
        Mat { rows: self.rows, cols: self.cols, data: self.data.iter().map(|x| *x as f32).collect() }
    }
}

/// Words of a row in memory; those of bf16 have an even number of columns.
fn words_of_row(ty: Type) -> usize {
    let bytes = ty.elem().map_or(0, |e| e.row_bytes(ty.cols()));
    assert_eq!(bytes % 4, 0, "{ty}");
    bytes / 4
}

/// Not a number, and two bf16 that are none.
const POISON: u32 = 0x7fff_7fff;

/// Element `i` of so many bytes behind `words`.
fn element(words: &[u32], elem: Elem, i: usize) -> f32 {
    match elem {
        Elem::Bf16 => f32::from_bits(words[i / 2] >> (16 * (i % 2)) << 16),
        _ => f32::from_bits(words[i]),
    }
}

/// Puts what a bf16 can hold, or any f32, at element `i`.
fn put_element(words: &mut [u32], elem: Elem, i: usize, x: f32) {
    match elem {
        Elem::Bf16 => {
            let (shift, word) = (16 * (i % 2), &mut words[i / 2]);
            assert_eq!(x.to_bits() & 0xffff, 0, "{x} is no bf16");
            *word = *word & !(0xffff << shift) | x.to_bits() >> 16 << shift;
        }
        _ => words[i] = x.to_bits(),
    }
}

/// Where an element of rows in tiles lies: tiles of 8 rows, blocks of 32 columns, pieces of 8 by 8, of which piece `p` has columns `8 t + 2 p`
/// and the next of each eight.
fn tiled(cols: usize, row: usize, col: usize) -> usize {
    let (tile, block, eight, pair) = (row / 8, col / 32, col % 32 / 8, col % 8 / 2);
    ((tile * cols / 32 + block) * 4 + pair) * 64 + row % 8 * 8 + 2 * eight + col % 2
}

/// Memory with a guard zone behind it.
struct Area {
    words: Vec<u32>,
    len: usize,
}

impl Area {
    fn new(mut words: Vec<u32>) -> Area {
        let len = words.len();
        words.extend([SENTINEL; GUARD]);
        Area { words, len }
    }
    fn poisoned(len: usize) -> Area {
        Area::new(vec![POISON; len])
    }
    fn check(&self, what: &str) {
        assert!(self.words[self.len..].iter().all(|w| *w == SENTINEL), "wrote behind {what}");
    }
}

fn pack(graph: &Graph, spec: &PackSpec, sources: &[Id]) -> Vec<u8> {
    let quantised = Format::of(spec.elem);
    let whole = |id: &Id| match (quantised, graph.leaf(*id)) {
        (Some(_), Some((_, name))) => source(name, graph.ty(*id)),
        _ => constant(graph, *id),
    };
    let mats: Vec<Mat<f32>> = sources.iter().map(whole).collect();
    let mut out = vec![0; spec.bytes()];
    let size = spec.elem.row_bytes(1);
    let fill = |source: usize, row: usize, to: &mut [u8]| {
        if let Some(format) = quantised {
            quantise(format, mats[source].row(row), to).unwrap_or_else(|e| panic!("{e}"));
            return Ok(());
        }
        for (k, bytes) in to.chunks_exact_mut(size).enumerate() {
            // a vector [1, n] is packed as [n, 1]
            let m: &Mat<f32> = &mats[source];
            let x = if spec.cols == 1 { m.data[row] } else { m.at(row, k) };
            bytes.copy_from_slice(&x.to_bits().to_le_bytes()[4 - size..]);
        }
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(()) = spec.pack(0..spec.items(), &mut out, fill);
    out
}

/// Kernels whose threads never meet in a bank of shared memory.
const CONFLICT_FREE: [&str; 3] = ["attention_flash", "attention_split", "gated_delta_chunked"];

/// The kernels of a graph, compiled for every target that runs here, or under the emulator.
pub struct Compiled(Vec<Variant>);

/// The same for one target.
struct Variant {
    target: &'static Target,
    /// With caches and weights of the target's types.
    graph: Graph,
    /// Values whose rows are in tiles.
    tiled: BTreeSet<Id>,
    built: Vec<Built>,
    machine: Machine,
}

impl Compiled {
    /// The last kernel for a target.
    pub fn last_on(&self, target: &str) -> &Kernel {
        let variant = self.0.iter().find(|v| v.target.name == target).expect("a kernel for the target");
        &variant.built.last().expect("a kernel").kernel
    }

    /// Rows that a CTA of the last kernel works on, by target.
    pub fn rows_of_last(&self) -> Vec<(&'static str, u32)> {
        let rows = |v: &Variant| v.built.last().and_then(|b| b.kernel.launch).map_or(0, |l| l.rows);
        self.0.iter().map(|v| (v.target.name, rows(v))).collect()
    }

    /// CTAs for each tile of rows of the last kernel, of its chain the one with the widest tiles, by target.
    pub fn ctas_of_widest(&self) -> Vec<(&'static str, u32)> {
        let ctas = |v: &Variant| v.built.last().and_then(|b| b.chain().last()).map_or(0, |b| b.items.fixed);
        self.0.iter().map(|v| (v.target.name, ctas(v))).collect()
    }
}

impl Variant {
    /// Whether products work on bytes.
    fn quantises(&self) -> bool {
        self.built.iter().any(|b| b.name.contains("int8_product"))
    }
}

pub fn compile(graph: &Graph, phase: Phase) -> Compiled {
    compile_with(graph, phase, Activations::F32)
}

/// The same for rounded activations, or not.
pub fn compile_with(graph: &Graph, phase: Phase, activations: Activations) -> Compiled {
    let emulated = |t: &&Target| t.arch == "aarch64" && matches!(t.backend, Backend::Mlir { .. });
    let all: Vec<_> = match std::env::var("EMULATE").as_deref() {
        Ok("1") => TARGETS.iter().filter(emulated).collect(),
        _ => runnable().chain(TARGETS.iter().filter(|t| t.is_gpu())).collect(),
    };
    Compiled(all.into_iter().filter_map(|target| compile_for(target, graph, phase, activations)).collect())
}

/// For GPUs alone, which have products of rounded rows.
pub fn compile_for_gpus(graph: &Graph, phase: Phase) -> Compiled {
    let gpus = TARGETS.iter().filter(|t| t.is_gpu());
    Compiled(gpus.filter_map(|target| compile_for(target, graph, phase, Activations::F32)).collect())
}

/// The same for one target.
pub fn compile_on(target: &'static Target, graph: &Graph, phase: Phase) -> Compiled {
    Compiled(compile_for(target, graph, phase, Activations::F32).into_iter().collect())
}

/// The graph with its caches kept and its weights packed for `target`: every other node keeps its number.
pub fn packed_for(target: &Target, graph: &Graph) -> Graph {
    let graph = with_cache_elem(graph, target.cache_elem()).unwrap_or_else(|e| panic!("{}: {e}", target.name));
    let text = graph.to_string();
    let text = if target.is_gpu() { text.replace("pack_panel", "pack_frag") } else { text };
    let packed = jet_ir::read("packed", &text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(packed.to_string(), text);
    packed
}

/// Nothing for a GPU whose products do not take these weights, or whose attention is not in parts.
fn compile_for(target: &'static Target, graph: &Graph, phase: Phase, activations: Activations) -> Option<Variant> {
    let graph = &packed_for(target, graph);
    let groups = group_kernels(graph).unwrap_or_else(|e| panic!("{e}"));
    let mut built: Vec<Built> = vec![];
    let tiled = tiled_rows(graph, target, phase, |_| false);
    for group in &groups {
        match select(graph, group, target, phase, (activations, &tiled), MOST_ROWS) {
            Ok(b) => built.push(b),
            Err(e) if target.is_gpu() && ["must be bf16", "for CPUs"].iter().any(|r| e.reason.contains(r)) => {
                return None;
            }
            Err(e) => panic!("{}: {e}", target.name),
        }
    }
    let mut unique: BTreeMap<&str, &Built> = BTreeMap::new();
    for b in built.iter().flat_map(Built::chain) {
        let first = *unique.entry(&b.name).or_insert(b);
        assert_eq!(first.key, b.key, "two keys, one name");
        assert_eq!(first.kernel.to_string(), b.kernel.to_string(), "equal keys, different code");
    }
    let kernels: Vec<_> = unique.values().map(|b| b.kernel.clone()).collect();
    let blob = jet_codegen::compile(&kernels, target).unwrap_or_else(|e| panic!("{}: {e}", target.name));
    Some(Variant { target, graph: graph.clone(), tiled, built, machine: Machine::load(target, blob) })
}

/// What one run leaves behind.
struct Outcome {
    values: BTreeMap<Id, Area>,
    states: Area,
    /// Whether the head of a CPU stored logits beside its candidates.
    keep_logits: bool,
    /// What the last kernel did, if it was simulated.
    last: Counters,
}

impl Case<'_> {
    fn rows(&self) -> usize {
        if self.phase == Phase::Prefill { self.tokens } else { self.past.len() }
    }

    /// Offset of every state in a slot, in words, and the words of a slot.
    fn layout(&self) -> (BTreeMap<Id, usize>, usize) {
        let (mut at, mut offsets) = (0, BTreeMap::new());
        for id in self.graph.ids() {
            if let Some((Leaf::State, _)) = self.graph.leaf(id) {
                offsets.insert(id, at);
                at += (self.state_words(id) + GUARD).next_multiple_of(16);
            }
        }
        (offsets, at.max(16))
    }

    fn state_rows(&self, id: Id) -> usize {
        match self.graph.ty(id).rows() {
            Some(Rows::Fixed(n)) => n,
            _ => self.capacity,
        }
    }

    fn elem(&self, id: Id) -> Elem {
        self.graph.ty(id).elem().expect("a tensor")
    }

    fn state_words(&self, id: Id) -> usize {
        (self.state_rows(id) * self.elem(id).row_bytes(self.graph.ty(id).cols())).div_ceil(4)
    }

    fn new_tokens(&self) -> usize {
        if self.phase == Phase::Prefill { self.tokens } else { 1 }
    }

    /// Inputs and states of sequence `s` for the reference.
    fn named(&self, s: usize) -> (Named<f64>, Named<f64>) {
        let (mut inputs, mut states) = (Named::new(), Named::new());
        let tag = format!("#{s}");
        for id in self.graph.ids() {
            let ty = self.graph.ty(id);
            let value =
                |rows: usize, name: &str| Mat::new(rows, ty.cols(), |r, c| f64::from(self.value(name, &tag, r, c, ty)));
            match self.graph.leaf(id) {
                Some((Leaf::Input, name)) => drop(inputs.insert(name.into(), value(self.new_tokens(), name))),
                Some((Leaf::State, name)) => {
                    let rows = if let Some(Rows::Fixed(n)) = ty.rows() { n } else { self.past[s] };
                    states.insert(name.into(), value(rows, name));
                }
                _ => {}
            }
        }
        (inputs, states)
    }

    fn initial_states(&self, offsets: &BTreeMap<Id, usize>, stride: usize) -> Area {
        let slots = self.slots.iter().max().unwrap() + 2;
        let mut words = vec![POISON; slots * stride];
        for (s, slot) in self.slots.iter().enumerate() {
            let (_, states) = self.named(s);
            for (id, offset) in offsets {
                let m = &states[self.graph.leaf(*id).unwrap().1];
                let (at, rows) = (slot * stride + offset, self.state_rows(*id));
                let fixed = matches!(self.graph.ty(*id).rows(), Some(Rows::Fixed(_)));
                for r in 0..m.rows {
                    let row = if fixed { r } else { r % rows };
                    for (c, x) in m.row(r).iter().enumerate() {
                        put_element(&mut words[at..], self.elem(*id), row * m.cols + c, *x as f32);
                    }
                }
            }
        }
        Area::new(words)
    }

    /// Runs the kernels for the rows `rows`, each kernel's items in `parts` calls.
    fn run(&self, compiled: &Variant, rows: std::ops::Range<usize>, parts: u64) -> Outcome {
        self.run_keeping(compiled, rows, (parts, true))
    }

    /// The same with logits stored or not, where that is a question.
    fn run_keeping(
        &self,
        compiled: &Variant,
        rows: std::ops::Range<usize>,
        (parts, keep_logits): (u64, bool),
    ) -> Outcome {
        let (offsets, stride) = self.layout();
        let states = self.initial_states(&offsets, stride);
        let mut out = Outcome { values: BTreeMap::new(), states, keep_logits, last: Counters::default() };
        let decode = self.phase == Phase::Decode;
        let slots: Vec<u32> =
            if decode { rows.clone().map(|s| self.slots[s] as u32).collect() } else { vec![self.slots[0] as u32] };
        let position = |r: usize| if decode { self.past[r] } else { self.past[0] + r };
        let mut indices = [Area::new(slots), Area::new(rows.clone().map(|r| position(r) as u32).collect())];
        for b in &compiled.built {
            self.step(compiled, b, &rows, parts, &mut out, &mut indices, (&offsets, stride));
        }
        out.values.iter().for_each(|(id, a)| a.check(&format!("%{}", id.0)));
        out.states.check("the states");
        indices.iter().for_each(|a| a.check("slots or positions"));
        self.check_gaps(&out.states, &offsets, stride);
        out
    }

    /// What lies between states is still poisoned.
    fn check_gaps(&self, states: &Area, offsets: &BTreeMap<Id, usize>, stride: usize) {
        let mut inside = vec![false; stride];
        for (id, at) in offsets {
            inside[*at..at + self.state_words(*id)].fill(true);
        }
        for (slot, words) in states.words[..states.len].chunks_exact(stride).enumerate() {
            let used = self.slots.contains(&slot);
            let gaps = words.iter().zip(&inside).filter(|(_, inside)| !(used && **inside));
            assert!(gaps.map(|(w, _)| *w).all(|w| f32::from_bits(w).is_nan()), "wrote between states, slot {slot}");
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call site")]
    fn step(
        &self,
        compiled: &Variant,
        b: &Built,
        rows: &std::ops::Range<usize>,
        parts: u64,
        out: &mut Outcome,
        indices: &mut [Area; 2],
        (offsets, stride): (&BTreeMap<Id, usize>, usize),
    ) {
        let n = rows.len() as u64;
        let mut weights: Vec<Vec<u8>> = vec![];
        let mut lists = vec![];
        let items = u64::from(b.items.fixed) * if b.items.per_row { n } else { 1 };
        let scratch_words = (b.scratch.fixed + n * b.scratch.per_row).div_ceil(4) as usize;
        for part in 0..parts {
            let mut scratch = Area::poisoned(scratch_words);
            let mut arrivals = Area::new(vec![0; items as usize]);
            let mut list = Area::poisoned(n as usize * CandidateList::USUAL.words() as usize);
            let (begin, end) = (items * part / parts, items * (part + 1) / parts);
            let words: Vec<Word> = b
                .params
                .iter()
                .map(|p| match p {
                    Binding::Value(id) => {
                        let area = out
                            .values
                            .entry(*id)
                            .or_insert_with(|| self.buffer(*id, rows, compiled.tiled.contains(id)));
                        Word::of(&mut area.words)
                    }
                    Binding::Weight { pack: spec, sources } => {
                        weights.push(pack(self.graph, spec, sources));
                        Word::of(weights.last_mut().unwrap())
                    }
                    Binding::State(id) => Word::of(&mut out.states.words).at(4 * offsets[id] as u64),
                    Binding::StateRows(id) => Word::Number(self.state_rows(*id) as u64),
                    Binding::SlotStride => Word::Number(4 * stride as u64),
                    Binding::Slots => Word::of(&mut indices[0].words),
                    Binding::Positions => Word::of(&mut indices[1].words),
                    Binding::Rows => Word::Number(n),
                    Binding::ItemBegin => Word::Number(begin),
                    Binding::ItemEnd => Word::Number(end),
                    Binding::Scratch => Word::of(&mut scratch.words),
                    Binding::Arrivals => Word::of(&mut arrivals.words),
                    Binding::Candidates(_) => Word::of(&mut list.words),
                    Binding::KeepLogits => Word::Number(out.keep_logits.into()),
                })
                .collect();
            // SAFETY: every word is what its binding says; areas live until the end of this turn and longer.
            let counted = unsafe { compiled.machine.run(b, &words, n) };
            if CONFLICT_FREE.iter().any(|name| b.name.starts_with(name)) {
                assert_eq!(counted.bank_conflicts, 0, "{}: {counted:?}", b.name);
            }
            out.last = counted;
            scratch.check(&format!("scratch of {}", b.name));
            arrivals.check(&format!("arrivals of {}", b.name));
            assert!(arrivals.words[..arrivals.len].iter().all(|n| *n == 0), "{} leaves arrivals", b.name);
            list.check(&format!("candidates of {}", b.name));
            if begin < end {
                lists.push(list.words);
            }
        }
        let listed = b.params.iter().find_map(|p| if let Binding::Candidates(id) = p { Some(*id) } else { None });
        if let Some(id) = listed {
            let best = candidates::merged(&lists, n as usize);
            let stored = self.graph.ids().find(|s| *s != id && self.graph.node(*s).args == self.graph.node(id).args);
            if let Some(logits) = stored.filter(|s| out.values.contains_key(s)) {
                let cols = self.graph.ty(logits).cols();
                let words = &out.values[&logits].words[..n as usize * cols];
                match out.keep_logits {
                    true => candidates::check(&best, words, cols),
                    false => assert!(words.iter().all(|w| *w == POISON), "{} stores logits that nobody wants", b.name),
                }
            }
            out.values.insert(id, Area::new(best.iter().map(|row| row[0].0).collect()));
        }
    }

    /// An input's rows, or room for a result.
    fn buffer(&self, id: Id, rows: &std::ops::Range<usize>, tiled: bool) -> Area {
        let ty = self.graph.ty(id);
        let Some((Leaf::Input, name)) = self.graph.leaf(id) else {
            let rows = if tiled { rows.len().next_multiple_of(TILE_ROWS as usize) } else { rows.len() };
            return Area::poisoned(rows * words_of_row(ty));
        };
        let word = |x: f32| if ty.elem() == Some(Elem::I32) { x as i32 as u32 } else { x.to_bits() };
        let mut words = vec![];
        for r in rows.clone() {
            let (tag, row) = if self.phase == Phase::Decode { (format!("#{r}"), 0) } else { ("#0".into(), r) };
            words.extend((0..ty.cols()).map(|c| word(self.value(name, &tag, row, c, ty))));
        }
        Area::new(words)
    }

    /// Everything at once, on every target.
    pub fn check(&self, compiled: &Compiled) {
        for variant in &compiled.0 {
            println!("{}, {:?} of {} rows", variant.target.name, self.phase, self.rows());
            // the products of a GPU round their operands: of such operands they must be right
            Case { rounded: variant.target.is_gpu(), graph: &variant.graph, ..self.clone() }.check_on(variant);
        }
    }

    /// That another graph with the same states has the same results, bit by bit.
    pub fn check_equal(&self, compiled: &Compiled, other: &Case, other_compiled: &Compiled) {
        for (mine, theirs) in compiled.0.iter().zip(&other_compiled.0) {
            let [a, b] = [self.run(mine, 0..self.rows(), 1), other.run(theirs, 0..self.rows(), 1)];
            assert!(a.states.words == b.states.words, "states differ");
            for output in self.graph.outputs.iter().filter(|o| o.kind != OutputKind::Update) {
                let same = other.graph.outputs.iter().find(|o| o.name == output.name).expect("the same outputs");
                assert!(a.values[&output.value].words == b.values[&same.value].words, "{} differs", output.name);
            }
        }
    }

    /// A leaf's value, rounded to bf16 if this case wants that.
    fn value(&self, name: &str, tag: &str, row: usize, c: usize, ty: Type) -> f32 {
        let x = leaf_value(name, tag, row, c, ty);
        if self.rounded && matches!(ty.elem(), Some(Elem::F32 | Elem::Bf16)) { round_bf16(x) } else { x }
    }

    /// On every target the results have the bits of those of the same names of another graph; but where rows are in tiles, since warpgroups
    /// multiply those, which add in another order.
    pub fn same_as(&self, compiled: &Compiled, (other, of_other): (&Graph, &Compiled)) {
        assert_eq!(compiled.0.len(), of_other.0.len());
        let pairs = compiled.0.iter().zip(&of_other.0);
        for (variant, same) in pairs.filter(|(variant, _)| variant.tiled.is_empty()) {
            assert_eq!(variant.target.name, same.target.name);
            let found = self.run(variant, 0..self.rows(), 1);
            let wanted = Case { graph: other, ..self.clone() }.run(same, 0..self.rows(), 1);
            for output in &self.graph.outputs {
                let twin = other.outputs.iter().find(|o| o.name == output.name).expect("an output of this name");
                let (found, wanted) = (&found.values[&output.value].words, &wanted.values[&twin.value].words);
                assert_eq!(found, wanted, "{} on {}", output.name, variant.target.name);
            }
        }
    }

    /// What the last kernel for a target did.
    pub fn counted_on(&self, compiled: &Compiled, target: &str) -> Counters {
        let variant = compiled.0.iter().find(|v| v.target.name == target).expect("a kernel for the target");
        self.run(variant, 0..self.rows(), 1).last
    }

    fn check_on(&self, compiled: &Variant) {
        let rows = self.rows();
        let whole = self.run(compiled, 0..rows, 1);
        self.compare(&whole, self.tolerance_on(compiled));
        if !compiled.target.is_gpu() {
            let split = self.run(compiled, 0..rows, 3);
            self.same_bits(compiled, (&whole, &split), 0..rows, true, "split over three threads");
            let listed = compiled.built.iter().flat_map(|b| &b.params);
            for id in listed.filter_map(|p| if let Binding::Candidates(id) = p { Some(id) } else { None }) {
                let without = self.run_keeping(compiled, 0..rows, (3, false));
                assert!(without.values[id].words == whole.values[id].words, "other candidates without logits");
            }
        }
        if rows > 1 {
            let first = 0..rows.div_ceil(2);
            let last = rows - 1..rows;
            let parts = if self.phase == Phase::Decode { vec![first, last] } else { vec![first, 0..1] };
            for part in parts {
                let some = self.run(compiled, part.clone(), 1);
                self.same_bits(compiled, (&whole, &some), part, false, "fewer rows");
            }
        }
    }

    /// What the products of a target round is larger than anything else.
    fn tolerance_on(&self, compiled: &Variant) -> f64 {
        let is = |name: &'static str| move |b: &Built| b.name.starts_with(name);
        match (compiled.target.is_gpu(), self.tolerance) {
            (true, t) if compiled.built.iter().any(is("norm_product")) => t.max(tolerance::BF16_OPERANDS),
            (true, t) if compiled.built.iter().any(is("attention_flash")) => t.max(tolerance::BF16_WEIGHTS),
            // weights of a few keys may all be rounded the same way
            (true, t) if compiled.built.iter().any(is("attention_split")) => t.max(tolerance::ROUNDED),
            (true, t) if compiled.built.iter().any(is("gated_delta_chunked")) => {
                t.max(if self.rows() < 64 { tolerance::BF16_TOKENS } else { tolerance::BF16_CHUNKS })
            }
            (true, t) if t > 0.0 => t.max(tolerance::GPU),
            (false, _) if compiled.quantises() => self.tolerance_of_bytes,
            (_, t) => t,
        }
    }

    fn same_bits(
        &self,
        compiled: &Variant,
        (whole, other): (&Outcome, &Outcome),
        rows: std::ops::Range<usize>,
        states: bool,
        what: &str,
    ) {
        for (id, area) in &other.values {
            let ty = self.graph.ty(*id);
            let bits = |area: &Area, row: usize| match compiled.tiled.contains(id) {
                true => (0..ty.cols())
                    .map(|c| element(&area.words, Elem::Bf16, tiled(ty.cols(), row, c)).to_bits())
                    .collect(),
                false => area.words[row * words_of_row(ty)..(row + 1) * words_of_row(ty)].to_vec(),
            };
            for (row, of_whole) in rows.clone().enumerate() {
                assert_eq!(bits(area, row), bits(&whole.values[id], of_whole), "%{} differs with {what}", id.0);
            }
        }
        assert!(!states || whole.states.words == other.states.words, "states differ with {what}");
    }

    /// Against the reference, sequence by sequence.
    fn compare(&self, out: &Outcome, tolerance: f64) {
        let sequences = if self.phase == Phase::Decode { self.past.len() } else { 1 };
        let (offsets, stride) = self.layout();
        for s in 0..sequences {
            let (inputs, states) = self.named(s);
            let weights = |name: &str, ty: Type| Ok(weight(name, ty));
            let bindings = Bindings { inputs: &inputs, states: &states, weights: &weights };
            let want = eval(self.graph, &bindings, self.new_tokens()).unwrap_or_else(|e| panic!("{e}"));
            for output in &self.graph.outputs {
                let cols = self.graph.ty(output.value).cols();
                match output.kind {
                    OutputKind::Update => {
                        let id = *offsets.keys().find(|id| self.graph.leaf(**id).unwrap().1 == output.name).unwrap();
                        let at = self.slots[s] * stride + offsets[&id];
                        let what = format!("state {} of sequence {s}", output.name);
                        // what was computed is rounded on its way to the cache, what was moved is as it was
                        let rounds = self.elem(id) == Elem::Bf16 && tolerance > 0.0;
                        let tolerance = if rounds { tolerance.max(tolerance::BF16_STORED) } else { tolerance };
                        self.compare_state(&out.states.words[at..], id, &want.states[&output.name], (&what, tolerance));
                    }
                    _ => {
                        let words = &out.values[&output.value].words[s * cols..][..self.new_tokens() * cols];
                        let integer = self.graph.ty(output.value).elem() == Some(Elem::I32);
                        let found = words
                            .iter()
                            .map(|w| if integer { f64::from(*w as i32) } else { f64::from(f32::from_bits(*w)) });
                        close(found, &want.returns[&output.name].data, &output.name, tolerance);
                    }
                }
            }
        }
    }

    /// A cache keeps the newest rows it has room for.
    fn compare_state(&self, words: &[u32], id: Id, want: &Mat<f64>, (what, tolerance): (&str, f64)) {
        let rows = self.state_rows(id);
        let fixed = matches!(self.graph.ty(id).rows(), Some(Rows::Fixed(_)));
        let first = if fixed { 0 } else { want.rows.saturating_sub(rows) };
        let place = |r: usize| if fixed { r } else { r % rows };
        let row = |r: usize| (0..want.cols).map(move |c| place(r) * want.cols + c);
        let at = (first..want.rows).flat_map(row);
        let found: Vec<f64> = at.map(|i| f64::from(element(words, self.elem(id), i))).collect();
        close(found.into_iter(), &want.data[first * want.cols..], what, tolerance);
    }
}

fn close(found: impl Iterator<Item = f64>, want: &[f64], what: &str, tolerance: f64) {
    let (mut error, mut norm, mut n) = (0.0, 0.0f64, 0u32);
    for (f, w) in found.zip(want) {
        error += (f - w) * (f - w);
        norm += w * w;
        n += 1;
    }
    assert_eq!(n as usize, want.len(), "{what}");
    // sums of random signs cancel: below a root mean square of 0.1 the error counts as absolute, except for moved
    // bits
    let floor = 0.01 * f64::from(n);
    let relative = (error / norm.max(floor)).sqrt();
    assert!(relative <= tolerance, "{what}: relative error {relative:e} > {:e}", tolerance);
}
