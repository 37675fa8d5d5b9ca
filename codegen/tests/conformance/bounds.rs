//! How exact results have to be: the one table of bounds, in units of the last place of the exact result.

use crate::Engine;
use jet_codegen::kir::Scalar;

/// The largest error of a function that is made of several operations.
pub struct Bound {
    /// Where every operation is rounded as IEEE 754 says.
    cpu: f64,
    /// Where reciprocals, quotients and powers of two are instructions that the simulator computes exactly and rounds once. Hardware may
    /// be further off, by what [`instruction`] allows each of them.
    simulated: f64,
}

/// `e^x` in [-87.3, 88.3].
pub const EXP: Bound = Bound { cpu: 1.0, simulated: 1.25 };
/// `2^x` in [-16, 16]: on a CPU `e^(x ln 2)`, whose argument, of up to 11.1, is rounded by up to half a unit of 8, which is 2^-21.
pub const EXP2: Bound = Bound { cpu: 9.0, simulated: 0.51 };
/// `ln x` of positive normal numbers: no approximate instruction is in it.
pub const LOG: Bound = Bound { cpu: 1.25, simulated: 1.25 };
/// `1 / (1 + e^-x)`: where the sum is just above a power of two and its reciprocal just below one, a unit of the sum is two of the result.
pub const SIGMOID: Bound = Bound { cpu: 2.0, simulated: 3.0 };
/// `x / (1 + e^-x)`, likewise.
pub const SILU: Bound = Bound { cpu: 2.5, simulated: 3.0 };
/// `ln(1 + e^x)`.
pub const SOFTPLUS: Bound = Bound { cpu: 2.0, simulated: 2.5 };

impl Bound {
    /// What an engine has to keep.
    pub fn on(&self, e: &Engine) -> f64 {
        if e.approximates() { self.simulated } else { self.cpu }
    }
}

/// What the PTX ISA allows the instruction of an operation; 0 for what it rounds as IEEE 754 says.
fn instruction(op: Scalar) -> f64 {
    match op {
        Scalar::Sqrt | Scalar::Rcp => 1.0,
        Scalar::Div | Scalar::Rsqrt | Scalar::Exp2 => 2.0,
        _ => 0.0,
    }
}

/// The distance from the exact result, in units of its last place.
pub fn ulps(found: f32, exact: f64) -> f64 {
    let normal = exact.abs().max(f64::from(f32::MIN_POSITIVE));
    let unit = f64::from(f32::EPSILON) * 2f64.powi(normal.log2().floor() as i32);
    (f64::from(found) - exact).abs() / unit
}

/// Holds results of `op` against `rounded`, which the engine of a CPU must give bit for bit, or where a GPU approximates against `exact`: results
/// below the normal numbers may be zero there.
pub fn assert_close(e: &Engine, op: Scalar, found: &[f32], rounded: &[f32], exact: &[f64]) {
    assert_eq!((found.len(), exact.len()), (rounded.len(), rounded.len()), "{op:?}");
    let bound = if e.approximates() { instruction(op) } else { 0.0 };
    if bound == 0.0 {
        return assert_eq!(found, rounded, "{op:?}");
    }
    for (f, x) in found.iter().zip(exact) {
        let flushed = *f == 0.0 && x.abs() < f64::from(f32::MIN_POSITIVE);
        assert!(flushed || ulps(*f, *x) <= bound, "{op:?}: found {f}, expected {x} within {bound} ulp");
    }
}
