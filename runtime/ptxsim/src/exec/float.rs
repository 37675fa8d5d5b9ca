//! Floating-point values: flushing, the narrow formats, minimum and maximum as the ISA has them.

/// The NaN that PTX makes.
pub const NAN: u32 = 0x7fff_ffff;

/// The value of 32 bits, with subnormals as zeros of their sign if `z`.
#[inline(always)]
pub fn input(bits: u32, z: bool) -> f32 {
    let subnormal = z && bits & 0x7f80_0000 == 0;
    f32::from_bits(if subnormal { bits & 0x8000_0000 } else { bits })
}

/// The bits of a result.
#[inline(always)]
pub fn output(x: f32, z: bool) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() {
        NAN
    } else if z && bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

/// To bf16, to nearest even; NaN becomes 0x7fff.
#[inline(always)]
pub fn to_bf16(bits: u32) -> u32 {
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return 0x7fff;
    }
    (bits + 0x7fff + (bits >> 16 & 1)) >> 16
}

#[inline(always)]
pub fn from_bf16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// To tf32 (19 bits at the top): to nearest, ties away from zero.
#[inline(always)]
pub fn to_tf32(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0x7f80_0000 {
        return if bits & 0x7f_ffff != 0 { NAN } else { bits };
    }
    (bits + 0x1000) & !0x1fff
}

/// To f16, to nearest even, by way of an integer multiple of the last place.
pub fn to_f16(bits: u32) -> u32 {
    let x = f64::from(f32::from_bits(bits));
    let sign = bits >> 16 & 0x8000;
    if x.is_nan() {
        return 0x7fff;
    }
    // numbers with a subnormal result share the last place 2^-24
    let exponent = ((bits >> 23 & 0xff) as i32 - 127).max(-14);
    let units = (x.abs() * f64::powi(2.0, 10 - exponent)).round_ties_even();
    let value = ((exponent + 14) as u32 * 1024).wrapping_add(units as u32);
    sign | if exponent > 15 || value >= 0x7c00 { 0x7c00 } else { value }
}

pub fn from_f16(bits: u32) -> f32 {
    let sign = if bits & 0x8000 != 0 { -1.0 } else { 1.0 };
    let (exponent, fraction) = ((bits >> 10 & 31) as i32, f64::from(bits & 1023));
    let value = match exponent {
        31 if fraction != 0.0 => return f32::from_bits(NAN),
        31 => f64::INFINITY,
        0 => fraction * f64::powi(2.0, -24),
        _ => (1024.0 + fraction) * f64::powi(2.0, exponent - 25),
    };
    (sign * value) as f32
}

/// The smaller one, -0 below +0; a number wins over NaN unless `nan`.
#[inline(always)]
pub fn min(a: f32, b: f32, nan: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return one_is_nan(a, b, nan);
    }
    if a < b || (a == b && a.is_sign_negative()) { a } else { b }
}

/// The larger one, likewise.
#[inline(always)]
pub fn max(a: f32, b: f32, nan: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return one_is_nan(a, b, nan);
    }
    if a > b || (a == b && a.is_sign_positive()) { a } else { b }
}

fn one_is_nan(a: f32, b: f32, nan: bool) -> f32 {
    if nan || a.is_nan() && b.is_nan() {
        f32::NAN
    } else if a.is_nan() {
        b
    } else {
        a
    }
}

/// Computes in f64, whose error is far below the last place of f32, and rounds once.
#[inline(always)]
pub fn through_f64(x: f32, f: impl Fn(f64) -> f64) -> f32 {
    f(f64::from(x)) as f32
}
