//! Every op's meaning against formulas that are written here anew and share nothing with it.

mod cases;
mod oracle;

use cases::{Case, cases};
use jet_ir::{Mat, Op, Real, Value};

fn convert<R: Real>(value: &Value<f64>) -> Value<R> {
    let mat = |m: &Mat<f64>| Mat { rows: m.rows, cols: m.cols, data: m.data.iter().map(|x| R::of(*x)).collect() };
    match value {
        Value::Mat(m) => Value::Mat(mat(m)),
        Value::Grid { first, second } => Value::Grid { first: mat(first), second: second.as_ref().map(mat) },
    }
}

fn results<R: Real>(value: &Value<R>) -> Vec<&Mat<R>> {
    match value {
        Value::Mat(m) => vec![m],
        Value::Grid { first, second } => std::iter::once(first).chain(second).collect(),
    }
}

fn check<R: Real>(case: &Case, tolerance: f64) {
    let args: Vec<Value<R>> = case.args.iter().map(convert).collect();
    let found = case.op.eval(&args.iter().collect::<Vec<_>>());
    let (found, expected) = (results(&found), results(&case.expected));
    let shapes = |mats: &[(usize, usize)]| format!("{mats:?}");
    let found_shapes: Vec<_> = found.iter().map(|m| (m.rows, m.cols)).collect();
    let expected_shapes: Vec<_> = expected.iter().map(|m| (m.rows, m.cols)).collect();
    assert_eq!(shapes(&found_shapes), shapes(&expected_shapes), "{:?}", case.op);
    for (f, e) in found.iter().zip(expected) {
        let scale = e.data.iter().fold(1.0f64, |top, x| top.max(x.abs()));
        for (i, (f, e)) in f.data.iter().zip(&e.data).enumerate() {
            let difference = (f.to_f64() - e).abs();
            assert!(difference <= tolerance * scale, "{:?}, element {i}: found {f:?}, expected {e:?}", case.op);
        }
    }
}

/// Different orders of summation of at most a hundred terms, and a recurrence of at most 23 steps.
#[test]
fn every_op_in_f64() {
    cases().iter().for_each(|case| check::<f64>(case, 1e-13));
}

/// The same in f32, where one rounding is 6e-8; inputs are exact in f32.
#[test]
fn every_op_in_f32() {
    cases().iter().for_each(|case| check::<f32>(case, 4e-6));
}

#[test]
fn no_op_is_left_out() {
    let cases = cases();
    for info in Op::TABLE {
        let n = cases.iter().filter(|case| case.op.info().name == info.name).count();
        assert!(n >= 2, "{}: {n} cases", info.name);
    }
}
