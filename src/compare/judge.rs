//! Compares our values with a reference, key by key: largest absolute difference, relative L2 norm, best token, equality of ids.

use super::tensors::{Array, Tensors};
use super::tolerance::Tolerance;
use serde::Serialize;

/// How far our values of one key are from the reference's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyReport {
    /// The key.
    pub key: String,
    /// `max |ours - reference|`; for ids, the largest difference of an id.
    pub max_abs: f64,
    /// `|ours - reference|_2 / |reference|_2`; for ids, the share that differs.
    pub relative_l2: f64,
    /// Largest `relative_l2` that is allowed.
    pub tolerance: f64,
    /// `max |reference|`.
    pub reference_max: f64,
    /// Share of the rows whose largest value has the same index, for logits; share of equal ids.
    pub top1: Option<f64>,
    /// Whether it counts; ids that bf16 activations chose do not.
    pub judged: bool,
    /// Whether it is within the tolerance, or does not count.
    pub passed: bool,
    /// Why it could not be compared.
    pub problem: Option<String>,
}

/// A comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Largest allowed relative L2 difference of any key.
    pub tolerance: f64,
    /// Every key that was compared, in alphabetical order.
    pub keys: Vec<KeyReport>,
    /// Largest relative L2 difference.
    pub worst_relative_l2: f64,
    /// Largest absolute difference.
    pub worst_max_abs: f64,
    /// Smallest share of equal best tokens.
    pub worst_top1: f64,
    /// Whether every key passed, and there was one.
    pub passed: bool,
}

impl Report {
    /// The key that takes the largest share of its tolerance, NaN and what could not be compared before all others; none of no keys.
    pub fn nearest(&self) -> Option<&KeyReport> {
        let share = |k: &KeyReport| if k.relative_l2 == 0.0 { 0.0 } else { k.relative_l2 / k.tolerance };
        let judged = self.keys.iter().filter(|k| k.judged);
        judged.reduce(|best, k| if share(k) > share(best) || share(k).is_nan() { k } else { best })
    }
}

/// Distance of two lists of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// `max |ours - reference|`.
    pub max_abs: f64,
    /// `|ours - reference|_2 / |reference|_2`, or the numerator alone if the reference is zero.
    pub relative_l2: f64,
    /// `max |reference|`.
    pub reference_max: f64,
}

/// The distance of our values from the reference's, accumulated in f64. NaN anywhere gives NaN.
///
/// # Panics
/// If the lengths differ.
pub fn distance(reference: &[f32], ours: &[f32]) -> Distance {
    assert_eq!(reference.len(), ours.len());
    let (mut max_abs, mut reference_max, mut squares, mut norm) = (0f64, 0f64, 0f64, 0f64);
    for (&r, &o) in reference.iter().zip(ours) {
        let (r, d) = (f64::from(r), f64::from(o) - f64::from(r));
        // `f64::max` would drop a NaN
        max_abs = if d.abs() <= max_abs { max_abs } else { d.abs() };
        reference_max = reference_max.max(r.abs());
        squares += d * d;
        norm += r * r;
    }
    let relative_l2 = if norm > 0.0 { (squares / norm).sqrt() } else { squares.sqrt() };
    Distance { max_abs: if squares.is_nan() { f64::NAN } else { max_abs }, relative_l2, reference_max }
}

/// Index of the largest value, the first of equals; a NaN is never the largest.
pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &x)| if x > row[best] || row[best].is_nan() { i } else { best })
}

/// Compares every measured key of `reference` with ours. Inputs (`input_ids`, `chunks`, ..) are not compared.
///
/// Where the reference keeps only the `k` largest logits (`topk_values`, `topk_indices`), our full logits are gathered at its indices.
pub fn judge(reference: &Tensors, ours: &Tensors, tolerance: impl Into<Tolerance>) -> Report {
    let tolerance = tolerance.into();
    let keys: Vec<_> = reference
        .iter()
        .filter(|(key, _)| is_measured(key))
        .map(|(key, array)| one_key(key, array, reference, ours, tolerance))
        .collect();
    let judged = || keys.iter().filter(|k| k.judged);
    let worst = |f: fn(&KeyReport) -> f64| judged().map(f).fold(0.0, |a, b| if b <= a { a } else { b });
    Report {
        tolerance: keys.iter().map(|k| k.tolerance).fold(0.0, f64::max),
        worst_relative_l2: worst(|k| k.relative_l2),
        worst_max_abs: worst(|k| k.max_abs),
        worst_top1: keys.iter().filter_map(|k| k.top1).fold(1.0, f64::min),
        passed: !keys.is_empty() && keys.iter().all(|k| k.passed),
        keys,
    }
}

/// [`judge`], and no column may be further away than [`Tolerance::of_column`]: the error of a column in all rows, relative to the root
/// mean square of the columns. So a fault of a single column shows however many there are.
pub fn judge_columns(reference: &Tensors, ours: &Tensors, tolerance: Tolerance) -> Report {
    let mut report = judge(reference, ours, tolerance);
    for key in report.keys.iter_mut().filter(|k| k.problem.is_none()) {
        let sides = (reference.get(&key.key), ours.get(&key.key));
        let (Some((r, columns)), Some(o)) =
            (sides.0.and_then(|r| Some((r.values()?, r.columns()))), sides.1.and_then(Array::values))
        else {
            continue;
        };
        let ((column, error), limit) = (worst_column(r, o, columns), tolerance.of_column(&key.key));
        if error.is_nan() || error > limit {
            let found = format!("column {column}: found an error of {error:.1e} of the usual column");
            key.problem = Some(format!("{found}, expected at most {limit:.1e}"));
            key.passed = false;
        }
    }
    report.passed = !report.keys.is_empty() && report.keys.iter().all(|k| k.passed);
    report
}

/// The column of the largest error, and its error relative to the root mean square of the reference's columns, or the error alone if
/// those are zero.
fn worst_column(reference: &[f32], ours: &[f32], columns: usize) -> (usize, f64) {
    let (mut errors, mut norm) = (vec![0.0; columns], 0.0);
    for (r, o) in reference.chunks(columns).zip(ours.chunks(columns)) {
        for (error, (&r, &o)) in errors.iter_mut().zip(r.iter().zip(o)) {
            *error += (f64::from(o) - f64::from(r)).powi(2);
            norm += f64::from(r).powi(2);
        }
    }
    let worst =
        (0..columns).fold(0, |best, c| if errors[best].is_nan() || errors[c] <= errors[best] { best } else { c });
    let usual = if norm > 0.0 { norm / columns as f64 } else { 1.0 };
    (worst, errors.get(worst).map_or(0.0, |error| (error / usual).sqrt()))
}

/// Whether a key holds results, not inputs or the indices that belong to another key.
fn is_measured(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    let inputs = ["input_ids", "chunks", "n_prefill", "layer_hidden_positions", "full_rows_positions"];
    !inputs.contains(&last) && !last.ends_with("_indices")
}

fn one_key(key: &str, array: &Array, reference: &Tensors, ours: &Tensors, tolerance: Tolerance) -> KeyReport {
    let judged = tolerance.equal_ids || array.integers().is_none();
    let allowed = tolerance.of_key(key);
    let compared = match key.strip_suffix("_values") {
        Some(stem) => gathered(key, stem, reference, ours),
        None => direct(key, array, ours),
    };
    match compared {
        Ok((d, top1)) => {
            let ids_differ = array.integers().is_some() && d.relative_l2 > 0.0;
            let passed = !judged || (!ids_differ && d.relative_l2 <= allowed);
            let Distance { max_abs, relative_l2, reference_max } = d;
            let (key, tolerance, problem) = (key.into(), allowed, None);
            KeyReport { key, max_abs, relative_l2, tolerance, reference_max, top1, judged, passed, problem }
        }
        Err(problem) => KeyReport {
            key: key.into(),
            max_abs: f64::INFINITY,
            relative_l2: f64::INFINITY,
            tolerance: allowed,
            reference_max: 0.0,
            top1: None,
            judged: true,
            passed: false,
            problem: Some(problem),
        },
    }
}

type Compared = Result<(Distance, Option<f64>), String>;

fn direct(key: &str, array: &Array, ours: &Tensors) -> Compared {
    let other = ours.get(key).ok_or("this model has no such value")?;
    if other.shape != array.shape {
        return Err(format!("found shape {:?}, expected {:?}", other.shape, array.shape));
    }
    if let (Some(r), Some(o)) = (array.values(), other.values()) {
        let rows = key.ends_with("logits") || key.ends_with("full_rows") || key.ends_with("full_row");
        return Ok((distance(r, o), rows.then(|| same_best(r, o, array.columns()))));
    }
    let (Some(r), Some(o)) = (array.integers(), other.integers()) else {
        return Err("one side holds integers, the other values".into());
    };
    let differing = r.iter().zip(o).filter(|(a, b)| a != b).count() as f64 / r.len().max(1) as f64;
    let max_abs = r.iter().zip(o).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0) as f64;
    let reference_max = r.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0) as f64;
    Ok((Distance { max_abs, relative_l2: differing, reference_max }, Some(1.0 - differing)))
}

/// Share of the rows with the same best column.
fn same_best(reference: &[f32], ours: &[f32], columns: usize) -> f64 {
    let rows = reference.chunks(columns.max(1)).zip(ours.chunks(columns.max(1)));
    let total = rows.len().max(1);
    rows.filter(|(r, o)| argmax(r) == argmax(o)).count() as f64 / total as f64
}

/// Our full logits at the indices that the reference kept: `STEM_values` and `STEM_indices` of `logits` or `decode_logits`.
fn gathered(key: &str, stem: &str, reference: &Tensors, ours: &Tensors) -> Compared {
    let (values, indices) = match (&reference[key], reference.get(&format!("{stem}_indices"))) {
        (values, Some(indices)) if values.shape == indices.shape && values.shape.len() == 2 => (values, indices),
        _ => return Err(format!("expected {stem}_indices of the same shape [rows, k]")),
    };
    let (Some(r), Some(at)) = (values.values(), indices.integers()) else {
        return Err("expected values in f32 and indices in i64".into());
    };
    let full = full_logits(stem);
    let rows = ours.get(&full).ok_or_else(|| format!("this run has no {full}"))?;
    let (Some(logits), vocab, k) = (rows.values(), rows.columns(), values.columns()) else {
        return Err(format!("{full} holds integers"));
    };
    if rows.rows() != values.rows() {
        return Err(format!("found {} rows, expected {}", rows.rows(), values.rows()));
    }
    let mut gathered = Vec::with_capacity(r.len());
    for (i, &index) in at.iter().enumerate() {
        let column = usize::try_from(index).ok().filter(|&c| c < vocab);
        let column = column.ok_or_else(|| format!("index {index} is outside the vocabulary of {vocab}"))?;
        gathered.push(logits[i / k * vocab + column]);
    }
    let same = (0..values.rows()).filter(|&row| argmax(&logits[row * vocab..][..vocab]) as i64 == at[row * k]).count();
    Ok((distance(r, &gathered), Some(same as f64 / values.rows().max(1) as f64)))
}

/// The full logits that a top-k stem was cut from: `seq0.decode_topk` from `seq0.decode_logits`, `seq0.topk` from `seq0.logits`, and
/// `seq0.top5` (any number: the rows that the greedy ids were chosen from) from `seq0.choice_logits`.
fn full_logits(stem: &str) -> String {
    let (prefix, last) = stem.rsplit_once('.').map_or(("", stem), |(p, l)| (p, l));
    let name = match last {
        "topk" => "logits",
        "decode_topk" => "decode_logits",
        _ => "choice_logits",
    };
    if prefix.is_empty() { name.into() } else { format!("{prefix}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors<const N: usize>(entries: [(&str, Array); N]) -> Tensors {
        entries.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
    }

    #[test]
    fn distances_are_those_of_the_definition() {
        let d = distance(&[3.0, 4.0], &[3.0, 4.5]);
        assert_eq!((d.max_abs, d.relative_l2, d.reference_max), (0.5, 0.1, 4.0));
        assert_eq!(distance(&[0.0, 0.0], &[3.0, 4.0]).relative_l2, 5.0);
        assert_eq!(distance(&[], &[]).relative_l2, 0.0);
        for broken in [f32::NAN, f32::INFINITY] {
            let d = distance(&[1.0, 1.0], &[broken, 1.0]);
            assert!(!d.relative_l2.is_finite() && !d.max_abs.is_finite());
        }
    }

    #[test]
    fn the_first_of_equals_is_best_and_nan_never_is() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -1.0, f32::NAN]), 1);
        assert_eq!(argmax(&[]), 0);
    }

    #[test]
    fn a_key_fails_past_the_tolerance_or_with_nan_or_when_missing() {
        let reference =
            tensors([("seq0.logits", Array::f32(&[1, 2], vec![3.0, 4.0])), ("seq0.chunks", Array::i64(vec![1]))]);
        let report = |value: f32, tolerance| {
            let ours = tensors([("seq0.logits", Array::f32(&[1, 2], vec![3.0, value]))]);
            judge(&reference, &ours, tolerance)
        };
        assert!(report(4.5, 0.11).passed);
        assert!(!report(4.5, 0.09).passed);
        assert!(!report(f32::NAN, 1e9).passed);
        assert_eq!(report(2.5, 1.0).worst_top1, 0.0);
        let missing = judge(&reference, &Tensors::new(), 1.0);
        assert_eq!(missing.keys.len(), 1, "inputs are not compared");
        assert_eq!(missing.keys[0].problem.as_deref(), Some("this model has no such value"));
        assert!(!missing.passed);
        assert!(!judge(&Tensors::new(), &Tensors::new(), 1.0).passed, "nothing compared is not a success");
    }

    #[test]
    fn a_single_column_fails_where_the_whole_passes() {
        let key = |row: Vec<f32>| tensors([("mlp", Array::f32(&[1, 100], row))]);
        let (reference, mut row) = (key(vec![1.0; 100]), vec![1.0; 100]);
        row[37] = 1.5;
        let ours = key(row.clone());
        assert!(judge(&reference, &ours, 0.06).passed);
        assert!(judge_columns(&reference, &ours, 0.13.into()).passed);
        let report = judge_columns(&reference, &ours, 0.12.into());
        let problem = "column 37: found an error of 5.0e-1 of the usual column, expected at most 4.8e-1";
        assert_eq!((report.passed, report.keys[0].problem.as_deref()), (false, Some(problem)));
        row[5] = f32::NAN;
        assert!(judge_columns(&reference, &key(row), f64::INFINITY.into()).keys[0].problem.is_some());
    }

    #[test]
    fn ids_must_be_equal_whatever_the_tolerance() {
        let reference = tensors([("seq0.greedy_ids", Array::i64(vec![1, 2, 3, 4]))]);
        let ours = tensors([("seq0.greedy_ids", Array::i64(vec![1, 2, 3, 9]))]);
        let report = judge(&reference, &ours, 10.0);
        assert!(!report.passed);
        assert_eq!((report.keys[0].top1, report.keys[0].max_abs), (Some(0.75), 5.0));
        assert!(judge(&reference, &reference, 0.0).passed);
    }

    #[test]
    fn other_shapes_are_a_problem_not_a_panic() {
        let reference = tensors([("seq0.logits", Array::f32(&[1, 2], vec![3.0, 4.0]))]);
        let ours = tensors([("seq0.logits", Array::f32(&[2, 1], vec![3.0, 4.0]))]);
        let report = judge(&reference, &ours, 1.0);
        assert_eq!(report.keys[0].problem.as_deref(), Some("found shape [2, 1], expected [1, 2]"));
    }

    #[test]
    fn the_largest_logits_are_compared_at_the_reference_indices() {
        let reference = tensors([
            ("seq0.decode_topk_values", Array::f32(&[2, 2], vec![5.0, 4.0, 7.0, 6.0])),
            (
                "seq0.decode_topk_indices",
                Array { shape: vec![2, 2], data: super::super::tensors::Data::I64(vec![2, 0, 1, 3]) },
            ),
        ]);
        let row = |a: f32| vec![4.0, 0.0, 5.0, 0.0, 0.0, a, 9.0, 6.0];
        let logits = |a| tensors([("seq0.decode_logits", Array::f32(&[2, 4], row(a)))]);
        let report = judge(&reference, &logits(7.0), 1e-9);
        assert!(report.passed && report.keys[0].top1 == Some(0.5), "{report:?}");
        assert!(!judge(&reference, &logits(7.5), 1e-3).passed);
        let mut bad = reference.clone();
        bad.get_mut("seq0.decode_topk_indices").unwrap().data = super::super::tensors::Data::I64(vec![2, 0, 1, 4]);
        let problem = judge(&bad, &logits(7.0), 1.0).keys[0].problem.clone();
        assert_eq!(problem.as_deref(), Some("index 4 is outside the vocabulary of 4"));
    }
}
