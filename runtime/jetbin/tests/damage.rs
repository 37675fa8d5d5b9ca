//! No damaged artifact is accepted, and none makes the reader panic.

mod artifact;

use artifact::*;
use jetbin::*;

/// Everything but the packed weights, which `verify` covers.
fn guarded(file: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (start, length) = section(file, SectionKind::WeightData);
    vec![0..start, start + length..file.len()]
}

#[test]
fn an_artifact_cut_anywhere_is_refused() {
    let good = bytes();
    for n in 0..good.len() {
        assert!(Reader::open(&good[..n]).is_err(), "cut to {n} of {} bytes", good.len());
    }
    let longer = [&good[..], &[0]].concat();
    assert!(Reader::open(&longer).is_err());
}

#[test]
fn every_flipped_bit_outside_the_weights_is_refused() {
    let mut file = bytes();
    let ranges = guarded(&file);
    for at in ranges.into_iter().flatten() {
        // Gaps between sections are long runs of zeros: every byte is tried, all bits only where there is content.
        let bits = if file[at] == 0 && at % 7 != 0 { 0..1 } else { 0..8 };
        for bit in bits {
            file[at] ^= 1 << bit;
            assert!(Reader::open(&file).is_err(), "bit {bit} of byte {at}");
            file[at] ^= 1 << bit;
        }
    }
    Reader::open(&file).unwrap();
}

#[test]
fn a_flipped_bit_in_the_weights_is_found_by_verify() {
    let mut file = bytes();
    let (start, _) = section(&file, SectionKind::WeightData);
    file[start + 17] ^= 4;
    let r = Reader::open(&file).unwrap();
    let WeightPlace::Inside(data) = r.weight_place() else { panic!("weights are inside") };
    assert!(r.verify_weights(data).is_err());
}

#[test]
fn other_versions_are_refused_by_name() {
    let mut file = bytes();
    file[8] = 2;
    let error = Reader::open(&file).unwrap_err().to_string();
    assert_eq!(error, "format version 2.4 found, this build reads 1.0 to 1.4");
    (file[8], file[10]) = (1, 5);
    assert!(matches!(Reader::open(&file), Err(ReadError::Version { major: 1, minor: 5 })));
    file[0] = b'P';
    assert!(matches!(Reader::open(&file), Err(ReadError::NotAnArtifact(_))));
}

/// Signed damage: section, offset in it, new 32-bit value, a part of the expected message.
const SIGNED: &[(SectionKind, usize, u32, &str)] = &[
    (SectionKind::Facts, 0, 1 << 30, "string 1073741824.."),
    (SectionKind::Facts, 8, 0, "vocabulary, context, batch and chunk"),
    (SectionKind::Facts, 8, 11, "logits: buffer 1"),
    (SectionKind::Facts, 20, 6, "expected half of rope_dim = 6"),
    (SectionKind::Facts, 24, 33, "32 rows, expected 33 at least"),
    (SectionKind::Facts, 28, 4, "3 rows and 2 head rows, expected 4"),
    (SectionKind::Facts, 36, 3, "8 bytes for 3 ids"),
    (SectionKind::States, 0, 704, "512 bytes at 256, expected between 128 and 704"),
    (SectionKind::States, 8, 3, "2 rows, the header says 3"),
    (SectionKind::States, 16 + 8, 9, "kind of state 9 is unknown"),
    (SectionKind::States, 16 + 12, 2, "layer 2 of 2"),
    (SectionKind::States, 16 + 16, 32, "offset 32 is not a multiple of 64"),
    (SectionKind::States, 16 + 24, 0, "size of zero"),
    (SectionKind::States, 16 + 32, 3, "3 heads do not divide 8"),
    (SectionKind::States, 16 + 40, 2, "unknown flag"),
    (SectionKind::States, 16 + 44, 2, "a state of type q8, expected f32 or bf16"),
    (SectionKind::States, 16 + 44, 4, "type of state 4 is unknown"),
    (SectionKind::States, 64 + 16, 64, "512 bytes at 64, expected between 128"),
    (SectionKind::Weights, 24, 5, "dtype 5 is unknown"),
    (SectionKind::Weights, 24, 2, "weight embed: 100 bytes of q8, expected a multiple of 1088"),
    (SectionKind::Weights, 24, 3, "weight embed: 100 bytes of q4, expected a multiple of 576"),
    (SectionKind::Weights, 48 + 40, 59, "weight head: 59 bytes of f32, expected a multiple of 4"),
    (SectionKind::Weights, 40, 189, "189 bytes at 0, expected between 0 and 188"),
    (SectionKind::Weights, 48 + 36, 1, "bytes at 4294967424, expected between 100 and 188"),
    (SectionKind::Targets, 24, 7, "device 7 is unknown"),
    (SectionKind::Kernels, 16, 17, "16 bytes at 17, the code has 32"),
    (SectionKind::Kernels, 24, 0, "0 bytes at 0"),
    (SectionKind::Decode, 0, 4, "4 rows and 2 head rows, expected 3"),
    (SectionKind::Decode, 4, 0, "0 head rows"),
    (SectionKind::Decode, 12, 1 << 17, "arena and scratch have"),
    (SectionKind::Decode, 8, 2051, "buffer argmax: 4 bytes a row at 2048, the arena has 2051"),
    (SectionKind::Decode, 24, 0, "logits: buffer 0"),
    (SectionKind::Decode, 28, 3, "argmax: buffer 3 is None"),
    (SectionKind::Decode, 32, 4, "bytes of tables, expected"),
    (SectionKind::Decode, 36, u32::MAX, "bytes of tables, expected"),
    (SectionKind::Decode, BUFFERS + 8, 4032, "buffer hidden: 32 bytes a row at 4032"),
    (SectionKind::Decode, BUFFERS + 20, u32::MAX, "bytes a row at 0"),
    (SectionKind::Decode, BUFFERS + 16, 30, "row_bytes 30 is not a multiple of 4"),
    (SectionKind::Decode, BUFFERS + 24, 2, "domain 2 is unknown"),
    (SectionKind::Decode, STEPS + 8, 2, "kernel 2 of 2"),
    (SectionKind::Decode, STEPS + 12, 1, "a step over tokens after one over head rows"),
    (SectionKind::Decode, STEPS + 24, 1, "7 arguments at 1, expected at 0"),
    (SectionKind::Decode, STEPS + 28, 8, "7 arguments at 7, expected at 8"),
    (SectionKind::Decode, STEPS + 28, u32::MAX, "4294967295 arguments at 0"),
    (SectionKind::Decode, STEPS + 2 * 64 + 28, 5, "20 arguments, the steps use 19"),
    (SectionKind::Decode, ARGS, 16, "kind of argument 16 is unknown"),
    (SectionKind::Decode, ARGS + 3 * 16, 15, "KeepLogits refers to nothing that fits"),
    (SectionKind::Decode, ARGS + 18 * 16 + 4, 17, "Candidates(17) refers to nothing that fits"),
    (SectionKind::Decode, ARGS + 18 * 16 + 4, 0, "Candidates(0) refers to nothing that fits"),
    (SectionKind::Decode, ARGS + 18 * 16 + 4, 1040, "Candidates(1040) refers to nothing that fits"),
    (SectionKind::Decode, ARGS + 4, 1, "values in unused fields"),
    (SectionKind::Decode, ARGS + 16 + 4, 2, "Weight(2) refers to nothing"),
    (SectionKind::Decode, ARGS + 2 * 16 + 4, 1, "Buffer(1) refers to nothing"),
    (SectionKind::Decode, ARGS + 2 * 16 + 4, 3, "Buffer(3) refers to nothing"),
    (SectionKind::Decode, ARGS + 8 * 16 + 4, 2, "State(2) refers to nothing"),
    (SectionKind::Decode, BUFFERS + 32 + 8, 64, "hidden, which head steps read, overlaps logits of the head"),
    (SectionKind::Facts, 12, 9, "LayerHidden(0), step: 0, source: Buffer(0) } refers to nothing that fits"),
    (SectionKind::Decode, PROBES, 3, "kind of probe 3 is unknown"),
    (SectionKind::Decode, PROBES + 4, 3, "LayerHidden(3) in a model of 2 layers"),
    (SectionKind::Decode, PROBES + 8, 3, "refers to nothing that fits"),
    (SectionKind::Decode, PROBES + 12, 2, "source of probe 2 is unknown"),
    (SectionKind::Decode, PROBES + 16, 1, "refers to nothing that fits"),
    (SectionKind::Decode, PROBES + 2 * 40 + 24, 196, "refers to nothing that fits"),
];
const BUFFERS: usize = 48;
const STEPS: usize = BUFFERS + 3 * 32;
const ARGS: usize = STEPS + 3 * 64;
const PROBES: usize = ARGS + 20 * 16;

#[test]
fn signed_damage_is_refused_for_the_right_reason() {
    let good = bytes();
    for &(kind, at, value, expected) in SIGNED {
        let mut file = good.clone();
        let (start, length) = section(&file, kind);
        assert!(at + 4 <= length, "{kind} has {length} bytes, not {at}");
        file[start + at..start + at + 4].copy_from_slice(&value.to_le_bytes());
        sign(&mut file);
        let error = Reader::open(&file).err().map(|e| e.to_string()).unwrap_or_else(|| "accepted".into());
        assert!(error.contains(expected), "{kind} at {at} = {value}: {error:?} does not contain {expected:?}");
    }
}

#[test]
fn one_list_of_candidates_is_enough() {
    let mut file = bytes();
    let (start, _) = section(&file, SectionKind::Decode);
    let last = start + ARGS + 19 * 16;
    file[last..last + 4].copy_from_slice(&14u32.to_le_bytes());
    file[last + 4..last + 8].copy_from_slice(&16u32.to_le_bytes());
    sign(&mut file);
    let error = Reader::open(&file).unwrap_err().to_string();
    assert!(error.contains("2 arguments are lists of candidates, expected 1 at most"), "{error}");
}

/// 2^31 rows of 2^31 columns of f32 are 2^64 bytes, which must not count as none.
#[test]
fn a_state_whose_size_is_beyond_64_bits_is_refused() {
    let mut file = bytes();
    let (start, _) = section(&file, SectionKind::States);
    let (rows, cols) = (start + 16 + 24, start + 16 + 28);
    file[rows..rows + 4].copy_from_slice(&(1u32 << 31).to_le_bytes());
    file[cols..cols + 4].copy_from_slice(&(1u32 << 31).to_le_bytes());
    sign(&mut file);
    let error = Reader::open(&file).unwrap_err().to_string();
    assert!(
        error.contains("state layers.0.conv: 18446744073709551615 bytes at 0, expected between 0 and 8192"),
        "{error}"
    );
}

/// Threads and rows of each launch, and who takes over.
type Launches = Option<&'static [(u32, u32, Option<Wider>)]>;

/// Every kernel of a GPU has a launch that some GPU can do, and no kernel of a CPU has one.
#[test]
fn launches_fit_their_device_and_kernels() {
    let opened = |device, launches: Launches| {
        let folder = Folder::new(&format!("launches-{:?}", std::thread::current().id()));
        let path = folder.0.join("a.jetbin");
        let launch = |&(threads, rows, wider): &(u32, u32, Option<Wider>)| LaunchDesc {
            threads,
            rows,
            items: 1,
            shared_bytes: 0,
            overlaps: false,
            wider,
        };
        let launches = launches.map(|all| all.iter().map(launch).collect::<Vec<_>>());
        write_for(&path, WriterOptions::default(), (device, None), launches.as_deref()).unwrap();
        let file = std::fs::read(path).unwrap();
        Reader::open(&file).err().map(|e| e.to_string()).unwrap_or_else(|| "accepted".into())
    };
    const GOOD: (u32, u32, Option<Wider>) = (256, 8, None);
    const TO_0: (u32, u32, Option<Wider>) = (256, 8, Some(Wider { beyond: 8, kernel: 0 }));
    const TO_1: (u32, u32, Option<Wider>) = (256, 8, Some(Wider { beyond: 8, kernel: 1 }));
    const TO_2: (u32, u32, Option<Wider>) = (256, 8, Some(Wider { beyond: 8, kernel: 2 }));
    let cases: &[(DeviceKind, Launches, &str)] = &[
        (DeviceKind::Cuda, Some(&[GOOD, (1024, 1, None)]), "accepted"),
        (DeviceKind::Cuda, Some(&[TO_1, GOOD]), "accepted"),
        (DeviceKind::Cuda, Some(&[TO_2, GOOD]), "launch 0: kernel 2 takes over beyond 8 rows"),
        (DeviceKind::Cuda, Some(&[GOOD, TO_1]), "launch 1: kernel 1 takes over beyond 8 rows"),
        (DeviceKind::Cuda, Some(&[TO_1, TO_0]), "expected a later one that serves more"),
        (DeviceKind::Cpu, None, "accepted"),
        (DeviceKind::Cpu, Some(&[GOOD, GOOD]), "found a table for target 0, which is a CPU"),
        (DeviceKind::Cuda, None, "no section launches for index 0"),
        (DeviceKind::Cuda, Some(&[GOOD]), "launches: 1 rows for target 0, expected 2"),
        (DeviceKind::Cuda, Some(&[GOOD; 3]), "launches: 3 rows for target 0, expected 2"),
        (DeviceKind::Cuda, Some(&[GOOD, (0, 1, None)]), "0 threads and 1 rows, expected a multiple of 32 up to 1024"),
        (DeviceKind::Cuda, Some(&[(48, 1, None), GOOD]), "48 threads and 1 rows, expected a multiple of 32"),
        (DeviceKind::Cuda, Some(&[(1056, 1, None), GOOD]), "1056 threads and 1 rows, expected a multiple of 32"),
        (
            DeviceKind::Cuda,
            Some(&[GOOD, (32, 0, None)]),
            "32 threads and 0 rows, expected a multiple of 32 up to 1024 and at least one",
        ),
    ];
    for (device, launches, expected) in cases {
        let error = opened(*device, *launches);
        assert!(error.contains(expected), "{device} {launches:?}: {error:?} does not contain {expected:?}");
    }
}

/// Assembled code is an ELF file behind its version, and a GPU's.
#[test]
fn assembled_code_is_that_of_a_gpu() {
    const LAUNCH: LaunchDesc =
        LaunchDesc { threads: 32, rows: 1, items: 1, shared_bytes: 0, overlaps: false, wider: None };
    let written = |device, bytes: &[u8]| {
        let folder = Folder::new(&format!("cubin-{:?}", std::thread::current().id()));
        let path = folder.0.join("a.jetbin");
        let launches = (device == DeviceKind::Cuda).then_some(&[LAUNCH; 2][..]);
        let cubin = Some(Cubin { version: (13, 1), bytes });
        write_for(&path, WriterOptions::default(), (device, cubin), launches).unwrap();
        std::fs::read(path).unwrap()
    };
    let good = written(DeviceKind::Cuda, b"\x7fELF and more");
    let cubin = Reader::open(&good).unwrap().cubin(0);
    assert_eq!(cubin, Some(Cubin { version: (13, 1), bytes: b"\x7fELF and more" }));
    let refused = |file: &[u8], expected: &str| {
        let error = Reader::open(file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    };
    refused(&written(DeviceKind::Cpu, b"\x7fELF"), "cubin: found one for target 0, which is a CPU");
    refused(&written(DeviceKind::Cuda, b"\x7fEL"), "cubin: 19 bytes for target 0, expected a version and an ELF file");
    refused(&written(DeviceKind::Cuda, b".version 7.8"), "cubin: 28 bytes for target 0");
    let mut reserved = good.clone();
    let (start, _) = section(&good, SectionKind::Cubin);
    reserved[start + 8] = 1;
    sign(&mut reserved);
    refused(&reserved, "cubin: 29 bytes for target 0");
}

#[test]
fn a_signed_section_table_that_does_not_add_up_is_refused() {
    let good = bytes();
    let cases: &[(usize, u32, &str)] = &[
        (12, 300, "300 sections"),
        (56, 99, "kind of section 99 is unknown"),
        (60, 1, "index 1, expected below 1"),
        (64, 4096, "expected to start at 16384"),
        (72, u32::MAX, "to end before"),
        (56 + 64, 1, "appears twice"),
        (56 + 56, 1, "uses a reserved field"),
        (56 + 64, 13, "external-weights at"),
        (56 + 64, 14, "no section facts for index 0"),
    ];
    for &(at, value, expected) in cases {
        let mut file = good.clone();
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        sign(&mut file);
        let error = Reader::open(&file).unwrap_err().to_string();
        assert!(error.contains(expected), "byte {at} = {value}: {error}");
    }
}

#[test]
fn signed_noise_never_panics_and_what_is_accepted_can_be_walked() {
    let good = bytes();
    // A fixed linear congruential generator: reproducible, and the quality of the noise does not matter.
    let mut seed = 1u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    let kinds = [SectionKind::Facts, SectionKind::States, SectionKind::Weights, SectionKind::Targets];
    let kinds = [&kinds[..], &[SectionKind::Kernels, SectionKind::Prefill, SectionKind::Decode, SectionKind::Strings]];
    let kinds = kinds.concat();
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut file = good.clone();
        for _ in 0..1 + next() % 3 {
            let (start, length) = section(&file, kinds[next() % kinds.len()]);
            let value = [0, 1, 0x7f, 0x80, 0xff, next() as u8][next() % 6];
            file[start + next() % length] = value;
        }
        sign(&mut file);
        if let Ok(reader) = Reader::open(&file) {
            walk(&reader);
            accepted += 1;
        }
    }
    assert!((100..19_900).contains(&accepted), "{accepted} of 20000 accepted: the noise tests nothing");
}
