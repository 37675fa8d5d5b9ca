//! Arithmetic, comparison, logic (PTX ISA, "Integer Arithmetic Instructions" to "Data Movement": `mov`).

use super::Parsed;
use super::decode::Decoder;
use super::operand::Form;
use crate::inst::{Alu1, Alu2, Alu3, Bf16Op, Cmp, Logic, Op, SetpArgs, Shift, Wide1, Wide2};
use crate::types::{Kind, R32, Reg, Type};
use Type::*;

/// `d = op(a)`.
fn one(x: &mut Decoder, op: Alu1, to: Type, from: Type) -> Parsed<Op> {
    Ok(Op::Alu1 { op, d: x.dst32(to)?, a: x.src32(from)? })
}

fn two(x: &mut Decoder, op: Alu2, ty: Type) -> Parsed<Op> {
    Ok(Op::Alu2 { op, d: x.dst32(ty)?, a: x.src32(ty)?, b: x.src32(ty)? })
}

fn three(x: &mut Decoder, op: Alu3, ty: Type) -> Parsed<Op> {
    Ok(Op::Alu3 { op, d: x.dst32(ty)?, a: x.src32(ty)?, b: x.src32(ty)?, c: x.src32(ty)? })
}

fn wide(x: &mut Decoder, op: Wide2, ty: Type) -> Parsed<Op> {
    Ok(Op::Wide2 { op, d: x.dst64(ty)?, a: x.src64(ty)?, b: x.src64(ty)? })
}

/// `mov`, with its packing and unpacking forms.
pub fn mov(x: &mut Decoder) -> Parsed<Op> {
    let ty = x.ty(&[Pred, B16, U16, S16, B32, U32, S32, F32, B64, U64, S64])?;
    let destination = x.operand("a register")?;
    if let Form::List(parts) = &destination.form {
        let half = if ty.bytes() == 8 { B32 } else { B16 };
        if parts.len() != 2 || !matches!(ty, B64 | B32) {
            return Err(destination.place.error("found a list, expected `mov.b64` or `mov.b32` with a list of 2"));
        }
        let part = |n: usize| -> Parsed<Option<R32>> {
            match parts[n].form {
                Form::Name("_", None) => Ok(None),
                Form::Name(name, None) => match x.names.find_register(name) {
                    Some((Reg::W(r), declared)) if half.fits(declared) => Ok(Some(r)),
                    _ => Err(parts[n]
                        .place
                        .error(format!("found `{name}`, expected a register of type `.{}`", half.name()))),
                },
                ref other => Err(parts[n].place.error(format!("found {}, expected a register", other.show()))),
            }
        };
        let (lo, hi) = (part(0)?, part(1)?);
        return Ok(match ty {
            B64 => Op::Unpack64 { lo, hi, a: x.src64(ty)? },
            _ => Op::Unpack32 { lo, hi, a: x.src32(ty)? },
        });
    }
    let Form::Name(name, None) = destination.form else {
        return Err(destination.place.error(format!("found {}, expected a register", destination.form.show())));
    };
    let Some((d, _)) = x.names.find_register(name).filter(|(_, declared)| ty.fits(*declared)) else {
        return Err(destination.place.error(format!("found `{name}`, expected a register of type `.{}`", ty.name())));
    };
    mov_to(x, ty, d)
}

fn mov_to(x: &mut Decoder, ty: Type, d: Reg) -> Parsed<Op> {
    if x.clock(ty) {
        return Ok(Op::Clock { d });
    }
    match d {
        Reg::P(d) => {
            let (a, negate) = x.src_pred()?;
            if negate {
                Err(x.error("found a negated operand, expected a predicate"))
            } else {
                Ok(Op::PredMov { d, a, negate })
            }
        }
        Reg::D(d) => match x.packed(B32)? {
            Some((lo, hi)) => Ok(Op::Pack64 { d, lo, hi }),
            None => Ok(Op::Wide1 { op: Wide1::Mov, d, a: x.src64(ty)? }),
        },
        Reg::W(d) if ty.bytes() == 4 => match x.packed(B16)? {
            Some((lo, hi)) => Ok(Op::Pack32 { d, lo, hi }),
            None => Ok(Op::Alu1 { op: Alu1::Mov, d, a: x.src32(ty)? }),
        },
        Reg::W(d) => Ok(Op::Alu1 { op: Alu1::Mov, d, a: x.src32(ty)? }),
    }
}

/// `add sub mul div rem min max`, for every type.
pub fn arithmetic(x: &mut Decoder) -> Parsed<Op> {
    let name = x.opcode;
    if name == "mul" && x.accept("wide") {
        let ty = x.ty(&[U32, S32])?;
        let to = if ty == U32 { U64 } else { S64 };
        return Ok(Op::MulWide { signed: ty == S32, d: x.dst64(to)?, a: x.src32(ty)?, b: x.src32(ty)?, c: None });
    }
    if name == "mul" && x.accept("hi") {
        let ty = x.ty(&[U32, S32])?;
        return two(x, Alu2::MulHi { signed: ty == S32 }, ty);
    }
    let low = name == "mul" && x.accept("lo");
    if !low && let Some(op) = float(x)? {
        return Ok(op);
    }
    if name == "mul" && !low {
        return Err(x.unexpected("`.lo`, `.hi`, `.wide` or a floating-point type"));
    }
    let ty = x.ty(&[U16, S16, U32, S32, U64, S64])?;
    let signed = ty.is_signed();
    if ty.bytes() == 8 {
        let op = match name {
            "add" => Wide2::Add,
            "sub" => Wide2::Sub,
            "mul" => Wide2::MulLo,
            "div" => Wide2::Div { signed },
            "rem" => Wide2::Rem { signed },
            "min" => Wide2::Min { signed },
            _ => Wide2::Max { signed },
        };
        return wide(x, op, ty);
    }
    let op = match (name, ty.bytes()) {
        ("add", _) => Alu2::Add,
        ("sub", _) => Alu2::Sub,
        ("mul", _) => Alu2::MulLo,
        (_, 2) => return Err(x.error(format!("found `{name}` of 16 bits, expected 32 or 64"))),
        ("div", _) => Alu2::Div { signed },
        ("rem", _) => Alu2::Rem { signed },
        ("min", _) => Alu2::Min { signed },
        _ => Alu2::Max { signed },
    };
    two(x, op, ty)
}

/// The f32 and bf16x2 forms of two operands, if it is one.
fn float(x: &mut Decoder) -> Parsed<Option<Op>> {
    let name = x.opcode;
    let approximate = name == "div" && (x.accept("full") || x.accept("approx"));
    // the default of add, sub and mul is to nearest even too, but lets the assembler contract; both are one rounding here
    let nearest = !approximate && name != "min" && name != "max" && x.accept("rn");
    let z = x.accept("ftz");
    let nan = (name == "min" || name == "max") && x.accept("NaN");
    let found = x.next_modifier().and_then(Type::named);
    let op = match (name, found) {
        (_, Some(Bf16x2)) if !z && !nan && !approximate => return bf16x2(x).map(Some),
        ("add", Some(F32)) => Alu2::FAdd { z },
        ("sub", Some(F32)) => Alu2::FSub { z },
        ("mul", Some(F32)) => Alu2::FMul { z },
        ("div", Some(F32)) if approximate || nearest => Alu2::FDiv { z },
        ("min", Some(F32)) => Alu2::FMin { z, nan },
        ("max", Some(F32)) => Alu2::FMax { z, nan },
        _ if approximate || nearest || z || nan => return Err(x.unexpected("`.f32`")),
        _ => return Ok(None),
    };
    x.require("f32")?;
    two(x, op, F32).map(Some)
}

fn bf16x2(x: &mut Decoder) -> Parsed<Op> {
    let op = match x.opcode {
        "add" => Bf16Op::Add,
        "sub" => Bf16Op::Sub,
        "mul" => Bf16Op::Mul,
        "min" => Bf16Op::Min,
        "max" => Bf16Op::Max,
        other => return Err(x.error(format!("found `{other}` of bf16x2, expected add, sub, mul, min or max"))),
    };
    if matches!(op, Bf16Op::Add | Bf16Op::Sub | Bf16Op::Mul) {
        x.needs(90, false, "an addition or multiplication of bf16x2")?;
    }
    x.require("bf16x2")?;
    two(x, Alu2::Bf16x2(op), Bf16x2)
}

/// `mad.lo`, `mad.hi`, `mad.wide`, `fma.rn`.
pub fn multiply_add(x: &mut Decoder) -> Parsed<Op> {
    if x.opcode == "fma" {
        x.require("rn")?;
        let z = x.accept("ftz");
        return match x.ty(&[F32, Bf16x2])? {
            Bf16x2 if z => Err(x.error("found `.ftz` with bf16x2")),
            Bf16x2 => three(x, Alu3::Bf16x2Fma, Bf16x2),
            _ => three(x, Alu3::Fma { z }, F32),
        };
    }
    #[derive(Clone, Copy)]
    enum Part {
        Lo,
        Hi,
        Wide,
    }
    match x.one_of(&[("lo", Part::Lo), ("hi", Part::Hi), ("wide", Part::Wide)])? {
        Part::Lo => match x.ty(&[U32, S32, U64, S64])? {
            ty if ty.bytes() == 8 => {
                Ok(Op::WideMad { d: x.dst64(ty)?, a: x.src64(ty)?, b: x.src64(ty)?, c: x.src64(ty)? })
            }
            ty => three(x, Alu3::MadLo, ty),
        },
        Part::Hi => {
            let ty = x.ty(&[U32, S32])?;
            three(x, Alu3::MadHi { signed: ty == S32 }, ty)
        }
        Part::Wide => {
            let ty = x.ty(&[U32, S32])?;
            let to = if ty == U32 { U64 } else { S64 };
            let (d, a, b, c) = (x.dst64(to)?, x.src32(ty)?, x.src32(ty)?, x.src64(to)?);
            Ok(Op::MulWide { signed: ty == S32, d, a, b, c: Some(c) })
        }
    }
}

/// `and or xor not`.
pub fn logic(x: &mut Decoder) -> Parsed<Op> {
    let name = x.opcode;
    let ty = x.ty(&[Pred, B16, B32, B64])?;
    match (name, ty) {
        ("not", Pred) => {
            let d = x.dst_pred()?;
            let (a, negate) = x.src_pred()?;
            Ok(Op::PredMov { d, a, negate: !negate })
        }
        (_, Pred) => {
            let op = logic_named(name);
            let d = x.dst_pred()?;
            let ((a, na), (b, nb)) = (x.src_pred()?, x.src_pred()?);
            if na || nb {
                return Err(x.error("found a negated operand, expected predicates"));
            }
            Ok(Op::PredLogic { op, d, a, b })
        }
        ("not", B64) => Ok(Op::Wide1 { op: Wide1::Not, d: x.dst64(ty)?, a: x.src64(ty)? }),
        ("not", _) => one(x, Alu1::Not, ty, ty),
        (_, B64) => {
            let op = match logic_named(name) {
                Logic::And => Wide2::And,
                Logic::Or => Wide2::Or,
                Logic::Xor => Wide2::Xor,
            };
            wide(x, op, ty)
        }
        _ => {
            let op = match logic_named(name) {
                Logic::And => Alu2::And,
                Logic::Or => Alu2::Or,
                Logic::Xor => Alu2::Xor,
            };
            two(x, op, ty)
        }
    }
}

fn logic_named(name: &str) -> Logic {
    match name {
        "and" => Logic::And,
        "or" => Logic::Or,
        _ => Logic::Xor,
    }
}

/// `shl`, `shr`; the amount is always a 32-bit value.
pub fn shift(x: &mut Decoder) -> Parsed<Op> {
    let left = x.opcode == "shl";
    let allowed: &[Type] = if left { &[B16, B32, B64] } else { &[B16, U16, B32, U32, S32, B64, U64, S64] };
    let ty = x.ty(allowed)?;
    let op = match (left, ty.is_signed()) {
        (true, _) => Shift::Left,
        (_, true) => Shift::RightSigned,
        _ => Shift::Right,
    };
    match ty.bytes() {
        8 => Ok(Op::WideShift { op, d: x.dst64(ty)?, a: x.src64(ty)?, b: x.src32(U32)? }),
        2 => Ok(Op::Alu2 { op: Alu2::Shift16(op), d: x.dst32(ty)?, a: x.src32(ty)?, b: x.src32(U32)? }),
        _ => Ok(Op::Alu2 { op: Alu2::Shift(op), d: x.dst32(ty)?, a: x.src32(ty)?, b: x.src32(U32)? }),
    }
}

/// `neg abs popc clz brev`.
pub fn unary(x: &mut Decoder) -> Parsed<Op> {
    let z = matches!(x.opcode, "neg" | "abs") && x.accept("ftz");
    let float = x.next_modifier() == Some("f32");
    if z && !float {
        return Err(x.unexpected("`.f32`"));
    }
    match x.opcode {
        "neg" | "abs" => {
            let neg = x.opcode == "neg";
            match x.ty(&[S32, S64, F32, Bf16x2])? {
                F32 => one(x, if neg { Alu1::FNeg { z } } else { Alu1::FAbs { z } }, F32, F32),
                Bf16x2 => one(x, if neg { Alu1::Bf16x2Neg } else { Alu1::Bf16x2Abs }, Bf16x2, Bf16x2),
                S64 if neg => Ok(Op::Wide1 { op: Wide1::Neg, d: x.dst64(S64)?, a: x.src64(S64)? }),
                S64 => Err(x.error("found `abs.s64`, expected `.s32` or `.f32`")),
                ty => one(x, if neg { Alu1::Neg } else { Alu1::Abs }, ty, ty),
            }
        }
        "popc" => x.require("b32").and_then(|()| one(x, Alu1::Popc, U32, B32)),
        "clz" => x.require("b32").and_then(|()| one(x, Alu1::Clz, U32, B32)),
        _ => x.require("b32").and_then(|()| one(x, Alu1::Brev, B32, B32)),
    }
}

/// `rcp rsqrt sqrt ex2 lg2 sin cos tanh` of f32; approximations are exact here, then rounded.
pub fn function(x: &mut Decoder) -> Parsed<Op> {
    let name = x.opcode;
    let rounded = matches!(name, "rcp" | "sqrt") && x.accept("rn");
    if !rounded {
        x.require("approx")?;
    }
    let z = name != "tanh" && x.accept("ftz");
    x.require("f32")?;
    let op = match name {
        "rcp" => Alu1::Rcp { z },
        "rsqrt" => Alu1::Rsqrt { z },
        "sqrt" => Alu1::Sqrt { z },
        "ex2" => Alu1::Ex2 { z },
        "lg2" => Alu1::Lg2 { z },
        "sin" => Alu1::Sin { z },
        "cos" => Alu1::Cos { z },
        _ => Alu1::Tanh,
    };
    one(x, op, F32, F32)
}

/// `bfe bfi lop3 prmt shf dp4a`.
pub fn bits(x: &mut Decoder) -> Parsed<Op> {
    match x.opcode {
        "bfe" => {
            let ty = x.ty(&[U32, S32])?;
            let (d, a, b, c) = (x.dst32(ty)?, x.src32(ty)?, x.src32(U32)?, x.src32(U32)?);
            Ok(Op::Alu3 { op: Alu3::Bfe { signed: ty == S32 }, d, a, b, c })
        }
        "bfi" => {
            x.require("b32")?;
            let (d, a, b) = (x.dst32(B32)?, x.src32(B32)?, x.src32(B32)?);
            Ok(Op::Bfi { d, a, b, at: x.src32(U32)?, length: x.src32(U32)? })
        }
        "lop3" => {
            x.require("b32")?;
            let (d, a, b, c) = (x.dst32(B32)?, x.src32(B32)?, x.src32(B32)?, x.src32(B32)?);
            Ok(Op::Alu3 { op: Alu3::Lop3 { table: x.immediate(0..=255)? as u8 }, d, a, b, c })
        }
        "prmt" => {
            x.require("b32")?;
            three(x, Alu3::Prmt, B32)
        }
        "dp4a" => {
            let (a_type, b_type) = (x.ty(&[U32, S32])?, x.ty(&[U32, S32])?);
            let sum = if a_type == S32 || b_type == S32 { S32 } else { U32 };
            let op = Alu3::Dp4a { a_signed: a_type == S32, b_signed: b_type == S32 };
            let (d, a, b, c) = (x.dst32(sum)?, x.src32(a_type)?, x.src32(b_type)?, x.src32(sum)?);
            Ok(Op::Alu3 { op, d, a, b, c })
        }
        _ => {
            let left = x.one_of(&[("l", true), ("r", false)])?;
            let wrap = x.one_of(&[("wrap", true), ("clamp", false)])?;
            x.require("b32")?;
            let (d, a, b, c) = (x.dst32(B32)?, x.src32(B32)?, x.src32(B32)?, x.src32(U32)?);
            Ok(Op::Alu3 { op: Alu3::Funnel { left, wrap }, d, a, b, c })
        }
    }
}

/// Comparisons by name; the last field says whether they are for floating point alone, unsigned alone, or any.
const COMPARISONS: &[(&str, (Cmp, Of))] = &[
    ("eq", (order(false, true, false, false), Of::Any)),
    ("ne", (order(true, false, true, false), Of::Any)),
    ("lt", (order(true, false, false, false), Of::Any)),
    ("le", (order(true, true, false, false), Of::Any)),
    ("gt", (order(false, false, true, false), Of::Any)),
    ("ge", (order(false, true, true, false), Of::Any)),
    ("lo", (order(true, false, false, false), Of::Unsigned)),
    ("ls", (order(true, true, false, false), Of::Unsigned)),
    ("hi", (order(false, false, true, false), Of::Unsigned)),
    ("hs", (order(false, true, true, false), Of::Unsigned)),
    ("equ", (order(false, true, false, true), Of::Float)),
    ("neu", (order(true, false, true, true), Of::Float)),
    ("ltu", (order(true, false, false, true), Of::Float)),
    ("leu", (order(true, true, false, true), Of::Float)),
    ("gtu", (order(false, false, true, true), Of::Float)),
    ("geu", (order(false, true, true, true), Of::Float)),
    ("num", (order(true, true, true, false), Of::Float)),
    ("nan", (order(false, false, false, true), Of::Float)),
];

#[derive(Clone, Copy, PartialEq)]
enum Of {
    Any,
    Unsigned,
    Float,
}

const fn order(less: bool, equal: bool, greater: bool, unordered: bool) -> Cmp {
    Cmp::Order { less, equal, greater, unordered }
}

/// `setp.cmp{.bool}{.ftz}.type p{|q}, a, b{, c}`.
pub fn setp(x: &mut Decoder) -> Parsed<Op> {
    let (cmp, of) = x.one_of(COMPARISONS)?;
    let logic = x.optional(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
    let z = x.accept("ftz");
    let ty = x.ty(&[B32, U32, S32, F32, B64, U64, S64])?;
    let equality = matches!(cmp, Cmp::Order { less, greater, .. } if less == greater) && of == Of::Any;
    let legal = match ty.kind() {
        Kind::Float => of != Of::Unsigned,
        Kind::Bits => equality && !z,
        Kind::Unsigned => of != Of::Float && !z,
        _ => of == Of::Any && !z,
    };
    if !legal {
        return Err(x.error(format!("found a comparison that `.{}` does not have", ty.name())));
    }
    let (p, q) = x.dst_pair(Pred)?;
    let (Some(Reg::P(p)), q) = (p, q) else { return Err(x.error("found `_`, expected a predicate")) };
    let q = match q {
        Some(Reg::P(q)) => Some(q),
        _ => None,
    };
    let args = match (ty, ty.bytes()) {
        (F32, _) => SetpArgs::Float { a: x.src32(ty)?, b: x.src32(ty)?, z },
        (S64, _) => SetpArgs::WideSigned(x.src64(ty)?, x.src64(ty)?),
        (_, 8) => SetpArgs::WideUnsigned(x.src64(ty)?, x.src64(ty)?),
        (S32, _) => SetpArgs::Signed(x.src32(ty)?, x.src32(ty)?),
        _ => SetpArgs::Unsigned(x.src32(ty)?, x.src32(ty)?),
    };
    let combine = match logic {
        Some(logic) => {
            let (c, negate) = x.src_pred()?;
            Some((logic, c, negate))
        }
        None => None,
    };
    Ok(Op::Setp { p, q, cmp, args, combine })
}

/// `selp.type d, a, b, p`.
pub fn selp(x: &mut Decoder) -> Parsed<Op> {
    let ty = x.ty(&[B16, U16, S16, B32, U32, S32, F32, B64, U64, S64])?;
    if ty.bytes() == 8 {
        let (d, a, b) = (x.dst64(ty)?, x.src64(ty)?, x.src64(ty)?);
        return Ok(Op::WideSelp { d, a, b, p: x.src_pred_plain()? });
    }
    let (d, a, b) = (x.dst32(ty)?, x.src32(ty)?, x.src32(ty)?);
    Ok(Op::Selp { d, a, b, p: x.src_pred_plain()? })
}
