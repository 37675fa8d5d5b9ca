//! The loop that makes tokens, on the toy model.

mod toy;

use jet_runtime::Session;
use jet_runtime::generate::{Finish, Limits, generate};
use jet_runtime::sampling::{Sampler, Sampling};
use std::ops::ControlFlow;
use toy::*;

fn run(history: &mut Vec<u32>, s: &mut Session, max: u32, eos: &[u32], stop_after: usize) -> (Finish, Vec<u32>) {
    let mut sampler = Sampler::new(Sampling::default(), 0).unwrap();
    let mut shown = vec![];
    let limits = Limits { max_new_tokens: max, eos_ids: eos };
    let mut on_token = |id| {
        shown.push(id);
        if shown.len() == stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let finish = generate(s, 0, history, &mut sampler, limits, &mut on_token).unwrap();
    (finish, shown)
}

fn session(name: &str) -> (Folder, Session) {
    let (folder, model) = model(name);
    let session = Session::with_device(&model, Box::new(Toy::new(2)), 1).unwrap();
    (folder, session)
}

/// Greedy continuation by the definition of the toy model.
fn continued(prompt: &[u32], n: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..n {
        ids.push(best(reference(&ids).logits.last().unwrap()));
    }
    ids
}

#[test]
fn greedy_tokens_are_those_of_the_reference_and_a_second_turn_goes_on() {
    let (_folder, mut s) = session("turns");
    let prompt = [3, 1, 4, 1, 5, 9, 2];
    let mut history = prompt.to_vec();
    let (finish, shown) = run(&mut history, &mut s, 6, &[], 0);
    assert_eq!(finish, Finish::MaxNewTokens);
    assert_eq!(history, continued(&prompt, 6));
    assert_eq!(shown, history[7..]);
    assert_eq!(s.length(0).unwrap(), 12);
    history.extend([8, 7]);
    let expected = continued(&history, 3);
    assert_eq!(run(&mut history, &mut s, 3, &[], 0).0, Finish::MaxNewTokens);
    assert_eq!(history, expected);
}

#[test]
fn the_end_of_text_the_caller_and_the_context_end_it() {
    let prompt = [3, 1, 4];
    let expected = continued(&prompt, 40);
    let (_folder, mut s) = session("ends");
    let mut history = prompt.to_vec();
    let (finish, shown) = run(&mut history, &mut s, 100, &[expected[3]], 0);
    assert_eq!((finish, shown.len(), history.len()), (Finish::Eos(expected[3]), 0, 4));
    s.reset(0).unwrap();
    let mut history = prompt.to_vec();
    assert_eq!(run(&mut history, &mut s, 100, &[], 2), (Finish::Caller, expected[3..5].to_vec()));
    s.reset(0).unwrap();
    let mut history = prompt.to_vec();
    let (finish, shown) = run(&mut history, &mut s, 100, &[], 0);
    // The context holds 40 tokens; the one after the last is made but cannot be fed.
    assert_eq!((finish, shown.len()), (Finish::Context, 38));
    assert_eq!(history, expected[..41]);
    assert_eq!(run(&mut vec![1], &mut session("zero").1, 0, &[], 0), (Finish::MaxNewTokens, vec![]));
}

#[test]
fn a_history_without_anything_new_is_refused() {
    let (_folder, mut s) = session("nothing");
    s.prefill(0, &[1, 2]).unwrap();
    let mut sampler = Sampler::new(Sampling::default(), 0).unwrap();
    let limits = Limits { max_new_tokens: 1, eos_ids: &[] };
    for mut history in [vec![1, 2], vec![1], vec![]] {
        let error = generate(&mut s, 0, &mut history, &mut sampler, limits, &mut |_| ControlFlow::Continue(()));
        assert!(error.unwrap_err().to_string().ends_with("tokens given, the sequence holds 2 of them"));
    }
}

#[test]
fn sampled_text_repeats_with_its_seed() {
    let draw = |seed| {
        let (_folder, mut s) = session(&format!("seed-{seed}"));
        let mut sampler =
            Sampler::new(Sampling { random: true, temperature: Some(30.0), ..Sampling::default() }, seed).unwrap();
        let (mut history, limits) = (vec![1], Limits { max_new_tokens: 30, eos_ids: &[] });
        generate(&mut s, 0, &mut history, &mut sampler, limits, &mut |_| ControlFlow::Continue(())).unwrap();
        history
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}
