//! The loop that makes tokens.

use crate::error::{Error, Result};
use crate::sampling::Sampler;
use crate::session::Session;
use std::ops::ControlFlow;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model chose one of the ids that end a text. It is the last of the history.
    Eos(u32),
    /// As many tokens were made as asked for.
    MaxNewTokens,
    /// The sequence is full.
    Context,
    /// The caller had enough.
    Caller,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Most tokens to make.
    pub max_new_tokens: u32,
    /// Ids that end a text.
    pub eos_ids: &'a [u32],
}

/// Makes tokens after `history`, which is everything said in the sequence so far; the tokens at its end that the
/// session does not hold yet are fed first. Every new token is appended to `history` and, unless it ends the text,
/// shown to `on_token`. Afterwards the session may lack the last one: the next call feeds it.
///
/// # Errors
/// If the history has no token that the session lacks, and as for [`Session::prefill`] and [`Sampler::choose`].
pub fn generate(
    session: &mut Session,
    sequence: u32,
    history: &mut Vec<u32>,
    sampler: &mut Sampler,
    limits: Limits<'_>,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Finish> {
    let held = session.length(sequence)? as usize;
    let new = history.get(held..).filter(|new| !new.is_empty());
    let nothing = || Error::request(format!("{} tokens given, the sequence holds {held} of them", history.len()));
    session.prefill(sequence, new.ok_or_else(nothing)?)?;
    let max_context = session.model().facts().max_context;
    for made in 0..limits.max_new_tokens {
        if made > 0 {
            if session.length(sequence)? == max_context {
                return Ok(Finish::Context);
            }
            session.decode(&[(sequence, history[history.len() - 1])])?;
        }
        let row = session.rows() - 1;
        let id = choose(session, row, sampler, history)?;
        history.push(id);
        if limits.eos_ids.contains(&id) {
            return Ok(Finish::Eos(id));
        }
        if on_token(id).is_break() {
            return Ok(Finish::Caller);
        }
    }
    Ok(Finish::MaxNewTokens)
}

/// The token after a row, of all or of the most likely ones where these decide: the same token either way.
fn choose(session: &mut Session, row: u32, sampler: &mut Sampler, history: &[u32]) -> Result<u32> {
    if sampler.is_argmax() {
        return session.argmax(row);
    }
    // one more than counts, so that equals of the last are known
    if sampler.enough().is_some_and(|n| n < session.keeps())
        && let Some(best) = session.best(row)?
        && let Some(id) = sampler.choose_of(best, history)?
    {
        return Ok(id);
    }
    sampler.choose(session.logits(row)?, history)
}
