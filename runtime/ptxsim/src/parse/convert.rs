//! `cvt` (PTX ISA, "Data Movement and Conversion Instructions: cvt").

use super::Parsed;
use super::decode::Decoder;
use crate::inst::{Alu1, Alu2, Op, Rounding};
use crate::types::{Kind, Reg, Type};
use Type::*;

const INTEGERS: &[Type] = &[U8, S8, U16, S16, U32, S32, U64, S64];
const ALL: &[Type] = &[U8, S8, U16, S16, U32, S32, U64, S64, F32, F16, Bf16, Bf16x2, F16x2, Tf32];

/// The rounding that is written.
#[derive(Clone, Copy, PartialEq)]
enum Written {
    /// `.rn`: to nearest even, to a floating-point type.
    Nearest,
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
    /// `.rni` and its like: to an integer.
    Integer(Rounding),
}

const ROUNDINGS: &[(&str, Written)] = &[
    ("rn", Written::Nearest),
    ("rna", Written::NearestAway),
    ("rni", Written::Integer(Rounding::Nearest)),
    ("rzi", Written::Integer(Rounding::Zero)),
    ("rmi", Written::Integer(Rounding::Down)),
    ("rpi", Written::Integer(Rounding::Up)),
];

pub fn cvt(x: &mut Decoder) -> Parsed<Op> {
    let rounding = x.optional(ROUNDINGS);
    let relu = x.accept("relu");
    let z = x.accept("ftz");
    let to = x.ty(ALL)?;
    if relu && to != Bf16x2 {
        return Err(x.error("found `.relu`, expected it with bf16x2 alone"));
    }
    if matches!(to, Bf16x2 | F16x2) {
        return packed(x, rounding, relu, z, to);
    }
    let from = x.ty(ALL)?;
    let integers = INTEGERS.contains(&to) && INTEGERS.contains(&from);
    match (to, from, rounding) {
        _ if integers && rounding.is_none() && !z => integer(x, to, from),
        (Bf16, F32, Some(Written::Nearest)) if !z => plain(x, Alu1::ToBf16, to, from),
        (F16, F32, Some(Written::Nearest)) if !z => plain(x, Alu1::ToF16, to, from),
        (F32, F16, None) if !z => plain(x, Alu1::FromF16, to, from),
        (F32, Bf16, None) if !z => {
            x.needs(90, false, "`cvt.f32.bf16`")?;
            plain(x, Alu1::FromBf16, to, from)
        }
        (Tf32, F32, Some(Written::NearestAway)) if !z => plain(x, Alu1::ToTf32, to, from),
        (F32, F32, Some(Written::Integer(r))) => plain(x, Alu1::Round { to: r, z }, to, from),
        (F32, U64 | S64, Some(Written::Nearest)) if !z => {
            let d = x.dst32(F32)?;
            Ok(Op::WideToFloat { signed: from == S64, d, a: x.src64(from)? })
        }
        (F32, U32, Some(Written::Nearest)) if !z => plain(x, Alu1::UnsignedToFloat, to, from),
        (F32, S32, Some(Written::Nearest)) if !z => plain(x, Alu1::SignedToFloat, to, from),
        (S8 | S16 | S32, F32, Some(Written::Integer(r))) => {
            to_integer(x, Alu1::FloatToSigned { to: r, bits: to.bytes() * 8, z }, to)
        }
        (U8 | U16 | U32, F32, Some(Written::Integer(r))) => {
            to_integer(x, Alu1::FloatToUnsigned { to: r, bits: to.bytes() * 8, z }, to)
        }
        _ => Err(x.error(format!(
            "found a conversion from `.{}` to `.{}` in a form that is not known",
            from.name(),
            to.name()
        ))),
    }
}

/// `cvt.rn.bf16x2.f32 d, hi, lo`.
fn packed(x: &mut Decoder, rounding: Option<Written>, relu: bool, z: bool, to: Type) -> Parsed<Op> {
    if rounding != Some(Written::Nearest) || z {
        return Err(x.error(format!("found `cvt` to `.{}`, expected `cvt.rn.{}.f32`", to.name(), to.name())));
    }
    x.require("f32")?;
    let op = if to == Bf16x2 { Alu2::PackBf16 { relu } } else { Alu2::PackF16 };
    Ok(Op::Alu2 { op, d: x.dst32(B32)?, a: x.src32(F32)?, b: x.src32(F32)? })
}

fn plain(x: &mut Decoder, op: Alu1, to: Type, from: Type) -> Parsed<Op> {
    // narrow floating-point values live in untyped registers
    let bits = |t: Type| if t.bytes() == 2 && t.kind() != Kind::Float { B16 } else { t };
    Ok(Op::Alu1 { op, d: x.dst32(bits(to))?, a: x.src32(bits(from))? })
}

fn to_integer(x: &mut Decoder, op: Alu1, to: Type) -> Parsed<Op> {
    match x.dst_wider(to)? {
        Reg::W(d) => Ok(Op::Alu1 { op, d, a: x.src32(F32)? }),
        _ => Err(x.error("found a 64-bit destination, expected 32 bits")),
    }
}

/// Between integers: cut, or extended by the sign of the source; a destination that is wider than its type is extended by the type's sign.
fn integer(x: &mut Decoder, to: Type, from: Type) -> Parsed<Op> {
    let (d, a) = (x.dst_wider(to)?, x.src_wider(from)?);
    let (to_bits, from_bits) = (to.bytes() * 8, from.bytes() * 8);
    if to_bits == 16 && from_bits == 8 && to.is_signed() != from.is_signed() {
        return Err(x.error("found a conversion from 8 to 16 bits that changes the sign, expected equal signs"));
    }
    let (bits, signed) = if to_bits > from_bits { (from_bits, from.is_signed()) } else { (to_bits, to.is_signed()) };
    match (d, a) {
        (Reg::W(d), Reg::W(a)) => Ok(Op::Alu1 { op: Alu1::Extend { bits, signed }, d, a }),
        (Reg::D(d), Reg::W(a)) => Ok(Op::Widen { signed, bits, d, a }),
        (Reg::W(d), Reg::D(a)) => Ok(Op::Narrow { signed, bits, d, a }),
        (Reg::D(d), Reg::D(a)) if bits == 64 => Ok(Op::Wide1 { op: crate::inst::Wide1::Mov, d, a }),
        _ => Err(x.error(format!("found a conversion of 64-bit registers through `.{}`", to.name()))),
    }
}
