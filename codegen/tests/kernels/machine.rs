//! Where the kernels of a test run: in this process, under an emulator, or on the simulated GPU.

use crate::emulator::{self, Emulator};
use crate::loader::Code;
use jet_codegen::targets::Target;
use jet_codegen::{Built, CodeBlob};
use jet_ptxsim::{Counters, Device, DeviceConfig, Launch, Module};
use std::collections::HashMap;

/// Compiled kernels of a target.
pub enum Machine {
    /// Mapped code.
    Here(Code),
    /// Code for another processor.
    Emulated(Emulator, CodeBlob),
    /// PTX text.
    Simulated(Box<Module>),
}

/// A parameter.
#[derive(Clone, Copy)]
pub enum Word {
    /// A number.
    Number(u64),
    /// So many bytes into memory of the host, which a GPU gets a copy of.
    Memory {
        /// Where it starts.
        start: *mut u8,
        /// Its size.
        bytes: usize,
        /// The place that is meant.
        offset: u64,
    },
}

impl Word {
    /// Memory from its start on.
    pub fn of<T>(memory: &mut [T]) -> Word {
        Word::Memory { start: memory.as_mut_ptr().cast(), bytes: size_of_val(memory), offset: 0 }
    }

    /// So many bytes further on.
    pub fn at(self, further: u64) -> Word {
        match self {
            Word::Number(n) => Word::Number(n),
            Word::Memory { start, bytes, offset } => Word::Memory { start, bytes, offset: offset + further },
        }
    }
}

impl Machine {
    /// Takes the code of `target`.
    pub fn load(target: &Target, blob: CodeBlob) -> Machine {
        if target.runs_here() {
            return Machine::Here(Code::load(blob));
        }
        if !target.is_gpu() {
            return Machine::Emulated(Emulator::find().expect("qemu-aarch64 is in the search path"), blob);
        }
        let text = String::from_utf8(blob.bytes).expect("PTX is text");
        let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{}", numbered(&text)));
        Machine::Simulated(Box::new(module))
    }

    /// Runs a kernel for `rows` rows; of a simulated one, says what it did.
    ///
    /// # Safety
    /// The words are what the kernel expects, and their memory is alive.
    pub unsafe fn run(&self, built: &Built, words: &[Word], rows: u64) -> Counters {
        match self {
            Machine::Here(code) => {
                let address = |w: &Word| match *w {
                    Word::Number(n) => n,
                    Word::Memory { start, offset, .. } => start as u64 + offset,
                };
                // SAFETY: as promised by the caller.
                unsafe { code.call(&built.name, &words.iter().map(address).collect::<Vec<_>>()) };
                Counters::default()
            }
            // SAFETY: as promised by the caller.
            Machine::Emulated(emulator, blob) => unsafe { emulate(emulator, blob, built, words) },
            // SAFETY: as promised by the caller.
            Machine::Simulated(module) => unsafe { simulate(module, built, words, rows) },
        }
    }
}

/// Copies what the words name to the memory of a program, runs the kernel there, and copies it back.
unsafe fn emulate(emulator: &Emulator, blob: &CodeBlob, built: &Built, words: &[Word]) -> Counters {
    let mut starts: Vec<*mut u8> = vec![];
    let mut regions: Vec<Vec<u8>> = vec![];
    let mut place = |w: &Word| match *w {
        Word::Number(n) => emulator::Word::Number(n),
        Word::Memory { start, bytes, offset } => {
            let region = starts.iter().position(|s| *s == start).unwrap_or_else(|| {
                starts.push(start);
                // SAFETY: the caller answers for the memory.
                regions.push(unsafe { std::slice::from_raw_parts(start, bytes) }.to_vec());
                starts.len() - 1
            });
            emulator::Word::Place { region, offset }
        }
    };
    let words: Vec<_> = words.iter().map(&mut place).collect();
    emulator.call(&blob.bytes, blob.symbols[&built.name], &words, &mut regions);
    for (start, region) in starts.into_iter().zip(regions) {
        // SAFETY: the caller answers for the memory.
        unsafe { std::ptr::copy_nonoverlapping(region.as_ptr(), start, region.len()) };
    }
    Counters::default()
}

/// Copies what the words name to a fresh device, runs the kernel there, and copies it back.
unsafe fn simulate(module: &Module, built: &Built, words: &[Word], rows: u64) -> Counters {
    let built = built.serving(rows);
    let launch = built.kernel.launch.expect("a kernel of a GPU says how many threads it has");
    let tiles = if built.items.per_row { rows.div_ceil(launch.rows.into()) } else { 1 };
    let ctas = u32::try_from(u64::from(built.items.fixed) * tiles).expect("few items");
    let mut gpu = Device::new(DeviceConfig { sm: module.sm(), ..DeviceConfig::default() });
    let mut copies: HashMap<*mut u8, (u64, usize)> = HashMap::new();
    let mut address = |w: &Word| match *w {
        Word::Number(n) => n,
        Word::Memory { start, bytes, offset } => {
            let (base, _) = *copies.entry(start).or_insert_with(|| {
                let base = gpu.alloc(bytes as u64).unwrap_or_else(|e| panic!("{e}"));
                // SAFETY: the caller answers for the memory.
                let content = unsafe { std::slice::from_raw_parts(start, bytes) };
                gpu.write(base, content).unwrap_or_else(|e| panic!("{e}"));
                (base, bytes)
            });
            base + offset
        }
    };
    let words: Vec<u64> = words.iter().map(&mut address).collect();
    let shape = Launch::new(ctas, launch.threads).shared(built.kernel.dynamic_shared_bytes());
    let launched = (ctas > 0).then(|| gpu.launch(module, &built.name, shape, &words));
    let counted = launched.transpose().unwrap_or_else(|e| panic!("{}: {e}", built.name)).unwrap_or_default();
    for (start, (base, bytes)) in copies {
        let content = gpu.read(base, bytes as u64).unwrap_or_else(|e| panic!("{e}"));
        // SAFETY: the caller answers for the memory.
        unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), start, bytes) };
    }
    counted
}

fn numbered(text: &str) -> String {
    text.lines().enumerate().map(|(n, l)| format!("{:5} {l}\n", n + 1)).collect()
}
