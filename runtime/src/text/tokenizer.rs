//! Text to ids, and ids to bytes.

use super::TextError;
use std::collections::HashMap;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::{Model, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// What to do with the text of added tokens, such as `<|im_end|>`, when it occurs in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddedTokens {
    /// They become single ids: for prompts that a chat template has rendered.
    Parse,
    /// Those that are marked as special are treated as plain text, the others become single ids.
    SpecialAsText,
    /// All are treated as plain text: for text that is not to be trusted.
    AllAsText,
}

/// A byte-level tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Byte that a character of the byte-level alphabet stands for.
    byte_of: HashMap<char, u8>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is damaged, or if its decoder is not byte-level: then the bytes of a single token are not defined.
    pub fn from_json(json: &[u8]) -> Result<Self, TextError> {
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| TextError::Tokenizer(e.to_string()))?;
        match inner.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => Ok(Self { inner, byte_of: byte_alphabet() }),
            Some(other) => {
                let problem = format!("the decoder is {other:?}, expected a byte-level one");
                Err(TextError::Tokenizer(problem))
            }
            None => Err(TextError::Tokenizer("there is no decoder, expected a byte-level one".into())),
        }
    }

    /// Ids of a text.
    ///
    /// # Errors
    /// If the tokenizer's model has no id for a part of the text.
    pub fn encode(&mut self, text: &str, added: AddedTokens) -> Result<Vec<u32>, TextError> {
        let failed = |e: tokenizers::Error| TextError::Tokenizer(e.to_string());
        if added == AddedTokens::AllAsText {
            return self.encode_plain(text).map_err(failed);
        }
        self.inner.set_encode_special_tokens(added == AddedTokens::SpecialAsText);
        Ok(self.inner.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }

    /// The pipeline without its first stage, which looks for added tokens.
    fn encode_plain(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let mut text = tokenizers::NormalizedString::from(text);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut text)?;
        }
        let mut parts = PreTokenizedString::from(text);
        if let Some(splitter) = self.inner.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut parts)?;
        }
        let model = self.inner.get_model();
        parts.tokenize(|part| model.tokenize(part.get()))?;
        let tokens = parts.get_splits(OffsetReferential::Original, OffsetType::None);
        Ok(tokens.into_iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten().map(|t| t.id).collect())
    }

    /// The id of a token by its text, for instance `<|im_end|>`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether a token is marked as special: such tokens are mostly left out of shown text.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .simple_id_to_token(id)
            .is_some_and(|t| self.inner.get_added_vocabulary().is_special_token(&t))
    }

    /// The bytes of a token; none for an id without text. Feed them to
    /// [`TextStream`](crate::stop::TextStream): a token need not be whole characters.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        if let Some(added) = self.inner.get_added_vocabulary().simple_id_to_token(id) {
            return added.into_bytes();
        }
        let Some(token) = self.inner.get_model().id_to_token(id) else { return Vec::new() };
        let mut bytes = Vec::with_capacity(token.len());
        for c in token.chars() {
            match self.byte_of.get(&c) {
                Some(&byte) => bytes.push(byte),
                // Not of the alphabet: such a character stands for itself.
                None => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        bytes
    }

    /// The text of ids, with or without special tokens; what is not UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let shown = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = shown.flat_map(|&id| self.token_bytes(id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The byte-level alphabet: printable bytes of Latin-1 stand for themselves, the others for U+0100 and following.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = '\u{100}'..;
    (0..=255).map(|b| (if printable(b) { char::from(b) } else { others.next().unwrap_or_default() }, b)).collect()
}
