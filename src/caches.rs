//! What steps do with key-value caches: more and more as a sequence grows, which no schedule can say.

use jetbin::{Arg, ProgramView, Reader, StateKind, StepView};

/// What attention does for a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Keys that the newest token sees. The artifact states the operations of a step of attention for one of them.
    pub keys: u64,
    /// Bytes of these keys and their values.
    pub bytes: u64,
}

/// What `step` sees in a sequence that holds `tokens` tokens with the newest; nothing if it is no attention: a step that reads keys and values
/// and has no weights is, one that appends to them is not.
pub fn seen(
    (reader, target): (&Reader<'_>, u32),
    program: &ProgramView<'_>,
    step: &StepView<'_>,
    tokens: u64,
) -> Option<Seen> {
    let states = reader.states(target);
    let indices = program.args_of(step).filter_map(|arg| if let Arg::State(i) = arg { Some(i) } else { None });
    let found: Vec<_> = indices.filter_map(|i| states.get(i)).collect();
    let has = |kind| found.iter().any(|s| s.kind == kind);
    if step.cost.weight_bytes > 0 || !has(StateKind::Keys) || !has(StateKind::Values) {
        return None;
    }
    let seen = |window: u32, rows: u32| if window == 0 { tokens } else { tokens.min(window.into()) }.min(rows.into());
    let bytes = found.iter().map(|s| seen(s.window, s.rows) * (s.bytes() / u64::from(s.rows.max(1)))).sum();
    Some(Seen { keys: found.iter().map(|s| seen(s.window, s.rows)).max().unwrap_or(0), bytes })
}
