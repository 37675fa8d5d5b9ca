//! The text form of a [`ModelSpec`]: `model.toml`. Every problem is reported with its line.

use crate::generation::GenerationDefaults;
use crate::problem::{Collector, Result, shown};
use crate::spec::{CompileOptions, ModelSpec, WeightFormat, WeightsAt, WeightsFile, directory_of};
use serde_json::{Map, Number, Value};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const SIZE: &str = "an integer from 1 to 2147483647";
const TEXT: &str = "a string that is not empty";

/// Reads the text of a `model.toml`; `origin` names it in messages, paths in it are relative to `base`.
///
/// # Errors
/// Text that is not TOML, unknown sections and keys, values of the wrong type, or no model; all are listed.
pub fn parse(text: &str, origin: &str, base: &Path) -> Result<ModelSpec> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { text, problems: Vec::new() };
    for error in errors {
        reader.report(error.span().map_or(0, |span| span.start), format!("not valid TOML: {}", error.message()));
    }
    if !reader.problems.is_empty() {
        return reader.finish(origin, None);
    }
    let mut sections = Sections::default();
    for (name, value) in document.get_ref() {
        reader.section(name, value, &mut sections);
    }
    let spec = reader.resolve(sections, base);
    reader.finish(origin, spec)
}

/// What a file says, before it is put together.
#[derive(Default)]
struct Sections {
    model: ModelSection,
    compile: CompileOptions,
    generation: GenerationDefaults,
}

#[derive(Default)]
struct ModelSection {
    /// Where the section begins, for problems of the whole.
    start: usize,
    source: Option<String>,
    config: Option<String>,
    seed: Option<u64>,
}

struct Reader<'a> {
    text: &'a str,
    /// Positions and messages, in no order.
    problems: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn report(&mut self, position: usize, message: String) {
        self.problems.push((position, message));
    }

    /// The problems in the order of their lines, or the result.
    fn finish(mut self, origin: &str, spec: Option<ModelSpec>) -> Result<ModelSpec> {
        self.problems.sort();
        let mut out = Collector::default();
        for (position, message) in self.problems {
            let line =
                1 + self.text.as_bytes()[..position.min(self.text.len())].iter().filter(|b| **b == b'\n').count();
            out.push(format!("{origin}:{line}"), message);
        }
        match spec {
            Some(spec) => out.finish(spec),
            None => Err(out.into_problems()),
        }
    }

    fn section(&mut self, name: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue>, sections: &mut Sections) {
        let (start, section) = (name.span().start, name.get_ref().as_ref());
        if !["model", "compile", "generation"].contains(&section) {
            self.report(start, format!("unknown section [{section}], expected [model], [compile] or [generation]"));
            return;
        }
        let Some(table) = value.get_ref().as_table() else {
            let found = shown(&to_json(value.get_ref()));
            self.report(start, format!("{section}: found {found}, expected a section [{section}]"));
            return;
        };
        sections.model.start = if section == "model" { start } else { sections.model.start };
        for (key, value) in table {
            let (name, json) = (key.get_ref().as_ref(), to_json(value.get_ref()));
            let (known, set) = match section {
                "model" => (&["source", "config", "weights"][..], sections.model.set(name, &json)),
                "compile" => (COMPILE_KEYS, set_compile(&mut sections.compile, name, &json)),
                _ => (GenerationDefaults::KEYS, sections.generation.set(name, &json)),
            };
            match set {
                Ok(true) => {}
                Ok(false) => {
                    let expected = known.join(", ");
                    self.report(key.span().start, format!("unknown key {section}.{name}, expected one of {expected}"));
                }
                Err(expected) => {
                    let message = format!("{section}.{name}: found {}, expected {expected}", shown(&json));
                    self.report(key.span().start, message);
                }
            }
        }
    }

    /// Puts the model together from its source, or its configuration and seed.
    fn resolve(&mut self, sections: Sections, base: &Path) -> Option<ModelSpec> {
        let Sections { model, compile, generation } = sections;
        let problem = match (&model.source, &model.config, model.seed) {
            (Some(source), None, seed) => {
                let mut spec = ModelSpec::of_directory(&base.join(source));
                if let Some(seed) = seed {
                    spec.weights = WeightsAt::Synthetic { seed };
                }
                return Some(ModelSpec { compile, generation, ..spec });
            }
            (None, Some(config), Some(seed)) => {
                let config = base.join(config);
                let directory = directory_of(&config).to_path_buf();
                let weights = WeightsAt::Synthetic { seed };
                return Some(ModelSpec { config, weights, directory, compile, generation });
            }
            (Some(_), Some(_), _) => "model: found source and config, expected one of them",
            (None, Some(_), None) => "model: found config without weights, expected weights = { synthetic = SEED }",
            (None, None, _) => "model: found neither source nor config, expected one of them",
        };
        // A key that could not be read has been reported already: it is not missing.
        if self.problems.is_empty() {
            self.report(model.start, problem.to_string());
        }
        None
    }
}

/// Whether a key is known, or what was expected as its value.
type Set = std::result::Result<bool, &'static str>;

impl ModelSection {
    fn set(&mut self, key: &str, value: &Value) -> Set {
        match key {
            "source" => self.source = Some(text(value)?),
            "config" => self.config = Some(text(value)?),
            "weights" => {
                let seed = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("synthetic"));
                let seed = seed.and_then(Value::as_u64);
                self.seed = Some(seed.ok_or("{ synthetic = SEED } with an integer that is not negative")?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

const COMPILE_KEYS: &[&str] =
    &["targets", "backend", "max_context", "max_batch", "prefill_chunk", "activations", "weights", "weights_file"];

fn set_compile(options: &mut CompileOptions, key: &str, value: &Value) -> Set {
    match key {
        "targets" => {
            let list = value.as_array().filter(|list| !list.is_empty());
            let targets = list.and_then(|list| list.iter().map(|target| text(target).ok()).collect());
            options.targets = Some(targets.ok_or("a list of target names")?);
        }
        "backend" => options.backend = Some(text(value)?),
        "max_context" => options.max_context = Some(size(value)?),
        "max_batch" => options.max_batch = Some(size(value)?),
        "prefill_chunk" => options.prefill_chunk = Some(size(value)?),
        "activations" => options.activations = Some(text(value)?),
        "weights" => {
            let format = value.as_str().and_then(WeightFormat::named);
            options.weights = Some(format.ok_or("\"f32\", \"bf16\", \"q8\" or \"q4\"")?);
        }
        "weights_file" => {
            options.weights_file = Some(match value.as_str() {
                Some("embed") => WeightsFile::Embed,
                Some("external") => WeightsFile::External,
                _ => return Err("\"embed\" or \"external\""),
            });
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn text(value: &Value) -> std::result::Result<String, &'static str> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_string).ok_or(TEXT)
}

fn size(value: &Value) -> std::result::Result<usize, &'static str> {
    value.as_u64().filter(|n| (1..=i32::MAX as u64).contains(n)).map(|n| n as usize).ok_or(SIZE)
}

/// The same value as JSON, so that one set of readers serves both formats. What JSON has no form for becomes text.
fn to_json(value: &DeValue) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(n) => {
            let (digits, radix) = (n.as_str(), n.radix());
            let unsigned = u64::from_str_radix(digits, radix).map(Value::from);
            let signed = |_| i64::from_str_radix(digits, radix).map(Value::from);
            unsigned.or_else(signed).unwrap_or_else(|_| Value::from(n.to_string()))
        }
        DeValue::Float(x) => {
            let number = x.as_str().parse().ok().and_then(Number::from_f64);
            number.map_or_else(|| Value::from(x.to_string()), Value::Number)
        }
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(list) => list.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue>)| {
                let name: &std::borrow::Cow<str> = key.get_ref();
                (name.to_string(), to_json(value.get_ref()))
            };
            Value::Object(table.iter().map(entry).collect::<Map<_, _>>())
        }
    }
}
