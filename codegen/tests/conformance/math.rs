//! How exact the polynomials and roundings of the legaliser are, against f64.

use crate::bounds::{self, Bound, assert_close, ulps};
use crate::{Engine, cases, kernel};
use jet_codegen::kir::{F32, Scalar, V};

cases! {
    exp_is_exact_to_its_bound,
    exp2_is_exact_to_its_bound,
    exp_stays_finite_and_keeps_nan,
    log_is_exact_to_its_bound,
    sigmoid_is_exact_to_its_bound,
    silu_is_exact_to_its_bound,
    softplus_is_exact_to_its_bound,
    roots_and_quotients_are_as_ieee_says,
}

/// `f` of every element of `x`, by compiled code, 8 lanes at a time.
fn map(e: &Engine, x: &[f32], f: impl for<'k> Fn(V<'k, F32>) -> V<'k, F32>) -> Vec<f32> {
    assert_eq!(x.len() % 8, 0);
    let kernel = kernel(|k| {
        let (x, y, n) = (k.input::<F32>("x"), k.output::<F32>("y"), k.count("n"));
        k.range(0u32, n, 8, (), |i, ()| y.at(i).store(f(x.at(i).load(8))));
    });
    e.run(x, x.len(), &[x.len() as u64], kernel)
}

/// Demands that `f` of every element of `x` is as near to the exact result as the bound says.
fn within(
    e: &Engine,
    bound: &Bound,
    x: &[f32],
    f: impl for<'k> Fn(V<'k, F32>) -> V<'k, F32>,
    exact: impl Fn(f64) -> f64,
) {
    let got = map(e, x, f);
    let error = |(x, y): (&f32, &f32)| {
        let error = ulps(*y, exact(f64::from(*x)));
        assert!(error.is_finite(), "f({x}) = {y}, expected {}", exact(f64::from(*x)));
        error
    };
    let (worst, bound) = (x.iter().zip(&got).map(error).fold(0.0, f64::max), bound.on(e));
    assert!(worst < bound, "{worst} ulp, expected less than {bound}");
}

fn between(lo: f32, hi: f32) -> Vec<f32> {
    let n = 1 << 16;
    (0..n).map(|i| lo + (hi - lo) * (i as f32 / (n - 1) as f32)).collect()
}

/// Numbers of all magnitudes, dense near 1.
fn positive() -> Vec<f32> {
    let mut x = between(0.25, 4.0);
    x.extend((0..1u32 << 16).map(|i| f32::from_bits(0x0080_0000 + i * 0x7e7f)));
    x
}

fn exp_is_exact_to_its_bound(e: &Engine) {
    within(e, &bounds::EXP, &between(-87.3, 88.3), |x| x.exp(), f64::exp);
}

fn exp2_is_exact_to_its_bound(e: &Engine) {
    within(e, &bounds::EXP2, &between(-16.0, 16.0), |x| x.exp2(), f64::exp2);
}

fn exp_stays_finite_and_keeps_nan(e: &Engine) {
    let y = map(e, &[f32::NEG_INFINITY, -1e30, -88.0, 0.0, 88.4, 1e30, f32::INFINITY, f32::NAN], |x| x.exp());
    assert!(y[..3].iter().all(|y| *y > 0.0 && *y < 1.3e-38), "{y:?}");
    assert_eq!(y[3], 1.0);
    assert!(y[4..7].iter().all(|y| *y > 2.3e38 && y.is_finite()), "{y:?}");
    assert!(y[7].is_nan());
}

fn log_is_exact_to_its_bound(e: &Engine) {
    within(e, &bounds::LOG, &positive(), |x| x.log(), f64::ln);
    assert_eq!(map(e, &[1.0; 8], |x| x.log()), [0.0; 8]);
}

fn sigmoid_is_exact_to_its_bound(e: &Engine) {
    within(e, &bounds::SIGMOID, &between(-80.0, 80.0), |x| x.sigmoid(), |x| 1.0 / (1.0 + (-x).exp()));
}

fn silu_is_exact_to_its_bound(e: &Engine) {
    within(e, &bounds::SILU, &between(-80.0, 80.0), |x| x.silu(), |x| x / (1.0 + (-x).exp()));
}

/// Small results are the exponentials of large negative arguments: `ln(1 + x)` must not lose them.
fn softplus_is_exact_to_its_bound(e: &Engine) {
    let exact = |x: f64| if x > 20.0 { x } else { x.exp().ln_1p() };
    within(e, &bounds::SOFTPLUS, &between(-80.0, 30.0), |x| x.softplus(), exact);
    assert_eq!(map(e, &[20.5, 21.0, 60.0, 1e10, 1e30, 88.0, 90.0, 1e4], |x| x.softplus())[2], 60.0);
}

fn roots_and_quotients_are_as_ieee_says(e: &Engine) {
    let x = positive();
    let check = |op, found: Vec<f32>, rounded: fn(f32) -> f32, exact: fn(f64) -> f64| {
        let rounded: Vec<f32> = x.iter().map(|x| rounded(*x)).collect();
        let exact: Vec<f64> = x.iter().map(|x| exact(f64::from(*x))).collect();
        assert_close(e, op, &found, &rounded, &exact);
    };
    check(Scalar::Sqrt, map(e, &x, |x| x.sqrt()), f32::sqrt, f64::sqrt);
    check(Scalar::Rcp, map(e, &x, |x| x.rcp()), |x| 1.0 / x, |x| 1.0 / x);
    check(Scalar::Rsqrt, map(e, &x, |x| x.rsqrt()), |x| 1.0 / x.sqrt(), |x| 1.0 / x.sqrt());
    // the difference is rounded before it is divided
    let exact = |x: f64| f64::from(x as f32 - 3.0) / x;
    check(Scalar::Div, map(e, &x, |x| V::sub(x, 3.0).div(x)), |x| (x - 3.0) / x, exact);
}
