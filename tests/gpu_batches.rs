//! Decode steps of more sequences than the first kernels of a launch table take, in the simulator: every sequence of a batch gets the bits that
//! it gets alone, through a whole model and over several steps.

#![cfg(feature = "ptxsim")]

use jet_runtime::{DeviceChoice, Model, OpenOptions, PtxSim, Session, SharedCounts};
use jetc::compile::{CompileRequest, Quiet, compile};
use std::collections::BTreeMap;
use std::path::Path;

/// Beyond the kernels for 8 rows, and beyond those for 64.
const BATCHES: [u32; 2] = [12, 70];
/// Steps: what the first leaves in states and caches, the second reads.
const STEPS: u32 = 2;
const VOCAB: u32 = 256;

/// Prompts of one to three tokens, different for each sequence.
fn prompt(sequence: u32) -> Vec<u32> {
    (0..1 + sequence % 3).map(|i| (31 * sequence + 7 * i + 1) % VOCAB).collect()
}

fn next(sequence: u32, step: u32) -> u32 {
    (17 * sequence + 5 * step + 3) % VOCAB
}

/// Logits after the last step of sequences that go on together.
fn logits(session: &mut Session, sequences: &[u32]) -> Vec<Vec<f32>> {
    for (slot, sequence) in (0..).zip(sequences) {
        session.reset(slot).expect("a sequence");
        session.prefill(slot, &prompt(*sequence)).expect("a prompt");
    }
    for step in 0..STEPS {
        let batch: Vec<_> = (0..).zip(sequences).map(|(slot, sequence)| (slot, next(*sequence, step))).collect();
        session.decode(&batch).expect("a step");
    }
    (0..sequences.len() as u32).map(|row| session.logits(row).expect("logits").to_vec()).collect()
}

fn session(folder: &Path, target: &str) -> (Session, SharedCounts) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-a");
    let mut request = CompileRequest { source, no_cubin: true, ..CompileRequest::default() };
    request.output = folder.join("model.jetbin");
    request.options.targets = Some(vec![target.into()]);
    (request.options.max_context, request.options.prefill_chunk) = (Some(32), Some(8));
    request.options.max_batch = BATCHES.iter().max().map(|n| *n as usize);
    compile(&request, &mut Quiet).unwrap_or_else(|e| panic!("{e:#}"));
    let options = OpenOptions { device: DeviceChoice::PtxSim, ..OpenOptions::default() };
    let model = Model::open_with(&request.output, &options).expect("an artifact for a GPU");
    assert!(model.facts().vocab_size >= VOCAB);
    let gpu = PtxSim::new();
    let counts = gpu.counts();
    (Session::with_device(&model, Box::new(gpu), BATCHES[1]).expect("a session"), counts)
}

fn batches_are_as_alone(target: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut session, counts) = session(folder.path(), target);
    let most: Vec<u32> = (0..BATCHES[1]).collect();
    // the first and last rows of tiles, and some between
    let judged = most.iter().filter(|s| **s % 8 == 0 || **s % 8 == 7 || **s >= 64);
    let alone: BTreeMap<u32, Vec<f32>> = judged.map(|s| (*s, logits(&mut session, &[*s]).remove(0))).collect();
    let mut ran: Vec<Vec<String>> = vec![];
    for n in BATCHES {
        counts.lock().expect("no reader panicked").kernels.clear();
        let together = logits(&mut session, &most[..n as usize]);
        for (sequence, expected) in alone.range(..n) {
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let found = &together[*sequence as usize];
            assert!(bits(found) == bits(expected), "{target}, {n} sequences: number {sequence} is not as it is alone");
        }
        let is_product = |name: &&String| name.contains("product_decode");
        let counts = counts.lock().expect("no reader panicked");
        ran.push(counts.kernels.keys().filter(is_product).cloned().collect());
    }
    // the launch table has other kernels for each
    assert!(ran.iter().all(|names| names.len() >= 4), "{target}: {ran:?}");
    assert!(!ran[0].iter().any(|name| ran[1].contains(name)), "{target}: {ran:?}");
    assert!(alone.values().zip(alone.values().skip(1)).all(|(a, b)| a != b), "{target}: equal sequences");
}

#[test]
fn sequences_of_a_batch_are_as_alone_on_sm_80() {
    batches_are_as_alone("sm_80");
}

#[test]
fn sequences_of_a_batch_are_as_alone_on_sm_90a() {
    batches_are_as_alone("sm_90a");
}
