//! What steps read of key-value caches: more and more as a sequence grows, which no schedule can say.

use jetbin::{Arg, ProgramView, Reader, StateKind, StepView};

/// Bytes of keys and values that `step` reads for a sequence that holds `tokens` tokens with the newest. A step that reads both and has no
/// weights is attention; one that appends to them reads nothing.
pub fn read_bytes(
    (reader, target): (&Reader<'_>, u32),
    program: &ProgramView<'_>,
    step: &StepView<'_>,
    tokens: u64,
) -> u64 {
    let states = reader.states(target);
    let indices = program.args_of(step).filter_map(|arg| if let Arg::State(i) = arg { Some(i) } else { None });
    let found: Vec<_> = indices.filter_map(|i| states.get(i)).collect();
    let has = |kind| found.iter().any(|s| s.kind == kind);
    if step.cost.weight_bytes > 0 || !has(StateKind::Keys) || !has(StateKind::Values) {
        return 0;
    }
    let seen = |window: u32| if window == 0 { tokens } else { tokens.min(window.into()) };
    found.iter().map(|s| seen(s.window).min(s.rows.into()) * (s.bytes() / u64::from(s.rows.max(1)))).sum()
}
