//! Feeds the sequences of a reference to a model and collects our values under the reference's keys.

use super::judge::argmax;
use super::reference::Sequence;
use super::tensors::{Array, Tensors};
use jet_runtime::StateTensor;

/// Something that runs sequences: an artifact in the runtime, or the reference evaluation of a graph.
pub trait Runner {
    /// Columns of the logits.
    fn vocab(&self) -> usize;
    /// Width of the residual stream.
    fn hidden(&self) -> usize;
    /// Makes a slot a fresh sequence.
    ///
    /// # Errors
    /// If there is no such slot.
    fn reset(&mut self, slot: usize) -> anyhow::Result<()>;
    /// Feeds consecutive tokens of one sequence.
    ///
    /// # Errors
    /// If they do not fit, or the model fails.
    fn prefill(&mut self, slot: usize, ids: &[u32], wanted: Wanted) -> anyhow::Result<Rows>;
    /// Feeds one token to each of some sequences; a row of the result for each.
    ///
    /// # Errors
    /// If they do not fit, or the model fails.
    fn decode(&mut self, batch: &[(usize, u32)], wanted: Wanted) -> anyhow::Result<Rows>;
    /// The states of a sequence.
    ///
    /// # Errors
    /// If there is no such slot.
    fn states(&mut self, slot: usize) -> anyhow::Result<Vec<StateTensor>>;
}

/// What to keep of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Logits of every row.
    pub logits: bool,
    /// Residual streams between layers.
    pub layer_hidden: bool,
    /// Residual streams between mixer and MLP.
    pub mixer_hidden: bool,
    /// The residual stream after the final norm.
    pub last_hidden: bool,
}

/// What a run gave, row by row; what was not wanted is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// `[rows, vocab]`.
    pub logits: Vec<f32>,
    /// Embedding output, then the output of each layer: each `[rows, hidden]`.
    pub layer_hidden: Vec<Vec<f32>>,
    /// Of each layer: `[rows, hidden]`.
    pub mixer_hidden: Vec<Vec<f32>>,
    /// `[rows, hidden]`.
    pub last_hidden: Vec<f32>,
}

impl Rows {
    /// Appends later rows of the same sequence.
    pub fn append(&mut self, later: Rows) {
        let append_all = |to: &mut Vec<Vec<f32>>, from: Vec<Vec<f32>>| {
            to.resize(to.len().max(from.len()), Vec::new());
            to.iter_mut().zip(from).for_each(|(t, f)| t.extend(f));
        };
        self.logits.extend(later.logits);
        append_all(&mut self.layer_hidden, later.layer_hidden);
        append_all(&mut self.mixer_hidden, later.mixer_hidden);
        self.last_hidden.extend(later.last_hidden);
    }

    /// Row `row` of `rows`.
    fn one(&self, row: usize, rows: usize) -> Rows {
        let cut = |values: &Vec<f32>| {
            let width = values.len() / rows;
            values[row * width..(row + 1) * width].to_vec()
        };
        Rows {
            logits: cut(&self.logits),
            layer_hidden: self.layer_hidden.iter().map(cut).collect(),
            mixer_hidden: self.mixer_hidden.iter().map(cut).collect(),
            last_hidden: cut(&self.last_hidden),
        }
    }
}

/// What a sequence gave.
#[derive(Default)]
struct Collected {
    prefill: Rows,
    decode: Rows,
    prefill_states: Vec<StateTensor>,
    final_states: Vec<StateTensor>,
}

/// Runs the sequences, each alone or all together as one ragged batch, and gives our values of the reference's keys, `logits`
/// and `decode_logits` in full. `step` is told about every call.
///
/// # Errors
/// If the model fails, or a sequence does not fit.
pub fn collect(
    runner: &mut dyn Runner,
    reference: &Tensors,
    sequences: &[Sequence],
    together: bool,
    step: &dyn Fn(),
) -> anyhow::Result<Tensors> {
    let mut ours = Tensors::new();
    let groups: Vec<&[Sequence]> = if together { vec![sequences] } else { sequences.chunks(1).collect() };
    for group in groups {
        for (sequence, run) in group.iter().zip(run_group(runner, reference, group, step)?) {
            ours.extend(keys_of(runner, reference, sequence, run));
        }
    }
    Ok(ours)
}

/// The calls that [`collect`] makes.
pub fn calls(sequences: &[Sequence], together: bool) -> usize {
    let prefills: usize = sequences.iter().map(|s| s.chunks.len()).sum();
    let forced = sequences.iter().map(|s| s.forced.len());
    prefills + if together { forced.max().unwrap_or(0) } else { forced.sum() }
}

fn wanted(reference: &Tensors, sequences: &[Sequence]) -> Wanted {
    let any = |names: &[&str]| {
        sequences.iter().any(|s| names.iter().any(|name| reference.contains_key(&format!("{}.{name}", s.name))))
    };
    Wanted {
        logits: sequences.iter().any(|s| s.n_choices > 0) || any(&["logits", "topk_values", "full_rows"]),
        layer_hidden: any(&["layer_hidden", "layer_out", "mixer_out"]),
        mixer_hidden: any(&["mixer_out"]),
        last_hidden: any(&["last_hidden"]),
    }
}

/// Feeds a group of sequences: their prompts chunk by chunk in turn, then one token of each at a time.
fn run_group(
    runner: &mut dyn Runner,
    reference: &Tensors,
    group: &[Sequence],
    step: &dyn Fn(),
) -> anyhow::Result<Vec<Collected>> {
    let wanted = wanted(reference, group);
    let mut runs: Vec<Collected> = group.iter().map(|_| Collected::default()).collect();
    let mut fed = vec![0; group.len()];
    (0..group.len()).try_for_each(|slot| runner.reset(slot))?;
    for round in 0..group.iter().map(|s| s.chunks.len()).max().unwrap_or(0) {
        for (slot, sequence) in group.iter().enumerate() {
            let Some(&length) = sequence.chunks.get(round) else { continue };
            let ids = &sequence.prompt[fed[slot]..fed[slot] + length];
            runs[slot].prefill.append(runner.prefill(slot, ids, wanted)?);
            fed[slot] += length;
            step();
        }
    }
    for (slot, run) in runs.iter_mut().enumerate() {
        run.prefill_states = runner.states(slot)?;
    }
    for round in 0..group.iter().map(|s| s.forced.len()).max().unwrap_or(0) {
        let batch: Vec<_> = (0..group.len()).filter_map(|slot| Some((slot, *group[slot].forced.get(round)?))).collect();
        let rows = runner.decode(&batch, wanted)?;
        for (row, &(slot, _)) in batch.iter().enumerate() {
            runs[slot].decode.append(rows.one(row, batch.len()));
        }
        step();
    }
    for (slot, run) in runs.iter_mut().enumerate() {
        run.final_states = runner.states(slot)?;
    }
    Ok(runs)
}

/// Our values of a sequence under the reference's keys.
fn keys_of(runner: &dyn Runner, reference: &Tensors, sequence: &Sequence, run: Collected) -> Tensors {
    let (vocab, hidden, name) = (runner.vocab(), runner.hidden(), &sequence.name);
    let mut keys = Tensors::new();
    let has = |key: &str| reference.contains_key(&format!("{name}.{key}"));
    let mut put = |key: &str, array: Array| keys.insert(format!("{name}.{key}"), array);
    if has("input_ids") {
        put("input_ids", Array::i64(sequence.prompt.iter().map(|&id| i64::from(id)).collect()));
    } else {
        put("n_prefill", Array::i64(vec![sequence.prompt.len() as i64]));
    }
    put("chunks", Array::i64(sequence.chunks.iter().map(|&n| n as i64).collect()));
    let (prompt, forced) = (sequence.prompt.len(), sequence.forced.len());
    if !run.prefill.logits.is_empty() {
        // A reference may keep the last rows alone.
        let rows = reference.get(&format!("{name}.logits")).map_or(prompt, |a| a.rows().min(prompt));
        put("logits", Array::f32(&[rows, vocab], run.prefill.logits[(prompt - rows) * vocab..].to_vec()));
        put("decode_logits", Array::f32(&[forced, vocab], run.decode.logits.clone()));
        let last = &run.prefill.logits[(prompt - 1) * vocab..];
        let choices: Vec<f32> = last.iter().chain(&run.decode.logits).copied().collect();
        if sequence.n_choices > 0 {
            put("greedy_ids", Array::i64(choices.chunks(vocab).map(|row| argmax(row) as i64).collect()));
            put("choice_logits", Array::f32(&[forced + 1, vocab], choices));
        }
        let full = pick(&run.prefill.logits, vocab, &sequence.full_positions);
        if has("full_rows") {
            put("full_rows_positions", Array::i64(sequence.full_positions.iter().map(|&p| p as i64).collect()));
            put("full_rows", Array::f32(&[sequence.full_positions.len(), vocab], full));
        }
        if has("decode_last_full_row") && forced > 0 {
            put("decode_last_full_row", Array::f32(&[vocab], run.decode.logits[(forced - 1) * vocab..].to_vec()));
        }
    }
    // a program that does not keep these rows has no such key
    if has("last_hidden") && !run.prefill.last_hidden.is_empty() {
        put("last_hidden", Array::f32(&[prompt, hidden], run.prefill.last_hidden.clone()));
    }
    if has("layer_hidden") {
        let positions = &sequence.hidden_positions;
        put("layer_hidden_positions", Array::i64(positions.iter().map(|&p| p as i64).collect()));
        let picked: Vec<f32> = run.prefill.layer_hidden.iter().flat_map(|h| pick(h, hidden, positions)).collect();
        put("layer_hidden", Array::f32(&[run.prefill.layer_hidden.len(), positions.len(), hidden], picked));
    }
    if has("layer_out") || has("mixer_out") {
        for (key, values) in block_outputs(&run) {
            put(key, Array::f32(&[prompt + forced, hidden], values));
        }
    }
    for (phase, states) in [("prefill", run.prefill_states), ("final", run.final_states)] {
        for state in states {
            let key = format!("{phase}.layers.{}.{}", state.layer, state.name);
            if has(&key) {
                put(&key, Array::f32(&state.shape, state.values));
            }
        }
    }
    keys
}

/// Outputs of a model of a single layer: of its mixer without the residual, and of the layer.
fn block_outputs(run: &Collected) -> Vec<(&'static str, Vec<f32>)> {
    let joined = |select: fn(&Rows) -> Option<&Vec<f32>>| -> Option<Vec<f32>> {
        let (prefill, decode) = (select(&run.prefill)?, select(&run.decode));
        Some(prefill.iter().chain(decode.into_iter().flatten()).copied().collect())
    };
    let mut out = Vec::new();
    let input = joined(|rows| rows.layer_hidden.first());
    if let (Some(input), Some(mixed)) = (input, joined(|rows| rows.mixer_hidden.first())) {
        out.push(("mixer_out", mixed.iter().zip(&input).map(|(m, i)| m - i).collect()));
    }
    out.extend(joined(|rows| rows.layer_hidden.get(1)).map(|values| ("layer_out", values)));
    out
}

fn pick(values: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::super::judge::judge;
    use super::super::reference::sequences;
    use super::*;

    /// A model whose every value is the number of tokens that the sequence has seen, plus the id times 100.
    struct Counter {
        seen: Vec<usize>,
        calls: Vec<(usize, usize)>,
    }

    impl Counter {
        fn new() -> Counter {
            Counter { seen: vec![0; 3], calls: Vec::new() }
        }

        fn row(&mut self, slot: usize, id: u32) -> Rows {
            self.seen[slot] += 1;
            let value = self.seen[slot] as f32 + 100.0 * id as f32;
            let hidden = |add: f32| vec![value + add; 2];
            Rows {
                logits: vec![0.0, value, 1.0],
                layer_hidden: vec![hidden(0.0), hidden(0.5)],
                mixer_hidden: vec![hidden(0.25)],
                last_hidden: hidden(0.0),
            }
        }
    }

    impl Runner for Counter {
        fn vocab(&self) -> usize {
            3
        }
        fn hidden(&self) -> usize {
            2
        }
        fn reset(&mut self, slot: usize) -> anyhow::Result<()> {
            self.seen[slot] = 0;
            Ok(())
        }
        fn prefill(&mut self, slot: usize, ids: &[u32], _: Wanted) -> anyhow::Result<Rows> {
            self.calls.push((slot, ids.len()));
            let mut rows = Rows::default();
            ids.iter().for_each(|&id| rows.append(self.row(slot, id)));
            Ok(rows)
        }
        fn decode(&mut self, batch: &[(usize, u32)], _: Wanted) -> anyhow::Result<Rows> {
            self.calls.push((99, batch.len()));
            let mut rows = Rows::default();
            batch.iter().for_each(|&(slot, id)| rows.append(self.row(slot, id)));
            Ok(rows)
        }
        fn states(&mut self, _: usize) -> anyhow::Result<Vec<StateTensor>> {
            Ok(Vec::new())
        }
    }

    fn reference() -> Tensors {
        let mut file = Tensors::new();
        file.insert("a.input_ids".into(), Array::i64(vec![1, 2]));
        file.insert("a.greedy_ids".into(), Array::i64(vec![1, 1]));
        let logits = vec![0.0, 101.0, 1.0, 0.0, 202.0, 1.0];
        file.insert("a.logits".into(), Array::f32(&[2, 3], logits));
        file.insert("a.decode_logits".into(), Array::f32(&[1, 3], vec![0.0, 103.0, 1.0]));
        file.insert("b.input_ids".into(), Array::i64(vec![2, 2, 2]));
        file.insert("b.greedy_ids".into(), Array::i64(vec![1]));
        file.insert("b.layer_hidden_positions".into(), Array::i64(vec![2]));
        file.insert("b.layer_hidden".into(), Array::f32(&[2, 1, 2], vec![203.0, 203.0, 203.5, 203.5]));
        file.insert("b.logits".into(), Array::f32(&[1, 3], vec![0.0, 203.0, 1.0]));
        file.insert("c.n_prefill".into(), Array::i64(vec![2]));
        file.insert("c.layer_out".into(), Array::f32(&[3, 2], vec![1.5, 1.5, 102.5, 102.5, 203.5, 203.5]));
        file.insert("c.mixer_out".into(), Array::f32(&[3, 2], vec![0.25; 6]));
        file
    }

    #[test]
    fn every_key_is_collected_alone_together_and_in_pieces() {
        let file = reference();
        for (together, chunks) in [(false, None), (true, None), (false, Some(&[1][..])), (true, Some(&[2, 1][..]))] {
            let found = sequences(&file, 3, chunks).unwrap();
            let mut runner = Counter::new();
            let told = std::cell::Cell::new(0);
            let ours = collect(&mut runner, &file, &found, together, &|| told.set(told.get() + 1)).unwrap();
            let report = judge(&file, &ours, 0.0);
            assert!(report.passed, "{together} {chunks:?}: {report:#?}");
            assert_eq!(report.keys.len(), 8);
            assert_eq!((told.get(), runner.calls.len()), (calls(&found, together), calls(&found, together)));
        }
    }

    #[test]
    fn a_batch_holds_the_sequences_that_still_decode() {
        let file = reference();
        let found = sequences(&file, 3, Some(&[2])).unwrap();
        let mut runner = Counter::new();
        collect(&mut runner, &file, &found, true, &|| ()).unwrap();
        assert_eq!(runner.calls, [(0, 2), (1, 2), (2, 2), (1, 1), (99, 2)]);
    }
}
