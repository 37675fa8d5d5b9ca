//! The ways to run a kernel: code for each target, in this process or as a program for another processor under an emulator.

use crate::emulator::{Emulator, Word};
use crate::loader::{Buffer, Code};
use jet_codegen::compile;
use jet_codegen::kir::{Kernel, parse};
use jet_codegen::targets::{TARGETS, Target};

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
            _ => None,
        };
        let engine = |target| Some(Engine { target, place: place(target)? });
        TARGETS.iter().map(|t| (t.name, t.backend.is_built().then(|| engine(t)).flatten())).collect()
    }

    /// The `n` elements at `y`, zero before.
    pub fn run<T: Plain, U: Plain>(&self, x: &[T], n: usize, counts: &[u64], kernel: Kernel) -> Vec<U> {
        let name = kernel.name.clone();
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
        }
    }
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
