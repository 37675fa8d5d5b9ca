//! The compiled form of a kernel: operands are register numbers, branch targets are indices, modifiers are decoded.
//!
//! Constants, shared-memory addresses and special registers are registers too, filled before a warp starts, so that every operand is one index.

mod parallel;

use crate::types::{R32, R64, RP, Reg};
pub(crate) use parallel::*;

/// One instruction.
#[derive(Debug)]
pub(crate) struct Inst {
    pub op: Op,
    /// The predicate that a lane needs, and the value that it needs.
    pub guard: Option<(RP, bool)>,
    /// Line in the text, from 1.
    pub line: u32,
    /// Where the instruction is written: bytes of the text.
    pub text: std::ops::Range<usize>,
}

/// What an instruction does. `z` flushes subnormal inputs and results to zero (`.ftz`).
#[derive(Debug)]
pub(crate) enum Op {
    Alu1 {
        op: Alu1,
        d: R32,
        a: R32,
    },
    Alu2 {
        op: Alu2,
        d: R32,
        a: R32,
        b: R32,
    },
    Alu3 {
        op: Alu3,
        d: R32,
        a: R32,
        b: R32,
        c: R32,
    },
    Wide1 {
        op: Wide1,
        d: R64,
        a: R64,
    },
    Wide2 {
        op: Wide2,
        d: R64,
        a: R64,
        b: R64,
    },
    /// `mad.lo` of 64 bits.
    WideMad {
        d: R64,
        a: R64,
        b: R64,
        c: R64,
    },
    WideShift {
        op: Shift,
        d: R64,
        a: R64,
        b: R32,
    },
    /// `mul.wide`, `mad.wide`.
    MulWide {
        signed: bool,
        d: R64,
        a: R32,
        b: R32,
        c: Option<R64>,
    },
    /// From 32 to 64 bits, of which `bits` count.
    Widen {
        signed: bool,
        bits: u32,
        d: R64,
        a: R32,
    },
    /// From 64 to `bits` bits.
    Narrow {
        signed: bool,
        bits: u32,
        d: R32,
        a: R64,
    },
    /// From a 64-bit integer to f32.
    WideToFloat {
        signed: bool,
        d: R32,
        a: R64,
    },
    /// `bfi`: the bits of `a` at position `at`, `length` of them, in `b`.
    Bfi {
        d: R32,
        a: R32,
        b: R32,
        at: R32,
        length: R32,
    },
    Setp {
        p: RP,
        q: Option<RP>,
        cmp: Cmp,
        args: SetpArgs,
        combine: Option<(Logic, RP, bool)>,
    },
    PredLogic {
        op: Logic,
        d: RP,
        a: RP,
        b: RP,
    },
    PredMov {
        d: RP,
        a: RP,
        negate: bool,
    },
    Selp {
        d: R32,
        a: R32,
        b: R32,
        p: RP,
    },
    WideSelp {
        d: R64,
        a: R64,
        b: R64,
        p: RP,
    },
    /// `mov.b64 d, {lo, hi}`.
    Pack64 {
        d: R64,
        lo: R32,
        hi: R32,
    },
    Unpack64 {
        lo: Option<R32>,
        hi: Option<R32>,
        a: R64,
    },
    /// `mov.b32 d, {lo, hi}`.
    Pack32 {
        d: R32,
        lo: R32,
        hi: R32,
    },
    Unpack32 {
        lo: Option<R32>,
        hi: Option<R32>,
        a: R32,
    },
    /// Cycles so far.
    Clock {
        d: Reg,
    },
    Branch {
        target: usize,
    },
    Exit,
    Trap,
    /// Hints and prefetches: nothing happens, but the address must be good.
    Touch {
        address: Address,
    },
    /// `mapa`: the address of the own shared address `a` in another block of the cluster.
    MapAddress {
        d: R32,
        a: R32,
        rank: R32,
    },
    Nothing,
    Memory(Memory),
    Warp(WarpOp),
    Tile(TileOp),
    Sync(SyncOp),
    Copy(CopyOp),
}

/// One operand of 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alu1 {
    Mov,
    Not,
    Neg,
    Abs,
    Popc,
    Clz,
    Brev,
    /// Keeps the low `bits` bits, extended.
    Extend {
        bits: u32,
        signed: bool,
    },
    FNeg {
        z: bool,
    },
    FAbs {
        z: bool,
    },
    Rcp {
        z: bool,
    },
    Rsqrt {
        z: bool,
    },
    Sqrt {
        z: bool,
    },
    Ex2 {
        z: bool,
    },
    Lg2 {
        z: bool,
    },
    Sin {
        z: bool,
    },
    Cos {
        z: bool,
    },
    Tanh,
    /// f32 to an integral f32.
    Round {
        to: Rounding,
        z: bool,
    },
    FloatToSigned {
        to: Rounding,
        bits: u32,
        z: bool,
    },
    FloatToUnsigned {
        to: Rounding,
        bits: u32,
        z: bool,
    },
    SignedToFloat,
    UnsignedToFloat,
    /// f32 to bf16, to nearest even.
    ToBf16,
    FromBf16,
    ToF16,
    FromF16,
    /// f32 to tf32, to nearest, ties away from zero.
    ToTf32,
    Bf16x2Neg,
    Bf16x2Abs,
}

/// Two operands of 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alu2 {
    Add,
    Sub,
    MulLo,
    MulHi {
        signed: bool,
    },
    Div {
        signed: bool,
    },
    Rem {
        signed: bool,
    },
    Min {
        signed: bool,
    },
    Max {
        signed: bool,
    },
    And,
    Or,
    Xor,
    Shift(Shift),
    Shift16(Shift),
    FAdd {
        z: bool,
    },
    FSub {
        z: bool,
    },
    FMul {
        z: bool,
    },
    FDiv {
        z: bool,
    },
    FMin {
        z: bool,
        nan: bool,
    },
    FMax {
        z: bool,
        nan: bool,
    },
    /// `cvt.rn.bf16x2.f32`: `a` goes to the upper half.
    PackBf16 {
        relu: bool,
    },
    PackF16,
    Bf16x2(Bf16Op),
}

/// Three operands of 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alu3 {
    MadLo,
    MadHi {
        signed: bool,
    },
    Fma {
        z: bool,
    },
    Bfe {
        signed: bool,
    },
    Lop3 {
        table: u8,
    },
    Prmt,
    /// `shf`: of the 64 bits `b:a`, left or right.
    Funnel {
        left: bool,
        wrap: bool,
    },
    Bf16x2Fma,
    Dp4a {
        a_signed: bool,
        b_signed: bool,
    },
}

/// Element-wise operations on pairs of bf16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bf16Op {
    Add,
    Sub,
    Mul,
    Min,
    Max,
}

/// One operand of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wide1 {
    Mov,
    Not,
    Neg,
}

/// Two operands of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wide2 {
    Add,
    Sub,
    MulLo,
    Div { signed: bool },
    Rem { signed: bool },
    Min { signed: bool },
    Max { signed: bool },
    And,
    Or,
    Xor,
}

/// Shifts clamp their amount to the width.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shift {
    Left,
    Right,
    RightSigned,
}

/// To an integer: nearest even, towards zero, down, up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

/// Comparisons; `unordered` ones hold if an operand is NaN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cmp {
    Order { less: bool, equal: bool, greater: bool, unordered: bool },
}

/// What `setp` compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SetpArgs {
    Unsigned(R32, R32),
    Signed(R32, R32),
    Float { a: R32, b: R32, z: bool },
    WideUnsigned(R64, R64),
    WideSigned(R64, R64),
}

/// Operations on predicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}
