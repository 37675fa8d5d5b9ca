//! Quality of a model on a text: perplexity, and the distance of two models' next-token distributions.

use super::compare::judge::argmax;
use serde::Serialize;

/// `log(sum(exp(row)))`, without overflow, in f64.
fn log_sum_exp(row: &[f32]) -> f64 {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// `-log softmax(row)[token]` in nats.
pub fn negative_log_likelihood(row: &[f32], token: usize) -> f64 {
    log_sum_exp(row) - f64::from(row[token])
}

/// `KL(p || q) = sum_i p_i (log p_i - log q_i)` in nats, for `p = softmax(p_row)` and `q = softmax(q_row)`.
///
/// # Panics
/// If the rows differ in length.
pub fn kl_divergence(p_row: &[f32], q_row: &[f32]) -> f64 {
    assert_eq!(p_row.len(), q_row.len());
    let (p_norm, q_norm) = (log_sum_exp(p_row), log_sum_exp(q_row));
    let term = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p) - p_norm, f64::from(q) - q_norm);
        if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
    };
    // A sum of rounded terms may fall a little below zero, which a divergence cannot.
    p_row.iter().zip(q_row).map(term).sum::<f64>().max(0.0)
}

/// What was seen of a text so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    nll: f64,
    scored: usize,
    other_nll: f64,
    divergences: Vec<f64>,
    same_best: usize,
}

/// Quality of one model, and its distance from a second one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Tokens that were predicted.
    pub scored: usize,
    /// Mean negative log likelihood in nats.
    pub mean_nll: f64,
    /// `exp(mean_nll)`.
    pub perplexity: f64,
    /// The distance from the other model.
    pub against: Option<Against>,
}

/// The distance from another model on the same text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Against {
    /// The other model's perplexity.
    pub perplexity: f64,
    /// Mean of `KL(other || this)` in nats.
    pub mean_kl: f64,
    /// The value that 99.9 % of the divergences do not exceed.
    pub kl_999: f64,
    /// Share of positions with the same best token.
    pub top1_agreement: f64,
}

impl Tally {
    /// Scores one prediction of `token`, and the other model's if there is one.
    pub fn add(&mut self, row: &[f32], other: Option<&[f32]>, token: usize) {
        self.nll += negative_log_likelihood(row, token);
        self.scored += 1;
        if let Some(other) = other {
            self.other_nll += negative_log_likelihood(other, token);
            self.divergences.push(kl_divergence(other, row));
            self.same_best += usize::from(argmax(row) == argmax(other));
        }
    }

    /// The result.
    pub fn finish(mut self) -> Quality {
        let n = self.scored.max(1) as f64;
        let mean_nll = self.nll / n;
        self.divergences.sort_by(f64::total_cmp);
        let against = (!self.divergences.is_empty()).then(|| Against {
            perplexity: (self.other_nll / n).exp(),
            mean_kl: self.divergences.iter().sum::<f64>() / n,
            kl_999: quantile(&self.divergences, 0.999),
            top1_agreement: self.same_best as f64 / n,
        });
        Quality { scored: self.scored, mean_nll, perplexity: mean_nll.exp(), against }
    }
}

/// The smallest value that a share `q` of the sorted values does not exceed.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_are_those_of_the_softmax() {
        let row = [1f32, 2.0, 3.0];
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let expected = -(2f64.exp() / sum).ln();
        assert!((negative_log_likelihood(&row, 1) - expected).abs() < 1e-15);
        // no overflow, and a certain token costs nothing
        assert_eq!(negative_log_likelihood(&[1e30, 0.0], 0), 0.0);
        assert_eq!(negative_log_likelihood(&[f32::NEG_INFINITY, 0.0], 1), 0.0);
    }

    #[test]
    fn divergences_are_zero_for_equals_and_follow_the_definition() {
        assert_eq!(kl_divergence(&[1.0, 5.0], &[1.0, 5.0]), 0.0);
        let (p, q) = ([0.25f64, 0.75], [0.5f64, 0.5]);
        let logits = |d: [f64; 2]| d.map(|x| x.ln() as f32);
        let expected = p[0] * (p[0] / q[0]).ln() + p[1] * (p[1] / q[1]).ln();
        assert!((kl_divergence(&logits(p), &logits(q)) - expected).abs() < 1e-7);
        assert_eq!(kl_divergence(&[f32::NEG_INFINITY, 0.0], &[0.0, 0.0]), 2f64.ln());
    }

    #[test]
    fn a_uniform_model_has_the_perplexity_of_its_vocabulary() {
        let mut tally = Tally::default();
        (0..4).for_each(|token| tally.add(&[0.5; 4], Some(&[0.5, 0.5, 0.5, 0.75]), token));
        let quality = tally.finish();
        assert!((quality.perplexity - 4.0).abs() < 1e-12 && quality.scored == 4);
        let against = quality.against.unwrap();
        assert!(against.mean_kl > 0.0 && (against.mean_kl - against.kl_999).abs() < 1e-15);
        assert_eq!(against.top1_agreement, 0.0);
    }

    #[test]
    fn quantiles_take_the_rank() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(
            (quantile(&values, 0.999), quantile(&values[..1], 0.999), quantile(&values, 0.5)),
            (999.0, 1.0, 500.0)
        );
    }
}
