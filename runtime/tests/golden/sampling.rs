//! Which ids stay, and their scores, for every parameter set.

use crate::{data, json, same, text};
use jet_runtime::sampling::{Candidate, Sampler, Sampling};
use libtest_mimic::{Failed, Trial};
use safetensors::SafeTensors;
use std::collections::BTreeSet;
use std::sync::Arc;

pub fn trials() -> impl Iterator<Item = Trial> {
    let cases = json("sampling.json")["cases"].as_array().expect("cases").clone();
    assert_eq!(cases.len(), 434);
    let file = Arc::new(data("sampling.safetensors"));
    cases.into_iter().map(move |case| {
        let name = format!("sampling::{}::{}::{}", text(&case, "id"), text(&case, "vector"), case["params"]);
        let file = file.clone();
        Trial::test(name, move || check(&case, &file))
    })
}

fn numbers<const N: usize, T>(file: &[u8], name: &str, from: fn([u8; N]) -> T) -> Vec<T> {
    let tensors = SafeTensors::deserialize(file).expect("a safetensors file");
    let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    tensor.data().chunks_exact(N).map(|b| from(b.try_into().unwrap())).collect()
}

/// A token id, which the file keeps in 16 bits.
fn token(bytes: [u8; 2]) -> u32 {
    u16::from_le_bytes(bytes).into()
}

fn params(case: &serde_json::Value) -> Sampling {
    let known = ["repetition_penalty", "temperature", "top_k", "top_p", "min_p"];
    let params = case["params"].as_object().expect("parameters");
    assert!(params.keys().all(|k| known.contains(&&k[..])), "{params:?}");
    let number = |key: &str| params.get(key).and_then(serde_json::Value::as_f64);
    Sampling {
        random: true,
        repetition_penalty: number("repetition_penalty"),
        temperature: number("temperature"),
        top_k: number("top_k").map(|k| k as u32),
        top_p: number("top_p"),
        min_p: number("min_p"),
    }
}

fn check(case: &serde_json::Value, file: &[u8]) -> Result<(), Failed> {
    let id = text(case, "id");
    let logits = numbers(file, &format!("logits.{}", text(case, "vector")), f32::from_le_bytes);
    let history = numbers(file, text(case, "history"), token);
    let kept = numbers(file, text(case, "kept"), token);
    let scores = numbers(file, text(case, "scores"), f32::from_le_bytes);
    let mut sampler = Sampler::new(params(case), 1)?;
    let found: Vec<Candidate> = sampler.process(&logits, &history)?.to_vec();
    let score_of = |id: u32| kept.iter().position(|&k| k == id).map(|i| scores[i]);
    for c in &found {
        // Each step is one f32 operation, so scores agree to the bit wherever both sides keep the id.
        same(&format!("score of {}", c.id), score_of(c.id).unwrap_or(c.score).to_bits(), c.score.to_bits())?;
    }
    let (found, expected): (BTreeSet<u32>, BTreeSet<u32>) =
        (found.iter().map(|c| c.id).collect(), kept.iter().copied().collect());
    let slack = case["count_slack"].as_u64().ok_or("no slack")? as usize;
    match text(case, "compare") {
        "strict" => same("kept", found, expected),
        compare => {
            let ties = match compare {
                "tie" => numbers(file, &format!("{id}.tie_ids"), token).into_iter().collect(),
                _ => BTreeSet::new(),
            };
            let differing: Vec<&u32> = found.symmetric_difference(&expected).filter(|i| !ties.contains(i)).collect();
            let allowed = if compare == "near" { slack } else { 0 };
            same("kept outside ties", differing.len().min(allowed), differing.len())?;
            same("count", found.len().abs_diff(expected.len()).min(slack), found.len().abs_diff(expected.len()))
        }
    }
}
