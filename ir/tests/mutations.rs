//! The reader of graphs takes any bytes without a panic: the file tests, damaged in a hundred thousand ways, the same in every run.
//!
//! The fuzz target `jir` does the same for longer and guided by coverage.

use jet_ir::{group_kernels, read, read_bytes};
use std::path::Path;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545F4914F6CDD1D) >> 33) as usize % sides.max(1)
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/jir");
    let mut paths = vec![];
    for folder in ["good", "bad"] {
        paths.extend(std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Cuts, copies, swaps words with those of another file, flips bits, or puts a byte that means something.
fn damage(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let (from, length) = (dice.roll(bytes.len()), dice.roll(20));
    let to = (from + length).min(bytes.len());
    match dice.roll(6) {
        0 => drop(bytes.drain(from..to)),
        1 => {
            let piece = bytes[from..to].to_vec();
            let at = dice.roll(bytes.len());
            bytes.splice(at..at, piece);
        }
        2 => {
            let start = dice.roll(other.len());
            let piece = other[start..(start + dice.roll(30)).min(other.len())].to_vec();
            bytes.splice(from..to, piece);
        }
        3 if from < bytes.len() => bytes[from] ^= 1 << dice.roll(8),
        4 => bytes.truncate(from),
        _ => bytes.insert(from, b"\"\\%{}[],;:=/0189TC-.\n \xff\xc3"[dice.roll(23)]),
    }
}

#[test]
fn damaged_files_are_read_or_refused() {
    let (seeds, mut dice) = (seeds(), Dice(0x9E37_79B9_7F4A_7C15));
    let (mut read_well, mut refused) = (0, 0);
    for _ in 0..100_000 {
        let mut bytes = seeds[dice.roll(seeds.len())].clone();
        for _ in 0..1 + dice.roll(3) {
            let other = &seeds[dice.roll(seeds.len())];
            damage(&mut bytes, other, &mut dice);
        }
        match read_bytes("f", &bytes) {
            Ok(graph) => {
                read_well += 1;
                let printed = graph.to_string();
                assert_eq!(read("printed", &printed).unwrap(), graph, "{printed}");
                let _ = group_kernels(&graph);
            }
            Err(errors) => {
                refused += 1;
                assert!(!errors.list.is_empty());
                let lines = bytes.split(|byte| *byte == b'\n').count();
                assert!(errors.list.iter().all(|e| (1..=lines).contains(&e.position.line)), "{errors}");
            }
        }
    }
    // both ways are exercised
    assert!(read_well > 2_000 && refused > 20_000, "{read_well} read, {refused} refused");
}
