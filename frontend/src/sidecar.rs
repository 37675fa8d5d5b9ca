//! What travels with the weights: tokenizer, chat template, generation defaults, licence texts.

use crate::config::ModelConfig;
use crate::generation::{self, GenerationDefaults};
use crate::json;
use crate::problem::{Collector, Problem, Problems, Result, shown};
use serde_json::{Map, Value};
use std::path::Path;

/// A token that was added to the tokenizer's vocabulary, such as `<|im_end|>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Whether it is a marker rather than text.
    pub special: bool,
}

/// The files beside the weights, checked lightly and carried as they are. Every one of them may be absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sidecar {
    /// `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `chat_template.jinja`, or the default template in `tokenizer_config.json`.
    pub chat_template: Option<String>,
    /// The text of the beginning-of-sequence token.
    pub bos_token: Option<String>,
    /// The text of the end-of-sequence token.
    pub eos_token: Option<String>,
    /// The added tokens, by id.
    pub added_tokens: Vec<AddedToken>,
    /// The settings of `generation_config.json`.
    pub generation: GenerationDefaults,
    /// Licence files (`LICENSE*`, `LICENCE*`, `NOTICE*`) by name.
    pub licenses: Vec<(String, Vec<u8>)>,
    notes: Vec<Problem>,
}

impl Sidecar {
    /// Reads what there is in a directory.
    ///
    /// # Errors
    /// A file that cannot be read, JSON that is none, or fields of the wrong type; all are listed.
    pub fn read(directory: &Path) -> Result<Sidecar> {
        let mut out = Collector::default();
        let mut sidecar = Sidecar::default();
        let mut file = |name: &str| out.take(optional_file(&directory.join(name))).flatten();
        sidecar.tokenizer = file("tokenizer.json");
        sidecar.tokenizer_config = file("tokenizer_config.json");
        let template = file("chat_template.jinja");
        let generation = file("generation_config.json");
        let origin = |name: &str| directory.join(name).display().to_string();
        if let Some(text) = &sidecar.tokenizer {
            let tokens = tokenizer_tokens(text, &origin("tokenizer.json"));
            sidecar.added_tokens = out.take(tokens).unwrap_or_default();
        }
        if let Some(text) = sidecar.tokenizer_config.clone() {
            let read = sidecar.read_tokenizer_config(&text, &origin("tokenizer_config.json"));
            out.take(read);
        }
        if let Some(template) = template {
            match String::from_utf8(template) {
                Ok(text) => sidecar.chat_template = Some(text),
                Err(error) => out.push(origin("chat_template.jinja"), format!("not valid UTF-8: {error}")),
            }
        }
        if let Some(text) = generation {
            let parsed = generation::parse(&text, &origin("generation_config.json"));
            if let Some((defaults, notes)) = out.take(parsed) {
                sidecar.generation = defaults;
                sidecar.notes.extend(notes);
            }
        }
        sidecar.licenses = out.take(licenses(directory)).unwrap_or_default();
        sidecar.added_tokens.sort_by_key(|token| token.id);
        out.finish(sidecar)
    }

    /// Oddities that were accepted.
    pub fn warnings(&self) -> &[Problem] {
        &self.notes
    }

    /// The ids that end a text: those of generation_config.json, else those of the configuration.
    pub fn eos_token_ids(&self, config: &ModelConfig) -> Vec<u32> {
        self.generation.eos_token_ids.clone().unwrap_or_else(|| config.eos_token_ids.clone())
    }

    /// The id of an added token.
    pub fn added_token(&self, content: &str) -> Option<u32> {
        self.added_tokens.iter().find(|token| token.content == content).map(|token| token.id)
    }

    fn read_tokenizer_config(&mut self, text: &[u8], origin: &str) -> Result<()> {
        let map = json::object(text, origin)?;
        let mut out = Collector::default();
        self.bos_token = special_token(&map, "bos_token", origin, &mut out);
        self.eos_token = special_token(&map, "eos_token", origin, &mut out);
        self.chat_template = default_template(&map, origin, &mut out);
        if let Some(decoder) = map.get("added_tokens_decoder").filter(|v| !v.is_null()) {
            if !decoder.is_object() {
                out.push(
                    format!("{origin}: added_tokens_decoder"),
                    format!("found {}, expected an object", shown(decoder)),
                );
            }
            for (id, token) in decoder.as_object().into_iter().flatten() {
                match id.parse().ok().and_then(|id| added_token(id, token)) {
                    Some(token) if self.added_tokens.iter().any(|t| t.id == token.id) => {}
                    Some(token) => self.added_tokens.push(token),
                    None => out.push(
                        format!("{origin}: added_tokens_decoder.{id}"),
                        format!("found {}, expected an id with a token's content", shown(token)),
                    ),
                }
            }
        }
        out.finish(())
    }
}

fn optional_file(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Problems::io(path, "read", &error)),
    }
}

fn added_token(id: u32, token: &Value) -> Option<AddedToken> {
    let content = token.get("content")?.as_str()?.to_string();
    Some(AddedToken { id, content, special: token.get("special").and_then(Value::as_bool).unwrap_or(false) })
}

/// The added tokens of a tokenizer.json.
fn tokenizer_tokens(text: &[u8], origin: &str) -> Result<Vec<AddedToken>> {
    let map = json::object(text, origin)?;
    let mut out = Collector::default();
    if !map.get("model").is_some_and(Value::is_object) {
        let found = map.get("model").map_or("nothing".to_string(), shown);
        out.push(format!("{origin}: model"), format!("found {found}, expected an object"));
    }
    let mut tokens = Vec::new();
    let list = map.get("added_tokens").and_then(Value::as_array);
    for (i, token) in list.into_iter().flatten().enumerate() {
        let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        match id.and_then(|id| added_token(id, token)) {
            Some(token) => tokens.push(token),
            None => out.push(
                format!("{origin}: added_tokens[{i}]"),
                format!("found {}, expected a token with id and content", shown(token)),
            ),
        }
    }
    out.finish(tokens)
}

/// A special token: its text, or an object with its `content`.
fn special_token(map: &Map<String, Value>, name: &str, origin: &str, out: &mut Collector) -> Option<String> {
    let value = map.get(name).filter(|v| !v.is_null())?;
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    if text.is_none() {
        out.push(format!("{origin}: {name}"), format!("found {}, expected a token's text", shown(value)));
    }
    text.map(str::to_string)
}

/// `chat_template`: one template, or a list of named ones of which `default` counts.
fn default_template(map: &Map<String, Value>, origin: &str, out: &mut Collector) -> Option<String> {
    let value = map.get("chat_template").filter(|v| !v.is_null())?;
    let named = |list: &'_ Vec<Value>| {
        let default = list.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"))?;
        Some(default.get("template")?.as_str()?.to_string())
    };
    let template = value.as_str().map(str::to_string).or_else(|| named(value.as_array()?));
    if template.is_none() {
        let message = format!("found {}, expected a template or a list with one named \"default\"", shown(value));
        out.push(format!("{origin}: chat_template"), message);
    }
    template
}

fn licenses(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let entries = std::fs::read_dir(directory).map_err(|e| Problems::io(directory, "read", &e))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Problems::io(directory, "read", &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let upper = name.to_uppercase();
        if ["LICENSE", "LICENCE", "NOTICE"].iter().any(|start| upper.starts_with(start)) && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort_unstable();
    names.into_iter().map(|name| Ok((name.clone(), json::read_file(&directory.join(name))?))).collect()
}
