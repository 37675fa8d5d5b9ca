//! A toy model whose kernels are Rust functions: an artifact for it, a device that runs it, and what it computes.
//!
//! Layer 0 keeps a ring of inputs and a decaying sum, layer 1 sums the keys in its window; see [`reference`].

#![allow(dead_code)]

use jet_runtime::jetbin::*;
use jet_runtime::{Code, Device, DeviceError, Launch, Model};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

pub const VOCAB: usize = 11;
pub const HIDDEN: usize = 8;
pub const ROPE: usize = 4;
pub const TAPS: usize = 3;
pub const WINDOW: usize = 6;
pub const CONTEXT: u32 = 40;
pub const BATCH: u32 = 3;
pub const CHUNK: u32 = 5;
const CAPACITY: usize = 16;
const INV_FREQ: [f32; 2] = [1.0, 0.25];

/// A folder that goes away with the value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("jet-runtime-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Embedding, and head.
pub fn table() -> Vec<f32> {
    (0..VOCAB * HIDDEN).map(|i| ((i * 7 + i / 5) % 13) as f32 * 0.25 - 1.5).collect()
}

/// What differs between the artifacts that tests ask for.
pub struct Recipe {
    pub code: Vec<u8>,
    pub targets: Vec<TargetDesc>,
    pub external: Option<PathBuf>,
    pub argmax: bool,
    /// The head keeps candidates, and stores logits on request; those beyond this number count as infinite.
    pub candidates: Option<f32>,
}

impl Default for Recipe {
    fn default() -> Self {
        let targets = vec![this_target("toy")];
        Self { code: vec![0; KERNELS.len() * 16], targets, external: None, argmax: true, candidates: None }
    }
}

pub fn this_target(name: &str) -> TargetDesc {
    TargetDesc {
        name: name.into(),
        device: DeviceKind::Cpu,
        arch: std::env::consts::ARCH.into(),
        features: vec![],
        rank: 1,
    }
}

pub fn write(path: &Path, recipe: &Recipe) -> Written {
    let mut w = Writer::create(path, WriterOptions { external_weights: recipe.external.clone(), sync: false }).unwrap();
    w.facts(&Facts {
        name: "toy".into(),
        vocab_size: VOCAB as u32,
        hidden_size: HIDDEN as u32,
        n_layers: 2,
        rope_dim: ROPE as u32,
        max_context: CONTEXT,
        max_batch: BATCH,
        prefill_chunk: CHUNK,
        eos_ids: vec![0],
    })
    .unwrap();
    w.inv_freq(&INV_FREQ).unwrap();
    let state = |name: &str, kind, layer, offset, rows, cols, heads, window| StateDesc {
        name: name.into(),
        kind,
        dtype: DType::F32,
        layer,
        offset,
        rows,
        cols,
        heads,
        window,
        zero_at_start: layer == 0,
    };
    let cache = CAPACITY as u32;
    let states = [
        state("layers.0.conv", StateKind::Conv, 0, 0, TAPS as u32, 8, 1, 0),
        state("layers.0.delta", StateKind::Delta, 0, 128, 4, 2, 2, 0),
        state("layers.1.keys", StateKind::Keys, 1, 192, cache, 8, 2, WINDOW as u32),
        state("layers.1.values", StateKind::Values, 1, 704, cache, 8, 2, WINDOW as u32),
    ];
    w.states(0, 1216, &states).unwrap();
    let desc =
        WeightDesc { name: "table".into(), dtype: DType::F32, layout: "rows".into(), sources: vec!["embed".into()] };
    let bytes: Vec<u8> = table().iter().flat_map(|v| v.to_le_bytes()).collect();
    w.weight(&desc, |out| out.write_all(&bytes)).unwrap();
    for target in &recipe.targets {
        let kernel = |(i, name): (usize, &&str)| KernelDesc {
            name: name.to_string(),
            key: name.to_string(),
            offset: 16 * i as u64,
            length: 16,
        };
        let kernels: Vec<KernelDesc> = KERNELS.iter().map(|k| k.0).enumerate().map(|(i, n)| kernel((i, &n))).collect();
        let target = w.target(target, &kernels, &recipe.code).unwrap();
        w.program(&program(target, Phase::Prefill, CHUNK, 2, recipe)).unwrap();
        w.program(&program(target, Phase::Decode, BATCH, 3, recipe)).unwrap();
    }
    w.finish().unwrap()
}

fn program(target: u32, phase: Phase, max_rows: u32, head_rows: u32, recipe: &Recipe) -> Program {
    let Recipe { argmax, candidates, .. } = *recipe;
    use jet_runtime::jetbin::Arg as A;
    let buffer = |name: &str, offset, row_bytes, domain| Buffer { name: name.into(), offset, row_bytes, domain };
    let step = |kernel, domain, items: (u32, u32), args: &[A]| Step {
        kernel,
        domain,
        items_fixed: items.0,
        items_per_row: items.1,
        args: args.to_vec(),
        cost: Cost::default(),
        label: KERNELS[kernel as usize].0.into(),
    };
    let row = HIDDEN as u64 * 4;
    let columns = (HIDDEN as u32, 0);
    let (items, slots) = ([A::Rows, A::ItemBegin, A::ItemEnd], [A::SlotStride, A::Slots]);
    let head = [A::Buffer(0), A::Weight(0), A::Buffer(2), A::Scratch, A::Positions];
    let mut steps = vec![
        step(0, Domain::Tokens, (0, 1), &[&[A::TokenIds, A::Weight(0), A::Buffer(0)], &items[..]].concat()),
        step(
            1,
            Domain::Tokens,
            columns,
            &[&[A::Buffer(0), A::Buffer(1), A::State(0), A::State(1)], &slots[..], &items].concat(),
        ),
        step(
            2,
            Domain::Tokens,
            columns,
            &[&[A::Buffer(1), A::State(2), A::State(3), A::Positions, A::Rope], &slots[..], &items].concat(),
        ),
        step(
            3,
            Domain::Tokens,
            columns,
            &[&[A::Buffer(1), A::Buffer(0), A::State(2), A::Positions, A::Const(WINDOW as u64)], &slots[..], &items]
                .concat(),
        ),
        match candidates {
            None => step(4, Domain::Head, (VOCAB as u32, 0), &[&head, &items[..]].concat()),
            Some(limit) => {
                let listing = [A::Candidates(CANDIDATES.len), A::KeepLogits, A::Const(limit.to_bits().into())];
                step(7, Domain::Head, (VOCAB as u32, 0), &[&head, &listing[..], &items].concat())
            }
        },
    ];
    if argmax {
        steps.push(step(5, Domain::Head, (1, 0), &[A::Buffer(2), A::Buffer(3), A::Rows]));
    }
    let probe = |kind, step, source| Probe { kind, step, source };
    Program {
        target,
        phase,
        max_rows,
        head_rows,
        arena_bytes: 1024,
        scratch_bytes: 256,
        logits: 2,
        argmax: argmax.then_some(3),
        buffers: vec![
            buffer("hidden", 0, row, Domain::Tokens),
            buffer("mixed", 256, row, Domain::Tokens),
            buffer("logits", 512, VOCAB as u64 * 4, Domain::Head),
            buffer("argmax", 960, 4, Domain::Head),
        ],
        steps,
        probes: vec![
            probe(ProbeKind::LayerHidden(0), 0, ProbeSource::Buffer(0)),
            probe(ProbeKind::LayerHidden(1), 1, ProbeSource::Buffer(1)),
            probe(ProbeKind::LayerHidden(2), 3, ProbeSource::Buffer(0)),
            // The same buffer, read in a head step: its rows follow the window.
            probe(ProbeKind::MixerHidden(1), 4, ProbeSource::Buffer(0)),
            probe(ProbeKind::LastHidden, 4, ProbeSource::Scratch { offset: 64, row_bytes: row }),
        ],
    }
}

/// What a kernel may touch: its words, as pointers and numbers.
pub struct Words<'a>(&'a [u64]);

impl Words<'_> {
    fn number(&self, i: usize) -> usize {
        self.0[i] as usize
    }
    fn f32(&self, i: usize) -> *mut f32 {
        std::ptr::with_exposed_provenance_mut(self.number(i))
    }
    fn i32(&self, i: usize, at: usize) -> usize {
        let start: *const i32 = std::ptr::with_exposed_provenance(self.number(i));
        // SAFETY: the executor's words point to as many numbers as there are rows.
        unsafe { *start.add(at) as usize }
    }
    /// Start of a state of the slot of row `r`, with the stride and the slots in words `at` and `at + 1`.
    fn slot(&self, i: usize, at: usize, r: usize) -> *mut f32 {
        self.f32(i).wrapping_byte_add(self.number(at) * self.i32(at + 1, r))
    }
    fn tail(&self) -> (usize, std::ops::Range<usize>) {
        let n = self.0.len();
        (self.number(n - 3), self.number(n - 2)..self.number(n - 1))
    }
}

pub type Kernel = fn(&Words<'_>);

// The kernels work on raw addresses like those of a real device. SAFETY of each: the artifact of this file declares
// the sizes, and the tests would fail on any other word.
pub const KERNELS: [(&str, Kernel); 8] = [
    ("embed", |w| {
        let (_, items) = w.tail();
        for r in items {
            for c in 0..HIDDEN {
                // SAFETY: see above.
                unsafe { *w.f32(2).add(r * HIDDEN + c) = *w.f32(1).add(w.i32(0, r) * HIDDEN + c) };
            }
        }
    }),
    ("mix", |w| {
        let (rows, items) = w.tail();
        for c in items {
            for r in 0..rows {
                let (ring, sum) = (w.slot(2, 4, r).wrapping_add(c), w.slot(3, 4, r).wrapping_add(c));
                // SAFETY: see above.
                unsafe {
                    let x = *w.f32(0).add(r * HIDDEN + c);
                    for t in 1..TAPS {
                        *ring.add((t - 1) * HIDDEN) = *ring.add(t * HIDDEN);
                    }
                    *ring.add((TAPS - 1) * HIDDEN) = x;
                    *sum = 0.5 * *sum + x;
                    let taps: f32 = (0..TAPS).map(|t| *ring.add(t * HIDDEN)).sum();
                    *w.f32(1).add(r * HIDDEN + c) = taps + *sum;
                }
            }
        }
    }),
    ("append", |w| {
        let (rows, items) = w.tail();
        for c in items {
            for r in 0..rows {
                let at = w.i32(3, r) % CAPACITY * HIDDEN + c;
                // SAFETY: see above.
                unsafe {
                    let key = *w.f32(0).add(r * HIDDEN + c) + *w.f32(4).add(r * ROPE + c % ROPE);
                    *w.slot(1, 5, r).add(at) = key;
                    *w.slot(2, 5, r).add(at) = 2.0 * key;
                }
            }
        }
    }),
    ("attend", |w| {
        let (rows, items) = w.tail();
        for c in items {
            for r in 0..rows {
                let position = w.i32(3, r);
                let visible = (position + 1).saturating_sub(w.number(4))..=position;
                // SAFETY: see above.
                unsafe {
                    let sum: f32 = visible.map(|p| *w.slot(2, 5, r).add(p % CAPACITY * HIDDEN + c)).sum();
                    *w.f32(1).add(r * HIDDEN + c) = *w.f32(0).add(r * HIDDEN + c) + sum;
                }
            }
        }
    }),
    ("head", |w| {
        let (rows, items) = w.tail();
        for r in 0..rows {
            // SAFETY: see above.
            unsafe {
                let x = w.f32(0).add(r * HIDDEN);
                for c in 0..HIDDEN {
                    *w.f32(3).add(16 + r * HIDDEN + c) = 2.0 * *x.add(c) + w.i32(4, r) as f32;
                }
                for v in items.clone() {
                    let dot: f32 = (0..HIDDEN).map(|c| *x.add(c) * *w.f32(1).add(v * HIDDEN + c)).sum();
                    *w.f32(2).add(r * VOCAB + v) = dot;
                }
            }
        }
    }),
    ("argmax", |w| {
        for r in 0..w.number(2) {
            // SAFETY: see above.
            unsafe {
                let row = std::slice::from_raw_parts(w.f32(0).add(r * VOCAB), VOCAB);
                *w.f32(1).cast::<i32>().add(r) = best(row) as i32;
            }
        }
    }),
    ("unused", |_| unreachable!("no step names it")),
    ("head_candidates", |w| {
        let (rows, items) = w.tail();
        for r in 0..rows {
            // SAFETY: see above.
            unsafe {
                let x = w.f32(0).add(r * HIDDEN);
                let dot = |v: usize| (0..HIDDEN).map(|c| *x.add(c) * *w.f32(1).add(v * HIDDEN + c)).sum();
                let found: Vec<(usize, f32)> = items.clone().map(|v| (v, dot(v))).collect();
                if w.number(6) == 1 {
                    found.iter().for_each(|&(v, dot)| *w.f32(2).add(r * VOCAB + v) = dot);
                }
                let words = CANDIDATES.words() as usize;
                let list = std::slice::from_raw_parts_mut(w.f32(5).cast::<u32>().add(r * words), words);
                write_list(list, found, f32::from_bits(w.number(7) as u32));
            }
        }
    }),
];

/// Lists as short as they can be.
pub const CANDIDATES: CandidateList = CandidateList { len: 16 };

/// Writes a list of what was found.
fn write_list(words: &mut [u32], mut found: Vec<(usize, f32)>, limit: f32) {
    words.fill(0xdead_beef);
    let check = if found.iter().all(|(_, x)| x.abs() < limit) { 0.0f32 } else { f32::NAN };
    let (checks, ids) = (CandidateList::CHECKS as usize, CANDIDATES.ids() as usize);
    words[checks..checks + CandidateList::WIDTH as usize].fill(check.to_bits());
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    for i in 0..CANDIDATES.len as usize {
        let (id, score) = found.get(i).map_or((u32::MAX, f32::NEG_INFINITY), |f| (f.0 as u32, f.1));
        (words[ids + i], words[CandidateList::SCORES as usize + i]) = (id, score.to_bits());
    }
}

/// The largest value; of several, the first.
pub fn best(row: &[f32]) -> u32 {
    (0..row.len()).fold(0, |a, b| if row[b] > row[a] { b } else { a }) as u32
}

/// Everything that the toy model computes for a sequence, from its definition, without states.
pub struct Reference {
    pub embedded: Vec<[f32; HIDDEN]>,
    pub mixed: Vec<[f32; HIDDEN]>,
    pub keys: Vec<[f32; HIDDEN]>,
    pub sums: Vec<[f32; HIDDEN]>,
    pub hidden: Vec<[f32; HIDDEN]>,
    pub logits: Vec<Vec<f32>>,
}

pub fn reference(ids: &[u32]) -> Reference {
    let table = table();
    let row = |id: u32| -> [f32; HIDDEN] { table[id as usize * HIDDEN..][..HIDDEN].try_into().unwrap() };
    let column = |f: &dyn Fn(usize, usize) -> f32| -> Vec<[f32; HIDDEN]> {
        (0..ids.len()).map(|t| std::array::from_fn(|c| f(t, c))).collect()
    };
    let embedded: Vec<_> = ids.iter().map(|&id| row(id)).collect();
    let sums = column(&|t, c| (0..=t).fold(0.0, |sum, s| 0.5 * sum + embedded[s][c]));
    let mixed = column(&|t, c| (t.saturating_sub(TAPS - 1)..=t).map(|s| embedded[s][c]).sum::<f32>() + sums[t][c]);
    let rope = |t: usize, c: usize| {
        let angle = t as f32 * INV_FREQ[c % 2];
        if c % ROPE < 2 { angle.cos() } else { angle.sin() }
    };
    let keys = column(&|t, c| mixed[t][c] + rope(t, c));
    let hidden = column(&|t, c| mixed[t][c] + ((t + 1).saturating_sub(WINDOW)..=t).map(|s| keys[s][c]).sum::<f32>());
    let dot = |h: &[f32; HIDDEN], v: usize| (0..HIDDEN).map(|c| h[c] * table[v * HIDDEN + c]).sum::<f32>();
    let logits = hidden.iter().map(|h| (0..VOCAB).map(|v| dot(h, v)).collect()).collect();
    Reference { embedded, mixed, keys, sums, hidden, logits }
}

/// A device whose kernels are functions, found by name; the `fail_at`-th call fails, counted from 0.
pub struct Toy {
    pub threads: u32,
    pub fail_at: Arc<AtomicI64>,
    memory: Vec<Vec<u64>>,
    kernels: Vec<Kernel>,
}

impl Toy {
    pub fn new(threads: u32) -> Self {
        Self { threads, fail_at: Arc::new(AtomicI64::new(-1)), memory: vec![], kernels: vec![] }
    }

    fn count(&self, call: &'static str) -> Result<(), DeviceError> {
        if self.fail_at.fetch_sub(1, SeqCst) == 0 { Err(DeviceError::new(call, "on purpose")) } else { Ok(()) }
    }

    fn place(&mut self, address: u64, bytes: usize) -> &mut [u8] {
        let within = |m: &&mut Vec<u64>| {
            let start = m.as_ptr() as u64;
            (start..start + m.len() as u64 * 8 + 1).contains(&address)
        };
        let memory = self.memory.iter_mut().find(within).expect("an address of this device");
        let offset = (address - memory.as_ptr() as u64) as usize;
        // SAFETY: the words of a vector as bytes.
        let all = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<u8>(), memory.len() * 8) };
        &mut all[offset..offset + bytes]
    }
}

impl Device for Toy {
    fn threads(&self) -> u32 {
        self.threads
    }
    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        self.count("alloc")?;
        let mut memory = vec![0u64; bytes as usize / 8 + 1];
        let address = memory.as_mut_ptr().expose_provenance() as u64;
        self.memory.push(memory);
        Ok(address)
    }
    unsafe fn constant(&mut self, data: &[u8]) -> Result<u64, DeviceError> {
        self.count("constant")?;
        Ok(data.as_ptr().expose_provenance() as u64)
    }
    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.count("upload")?;
        self.place(address, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }
    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.count("download")?;
        bytes.copy_from_slice(self.place(address, bytes.len()));
        Ok(())
    }
    fn zero(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        self.count("zero")?;
        self.place(address, bytes as usize).fill(0);
        Ok(())
    }
    unsafe fn load(&mut self, code: &Code<'_>) -> Result<(), DeviceError> {
        self.count("load")?;
        let named = |k: &KernelDesc<&str>| KERNELS.iter().find(|(name, _)| *name == k.name).expect("a known kernel").1;
        self.kernels = code.kernels.iter().map(named).collect();
        Ok(())
    }
    unsafe fn launch(&mut self, launches: &[Launch], words: &[u64]) -> Result<(), DeviceError> {
        for launch in launches {
            self.count("launch")?;
            // Backwards, because no kernel may rely on the order of the threads.
            for thread in (0..launch.active).rev() {
                (self.kernels[launch.kernel as usize])(&Words(launch.words_of(words, thread)));
            }
        }
        Ok(())
    }
    fn sync(&mut self) -> Result<(), DeviceError> {
        self.count("sync")
    }
}

/// The toy model in a folder of its own.
pub fn model(name: &str) -> (Folder, Model) {
    model_of(name, &Recipe::default())
}

pub fn model_of(name: &str, recipe: &Recipe) -> (Folder, Model) {
    let folder = Folder::new(name);
    let path = folder.0.join("toy.jetbin");
    write(&path, recipe);
    let model = Model::open(&path).unwrap();
    (folder, model)
}
