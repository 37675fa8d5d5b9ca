//! Text in, text out: tokenizer and chat template of an artifact (cargo feature `text`).

mod chat;
mod json;
mod tokenizer;

pub use chat::{ChatTemplate, Render};
pub use tokenizer::{AddedTokens, Tokenizer};

use crate::Model;
use jetbin::SectionKind;

/// Tokens with which chat formats end a turn, whether or not a model's configuration says so.
const TURN_ENDS: [&str; 1] = ["<|im_end|>"];

impl Tokenizer {
    /// The tokenizer of an artifact; `None` for one that takes ids only.
    ///
    /// # Errors
    /// If it is of a kind that cannot be used.
    pub fn of(model: &Model) -> Result<Option<Self>, TextError> {
        model.reader().section(SectionKind::Tokenizer, 0).map(Self::from_json).transpose()
    }

    /// Ids that end a text: those of the model, and those that end a turn of a chat.
    pub fn end_ids(&self, model: &Model) -> Vec<u32> {
        let turn_ends = TURN_ENDS.iter().filter_map(|t| self.id(t));
        let mut ids: Vec<u32> = model.facts().eos_ids.iter().copied().chain(turn_ends).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl ChatTemplate {
    /// The chat template of an artifact, if it has one.
    ///
    /// # Errors
    /// If it is not Jinja.
    pub fn of(model: &Model) -> Result<Option<Self>, TextError> {
        let source = model.reader().text(SectionKind::ChatTemplate).map_err(|e| TextError::Template(e.to_string()))?;
        source.map(Self::new).transpose()
    }
}

/// What can go wrong with text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The tokenizer is damaged or of a kind that cannot be used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template is damaged.
    #[error("chat template: {0}")]
    Template(String),
    /// A message does not have the form that the template needs.
    #[error("message {index}: {problem}")]
    Message {
        /// Index in the conversation.
        index: usize,
        /// What was found, what was expected.
        problem: String,
    },
}
