//! The most likely tokens of a row, out of the lists that the threads of a CPU leave behind the head.

use crate::sampling::Candidate;
use jetbin::CandidateList;
use std::cmp::Ordering;

/// The tokens with the largest logits.
#[derive(Clone, Copy, Debug)]
pub struct Best<'a> {
    /// By descending logit; of equals, the lower id first.
    pub tokens: &'a [Candidate],
    /// No other token has a logit above this.
    pub rest: f32,
    /// Token ids are below this.
    pub vocab_size: u32,
}

/// Appends what a thread's list holds.
///
/// Returns whether all logits were finite; else the list is worth nothing.
pub(crate) fn append(list: CandidateList, words: &[u32], to: &mut Vec<Candidate>) -> bool {
    let part = |first: u32, n: u32| words[first as usize..][..n as usize].iter();
    let scores = part(CandidateList::SCORES, list.len).map(|w| f32::from_bits(*w));
    let found = scores.zip(part(list.ids(), list.len)).filter(|(_, id)| **id as i32 >= 0);
    to.extend(found.map(|(score, &id)| Candidate { id, score }));
    part(CandidateList::CHECKS, CandidateList::WIDTH).all(|w| f32::from_bits(*w) == 0.0)
}

/// Keeps the best `list.len` of what all threads have found.
pub(crate) fn best(list: CandidateList, all: &mut Vec<Candidate>, vocab_size: u32) -> Best<'_> {
    // numbers, and zeros of both signs are equal
    let by_score = |a: &Candidate, b: &Candidate| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
    all.sort_unstable_by(|a, b| by_score(a, b).then(a.id.cmp(&b.id)));
    all.truncate(list.len as usize);
    let is_full = all.len() == list.len as usize;
    let rest = all.last().filter(|_| is_full).map_or(f32::NEG_INFINITY, |c| c.score);
    Best { tokens: all, rest, vocab_size }
}
