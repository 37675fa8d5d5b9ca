//! What `verify` makes artifacts compute: an artifact against the reference evaluation of its source, or against itself.

use crate::compare::evaluated::Evaluated;
use crate::compare::feed::{Rows, Runner, Wanted, calls, collect};
use crate::compare::guided;
use crate::compare::judge::{Report, judge, judge_columns};
use crate::compare::reference::{Sequence, sequences};
use crate::compare::tensors::{Array, Tensors};
use crate::compare::tolerance::Tolerance;
use jet_frontend::synth::token_ids;
use jet_ir::Rounding;
use jet_runtime::{Session, StateTensor};
use jetbin::{Phase, ProbeKind};

/// Tokens of the prompt, fed in pieces, and tokens fed one by one after it.
const PROMPT: usize = 11;
const STEPS: usize = 4;

/// A reference file without values: the ids to feed, and every key that is wanted of a model of this shape.
pub fn request(session: &Session) -> anyhow::Result<(Tensors, Vec<Sequence>)> {
    let facts = session.model().facts();
    let vocab = facts.vocab_size as usize;
    let total = (PROMPT + STEPS).min(facts.max_context as usize);
    let prompt = total.saturating_sub(STEPS).max(1);
    let ids: Vec<i64> = token_ids(0, 1, vocab, total).into_iter().map(i64::from).collect();
    let mut file = Tensors::new();
    let mut put = |key: &str, array: Array| file.insert(format!("seq0.{key}"), array);
    put("input_ids", Array::i64(ids[..prompt].to_vec()));
    // The last choice is not fed.
    put("greedy_ids", Array::i64(ids[prompt..].iter().copied().chain([0]).collect()));
    put("layer_hidden_positions", Array::i64((0..prompt as i64).collect()));
    for key in ["logits", "decode_logits", "layer_hidden", "last_hidden"] {
        // Only the presence of the key counts, and the number of rows of the logits.
        put(key, Array::f32(&[prompt, 0], Vec::new()));
    }
    for state in session.model().reader().states(session.model().target()).iter() {
        let name = match state.kind {
            jetbin::StateKind::Conv => "conv_state",
            jetbin::StateKind::Delta => "recurrent_state",
            jetbin::StateKind::Keys => "k",
            jetbin::StateKind::Values => "v",
        };
        put(&format!("final.layers.{}.{name}", state.layer), Array::f32(&[0], Vec::new()));
    }
    let found = sequences(&file, vocab, None)?;
    Ok((file, found))
}

/// Compares the session with the reference evaluation of its model half layer by half layer and column by column, each from the
/// session's own residual stream, so that no error of one part is blamed on another or lost in the sum of all.
///
/// # Errors
/// If one of them fails, or the artifact does not show its residual streams.
pub fn against(
    session: &mut Session,
    reference: &mut Evaluated,
    tolerance: Tolerance,
    rounding: Rounding,
    step: &dyn Fn(),
) -> anyhow::Result<Report> {
    let sides = guided::both(session, reference, rounding, &request(session)?.1[0], step)?;
    Ok(judge_columns(&sides.reference, &sides.ours, tolerance))
}

/// Compares the prompt program with the decode program: the same tokens in one piece, and one by one. The normed residual stream is
/// compared where both keep it; a decode program may norm in the head's own kernel.
///
/// # Errors
/// If one of them fails.
pub fn against_itself(session: &mut Session, tolerance: Tolerance, step: &dyn Fn()) -> anyhow::Result<Report> {
    let (mut wanted, whole) = request(session)?;
    if !decode_keeps_last_hidden(session) {
        wanted.remove("seq0.last_hidden");
    }
    let expected = collect(session, &wanted, &whole, false, step)?;
    let mut decoded = OneByOne(session);
    let ours = collect(&mut decoded, &wanted, &whole, false, step)?;
    Ok(judge(&measured(expected), &ours, tolerance))
}

/// Whether the decode program leaves the normed residual stream in memory.
pub fn decode_keeps_last_hidden(session: &Session) -> bool {
    let model = session.model();
    let decode = model.reader().program(model.target(), Phase::Decode);
    decode.is_some_and(|p| p.probes().iter().any(|probe| probe.kind == ProbeKind::LastHidden))
}

/// The calls that [`against`] and [`against_itself`] make, at most.
pub fn steps(session: &Session) -> anyhow::Result<usize> {
    Ok(2 * calls(&request(session)?.1, false))
}

/// Without the greedy ids: on random tokens two of the best may be as good as equal.
fn measured(mut values: Tensors) -> Tensors {
    values.retain(|key, _| !key.ends_with("greedy_ids") && !key.ends_with("choice_logits"));
    values
}

/// A session whose prompts go through the decode program.
struct OneByOne<'s>(&'s mut Session);

impl Runner for OneByOne<'_> {
    fn vocab(&self) -> usize {
        self.0.vocab()
    }
    fn hidden(&self) -> usize {
        self.0.hidden()
    }
    fn reset(&mut self, slot: usize) -> anyhow::Result<()> {
        Runner::reset(self.0, slot)
    }
    fn prefill(&mut self, slot: usize, ids: &[u32], wanted: Wanted) -> anyhow::Result<Rows> {
        let mut rows = Rows::default();
        for &id in ids {
            rows.append(Runner::decode(self.0, &[(slot, id)], wanted)?);
        }
        Ok(rows)
    }
    fn decode(&mut self, batch: &[(usize, u32)], wanted: Wanted) -> anyhow::Result<Rows> {
        Runner::decode(self.0, batch, wanted)
    }
    fn states(&mut self, slot: usize) -> anyhow::Result<Vec<StateTensor>> {
        Runner::states(self.0, slot)
    }
}
