//! An artifact half layer by half layer against the reference evaluation.
//!
//! Each mixer, each MLP and the head of the reference start from the residual stream that the artifact itself had there; compared is what each
//! of them adds to it. Every error is then that of one part, which few roundings make. End to end, an element next to the border between two
//! codes falls on either side of it, and after some layers two evaluations of rounded rows have little more in common than what the model means.

use super::evaluated::Evaluated;
use super::feed::{Rows, Runner, Wanted};
use super::reference::Sequence;
use super::tensors::{Array, Tensors};
use crate::selftest;
use jet_ir::Rounding;
use jet_runtime::Session;

/// Values of both sides under the same keys.
pub struct Sides {
    /// The reference's.
    pub reference: Tensors,
    /// The artifact's.
    pub ours: Tensors,
}

/// Feeds the prompt of a sequence at once and what is forced one by one to slot 0 of both. `step` is told about every call. The normed residual stream is
/// compared where both programs keep it; a decode program of a GPU norms inside the head's kernel.
///
/// # Errors
/// If one of them fails, or the artifact does not show its residual streams.
pub fn both(
    session: &mut Session,
    reference: &mut Evaluated,
    rounding: Rounding,
    fed: &Sequence,
    step: &dyn Fn(),
) -> anyhow::Result<Sides> {
    let last_hidden = selftest::decode_keeps_last_hidden(session);
    let all = Wanted { logits: true, layer_hidden: true, mixer_hidden: true, last_hidden };
    Runner::reset(session, 0)?;
    reference.reset(0)?;
    let (mut ours, mut theirs) = (Rows::default(), Rows::default());
    let mut call = |ids: &[u32], rows: Rows| -> anyhow::Result<()> {
        theirs.append(reference.guided(0, ids, rounding, &rows)?);
        ours.append(rows);
        step();
        Ok(())
    };
    call(&fed.prompt, Runner::prefill(session, 0, &fed.prompt, all)?)?;
    for &id in &fed.forced {
        call(&[id], Runner::decode(session, &[(0, id)], all)?)?;
    }
    let (vocab, hidden) = (Runner::vocab(session), Runner::hidden(session));
    let mut sides =
        Sides { reference: values(&theirs, &ours, vocab, hidden), ours: values(&ours, &ours, vocab, hidden) };
    for (side, states) in [(&mut sides.reference, reference.states(0)?), (&mut sides.ours, Runner::states(session, 0)?)]
    {
        side.extend(states.into_iter().map(|state| {
            let key = format!("layers.{:02}.{}", state.layer, state.name);
            (key, Array::f32(&state.shape, state.values))
        }));
    }
    Ok(sides)
}

/// What each part of the model made of the residual streams `given`.
fn values(rows: &Rows, given: &Rows, vocab: usize, hidden: usize) -> Tensors {
    let mut keys = Tensors::new();
    let mut put = |key: String, columns: usize, values: Vec<f32>| {
        keys.insert(key, Array::f32(&[values.len() / columns, columns], values));
    };
    let added = |after: &[f32], before: &[f32]| after.iter().zip(before).map(|(a, b)| a - b).collect();
    put("embedding".into(), hidden, rows.layer_hidden[0].clone());
    for (layer, mixed) in rows.mixer_hidden.iter().enumerate() {
        put(format!("layers.{layer:02}.mixer"), hidden, added(mixed, &given.layer_hidden[layer]));
        let out = &rows.layer_hidden[layer + 1];
        put(format!("layers.{layer:02}.mlp"), hidden, added(out, &given.mixer_hidden[layer]));
    }
    if !given.last_hidden.is_empty() {
        put("last_hidden".into(), hidden, rows.last_hidden.clone());
    }
    put("logits".into(), vocab, rows.logits.clone());
    keys
}
