//! How exact the polynomials and roundings of the legaliser are, against f64.

use crate::{Engine, cases, kernel};
use jet_codegen::kir::{F32, V};

cases! {
    exp_within_1_ulp,
    exp_stays_finite_and_keeps_nan,
    log_within_1_25_ulp,
    sigmoid_within_2_ulp,
    silu_within_2_5_ulp,
    softplus_within_2_ulp,
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

/// The largest error in units of the last place of the exact result.
fn worst_ulp(x: &[f32], got: &[f32], exact: impl Fn(f64) -> f64) -> f64 {
    let ulp =
        |y: f64| f64::from(f32::EPSILON) * 2f64.powi(y.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor() as i32);
    let error = |(x, y): (&f32, &f32)| {
        let want = exact(f64::from(*x));
        let e = (f64::from(*y) - want).abs() / ulp(want);
        assert!(e.is_finite(), "f({x}) = {y}, expected {want}");
        e
    };
    x.iter().zip(got).map(error).fold(0.0, f64::max)
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

fn exp_within_1_ulp(e: &Engine) {
    let x = between(-87.3, 88.3);
    let worst = worst_ulp(&x, &map(e, &x, |x| x.exp()), f64::exp);
    assert!(worst < 1.0, "{worst} ulp");
}

fn exp_stays_finite_and_keeps_nan(e: &Engine) {
    let y = map(e, &[f32::NEG_INFINITY, -1e30, -88.0, 0.0, 88.4, 1e30, f32::INFINITY, f32::NAN], |x| x.exp());
    assert!(y[..3].iter().all(|y| *y > 0.0 && *y < 1.3e-38), "{y:?}");
    assert_eq!(y[3], 1.0);
    assert!(y[4..7].iter().all(|y| *y > 2.3e38 && y.is_finite()), "{y:?}");
    assert!(y[7].is_nan());
}

fn log_within_1_25_ulp(e: &Engine) {
    let x = positive();
    let worst = worst_ulp(&x, &map(e, &x, |x| x.log()), f64::ln);
    assert!(worst < 1.25, "{worst} ulp");
    assert_eq!(map(e, &[1.0; 8], |x| x.log()), [0.0; 8]);
}

fn sigmoid_within_2_ulp(e: &Engine) {
    let x = between(-80.0, 80.0);
    let worst = worst_ulp(&x, &map(e, &x, |x| x.sigmoid()), |x| 1.0 / (1.0 + (-x).exp()));
    assert!(worst < 2.0, "{worst} ulp");
}

fn silu_within_2_5_ulp(e: &Engine) {
    let x = between(-80.0, 80.0);
    let worst = worst_ulp(&x, &map(e, &x, |x| x.silu()), |x| x / (1.0 + (-x).exp()));
    assert!(worst < 2.5, "{worst} ulp");
}

/// Small results are the exponentials of large negative arguments: `ln(1 + x)` must not lose them.
fn softplus_within_2_ulp(e: &Engine) {
    let x = between(-80.0, 30.0);
    let worst = worst_ulp(&x, &map(e, &x, |x| x.softplus()), |x| if x > 20.0 { x } else { x.exp().ln_1p() });
    assert!(worst < 2.0, "{worst} ulp");
    assert_eq!(map(e, &[20.5, 21.0, 60.0, 1e10, 1e30, 88.0, 90.0, 1e4], |x| x.softplus())[2], 60.0);
}

fn roots_and_quotients_are_as_ieee_says(e: &Engine) {
    let x = positive();
    let same =
        |got: Vec<f32>, want: &dyn Fn(f32) -> f32| x.iter().zip(got).for_each(|(x, y)| assert_eq!(y, want(*x), "{x}"));
    same(map(e, &x, |x| x.sqrt()), &f32::sqrt);
    same(map(e, &x, |x| x.rcp()), &|x| 1.0 / x);
    same(map(e, &x, |x| x.rsqrt()), &|x| 1.0 / x.sqrt());
    same(map(e, &x, |x| V::sub(x, 3.0).div(x)), &|x| (x - 3.0) / x);
}
