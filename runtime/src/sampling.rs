//! Choosing the next token from logits, as Hugging Face's `generate` does.
//!
//! Order: repetition penalty, temperature, top-k, top-p, min-p, softmax, one draw. Each step works on what the steps
//! before left. Steps that change values are one f32 operation each, with the parameter rounded to f32; probabilities
//! are summed in f64.

use crate::candidates::Best;
use crate::error::{Error, Result};

/// What shapes the distribution. `None` means off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Draw at random; otherwise take the best token, after the repetition penalty.
    pub random: bool,
    /// Tokens of the history: divided by this if positive, multiplied if negative; above 0.
    pub repetition_penalty: Option<f64>,
    /// Scores are divided by this; above 0.
    pub temperature: Option<f64>,
    /// Keep the `k` best, and those tied with the last of them; at least 1.
    pub top_k: Option<u32>,
    /// Keep the best tokens, up to and including the one that brings their probability to `p`; in `[0, 1]`.
    pub top_p: Option<f64>,
    /// Keep tokens with at least this share of the best token's probability; in `[0, 1]`.
    pub min_p: Option<f64>,
}

impl Sampling {
    /// Checks the ranges of all parameters.
    ///
    /// # Errors
    /// One line that names every parameter out of range.
    pub fn check(&self) -> Result<()> {
        let mut broken = Vec::new();
        let mut check = |name: &str, value: Option<f64>, fits: fn(f64) -> bool, expected: &str| {
            if let Some(value) = value.filter(|&v| !fits(v)) {
                broken.push(format!("{name} is {value}, expected {expected}"));
            }
        };
        let positive = "a number above 0";
        check("repetition_penalty", self.repetition_penalty, |v| v > 0.0 && v.is_finite(), positive);
        check("temperature", self.temperature, |v| v > 0.0 && v.is_finite(), positive);
        check("top_k", self.top_k.map(f64::from), |k| k >= 1.0, "1 at least");
        check("top_p", self.top_p, |v| (0.0..=1.0).contains(&v), "0 to 1");
        check("min_p", self.min_p, |v| (0.0..=1.0).contains(&v), "0 to 1");
        if broken.is_empty() { Ok(()) } else { Err(Error::request(broken.join("; "))) }
    }
}

/// A token that can be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its score after all steps; the probability is the softmax of the scores.
    pub score: f32,
}

/// Chooses tokens. Keeps its working memory, so that a choice allocates nothing after the first.
pub struct Sampler {
    sampling: Sampling,
    random: Random,
    candidates: Vec<Candidate>,
    /// A bit for every token of the vocabulary.
    seen: Vec<u64>,
}

/// SplitMix64 (Steele, Lea and Flood 2014): the state advances by a constant and is mixed into the output.
///
/// # Source
/// "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, figure 13.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator; the same seed gives the same numbers everywhere.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number in `[0, 1)`, a multiple of `2^-53`.
    pub fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// The largest value; of several, the first.
///
/// # Errors
/// If there is a NaN or +inf, or nothing but -inf.
pub fn argmax(scores: &[f32]) -> Result<u32> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &score) in (0..).zip(scores) {
        check_score(id, score)?;
        if score > best.1 {
            best = (id, score);
        }
    }
    if best.1 == f32::NEG_INFINITY {
        return Err(Error::NotFinite("no token has a finite logit".into()));
    }
    Ok(best.0)
}

fn check_score(id: u32, score: f32) -> Result<()> {
    if score.is_nan() || score == f32::INFINITY {
        return Err(Error::NotFinite(format!("the score of token {id} is {score}")));
    }
    Ok(())
}

impl Sampler {
    /// A sampler; the same seed and the same logits give the same tokens.
    ///
    /// # Errors
    /// If a parameter is out of range.
    pub fn new(sampling: Sampling, seed: u64) -> Result<Self> {
        sampling.check()?;
        Ok(Self { sampling, random: Random::new(seed), candidates: Vec::new(), seen: Vec::new() })
    }

    /// Whether the choice is the plain argmax of the logits, which the device may have computed already.
    pub fn is_argmax(&self) -> bool {
        !self.sampling.random && self.sampling.repetition_penalty.is_none_or(|r| r == 1.0)
    }

    /// How many of the most likely tokens are enough to choose from; nothing if all logits count.
    ///
    /// A penalty below 1 raises tokens that may be any.
    pub fn enough(&self) -> Option<u32> {
        let lowers = self.sampling.repetition_penalty.is_none_or(|r| r >= 1.0);
        let enough = if self.sampling.random { self.sampling.top_k } else { Some(1) };
        enough.filter(|_| lowers)
    }

    /// Chooses a token of the `best` as [`choose`](Self::choose) does of all: the same one, or nothing where more would have to be known.
    ///
    /// # Errors
    /// As for [`choose`](Self::choose).
    pub fn choose_of(&mut self, best: Best<'_>, history: &[u32]) -> Result<Option<u32>> {
        let Some(enough) = self.enough().map(|n| n as usize) else { return Ok(None) };
        self.start(best.tokens.iter().map(|c| (c.id, c.score)), best.vocab_size as usize, history)?;
        self.candidates.sort_unstable_by_key(|c| c.id);
        if best.rest > f32::NEG_INFINITY {
            // a token outside has no higher score than `rest`, nor after what lowers scores and keeps their order
            let temperature = self.sampling.temperature.filter(|_| self.sampling.random);
            let scaled = |score: f32| temperature.map_or(score, |t| score / t as f32);
            let above = self.candidates.iter().filter(|c| scaled(c.score) > scaled(best.rest)).count();
            if above < enough {
                return Ok(None);
            }
        }
        self.finish()?;
        Ok(Some(self.draw()))
    }

    /// Chooses a token; `history` is everything that the sequence holds, the prompt included.
    ///
    /// # Errors
    /// If a score is NaN or infinite, if none is finite, or if the history has an id outside the vocabulary.
    pub fn choose(&mut self, logits: &[f32], history: &[u32]) -> Result<u32> {
        self.process(logits, history)?;
        Ok(self.draw())
    }

    /// One of the tokens that can be drawn, at random if so asked.
    fn draw(&mut self) -> u32 {
        if !self.sampling.random {
            let best = self.candidates.iter().fold(self.candidates[0], |a, &b| if b.score > a.score { b } else { a });
            return best.id;
        }
        let best = max_score(&self.candidates);
        let total: f64 = self.candidates.iter().map(|c| weight(c, best)).sum();
        let mut left = self.random.next_unit() * total;
        for c in &self.candidates {
            left -= weight(c, best);
            if left < 0.0 {
                return c.id;
            }
        }
        // Rounding of the sums can leave a tail: it belongs to the last token that has a probability.
        let last = self.candidates.iter().rev().find(|c| weight(c, best) > 0.0);
        last.unwrap_or(&self.candidates[0]).id
    }

    /// The tokens that can be drawn, by ascending id.
    ///
    /// # Errors
    /// As for [`choose`](Self::choose).
    pub fn process(&mut self, logits: &[f32], history: &[u32]) -> Result<&[Candidate]> {
        self.start((0..).zip(logits.iter().copied()), logits.len(), history)?;
        self.finish()?;
        Ok(&self.candidates)
    }

    /// From all scores to those of the tokens that can be drawn.
    fn finish(&mut self) -> Result<()> {
        let Sampling { random, temperature, top_k, top_p, min_p, .. } = self.sampling;
        if !random {
            return Ok(());
        }
        if let Some(t) = temperature.filter(|&t| t != 1.0) {
            self.candidates.iter_mut().for_each(|c| c.score /= t as f32);
        }
        for c in &self.candidates {
            check_score(c.id, c.score)?;
        }
        if let Some(k) = top_k {
            keep_top_k(&mut self.candidates, k as usize);
            // sums below are in this order, whatever there was to choose from
            self.candidates.sort_unstable_by_key(|c| c.id);
        }
        if let Some(p) = top_p.filter(|&p| p < 1.0) {
            keep_top_p(&mut self.candidates, p);
        }
        if let Some(m) = min_p {
            keep_min_p(&mut self.candidates, m);
        }
        self.candidates.sort_unstable_by_key(|c| c.id);
        Ok(())
    }

    /// Collects the finite ones of scores of a vocabulary after the repetition penalty.
    fn start(&mut self, scores: impl Iterator<Item = (u32, f32)>, vocab: usize, history: &[u32]) -> Result<()> {
        self.candidates.clear();
        self.seen.clear();
        let penalty = self.sampling.repetition_penalty.filter(|&r| r != 1.0).map(|r| r as f32);
        if penalty.is_some() {
            self.seen.resize(vocab.div_ceil(64), 0);
            for &id in history {
                if id as usize >= vocab {
                    return Err(Error::request(format!("token id {id} in the history, expected below {vocab}")));
                }
                self.seen[id as usize / 64] |= 1 << (id % 64);
            }
        }
        for (id, logit) in scores {
            let seen = |_: &f32| self.seen[id as usize / 64] >> (id % 64) & 1 == 1;
            let score = match penalty.filter(seen) {
                Some(r) if logit < 0.0 => logit * r,
                Some(r) => logit / r,
                None => logit,
            };
            check_score(id, score)?;
            if score > f32::NEG_INFINITY {
                self.candidates.push(Candidate { id, score });
            }
        }
        if self.candidates.is_empty() {
            return Err(Error::NotFinite("no token has a finite logit".into()));
        }
        Ok(())
    }
}

fn max_score(candidates: &[Candidate]) -> f32 {
    candidates.iter().map(|c| c.score).fold(f32::NEG_INFINITY, f32::max)
}

/// Probability, up to a common factor.
fn weight(c: &Candidate, best: f32) -> f64 {
    (f64::from(c.score) - f64::from(best)).exp()
}

/// Best first; of equal scores, the higher id first, which is the one that `p = 0` keeps.
fn by_score(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then(b.id.cmp(&a.id))
}

/// Removes what is below the `k`-th largest score: ties with it stay.
fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        let limit = candidates.select_nth_unstable_by(k - 1, by_score).1.score;
        candidates.retain(|c| c.score >= limit);
    }
}

/// Keeps a token iff the probability strictly before it, in descending order, is below `p`.
///
/// The best tokens are sorted in growing portions, because `p` is mostly reached within a few.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f64) {
    let best = max_score(candidates);
    let total: f64 = candidates.iter().map(|c| weight(c, best)).sum();
    // The cut is where what follows, the token included, weighs no more than 1 - p; so is the official formula.
    let cut = total * f64::from((1.0 - p) as f32);
    let (mut sorted, mut portion, mut before) = (0, 64, 0.0);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let n = portion.min(rest.len());
        if n < rest.len() {
            rest.select_nth_unstable_by(n, by_score);
        }
        rest[..n].sort_unstable_by(by_score);
        for i in sorted..sorted + n {
            if i > 0 && total - before <= cut {
                candidates.truncate(i);
                return;
            }
            before += weight(&candidates[i], best);
        }
        sorted += n;
        portion *= 4;
    }
}

/// Removes tokens with less than `m` times the best token's probability.
fn keep_min_p(candidates: &mut Vec<Candidate>, m: f64) {
    let best = max_score(candidates);
    // One token always stays, also where `m` is 1.
    candidates.retain(|c| c.score == best || weight(c, best) >= m);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(sampling: Sampling, logits: &[f32], history: &[u32]) -> Vec<(u32, f32)> {
        let mut sampler = Sampler::new(Sampling { random: true, ..sampling }, 0).unwrap();
        sampler.process(logits, history).unwrap().iter().map(|c| (c.id, c.score)).collect()
    }

    fn ids(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
        kept(sampling, logits, &[]).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn parameters_out_of_range_are_all_named() {
        let error = |s: Sampling| s.check().unwrap_err().to_string();
        let off = Sampling::default();
        let bad = Sampling { temperature: Some(0.0), top_k: Some(0), top_p: Some(1.1), min_p: Some(-0.1), ..off };
        let expected = "temperature is 0, expected a number above 0; top_k is 0, expected 1 at least; \
                        top_p is 1.1, expected 0 to 1; min_p is -0.1, expected 0 to 1";
        assert_eq!(error(bad), expected);
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(error(Sampling { repetition_penalty: Some(value), ..off }).starts_with("repetition_penalty is"));
            assert!(error(Sampling { temperature: Some(value), ..off }).starts_with("temperature is"));
        }
        assert!(error(Sampling { top_p: Some(f64::NAN), ..off }).starts_with("top_p is NaN"));
        off.check().unwrap();
    }

    #[test]
    fn ties_and_edges_are_those_of_the_official_processors() {
        let (off, logits) = (Sampling::default(), [1.0, 3.0, 2.0, 3.0]);
        assert_eq!(ids(Sampling { top_p: Some(0.0), ..off }, &logits), [3]);
        assert_eq!(ids(Sampling { top_p: Some(1.0), ..off }, &logits), [0, 1, 2, 3]);
        assert_eq!(ids(Sampling { min_p: Some(1.0), ..off }, &logits), [1, 3]);
        assert_eq!(ids(Sampling { min_p: Some(0.0), ..off }, &logits), [0, 1, 2, 3]);
        assert_eq!(ids(Sampling { top_k: Some(10), ..off }, &logits), [0, 1, 2, 3]);
        assert_eq!(ids(Sampling { top_k: Some(1), ..off }, &logits), [1, 3]);
        assert_eq!(ids(Sampling { repetition_penalty: Some(1.5), ..off }, &logits), [0, 1, 2, 3]);
        let penalised = kept(
            Sampling { repetition_penalty: Some(1.5), ..off },
            &[-2.0, 0.0, -0.0, 3.0, f32::NEG_INFINITY],
            &[0, 1, 2, 3, 4, 0],
        );
        assert_eq!(penalised, [(0, -3.0), (1, 0.0), (2, -0.0), (3, 2.0)]);
    }

    /// The best `n` of logits, as heads keep them.
    fn best_of(logits: &[f32], n: usize) -> (Vec<Candidate>, f32) {
        let mut all: Vec<_> = (0..).zip(logits).map(|(id, &score)| Candidate { id, score }).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        all.truncate(n);
        let rest = if n < logits.len() { all[n - 1].score } else { f32::NEG_INFINITY };
        (all, rest)
    }

    #[test]
    fn a_choice_of_the_best_is_that_of_all() {
        let mut noise = Random::new(7);
        // coarse, so that there are equals at every cut
        let mut logits = || (0..90).map(|_| (noise.next_unit() * 24.0) as i32 as f32 * 0.5 - 5.0).collect::<Vec<f32>>();
        let (mut decided, mut asked) = (0, 0);
        for top_k in [None, Some(1), Some(4), Some(20), Some(31), Some(32), Some(90)] {
            for repetition_penalty in [None, Some(1.0), Some(1.3), Some(4.0), Some(0.8)] {
                for (random, temperature) in [(false, None), (true, None), (true, Some(0.7)), (true, Some(1e8))] {
                    let sampling = Sampling { random, temperature, top_k, repetition_penalty, ..Sampling::default() };
                    let sampling = Sampling { top_p: Some(0.9), min_p: Some(0.01), ..sampling };
                    let (logits, history) = (logits(), [3, 5, 8, 13, 21, 34, 55, 89]);
                    let mut of_all = Sampler::new(sampling, 11).unwrap();
                    let mut of_best = Sampler::new(sampling, 11).unwrap();
                    let (tokens, rest) = best_of(&logits, 32);
                    let best = Best { tokens: &tokens, rest, vocab_size: 90 };
                    let expected = of_all.choose(&logits, &history).unwrap();
                    asked += 1;
                    if let Some(id) = of_best.choose_of(best, &history).unwrap() {
                        assert_eq!(id, expected, "{sampling:?}");
                        assert!(!random || of_best.candidates == of_all.candidates, "{sampling:?}");
                        decided += 1;
                    }
                }
            }
        }
        // no list is enough for all tokens, for as many as it has, or for a penalty that raises tokens
        assert!(decided > asked / 4 && decided < asked / 2, "{decided} of {asked}");
        let (tokens, rest) = best_of(&[1.0, 2.0, 3.0], 2);
        let mut sampler = Sampler::new(Sampling { repetition_penalty: Some(2.0), ..Sampling::default() }, 0).unwrap();
        let error = sampler.choose_of(Best { tokens: &tokens, rest, vocab_size: 3 }, &[3]).unwrap_err().to_string();
        assert_eq!(error, "token id 3 in the history, expected below 3");
    }

    #[test]
    fn what_is_not_finite_is_reported_with_its_place() {
        let error = |logits: &[f32], temperature| {
            let sampling = Sampling { random: true, temperature, ..Sampling::default() };
            Sampler::new(sampling, 0).unwrap().choose(logits, &[]).unwrap_err().to_string()
        };
        assert_eq!(error(&[0.0, f32::NAN], None), "the score of token 1 is NaN");
        assert_eq!(error(&[f32::INFINITY, 0.0], None), "the score of token 0 is inf");
        assert_eq!(error(&[f32::NEG_INFINITY; 3], None), "no token has a finite logit");
        assert_eq!(error(&[], None), "no token has a finite logit");
        assert_eq!(error(&[0.0, 3e38], Some(0.1)), "the score of token 1 is inf");
        assert_eq!(argmax(&[1.0, f32::NAN]).unwrap_err().to_string(), "the score of token 1 is NaN");
        assert!(argmax(&[f32::NEG_INFINITY]).is_err());
        let penalty = Sampling { repetition_penalty: Some(2.0), ..Sampling::default() };
        let error = Sampler::new(penalty, 0).unwrap().choose(&[1.0; 4], &[4]).unwrap_err().to_string();
        assert_eq!(error, "token id 4 in the history, expected below 4");
    }

    #[test]
    fn greedy_choice_counts_the_penalty_and_takes_the_first_of_equals() {
        let sampler = |r| Sampler::new(Sampling { repetition_penalty: r, ..Sampling::default() }, 0).unwrap();
        assert_eq!(sampler(None).choose(&[1.0, 3.0, 3.0], &[1]).unwrap(), 1);
        assert_eq!(sampler(Some(2.0)).choose(&[1.0, 3.0, 3.0], &[1]).unwrap(), 2);
        assert!(sampler(Some(1.0)).is_argmax() && !sampler(Some(2.0)).is_argmax());
        assert_eq!(argmax(&[1.0, 3.0, 3.0]).unwrap(), 1);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let logits = [0.0, f32::NEG_INFINITY, 3f32.ln(), 0.0];
        let draw = |seed| -> Vec<u32> {
            let mut sampler = Sampler::new(Sampling { random: true, ..Sampling::default() }, seed).unwrap();
            (0..10_000).map(|_| sampler.choose(&logits, &[]).unwrap()).collect()
        };
        let (a, b) = (draw(7), draw(8));
        assert_eq!(a, draw(7));
        assert_ne!(a, b);
        let count = |id| a.iter().filter(|&&d| d == id).count() as f64;
        // Probabilities 0.2, 0, 0.6, 0.2; five standard deviations of 10000 draws are below 250.
        for (id, expected) in [(0, 2000.0), (1, 0.0), (2, 6000.0), (3, 2000.0)] {
            assert!((count(id) - expected).abs() <= if expected == 0.0 { 0.0 } else { 250.0 }, "{id}: {}", count(id));
        }
    }

    #[test]
    fn the_generator_is_splitmix64() {
        let mut random = Random::new(1234567);
        let known = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        assert_eq!([(); 3].map(|()| random.next_u64()), known);
        assert!((0..1000).map(|_| random.next_unit()).all(|u| (0.0..1.0).contains(&u)));
    }
}
