//! An artifact in the runtime, as something that runs the sequences of a reference.

use super::feed::{Rows, Runner, Wanted};
use jet_runtime::{Observation, Session, StateTensor};
use jetbin::ProbeKind;

/// A call of the session that shows an observer what it computes.
type Call<'c> = &'c mut dyn FnMut(&mut Session, &mut dyn FnMut(Observation<'_>)) -> jet_runtime::Result<()>;

impl Runner for Session {
    fn vocab(&self) -> usize {
        self.model().facts().vocab_size as usize
    }

    fn hidden(&self) -> usize {
        self.model().facts().hidden_size as usize
    }

    fn reset(&mut self, slot: usize) -> anyhow::Result<()> {
        Ok(Session::reset(self, slot as u32)?)
    }

    fn prefill(&mut self, slot: usize, ids: &[u32], wanted: Wanted) -> anyhow::Result<Rows> {
        let mut rows = Rows::default();
        // The session would split longer pieces itself, and then keep the logits of the last one alone.
        for chunk in ids.chunks(self.model().facts().prefill_chunk as usize) {
            let later = observed(self, wanted, &mut |session, observer| {
                session.prefill_observed(slot as u32, chunk, Some(observer))
            })?;
            rows.append(later);
        }
        Ok(rows)
    }

    fn decode(&mut self, batch: &[(usize, u32)], wanted: Wanted) -> anyhow::Result<Rows> {
        let batch: Vec<_> = batch.iter().map(|&(slot, id)| (slot as u32, id)).collect();
        observed(self, wanted, &mut |session, observer| session.decode_observed(&batch, Some(observer)))
    }

    fn states(&mut self, slot: usize) -> anyhow::Result<Vec<StateTensor>> {
        let n = self.model().reader().states(self.model().target()).len();
        (0..n).map(|state| Ok(self.export_state(slot as u32, state as u32)?)).collect()
    }
}

/// Makes a call and keeps what is wanted of it; the head runs window by window over all rows.
fn observed(session: &mut Session, wanted: Wanted, call: Call<'_>) -> anyhow::Result<Rows> {
    let n_layers = session.model().facts().n_layers as usize;
    let mut rows = Rows::default();
    if wanted.layer_hidden {
        rows.layer_hidden = vec![Vec::new(); n_layers + 1];
    }
    if wanted.mixer_hidden {
        rows.mixer_hidden = vec![Vec::new(); n_layers];
    }
    let keep = &mut |seen: Observation<'_>| match seen.kind {
        ProbeKind::LayerHidden(layer) if wanted.layer_hidden => extend(rows.layer_hidden.get_mut(layer as usize), seen),
        ProbeKind::MixerHidden(layer) if wanted.mixer_hidden => extend(rows.mixer_hidden.get_mut(layer as usize), seen),
        ProbeKind::LastHidden if wanted.last_hidden => extend(Some(&mut rows.last_hidden), seen),
        _ => {}
    };
    call(session, keep)?;
    let mut logits = Vec::new();
    if wanted.logits || wanted.last_hidden {
        let mut row = 0;
        while row < session.rows() {
            let window = session.head(row, Some(keep))?;
            for row in window.clone().filter(|_| wanted.logits) {
                logits.extend_from_slice(session.logits(row)?);
            }
            row = window.end;
        }
    }
    rows.logits = logits;
    Ok(rows)
}

/// Appends the rows that an observer sees; they come in order.
fn extend(to: Option<&mut Vec<f32>>, seen: Observation<'_>) {
    if let Some(to) = to {
        debug_assert_eq!(to.len(), seen.first_row as usize * seen.hidden_size);
        to.extend_from_slice(seen.values);
    }
}
