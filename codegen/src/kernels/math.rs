//! Scalar mathematics that kernels share: functions of lanes, the same on every target.

use crate::kir::{F32, Operand, V};

/// Sums of the Cody-Waite reduction: `ln 2` in two parts, the first exact in few bits.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// `(e^r - 1 - r) / r^2` on `|r| <= ln 2 / 2`, fitted for the smallest relative error of `e^r` (the coefficients of Cephes).
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
/// Adding `1.5 * 2^23` rounds to an integer that can be read from the low bits.
const MAGIC: f32 = 12_582_912.0;

/// `e^x` within 2 units in the last place, clamped to finite results (`x` in `[-87.3, 88]`).
pub fn exp(x: V<'_, F32>) -> V<'_, F32> {
    let x = x.max(-87.3).min(88.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = n.fma(-LN_2[1], n.fma(-LN_2[0], x));
    let start = EXP[0].on(x.k).splat(x.lanes());
    let tail = EXP[1..].iter().fold(start, |p, c| p.fma(r, *c));
    let scale = shifted.as_i32().shl(23).iadd(0x3f80_0000i32).as_f32();
    (tail.fma(r * r, r) + 1.0) * scale
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: V<'_, F32>) -> V<'_, F32> {
    one(x) / (exp(-x) + 1.0)
}

/// `x sigmoid(x)`.
pub fn silu(x: V<'_, F32>) -> V<'_, F32> {
    x / (exp(-x) + 1.0)
}

/// `ln(1 + e^x)`, without cancellation: `max(x, 0) + ln(1 + e^-|x|)`. Above 20 that is `x` to the last bit, as in PyTorch.
pub fn softplus(x: V<'_, F32>) -> V<'_, F32> {
    x.max(0.0) + ln_1p(exp(-x.abs()))
}

/// `ln(1 + e)` for `e` in `[0, 1]`: `2 artanh(e / (2 + e))` as a series, whose first neglected term is below 2e-8.
fn ln_1p(e: V<'_, F32>) -> V<'_, F32> {
    let s = e / (e + 2.0);
    let z = s * s;
    let start = (2.0f32 / 13.0).on(e.k).splat(e.lanes());
    let sum = [11.0f32, 9.0, 7.0, 5.0, 3.0, 1.0].iter().fold(start, |p, n| p.fma(z, 2.0 / n));
    s * sum
}

/// `1 / sqrt(x)`, both operations correctly rounded.
pub fn rsqrt(x: V<'_, F32>) -> V<'_, F32> {
    one(x) / x.sqrt()
}

fn one<'k>(x: V<'k, F32>) -> V<'k, F32> {
    1.0f32.on(x.k).splat(x.lanes())
}
