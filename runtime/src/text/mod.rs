//! Text in, text out: tokenizer and chat template of an artifact (cargo feature `text`).

mod chat;
mod json;
mod tokenizer;

pub use chat::{ChatTemplate, Render};
pub use tokenizer::{AddedTokens, Tokenizer};

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
