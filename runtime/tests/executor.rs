//! The executor on a device whose kernels are Rust functions: words, partition, slots, windows, probes, failures.

mod toy;

use jet_runtime::generate::{Limits, generate};
use jet_runtime::jetbin::{ProbeKind, hex};
use jet_runtime::sampling::{Sampler, Sampling};
use jet_runtime::{Error, Observation, Session};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering::SeqCst;
use toy::*;

const IDS: [u32; 17] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2];

fn session(name: &str, threads: u32, sequences: u32) -> (Folder, Session) {
    let (folder, model) = model(name);
    let session = Session::with_device(&model, Box::new(Toy::new(threads)), sequences).unwrap();
    (folder, session)
}

fn request(result: jet_runtime::Result<impl std::fmt::Debug>) -> String {
    match result {
        Err(Error::Request(text)) => text,
        other => panic!("expected a refused request, found {other:?}"),
    }
}

#[test]
fn every_split_into_prefill_and_decode_gives_the_same_logits() {
    let expected = reference(&IDS);
    for threads in [1, 2, 3, 20] {
        for prompt in 1..IDS.len() {
            let (_folder, mut s) = session("split", threads, 1);
            s.prefill(0, &IDS[..prompt]).unwrap();
            assert_eq!(s.rows() as usize, (prompt - 1) % CHUNK as usize + 1);
            assert_eq!(s.logits(s.rows() - 1).unwrap(), expected.logits[prompt - 1]);
            for (t, &id) in IDS.iter().enumerate().skip(prompt) {
                s.decode(&[(0, id)]).unwrap();
                assert_eq!(s.logits(0).unwrap(), expected.logits[t], "prompt {prompt}, token {t}");
                assert_eq!(s.argmax(0).unwrap(), best(&expected.logits[t]));
            }
            assert_eq!(s.length(0).unwrap() as usize, IDS.len());
        }
    }
}

#[test]
fn all_rows_of_a_chunk_are_reached_window_by_window_in_any_order() {
    let expected = reference(&IDS[..5]);
    let (_folder, mut s) = session("windows", 2, 1);
    s.prefill(0, &IDS[..5]).unwrap();
    assert_eq!(s.head(1, None).unwrap(), 1..3);
    assert_eq!(s.head(2, None).unwrap(), 1..3);
    assert_eq!(s.head(4, None).unwrap(), 4..5);
    for row in [0, 1, 2, 3, 4, 2, 0, 3] {
        assert_eq!(s.logits(row).unwrap(), expected.logits[row as usize], "row {row}");
        assert_eq!(s.argmax(row).unwrap(), best(&expected.logits[row as usize]));
    }
}

#[test]
fn without_a_greedy_buffer_the_runtime_looks_itself() {
    let (_folder, model) = model_of("no-argmax", &Recipe { argmax: false, ..Recipe::default() });
    let mut s = Session::with_device(&model, Box::new(Toy::new(2)), 1).unwrap();
    s.prefill(0, &IDS[..4]).unwrap();
    assert_eq!(s.argmax(3).unwrap(), best(&reference(&IDS[..4]).logits[3]));
}

fn keeping(name: &str, threads: u32, limit: f32) -> (Folder, Session) {
    let recipe = Recipe { argmax: false, candidates: Some(limit), ..Recipe::default() };
    let (folder, model) = model_of(name, &recipe);
    let session = Session::with_device(&model, Box::new(Toy::new(threads)), 1).unwrap();
    (folder, session)
}

#[test]
fn the_candidates_of_all_threads_are_the_best_of_a_row() {
    let expected = reference(&IDS[..5]);
    for threads in [1, 2, 3, 20] {
        let (_folder, mut s) = keeping("candidates", threads, f32::INFINITY);
        s.prefill(0, &IDS[..5]).unwrap();
        assert_eq!(s.keeps(), CANDIDATES.len);
        for row in [0, 3, 1, 4] {
            let logits = &expected.logits[row as usize];
            let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let best = s.best(row).unwrap().unwrap();
            assert_eq!(best.tokens.iter().map(|c| (c.id, c.score)).collect::<Vec<_>>(), sorted);
            assert_eq!((best.rest, best.vocab_size), (f32::NEG_INFINITY, VOCAB as u32));
            assert_eq!(s.argmax(row).unwrap(), sorted[0].0);
            // only now the head stores them
            assert_eq!(s.logits(row).unwrap(), *logits);
            assert_eq!(s.argmax(row).unwrap(), sorted[0].0);
        }
    }
}

#[test]
fn a_text_is_the_same_with_candidates_and_with_all_logits() {
    let sampling = Sampling { random: true, temperature: Some(2.0), top_p: Some(0.95), ..Sampling::default() };
    let greedy = Sampling { random: false, repetition_penalty: Some(1.5), ..Sampling::default() };
    let penalty = Sampling { top_k: Some(4), repetition_penalty: Some(1.2), ..sampling };
    for sampling in [greedy, penalty, Sampling { top_k: Some(9), ..sampling }, sampling] {
        let text = |mut s: Session| {
            let mut history = IDS[..4].to_vec();
            let limits = Limits { max_new_tokens: 20, eos_ids: &[] };
            let mut sampler = Sampler::new(sampling, 5).unwrap();
            generate(&mut s, 0, &mut history, &mut sampler, limits, &mut |_| ControlFlow::Continue(())).unwrap();
            history
        };
        let (_folder, all) = session("text-all", 2, 1);
        let (_other, kept) = keeping("text-kept", 2, f32::INFINITY);
        assert_eq!(text(kept), text(all), "{sampling:?}");
    }
}

#[test]
fn logits_that_are_not_finite_are_looked_at_one_by_one() {
    let (_folder, mut s) = keeping("overflow", 2, 0.5);
    s.prefill(0, &IDS[..4]).unwrap();
    assert!(s.best(3).unwrap().is_none());
    assert_eq!(s.argmax(3).unwrap(), best(&reference(&IDS[..4]).logits[3]));
}

#[test]
fn a_batch_of_sequences_of_different_lengths_equals_each_alone() {
    let (_folder, mut s) = session("batch", 2, 5);
    let mut texts: Vec<Vec<u32>> = vec![IDS[..1].to_vec(), IDS[..7].to_vec(), IDS[2..6].to_vec(), IDS[9..].to_vec()];
    for (sequence, text) in texts.iter().enumerate() {
        s.prefill(sequence as u32, text).unwrap();
    }
    for round in 0..12u32 {
        // Another subset and order every time.
        let batch: Vec<(u32, u32)> =
            (0..1 + round % 3).map(|i| ((3 * round + 5 * i) % 4, (round + 4 * i) % 11)).collect();
        s.decode(&batch).unwrap();
        for (row, &(sequence, id)) in batch.iter().enumerate() {
            let text = &mut texts[sequence as usize];
            text.push(id);
            assert_eq!(s.logits(row as u32).unwrap(), *reference(text).logits.last().unwrap(), "round {round}");
        }
    }
}

#[test]
fn a_reset_sequence_starts_anew_and_leaves_the_others_alone() {
    let (_folder, mut s) = session("reset", 1, 2);
    s.prefill(0, &IDS[..8]).unwrap();
    s.prefill(1, &IDS[..3]).unwrap();
    s.reset(0).unwrap();
    assert_eq!((s.length(0).unwrap(), s.length(1).unwrap()), (0, 3));
    s.decode(&[(0, 7), (1, IDS[3])]).unwrap();
    assert_eq!(s.logits(0).unwrap(), reference(&[7]).logits[0]);
    assert_eq!(s.logits(1).unwrap(), reference(&IDS[..4]).logits[3]);
}

#[test]
fn states_come_out_in_the_official_layouts() {
    let (_folder, mut s) = session("states", 3, 2);
    s.prefill(1, &IDS[..13]).unwrap();
    let expected = reference(&IDS[..13]);
    let conv = s.export_state(1, 0).unwrap();
    assert_eq!((conv.name, conv.layer, &conv.shape[..]), ("conv_state", 0, &[HIDDEN, TAPS][..]));
    let column = |c: usize| (10..13).map(move |t| (t, c));
    let transposed: Vec<f32> = (0..HIDDEN).flat_map(column).map(|(t, c)| expected.embedded[t][c]).collect();
    assert_eq!(conv.values, transposed);
    let delta = s.export_state(1, 1).unwrap();
    assert_eq!(
        (delta.name, &delta.shape[..], &delta.values[..]),
        ("recurrent_state", &[2, 2, 2][..], &expected.sums[12][..])
    );
    let keys = s.export_state(1, 2).unwrap();
    assert_eq!((keys.name, &keys.shape[..]), ("k", &[2, WINDOW, 4][..]));
    let head = |h: usize| (13 - WINDOW..13).flat_map(move |t| (0..4).map(move |c| (t, 4 * h + c)));
    let by_head: Vec<f32> = (0..2).flat_map(head).map(|(t, c)| expected.keys[t][c]).collect();
    assert_eq!(keys.values, by_head);
    assert_eq!(s.export_state(1, 3).unwrap().values, by_head.iter().map(|v| 2.0 * v).collect::<Vec<_>>());
    assert_eq!(s.export_state(0, 2).unwrap().shape, [2, 0, 4]);
    assert_eq!(request(s.export_state(0, 4)), "state 4, expected below 4");
}

#[test]
fn probes_show_every_layer_of_every_row() {
    let (_folder, mut s) = session("probes", 2, 1);
    let expected = reference(&IDS[..8]);
    let mut seen: Vec<(ProbeKind, u32, Vec<f32>)> = vec![];
    let mut observe = |o: Observation<'_>| seen.push((o.kind, o.first_row, o.values.to_vec()));
    s.prefill_observed(0, &IDS[..8], Some(&mut observe)).unwrap();
    s.head(1, Some(&mut observe)).unwrap();
    let rows = |rows: &[[f32; HIDDEN]]| rows.concat();
    use ProbeKind::*;
    let doubled: Vec<f32> = [6, 7].iter().flat_map(|&t| expected.hidden[t].map(|v| 2.0 * v + t as f32)).collect();
    assert_eq!(
        seen,
        [
            (LayerHidden(0), 0, rows(&expected.embedded[..5])),
            (LayerHidden(1), 0, rows(&expected.mixed[..5])),
            (LayerHidden(2), 0, rows(&expected.hidden[..5])),
            (LayerHidden(0), 0, rows(&expected.embedded[5..])),
            (LayerHidden(1), 0, rows(&expected.mixed[5..])),
            (LayerHidden(2), 0, rows(&expected.hidden[5..])),
            (MixerHidden(1), 1, rows(&expected.hidden[6..])),
            (LastHidden, 1, doubled),
        ]
    );
}

#[test]
fn what_is_not_possible_is_refused_with_what_is() {
    let (_folder, mut s) = session("refused", 1, 4);
    assert_eq!(request(s.logits(0)), "row 0: the last call had 0 rows");
    assert_eq!(request(s.prefill(0, &[])), "no tokens given, expected 1 at least");
    assert_eq!(request(s.prefill(4, &[1])), "sequence 4 of 4: expected 0 to 3");
    assert_eq!(request(s.prefill(0, &[1, 11])), "token id 11, expected below 11");
    assert_eq!(request(s.prefill(0, &[1; 41])), "sequence 0 holds 0 of 40 tokens: 41 given, 40 more are possible");
    assert_eq!(request(s.decode(&[])), "0 sequences in a batch, expected 1 to 3");
    assert_eq!(request(s.decode(&[(0, 1), (1, 1), (2, 1), (3, 1)])), "4 sequences in a batch, expected 1 to 3");
    assert_eq!(request(s.decode(&[(2, 1), (2, 1)])), "sequence 2 appears twice in the batch");
    assert_eq!(request(s.decode(&[(2, 1), (9, 1)])), "sequence 9 of 4: expected 0 to 3");
    assert_eq!(request(s.reset(4)), "sequence 4 of 4: expected 0 to 3");
    s.prefill(0, &[1; 40]).unwrap();
    assert_eq!(request(s.decode(&[(0, 1)])), "sequence 0 holds 40 of 40 tokens: 1 given, 0 more are possible");
    // A refused call changes nothing: the rows of the last one are still there.
    assert_eq!(s.logits(4).unwrap(), reference(&[1; 40]).logits[39]);
    assert_eq!(request(s.argmax(5)), "row 5: the last call had 5 rows");
    let (_folder, model) = model("refused-0");
    assert_eq!(
        request(Session::with_device(&model, Box::new(Toy::new(1)), 0).map(|_| ())),
        "0 sequences asked for, expected 1 at least"
    );
}

#[test]
fn the_full_context_is_usable() {
    let ids: Vec<u32> = (0..CONTEXT).map(|i| (i * i + 3) % 11).collect();
    let (_folder, mut s) = session("context", 2, 1);
    s.prefill(0, &ids).unwrap();
    assert_eq!(s.logits(CHUNK - 1).unwrap(), *reference(&ids).logits.last().unwrap());
}

#[test]
fn whichever_device_call_fails_the_error_names_it_and_a_reset_repairs() {
    let (_folder, model) = model("failure");
    let expected = reference(&IDS[..7]);
    let mut failed = std::collections::BTreeSet::new();
    for n in 0.. {
        let toy = Toy::new(2);
        let fail_at = toy.fail_at.clone();
        fail_at.store(n, SeqCst);
        let run = || -> jet_runtime::Result<Session> {
            let mut s = Session::with_device(&model, Box::new(toy), 1)?;
            let calls = |s: &mut Session| {
                s.reset(0)?;
                s.prefill_observed(0, &IDS[..6], Some(&mut |_| ()))?;
                s.decode(&[(0, IDS[6])])?;
                s.logits(0)?;
                s.argmax(0)?;
                s.export_state(0, 0).map(|_| ())
            };
            if let Err(error) = calls(&mut s) {
                assert!(error.to_string().ends_with(": on purpose"), "{error}");
                failed.insert(error.to_string());
                // Either nothing has happened to the sequence, or it says that it must be reset.
                if let Err(error) = s.decode(&[(0, 1)]) {
                    let text = request(Err::<(), _>(error));
                    assert_eq!(text, "a call failed while sequence 0 took part: reset it first");
                    assert!(s.export_state(0, 0).is_err());
                }
                calls(&mut s)?;
            }
            Ok(s)
        };
        let result = run();
        let all_done = fail_at.swap(-1, SeqCst) >= 0;
        match result {
            Ok(mut s) => assert_eq!(s.logits(0).unwrap(), expected.logits[6], "failure of call {n}"),
            Err(Error::Device(error)) => drop(failed.insert(error.to_string())),
            Err(other) => panic!("call {n}: {other}"),
        }
        if all_done {
            break;
        }
    }
    let calls: Vec<&str> = failed.iter().map(|e| e.split(": ").nth(1).unwrap()).collect();
    assert_eq!(calls, ["alloc", "constant", "download", "launch", "load", "sync", "upload", "zero"]);
}

#[test]
fn memory_is_states_and_arena_and_little_else() {
    let (_folder, s) = session("memory", 2, 3);
    let m = s.memory();
    assert_eq!((m.states, m.arena, m.scratch, m.code), (3 * 1216, 1024, 2 * 256, (KERNELS.len() * 16) as u64));
    assert_eq!(m.weights as usize, VOCAB * HIDDEN * 4);
    assert!((500..6000).contains(&m.small), "{m:?}");
}

/// A sequence goes on from where it was saved, as often as it is restored, in another slot and another session too.
#[test]
fn saved_sequences_go_on_where_they_were() {
    let expected = reference(&IDS);
    let (_folder, mut s) = session("saved", 2, 2);
    s.prefill(0, &IDS[..9]).unwrap();
    let saved = s.save(0).unwrap();
    assert_eq!(saved.length(), 9);
    let goes_on = |s: &mut Session, sequence: u32| {
        s.restore(sequence, &saved).unwrap();
        assert_eq!(s.length(sequence).unwrap(), 9);
        for (t, &id) in IDS.iter().enumerate().skip(9) {
            s.decode(&[(sequence, id)]).unwrap();
            assert_eq!(s.logits(0).unwrap(), expected.logits[t], "sequence {sequence}, token {t}");
        }
    };
    goes_on(&mut s, 0);
    goes_on(&mut s, 0);
    goes_on(&mut s, 1);
    let (_folder, mut other) = session("saved-elsewhere", 1, 1);
    goes_on(&mut other, 0);
    assert!(request(s.save(2)).contains("sequence 2 of 2"));
    let (_folder, model) = model_of("saved-other", &Recipe { argmax: false, ..Recipe::default() });
    let mut other = Session::with_device(&model, Box::new(Toy::new(1)), 1).unwrap();
    let name = |s: &Session| format!("target 0 of artifact {}", &hex(&s.model().reader().identity())[..16]);
    let (found, expected) = (name(&s), name(&other));
    let why = format!("found states that were saved by {found}, expected by {expected}");
    assert_eq!(request(other.restore(0, &saved)), why);
    assert_eq!(other.length(0).unwrap(), 0);
}
