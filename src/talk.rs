//! Talking with a model: a generation streamed to stdout, and a conversation of several turns.

use crate::defaults::Generation;
use anyhow::{Context, ensure};
use jet_runtime::generate::{Finish, Limits, generate};
use jet_runtime::sampling::Sampler;
use jet_runtime::stop::TextStream;
use jet_runtime::text::{AddedTokens, ChatTemplate, Render, Tokenizer};
use jet_runtime::{Memory, Model, Session};
use jetbin::SectionKind;
use serde_json::{Value, json};
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Instant;

/// Ends a turn in chat templates of the Qwen family, although configurations do not list it among the ids that end a text.
const END_OF_TURN: &str = "<|im_end|>";

/// A session with one sequence and everything that was said in it.
pub struct Speaker {
    session: Session,
    sampler: Sampler,
    generation: Generation,
    context: u32,
    eos_ids: Vec<u32>,
    history: Vec<u32>,
    stats: Stats,
}

/// Times and counts, summed over all turns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tokens of prompts that were fed.
    pub prompt_tokens: usize,
    /// Until the first new token.
    pub prompt_seconds: f64,
    /// Tokens that were made.
    pub new_tokens: usize,
    /// From the first new token to the last.
    pub new_seconds: f64,
    /// What ended the last generation.
    pub finish: String,
}

impl Speaker {
    /// A speaker without a history; a sequence holds at most `context` tokens.
    ///
    /// # Errors
    /// If the sampling parameters are out of range.
    pub fn new(session: Session, generation: &Generation, context: u32) -> anyhow::Result<Speaker> {
        let sampler = Sampler::new(generation.sampling, generation.seed)?;
        let eos_ids = session.model().facts().eos_ids.clone();
        let generation = generation.clone();
        Ok(Speaker { session, sampler, generation, context, eos_ids, history: Vec::new(), stats: Stats::default() })
    }

    /// What was measured so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Memory of the session.
    pub fn memory(&self) -> Memory {
        self.session.memory()
    }

    /// Continues token ids and prints the new ones, separated by commas.
    ///
    /// # Errors
    /// If the ids do not fit, or the model fails.
    pub fn continue_ids(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        self.history = ids.to_vec();
        let mut separator = "";
        self.go(&mut |id| {
            print_now(&format!("{separator}{id}"));
            separator = ",";
            ControlFlow::Continue(())
        })?;
        println!();
        Ok(())
    }

    /// Continues a text and prints what is added, as soon as it is certain; ends with a line end.
    ///
    /// # Errors
    /// If the ids do not fit, or the model fails.
    pub fn continue_text(&mut self, ids: Vec<u32>, tokenizer: &Tokenizer) -> anyhow::Result<String> {
        self.history = ids;
        let mut stream = TextStream::new(self.generation.stop.clone())?;
        let (mut said, mut stopped) = (String::new(), false);
        let mut show = |text: &str| {
            print_now(text);
            said += text;
        };
        self.go(&mut |id| {
            let mut text = String::new();
            let bytes = if tokenizer.is_special(id) { Vec::new() } else { tokenizer.token_bytes(id) };
            stopped = stream.push(&bytes, &mut text).is_some();
            show(&text);
            if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if !stopped {
            let mut text = String::new();
            stream.finish(&mut text);
            show(&text);
        }
        println!();
        Ok(said)
    }

    /// Generates after the history.
    fn go(&mut self, on_token: &mut dyn FnMut(u32) -> ControlFlow<()>) -> anyhow::Result<()> {
        let (fed, held) = (self.history.len(), self.session.length(0)? as usize);
        let room = (self.context as usize).saturating_sub(fed);
        ensure!(room > 0, "found {fed} tokens, expected less than the context of {}", self.context);
        let limits = Limits { max_new_tokens: self.generation.n_predict.min(room as u32), eos_ids: &self.eos_ids };
        let start = Instant::now();
        let mut first = None;
        let mut timed = |id| {
            first.get_or_insert_with(Instant::now);
            on_token(id)
        };
        let finish = generate(&mut self.session, 0, &mut self.history, &mut self.sampler, limits, &mut timed)?;
        let first = first.unwrap_or_else(Instant::now);
        self.stats.prompt_tokens += fed - held;
        self.stats.prompt_seconds += (first - start).as_secs_f64();
        self.stats.new_tokens += self.history.len() - fed;
        self.stats.new_seconds += first.elapsed().as_secs_f64();
        self.stats.finish = match finish {
            Finish::Eos(id) => format!("token {id}"),
            Finish::MaxNewTokens => "the limit of tokens".into(),
            Finish::Context => "the end of the context".into(),
            Finish::Caller => "a stop text".into(),
        };
        Ok(())
    }

    /// Makes `ids` the history, keeping the part that the session has read already.
    fn turn_to(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        let held = self.session.length(0)? as usize;
        let known = held < ids.len() && self.history.get(..held) == ids.get(..held);
        if !known {
            self.session.reset(0)?;
        }
        Ok(())
    }
}

/// A conversation.
pub struct Chat {
    template: ChatTemplate,
    messages: Vec<Value>,
}

impl Chat {
    /// A conversation that nobody has said anything in, but for a system message.
    pub fn new(template: ChatTemplate, system: Option<&str>) -> Chat {
        let messages = system.map(|text| message("system", text)).into_iter().collect();
        Chat { template, messages }
    }

    /// Says something and prints the answer.
    ///
    /// # Errors
    /// If the template refuses the conversation, it does not fit the context, or the model fails.
    pub fn say(&mut self, text: &str, speaker: &mut Speaker, tokenizer: &mut Tokenizer) -> anyhow::Result<()> {
        self.messages.push(message("user", text));
        let prompt = self.template.render(&self.messages, &[], Render::AddGenerationPrompt)?;
        let ids = tokenizer.encode(&prompt, AddedTokens::Parse)?;
        let end = tokenizer.id(END_OF_TURN);
        speaker.eos_ids.extend(end.filter(|id| !speaker.eos_ids.contains(id)));
        speaker.turn_to(&ids)?;
        let answer = speaker.continue_text(ids, tokenizer)?;
        self.messages.push(message("assistant", &answer));
        Ok(())
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// The tokenizer that travels in an artifact.
///
/// # Errors
/// If there is none, or one that cannot be used.
pub fn tokenizer(model: &Model) -> anyhow::Result<Tokenizer> {
    let section = model.reader().section(SectionKind::Tokenizer, 0);
    let bytes = section.context("the artifact has no tokenizer, so it takes token ids only: expected --ids")?;
    Ok(Tokenizer::from_json(bytes)?)
}

/// The chat template that travels in an artifact.
///
/// # Errors
/// If there is none, or one that cannot be used.
pub fn chat_template(model: &Model) -> anyhow::Result<ChatTemplate> {
    let text = model.reader().text(SectionKind::ChatTemplate)?;
    Ok(ChatTemplate::new(text.context("the artifact has no chat template, so it cannot chat: expected -p")?)?)
}

/// The defaults for generation that travel in an artifact, under the names of generation_config.json.
///
/// # Errors
/// If the section is not JSON.
pub fn generation_defaults(model: &Model) -> anyhow::Result<Value> {
    let text = model.reader().text(SectionKind::Generation)?;
    text.map_or(Ok(Value::Null), serde_json::from_str).context("section generation: not valid JSON")
}

fn print_now(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A closed pipe has ended the process; other failures of stdout leave nobody to tell.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
