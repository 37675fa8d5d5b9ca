//! The ways to run a kernel: code for each target, in this process, as a program for another processor under an emulator, or as PTX text
//! in the simulator, where all lanes of one warp do the same.

use crate::emulator::{Emulator, Word};
use crate::loader::{Buffer, Code};
use jet_codegen::kir::{Kernel, Launch, parse};
use jet_codegen::targets::{TARGETS, Target};
use jet_codegen::{CodeBlob, compile};
use jet_ptxsim::{Device, DeviceConfig, Module};

/// Code for one target, and where it runs: kernels with the parameters `x`, `y` and counts.
pub struct Engine {
    target: &'static Target,
    place: Place,
}

enum Place {
    /// In this process.
    Here,
    /// Under the emulator.
    Emulated(Emulator),
    /// In the simulator of PTX.
    Simulated,
}

/// Plain data.
pub trait Plain: Copy + Default + PartialEq + std::fmt::Debug {}
impl Plain for u16 {}
impl Plain for i32 {}
impl Plain for f32 {}

impl Engine {
    /// The engine of every target, by its name; none where this build cannot compile for it or nothing here runs its code.
    pub fn all() -> Vec<(&'static str, Option<Engine>)> {
        let emulator = Emulator::find();
        let place = |t: &Target| match t.arch {
            _ if t.runs_here() => Some(Place::Here),
            "aarch64" => emulator.clone().map(Place::Emulated),
            _ if t.is_gpu() => Some(Place::Simulated),
            _ => None,
        };
        let engine = |target| Some(Engine { target, place: place(target)? });
        TARGETS.iter().map(|t| (t.name, t.backend.is_built().then(|| engine(t)).flatten())).collect()
    }

    /// Whether elementary functions are approximate instructions of a GPU.
    pub fn approximates(&self) -> bool {
        self.target.is_gpu()
    }

    /// The `n` elements at `y`, zero before.
    pub fn run<T: Plain, U: Plain>(&self, x: &[T], n: usize, counts: &[u64], mut kernel: Kernel) -> Vec<U> {
        let name = kernel.name.clone();
        if self.target.is_gpu() {
            kernel.launch = Some(Launch { threads: 32, ctas: 1, rows: 1 });
        }
        let kernel = reread(&kernel);
        let blob = compile(&[kernel], self.target).unwrap_or_else(|e| panic!("{e}"));
        match &self.place {
            Place::Here => {
                let (mut px, mut py) = (Buffer::new(x), Buffer::new(&vec![U::default(); n]));
                let words = [&[px.word(), py.word()], counts].concat();
                // SAFETY: each case's kernel stays within `x` and the `n` elements of `y`.
                unsafe { Code::load(blob).call(&name, &words) };
                py.get().to_vec()
            }
            Place::Emulated(emulator) => {
                let places = [0, 1].map(|region| Word::Place { region, offset: 0 });
                let words: Vec<_> = places.into_iter().chain(counts.iter().map(|n| Word::Number(*n))).collect();
                let mut regions = [as_bytes(x).to_vec(), vec![0; n * size_of::<U>()]];
                emulator.call(&blob.bytes, blob.symbols[&name], &words, &mut regions);
                from_bytes(&regions[1], n)
            }
            Place::Simulated => from_bytes(&simulate(blob, &name, as_bytes(x), n * size_of::<U>(), counts), n),
        }
    }
}

/// What a launch of one warp leaves in `bytes` bytes that were zero.
fn simulate(blob: CodeBlob, name: &str, x: &[u8], bytes: usize, counts: &[u64]) -> Vec<u8> {
    let text = String::from_utf8(blob.bytes).expect("PTX is text");
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let run = || {
        let mut gpu = Device::new(DeviceConfig { sm: module.sm(), workers: 1, ..DeviceConfig::default() });
        let (px, py) = (gpu.alloc(x.len() as u64)?, gpu.alloc(bytes as u64)?);
        gpu.write(px, x)?;
        gpu.write(py, &vec![0; bytes])?;
        gpu.launch(&module, name, jet_ptxsim::Launch::new(1, 32), &[&[px, py], counts].concat())?;
        gpu.read(py, bytes as u64)
    };
    run().unwrap_or_else(|e: jet_ptxsim::Error| panic!("{e}\n{text}"))
}

/// The kernel, printed and read again: what runs has gone through the text form.
fn reread(kernel: &Kernel) -> Kernel {
    let text = kernel.to_string();
    let (kernel, _) = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(kernel.to_string(), text);
    kernel
}

fn as_bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain numbers have no padding, and bytes no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn from_bytes<T: Plain>(bytes: &[u8], n: usize) -> Vec<T> {
    assert_eq!(bytes.len(), n * size_of::<T>());
    let mut values = vec![T::default(); n];
    // SAFETY: as many bytes as the values take, and every pattern of bits is a number.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), values.as_mut_ptr().cast(), bytes.len()) };
    values
}
