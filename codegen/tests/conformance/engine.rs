//! The ways to run a kernel: code for each target, in this process or as a program for another processor under an emulator.

use crate::loader::{Buffer, Code};
use jet_codegen::compile;
use jet_codegen::kir::{Kernel, parse};
use jet_codegen::targets::{TARGETS, Target};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Code for one target, and where it runs: kernels with the parameters `x`, `y` and counts.
pub struct Engine {
    target: &'static Target,
    place: Place,
}

enum Place {
    /// In this process.
    Here,
    /// As a program under the emulator `qemu-aarch64`.
    Emulated(PathBuf),
}

/// Plain data.
pub trait Plain: Copy + Default + PartialEq + std::fmt::Debug {}
impl Plain for u16 {}
impl Plain for i32 {}
impl Plain for f32 {}

impl Engine {
    /// The engine of every target, by its name; none where this build cannot compile for it or nothing here runs its code.
    pub fn all() -> Vec<(&'static str, Option<Engine>)> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let qemu = std::env::split_paths(&paths).map(|p| p.join("qemu-aarch64")).find(|p| p.is_file());
        let place = |t: &Target| match t.arch {
            _ if t.runs_here() => Some(Place::Here),
            "aarch64" => qemu.clone().map(Place::Emulated),
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
            Place::Emulated(qemu) => {
                let program = program(&blob.bytes, blob.symbols[&name], as_bytes(x), n * size_of::<U>(), counts);
                let file = std::env::temp_dir().join(format!("jetc-{}-{:p}", std::process::id(), &program));
                std::fs::write(&file, program).expect("a temporary file");
                set_executable(&file);
                let out = Command::new(qemu).arg(&file).output();
                std::fs::remove_file(&file).expect("the file from above");
                let out = out.expect("the emulator starts");
                assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
                from_bytes(&out.stdout, n)
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

fn set_executable(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o700)).expect("the file is ours");
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

/// Where the program lies in the emulated memory.
const BASE: u64 = 0x40_0000;
/// Headers, then the start-up code with its data, then everything else.
const START: usize = 128;
const REST: usize = 256;

/// An ELF file for aarch64 that calls the kernel once and writes `y` to its output.
fn program(code: &[u8], entry: usize, x: &[u8], y_bytes: usize, counts: &[u64]) -> Vec<u8> {
    let line = |at: usize| at.next_multiple_of(64);
    let words = line(REST + code.len());
    let input = line(words + 8 * (2 + counts.len()));
    let output = line(input + x.len());
    let end = line(output + y_bytes);
    let address = |at: usize| BASE + at as u64;

    let mut file = vec![0u8; end];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2u16, 183].map(u16::to_le_bytes).concat());
    put(20, &1u32.to_le_bytes());
    put(24, &[address(START), 64].map(u64::to_le_bytes).concat());
    put(52, &[64u16, 56, 1].map(u16::to_le_bytes).concat());
    // one segment: readable, writable, executable
    put(64, &[1u32, 7].map(u32::to_le_bytes).concat());
    put(72, &[0, BASE, BASE, end as u64, end as u64, 0x1000].map(u64::to_le_bytes).concat());

    let load = |register: u32, constant: u32, at: u32| 0x5800_0000 | ((48 + 8 * constant - 4 * at) / 4) << 5 | register;
    let stub = [
        load(0, 0, 0), // the words
        load(9, 1, 1), // the kernel
        0xd63f_0120,   // blr x9
        0xd280_0020,   // mov x0, 1
        load(1, 2, 4), // y
        load(2, 3, 5), // its bytes
        0xd280_0808,   // mov x8, 64: write
        0xd400_0001,   // svc
        0xd280_0000,   // mov x0, 0
        0xd280_0ba8,   // mov x8, 93: exit
        0xd400_0001,   // svc
    ];
    put(START, &stub.map(u32::to_le_bytes).concat());
    let constants = [address(words), address(REST + entry), address(output), y_bytes as u64];
    put(START + 48, &constants.map(u64::to_le_bytes).concat());
    put(REST, code);
    let all = [&[address(input), address(output)], counts].concat();
    put(words, &all.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>());
    put(input, x);
    file
}
