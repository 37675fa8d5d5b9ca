//! How to generate: the command line's flags, and for what they leave open the defaults that travel in the artifact.

use jet_runtime::sampling::Sampling;
use serde_json::Value;

/// Tokens that are generated when nobody says how many.
const DEFAULT_NEW_TOKENS: u32 = 256;

/// Flags of the command line that shape a generation.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct GenerationArgs {
    /// Most tokens to generate (default: the artifact's, else 256)
    #[arg(short = 'n', long = "n-predict", value_name = "N")]
    pub n_predict: Option<u32>,
    /// Seed of the random choices (default: from the clock; --stats tells it)
    #[arg(short, long)]
    pub seed: Option<u64>,
    /// Temperature; 0 always takes the most likely token
    #[arg(long, visible_alias = "temperature", value_name = "T")]
    pub temp: Option<f64>,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Keep the most likely tokens that have this probability together
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Keep tokens with at least this share of the best one's probability
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,
    /// Make tokens that have occurred less likely; 1 is off
    #[arg(long, value_name = "R")]
    pub repeat_penalty: Option<f64>,
    /// End when this text appears; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

/// What a generation does.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens.
    pub n_predict: u32,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Seed of the random choices.
    pub seed: u64,
}

impl GenerationArgs {
    /// Combines the flags with the artifact's defaults, an object with the names of generation_config.json. An absent setting is off. A
    /// flag that asks for randomness turns it on; temperature 0 turns it off.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn settle(&self, defaults: &Value) -> anyhow::Result<Generation> {
        let number = |name: &str| defaults.get(name).and_then(Value::as_f64);
        let count = |name: &str| defaults.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let do_sample = defaults.get("do_sample").and_then(Value::as_bool).unwrap_or(false);
        let asks = [self.temp, self.top_p, self.min_p].iter().any(Option::is_some) || self.top_k.is_some();
        let random = (do_sample || asks) && self.temp != Some(0.0);
        let off_at_1 = |x: &f64| *x != 1.0;
        let sampling = Sampling {
            random,
            repetition_penalty: self.repeat_penalty.or_else(|| number("repetition_penalty")).filter(off_at_1),
            temperature: self.temp.or_else(|| number("temperature")).filter(|_| random).filter(off_at_1),
            top_k: self.top_k.or_else(|| count("top_k")).filter(|&k| k > 0),
            top_p: self.top_p.or_else(|| number("top_p")).filter(off_at_1),
            min_p: self.min_p.or_else(|| number("min_p")),
        };
        sampling.check()?;
        let own = defaults.get("stop_strings").and_then(Value::as_array).into_iter().flatten();
        let stop = if self.stop.is_empty() {
            own.filter_map(|s| s.as_str().map(str::to_string)).collect()
        } else {
            self.stop.clone()
        };
        anyhow::ensure!(
            !stop.iter().any(String::is_empty),
            "--stop: found an empty text, expected one character at least"
        );
        let n_predict = self.n_predict.or_else(|| count("max_new_tokens")).unwrap_or(DEFAULT_NEW_TOKENS);
        Ok(Generation { sampling, n_predict, stop, seed: self.seed.unwrap_or_else(clock_seed) })
    }
}

fn clock_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn without_flags_and_defaults_the_choice_is_greedy() {
        let generation = GenerationArgs::default().settle(&json!({})).unwrap();
        assert_eq!(generation.sampling, Sampling::default());
        assert_eq!((generation.n_predict, generation.stop.len()), (256, 0));
    }

    #[test]
    fn flags_go_before_defaults() {
        let defaults = json!({"do_sample": true, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "max_new_tokens": 5, "stop_strings": ["a"]});
        let generation = GenerationArgs::default().settle(&defaults).unwrap();
        let expected =
            Sampling { random: true, temperature: Some(0.7), top_p: Some(0.9), top_k: Some(20), ..Sampling::default() };
        assert_eq!((generation.sampling, generation.n_predict, generation.stop), (expected, 5, vec!["a".to_string()]));
        let args = GenerationArgs { temp: Some(0.0), n_predict: Some(3), stop: vec!["b".into()], ..Default::default() };
        let generation = args.settle(&defaults).unwrap();
        assert!(!generation.sampling.random && generation.sampling.temperature.is_none());
        assert_eq!((generation.n_predict, generation.stop), (3, vec!["b".to_string()]));
    }

    #[test]
    fn a_flag_that_asks_for_randomness_turns_it_on_and_neutral_values_are_off() {
        let args = GenerationArgs { temp: Some(1.0), top_p: Some(1.0), top_k: Some(0), ..Default::default() };
        let sampling = args.settle(&json!({})).unwrap().sampling;
        assert_eq!(sampling, Sampling { random: true, ..Sampling::default() });
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let settle = |args: GenerationArgs| args.settle(&json!({})).unwrap_err().to_string();
        let temp = settle(GenerationArgs { temp: Some(-1.0), top_p: Some(1.5), ..Default::default() });
        assert!(temp.contains("temperature is -1") && temp.contains("top_p is 1.5, expected 0 to 1"), "{temp}");
        let stop = settle(GenerationArgs { stop: vec![String::new()], ..Default::default() });
        assert_eq!(stop, "--stop: found an empty text, expected one character at least");
    }
}
