//! Conversations to prompts, by the model's own Jinja template.

use super::TextError;
use super::json::python_json;
use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};
use serde_json::Value as Json;

/// How a prompt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Render {
    /// After the last message.
    Closed,
    /// With the opening of an answer.
    AddGenerationPrompt,
    /// Inside the last message, so that the model goes on with it.
    ContinueFinalMessage,
}

/// A chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// Stands in for the end of the text when a message is to be continued; a noncharacter, so that no text holds it.
const END_MARK: &str = "\u{fdd0}\u{ffff}\u{fdd1}";

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// If it is not Jinja.
    pub fn new(source: &str) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        let added = environment.add_template_owned(NAME, source.to_string());
        added.map_err(|e| TextError::Template(describe(&e)))?;
        Ok(Self { environment })
    }

    /// The prompt for a conversation. `messages` are objects with `role` (`system`, `user`, `assistant`, `tool`) and
    /// `content` (text; `null` only beside `tool_calls`); `tools` are objects, or none.
    ///
    /// # Errors
    /// If a message has another form, or if the template refuses it. Templates drop what they do not know without a
    /// word, so that has to be found before.
    pub fn render(&self, messages: &[Json], tools: &[Json], render: Render) -> Result<String, TextError> {
        check(messages, tools)?;
        let mut messages = messages.to_vec();
        if render == Render::ContinueFinalMessage
            && let Some(Json::String(content)) = messages.last_mut().and_then(|m| m.get_mut("content"))
        {
            content.push_str(END_MARK);
        }
        let values = context! {
            messages => messages,
            tools => (!tools.is_empty()).then_some(tools),
            add_generation_prompt => render == Render::AddGenerationPrompt,
        };
        let template = self.environment.get_template(NAME).map_err(|e| TextError::Template(describe(&e)))?;
        let mut prompt = template.render(values).map_err(|e| TextError::Template(describe(&e)))?;
        if render == Render::ContinueFinalMessage {
            let end = prompt.find(END_MARK).ok_or_else(|| {
                TextError::Template(
                    "the text of the last message is not in the prompt, so it cannot be continued".into(),
                )
            })?;
            prompt.truncate(end);
        }
        Ok(prompt)
    }
}

fn check(messages: &[Json], tools: &[Json]) -> Result<(), TextError> {
    let bad = |index, problem: &str| Err(TextError::Message { index, problem: problem.into() });
    if messages.is_empty() {
        return Err(TextError::Template("no messages given, expected 1 at least".into()));
    }
    for (i, message) in messages.iter().enumerate() {
        let Some(message) = message.as_object() else { return bad(i, "expected an object") };
        let role = message.get("role").and_then(Json::as_str);
        let Some(role @ ("system" | "user" | "assistant" | "tool")) = role else {
            let found = message.get("role").unwrap_or(&Json::Null);
            return bad(i, &format!("role {found}, expected system, user, assistant or tool"));
        };
        let calls = match message.get("tool_calls") {
            None | Some(Json::Null) => &[][..],
            Some(Json::Array(calls)) if role == "assistant" => calls,
            Some(_) => return bad(i, "tool_calls are possible in an assistant's message, as a list"),
        };
        for call in calls {
            let call = call.get("function").unwrap_or(call);
            if call.get("name").and_then(Json::as_str).is_none() || call.get("arguments").is_none() {
                return bad(i, "a tool call without name and arguments");
            }
        }
        match message.get("content") {
            Some(Json::String(text)) if text.contains(END_MARK) => return bad(i, "content with noncharacters"),
            Some(Json::String(_)) => {}
            None | Some(Json::Null) if !calls.is_empty() => {}
            _ => return bad(i, "expected content that is text"),
        }
    }
    match tools.iter().position(|t| !t.is_object()) {
        Some(i) => Err(TextError::Template(format!("tool {i}: expected an object"))),
        None => Ok(()),
    }
}

fn to_json(value: &Value) -> Result<Value, minijinja::Error> {
    if value.is_undefined() {
        return Err(minijinja::Error::new(ErrorKind::UndefinedError, "an undefined value has no JSON"));
    }
    let text = python_json(value).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from_safe_string(text))
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The error with its line, without the listing that the crate's own text carries.
fn describe(error: &minijinja::Error) -> String {
    let line = error.line().map(|l| format!("line {l}: ")).unwrap_or_default();
    let detail = error.detail().map(|d| format!(": {d}")).unwrap_or_default();
    format!("{line}{}{detail}", error.kind())
}
