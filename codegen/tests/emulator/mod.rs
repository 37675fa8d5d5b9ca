//! Code for 64-bit Arm under `qemu-aarch64`: as a program that calls one kernel once and writes its memory to its output.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;
use std::process::Command;

/// The emulator.
#[derive(Clone)]
pub struct Emulator(PathBuf);

/// A parameter of a kernel.
#[derive(Clone, Copy)]
pub enum Word {
    /// A number.
    Number(u64),
    /// So many bytes into a region of memory.
    Place {
        /// Which one.
        region: usize,
        /// The place in it.
        offset: u64,
    },
}

impl Emulator {
    /// The one that the search path has.
    pub fn find() -> Option<Emulator> {
        let paths = std::env::var_os("PATH")?;
        std::env::split_paths(&paths).map(|p| p.join("qemu-aarch64")).find(|p| p.is_file()).map(Emulator)
    }

    /// Calls the kernel at `entry` of `code`; the regions get what it leaves in them.
    pub fn call(&self, code: &[u8], entry: usize, words: &[Word], regions: &mut [Vec<u8>]) {
        let file = memory_file(&program(code, entry, words, regions));
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let out = Command::new(&self.0).arg(path).output().expect("the emulator starts");
        assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
        let mut left = &out.stdout[..];
        for region in regions {
            let bytes = region.len();
            region.copy_from_slice(&left[..bytes]);
            left = &left[line(bytes)..];
        }
        assert!(left.is_empty());
    }
}

/// A file without a name.
fn memory_file(content: &[u8]) -> File {
    // SAFETY: a name that ends with zero; the descriptor is new and belongs to the file alone.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"program".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    file.write_all(content).expect("room in memory");
    file
}

/// Where the program lies in the emulated memory.
const BASE: u64 = 0x40_0000;
/// Headers, then the start-up code with its data, then everything else.
const START: usize = 128;
const REST: usize = 256;

fn line(at: usize) -> usize {
    at.next_multiple_of(64)
}

/// An ELF file for aarch64.
fn program(code: &[u8], entry: usize, words: &[Word], regions: &[Vec<u8>]) -> Vec<u8> {
    let address = |at: usize| BASE + at as u64;
    let first_word = line(REST + code.len());
    let first = line(first_word + 8 * words.len());
    let starts: Vec<usize> = regions
        .iter()
        .scan(first, |at, region| {
            let here = *at;
            *at += line(region.len());
            Some(here)
        })
        .collect();
    let end = first + regions.iter().map(|r| line(r.len())).sum::<usize>();

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
        load(1, 2, 4), // the regions
        load(2, 3, 5), // their bytes
        0xd280_0808,   // mov x8, 64: write
        0xd400_0001,   // svc
        0xd280_0000,   // mov x0, 0
        0xd280_0ba8,   // mov x8, 93: exit
        0xd400_0001,   // svc
    ];
    put(START, &stub.map(u32::to_le_bytes).concat());
    let constants = [address(first_word), address(REST + entry), address(first), (end - first) as u64];
    put(START + 48, &constants.map(u64::to_le_bytes).concat());
    put(REST, code);
    let word = |w: &Word| match *w {
        Word::Number(n) => n,
        Word::Place { region, offset } => address(starts[region]) + offset,
    };
    put(first_word, &words.iter().flat_map(|w| word(w).to_le_bytes()).collect::<Vec<_>>());
    starts.iter().zip(regions).for_each(|(at, region)| put(*at, region));
    file
}
