//! The types of PTX and where a register of each lives (PTX ISA, "Types").

/// A fundamental or packed type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Type {
    Pred,
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    F16,
    Bf16,
    B32,
    U32,
    S32,
    F32,
    Tf32,
    F16x2,
    Bf16x2,
    B64,
    U64,
    S64,
    F64,
}

/// What the bits of a type mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Pred,
    Bits,
    Unsigned,
    Signed,
    Float,
}

use Type::*;

/// Names, kinds and sizes in bytes.
const TABLE: &[(&str, Type, Kind, u32)] = &[
    ("pred", Pred, Kind::Pred, 0),
    ("b8", B8, Kind::Bits, 1),
    ("u8", U8, Kind::Unsigned, 1),
    ("s8", S8, Kind::Signed, 1),
    ("b16", B16, Kind::Bits, 2),
    ("u16", U16, Kind::Unsigned, 2),
    ("s16", S16, Kind::Signed, 2),
    ("f16", F16, Kind::Float, 2),
    ("bf16", Bf16, Kind::Bits, 2),
    ("b32", B32, Kind::Bits, 4),
    ("u32", U32, Kind::Unsigned, 4),
    ("s32", S32, Kind::Signed, 4),
    ("f32", F32, Kind::Float, 4),
    ("tf32", Tf32, Kind::Bits, 4),
    ("f16x2", F16x2, Kind::Bits, 4),
    ("bf16x2", Bf16x2, Kind::Bits, 4),
    ("b64", B64, Kind::Bits, 8),
    ("u64", U64, Kind::Unsigned, 8),
    ("s64", S64, Kind::Signed, 8),
    ("f64", F64, Kind::Float, 8),
];

impl Type {
    fn row(self) -> &'static (&'static str, Type, Kind, u32) {
        &TABLE[self as usize]
    }

    pub fn named(name: &str) -> Option<Type> {
        TABLE.iter().find(|row| row.0 == name).map(|row| row.1)
    }

    pub fn name(self) -> &'static str {
        self.row().0
    }

    pub fn kind(self) -> Kind {
        self.row().2
    }

    pub fn bytes(self) -> u32 {
        self.row().3
    }

    pub fn is_signed(self) -> bool {
        self.kind() == Kind::Signed
    }

    /// Whether an operand of this type may lie in a register of type `register` ("Operand type checking"): integers of both signs agree,
    /// untyped bits agree with everything of their size.
    pub fn fits(self, register: Type) -> bool {
        let (a, b) = (self.kind(), register.kind());
        let agree = a == b || (a != Kind::Pred && b != Kind::Pred && (a == Kind::Bits || b == Kind::Bits));
        let integers = [a, b].iter().all(|k| matches!(k, Kind::Unsigned | Kind::Signed));
        self.bytes() == register.bytes() && (agree || integers)
    }
}

/// A 32-bit register of the warp as an index into its file; a register of 16 bits is one whose upper half means nothing. Constants have
/// registers too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct R32(pub u32);

/// A 64-bit register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct R64(pub u32);

/// A predicate register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RP(pub u32);

/// A register of any file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reg {
    W(R32),
    D(R64),
    P(RP),
}
