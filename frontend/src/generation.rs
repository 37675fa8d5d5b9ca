//! Defaults for generating text that travel with a model: from generation_config.json, overridden by model.toml.

use crate::config::token_ids;
use crate::json;
use crate::problem::{Collector, Problem, Result, shown};
use serde_json::{Map, Value};

/// Fields of a generation_config.json that say nothing about sampling.
const HARMLESS: [&str; 6] =
    ["_from_model_config", "transformers_version", "bos_token_id", "pad_token_id", "max_length", "use_cache"];

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident: $ty:ty = $key:literal, $read:ident, $expected:literal;)*) => {
        /// Defaults for generating text. What is absent is off: nothing is assumed in its place.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct GenerationDefaults {
            $($(#[doc = $doc])+ pub $field: Option<$ty>,)*
        }

        impl GenerationDefaults {
            /// The names of all settings, as in generation_config.json.
            pub const KEYS: &[&str] = &[$($key),*];

            /// Sets one setting by its name.
            ///
            /// # Errors
            /// What was expected instead. `Ok(false)`: there is no setting of this name.
            pub(crate) fn set(&mut self, key: &str, value: &Value) -> std::result::Result<bool, &'static str> {
                match key {
                    $($key => self.$field = Some($read(value).ok_or($expected)?),)*
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// These settings where `over` has none.
            pub fn overridden_by(self, over: GenerationDefaults) -> GenerationDefaults {
                GenerationDefaults { $($field: over.$field.or(self.$field),)* }
            }

            /// The settings that are on, under the names of generation_config.json.
            pub fn to_json(&self) -> Value {
                let mut map = Map::new();
                $(if let Some(value) = &self.$field {
                    map.insert($key.to_string(), Value::from(value.clone()));
                })*
                Value::Object(map)
            }
        }
    };
}

settings! {
    /// Whether to draw tokens instead of taking the most likely one.
    do_sample: bool = "do_sample", boolean, "true or false";
    /// Divides the logits.
    temperature: f64 = "temperature", positive, "a positive number (do_sample = false is greedy)";
    /// How many of the most likely tokens are kept; 0 keeps all.
    top_k: u32 = "top_k", count, "an integer from 0 to 4294967295";
    /// Probability mass of the most likely tokens that are kept.
    top_p: f64 = "top_p", share, "a number from 0 to 1";
    /// Least probability, relative to the largest one, that is kept.
    min_p: f64 = "min_p", share, "a number from 0 to 1";
    /// Divides the logits of tokens that have occurred.
    repetition_penalty: f64 = "repetition_penalty", positive, "a positive number";
    /// Most tokens to generate.
    max_new_tokens: u32 = "max_new_tokens", count, "an integer from 0 to 4294967295";
    /// Texts that end the generation.
    stop_strings: Vec<String> = "stop_strings", texts, "a list of strings that are not empty";
    /// Ids that end the generation.
    eos_token_ids: Vec<u32> = "eos_token_id", token_ids, "a token id or a list of token ids";
}

fn boolean(value: &Value) -> Option<bool> {
    value.as_bool()
}

fn positive(value: &Value) -> Option<f64> {
    value.as_f64().filter(|&x| (x as f32) > 0.0 && (x as f32).is_finite())
}

fn share(value: &Value) -> Option<f64> {
    value.as_f64().filter(|x| (0.0..=1.0).contains(x))
}

fn count(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array()?;
    list.iter().map(|text| text.as_str().filter(|text| !text.is_empty()).map(str::to_string)).collect()
}

/// Reads the text of a generation_config.json; unknown fields are noted.
///
/// # Errors
/// Not a JSON object, or settings of the wrong type.
pub(crate) fn parse(text: &[u8], origin: &str) -> Result<(GenerationDefaults, Vec<Problem>)> {
    let map = json::object(text, origin)?;
    let (mut out, mut notes) = (Collector::default(), Collector::default());
    let mut defaults = GenerationDefaults::default();
    for (key, value) in map.iter().filter(|(key, value)| !value.is_null() && !HARMLESS.contains(&key.as_str())) {
        let origin = format!("{origin}: {key}");
        match defaults.set(key, value) {
            Ok(true) => {}
            Ok(false) => notes.push(origin, format!("unknown setting, ignored (found {})", shown(value))),
            Err(expected) => out.push(origin, format!("found {}, expected {expected}", shown(value))),
        }
    }
    out.finish((defaults, notes.into_notes()))
}
