//! The sequences of a reference file: what to feed, and in what pieces.

use super::tensors::{Array, Tensors};
use anyhow::{Context, bail, ensure};
use std::collections::BTreeSet;

/// One sequence of a reference file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its keys start with this and a dot, for instance `seq0`.
    pub name: String,
    /// Tokens fed before decoding.
    pub prompt: Vec<u32>,
    /// Lengths in which the prompt is fed; their sum is the length of the prompt.
    pub chunks: Vec<usize>,
    /// Tokens fed one by one afterwards, whatever we would have chosen.
    pub forced: Vec<u32>,
    /// How many greedy choices the file holds: the first one follows the prompt, the others each forced token.
    pub n_choices: usize,
    /// Positions of the prompt at which `layer_hidden` is kept.
    pub hidden_positions: Vec<usize>,
    /// Positions of the prompt at which `full_rows` is kept.
    pub full_positions: Vec<usize>,
}

impl Sequence {
    /// Tokens that it takes in all.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.forced.len()
    }

    /// Whether it takes no token; [`sequences`] gives none of this kind.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Finds the sequences: every prefix (`seq0`, `prompt1`, ..) with `input_ids`, or with `mixer_out` or `layer_out` of one layer, which
/// are fed the ids `0 .. rows` (the embedding table then holds the rows of the input).
///
/// `chunks` replaces the pieces that the file names; its last length repeats.
///
/// # Errors
/// If there is no sequence, or if one is malformed: an id outside `vocab`, pieces that do not add up, a position outside the prompt.
pub fn sequences(tensors: &Tensors, vocab: usize, chunks: Option<&[usize]>) -> anyhow::Result<Vec<Sequence>> {
    let names: BTreeSet<&str> =
        tensors.keys().filter_map(|key| key.split_once('.')).map(|(prefix, _)| prefix).collect();
    let found = names
        .iter()
        .map(|name| sequence(tensors, name, vocab, chunks).with_context(|| (*name).to_string()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!found.is_empty(), "no sequence found, expected keys such as seq0.input_ids");
    Ok(found)
}

fn sequence(tensors: &Tensors, name: &str, vocab: usize, chunks: Option<&[usize]>) -> anyhow::Result<Sequence> {
    let get = |key: &str| tensors.get(&format!("{name}.{key}"));
    let integers = |key: &str| match get(key) {
        None => Ok(None),
        Some(array) => array.integers().map(Some).with_context(|| format!("{key}: expected integers")),
    };
    let (prompt, forced, n_choices) = match (integers("input_ids")?, get("layer_out").or(get("mixer_out"))) {
        (Some(ids), _) => {
            let choices = integers("greedy_ids")?.unwrap_or_default();
            let forced = &choices[..choices.len().saturating_sub(1)];
            (token_ids("input_ids", ids, vocab)?, token_ids("greedy_ids", forced, vocab)?, choices.len())
        }
        (None, Some(out)) => block_ids(out, integers("n_prefill")?, vocab)?,
        (None, None) => bail!("expected input_ids, or layer_out of a single layer"),
    };
    ensure!(!prompt.is_empty(), "input_ids: expected at least one token");
    let positions = |key: &str| -> anyhow::Result<Vec<usize>> {
        integers(key)?.unwrap_or_default().iter().map(|&p| position(key, p, prompt.len())).collect()
    };
    let (hidden_positions, full_positions) = (positions("layer_hidden_positions")?, positions("full_rows_positions")?);
    let chunks = match chunks {
        Some(lengths) => repeated(lengths, prompt.len())?,
        None => file_chunks(integers("chunks")?, prompt.len())?,
    };
    Ok(Sequence { name: name.into(), prompt, chunks, forced, n_choices, hidden_positions, full_positions })
}

/// A block case: the ids `0 .. rows`, of which `n_prefill` are the prompt.
fn block_ids(out: &Array, n_prefill: Option<&[i64]>, vocab: usize) -> anyhow::Result<(Vec<u32>, Vec<u32>, usize)> {
    let rows = out.rows();
    ensure!(
        rows <= vocab,
        "found {rows} input rows, this model's embedding has {vocab}; it should hold the input rows"
    );
    let n_prefill = match n_prefill {
        Some(&[n]) => usize::try_from(n).ok().filter(|n| (1..=rows).contains(n)),
        Some(_) => None,
        None => Some(rows),
    };
    let n_prefill = n_prefill.with_context(|| format!("n_prefill: expected one number from 1 to {rows}"))?;
    let ids: Vec<u32> = (0..rows as u32).collect();
    Ok((ids[..n_prefill].to_vec(), ids[n_prefill..].to_vec(), 0))
}

fn token_ids(key: &str, ids: &[i64], vocab: usize) -> anyhow::Result<Vec<u32>> {
    ids.iter()
        .map(|&id| match usize::try_from(id) {
            Ok(valid) if valid < vocab => Ok(valid as u32),
            _ => bail!("{key}: found id {id}, expected less than the vocabulary size {vocab}"),
        })
        .collect()
}

fn position(key: &str, p: i64, length: usize) -> anyhow::Result<usize> {
    let valid = usize::try_from(p).ok().filter(|&p| p < length);
    valid.with_context(|| format!("{key}: found position {p}, expected less than the prompt's length {length}"))
}

fn file_chunks(chunks: Option<&[i64]>, length: usize) -> anyhow::Result<Vec<usize>> {
    let Some(chunks) = chunks else { return Ok(vec![length]) };
    let lengths: Vec<usize> = chunks.iter().filter_map(|&c| usize::try_from(c).ok().filter(|&c| c > 0)).collect();
    let sum: usize = lengths.iter().sum();
    ensure!(lengths.len() == chunks.len() && sum == length, "chunks: found {chunks:?}, expected a sum of {length}");
    Ok(lengths)
}

/// `lengths`, the last one repeated, cut so that they add up to `length`.
fn repeated(lengths: &[usize], length: usize) -> anyhow::Result<Vec<usize>> {
    ensure!(!lengths.is_empty() && !lengths.contains(&0), "chunks: expected lengths of at least 1");
    let mut rest = length;
    let mut out = Vec::new();
    for &chunk in lengths.iter().chain(std::iter::repeat(&lengths[lengths.len() - 1])) {
        if rest == 0 {
            break;
        }
        out.push(chunk.min(rest));
        rest -= chunk.min(rest);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(entries: &[(&str, Array)]) -> Tensors {
        entries.iter().map(|(k, v)| (k.to_string(), v.clone())).collect()
    }

    fn message(entries: &[(&str, Array)], chunks: Option<&[usize]>) -> String {
        format!("{:#}", sequences(&file(entries), 10, chunks).unwrap_err())
    }

    #[test]
    fn prompts_pieces_and_forced_tokens_are_found() {
        let entries = [
            ("seq0.input_ids", Array::i64(vec![1, 2, 3])),
            ("seq0.chunks", Array::i64(vec![2, 1])),
            ("seq0.greedy_ids", Array::i64(vec![4, 5, 6])),
            ("seq0.layer_hidden_positions", Array::i64(vec![0, 2])),
            ("seq1.input_ids", Array::i64(vec![9])),
        ];
        let found = sequences(&file(&entries), 10, None).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (&found[0].prompt[..], &found[0].chunks[..], &found[0].forced[..]),
            (&[1, 2, 3][..], &[2, 1][..], &[4, 5][..])
        );
        assert_eq!((found[0].n_choices, &found[0].hidden_positions[..]), (3, &[0, 2][..]));
        assert_eq!((&found[1].chunks[..], found[1].n_choices), (&[1][..], 0));
        let cut = sequences(&file(&entries), 10, Some(&[1])).unwrap();
        assert_eq!(cut[0].chunks, [1, 1, 1]);
    }

    #[test]
    fn a_block_is_fed_its_row_numbers() {
        let entries = [("seq0.layer_out", Array::f32(&[4, 1], vec![0.0; 4])), ("seq0.n_prefill", Array::i64(vec![3]))];
        let found = sequences(&file(&entries), 10, None).unwrap();
        assert_eq!((&found[0].prompt[..], &found[0].forced[..], found[0].len()), (&[0, 1, 2][..], &[3][..], 4));
    }

    #[test]
    fn the_last_length_repeats() {
        assert_eq!(repeated(&[2, 3], 11).unwrap(), [2, 3, 3, 3]);
        assert_eq!(repeated(&[7], 3).unwrap(), [3]);
    }

    #[test]
    fn malformed_files_are_refused_with_the_reason() {
        let ids = || Array::i64(vec![1, 2, 3]);
        assert_eq!(message(&[], None), "no sequence found, expected keys such as seq0.input_ids");
        assert_eq!(
            message(&[("seq0.logits", Array::f32(&[1], vec![0.0]))], None),
            "seq0: expected input_ids, or layer_out of a single layer"
        );
        assert_eq!(
            message(&[("seq0.input_ids", Array::f32(&[1], vec![0.0]))], None),
            "seq0: input_ids: expected integers"
        );
        assert_eq!(
            message(&[("seq0.input_ids", Array::i64(vec![1, 10]))], None),
            "seq0: input_ids: found id 10, expected less than the vocabulary size 10"
        );
        assert_eq!(
            message(&[("seq0.input_ids", Array::i64(vec![-1]))], None),
            "seq0: input_ids: found id -1, expected less than the vocabulary size 10"
        );
        assert_eq!(
            message(&[("seq0.input_ids", Array::i64(vec![]))], None),
            "seq0: input_ids: expected at least one token"
        );
        assert_eq!(
            message(&[("seq0.input_ids", ids()), ("seq0.chunks", Array::i64(vec![2, 2]))], None),
            "seq0: chunks: found [2, 2], expected a sum of 3"
        );
        assert_eq!(
            message(&[("seq0.input_ids", ids()), ("seq0.chunks", Array::i64(vec![4, -1]))], None),
            "seq0: chunks: found [4, -1], expected a sum of 3"
        );
        assert_eq!(
            message(&[("seq0.input_ids", ids())], Some(&[2, 0])),
            "seq0: chunks: expected lengths of at least 1"
        );
        assert_eq!(
            message(&[("seq0.input_ids", ids()), ("seq0.full_rows_positions", Array::i64(vec![3]))], None),
            "seq0: full_rows_positions: found position 3, expected less than the prompt's length 3"
        );
        assert_eq!(
            message(&[("seq0.layer_out", Array::f32(&[11, 1], vec![0.0; 11]))], None),
            "seq0: found 11 input rows, this model's embedding has 10; it should hold the input rows"
        );
        assert_eq!(
            message(
                &[("seq0.layer_out", Array::f32(&[4], vec![0.0; 4])), ("seq0.n_prefill", Array::i64(vec![5]))],
                None
            ),
            "seq0: n_prefill: expected one number from 1 to 4"
        );
    }
}
