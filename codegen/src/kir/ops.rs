//! The table of scalar operations: the one place where an operation meets its spelling on each target.
//!
//! Every row is elementwise and lane-polymorphic. An empty cell means "not native there": [`super::legalise`] must have
//! rewritten the operation before the emitter sees it, and the verifier says so. From the table come the enum, its names
//! and arities, the builder's methods and the bodies of the emitters.

/// Hands the table to the macro `$then`.
macro_rules! scalar_ops {
    ($then:ident) => {
        $then! {
        //  variant name operands domain Cranelift MLIR     PTX (bits: without type) meaning
            Add   add   (a, b)    Float [fadd] ["arith.addf"] ["add.rn.f32"]           "`a + b`";
            Sub   sub   (a, b)    Float [fsub] ["arith.subf"] ["sub.rn.f32"]           "`a - b`";
            Mul   mul   (a, b)    Float [fmul] ["arith.mulf"] ["mul.rn.f32"]           "`a * b`";
            Div   div   (a, b)    Float [fdiv] ["arith.divf"] ["div.full.f32"]         "`a / b`, correctly rounded (within 2 ulp on a GPU)";
            Min   min   (a, b)    Float []     []         []                       "`a < b ? a : b`";
            Max   max   (a, b)    Float []     []         []                       "`b < a ? a : b`";
            Neg   neg   (a)       Float [fneg] ["arith.negf"] ["neg.f32"]              "`-a`";
            Abs   abs   (a)       Float [fabs] ["math.absf"] ["abs.f32"]              "`|a|`";
            Fma   fma   (a, b, c) Float [fma]  ["math.fma"] ["fma.rn.f32"]           "`a * b + c`, rounded once";
            Sqrt  sqrt  (a)       Float [sqrt] ["math.sqrt"] ["sqrt.approx.f32"]      "The square root, correctly rounded (within 1 ulp on a GPU)";
            Rcp   rcp   (a)       Float []     []         ["rcp.approx.ftz.f32"]   "`1 / a` (within 1 ulp on a GPU)";
            Rsqrt rsqrt (a)       Float []     []         ["rsqrt.approx.ftz.f32"] "`1 / sqrt(a)` (within 2 ulp on a GPU)";
            Exp   exp   (a)       Float []     []         []                       "`e^a`; beyond [-87.33, 88.37] the value at the bound";
            Exp2  exp2  (a)       Float []     []         ["ex2.approx.ftz.f32"]   "`2^a` (within 2 ulp on a GPU)";
            Log   log   (a)       Float []     []         []                       "The natural logarithm of a positive normal number";
            IAdd  iadd  (a, b)    Int   [iadd] ["arith.addi"] ["add.s32"]              "`a + b`, wrapping";
            ISub  isub  (a, b)    Int   [isub] ["arith.subi"] ["sub.s32"]              "`a - b`, wrapping";
            IMul  imul  (a, b)    Int   [imul] ["arith.muli"] ["mul.lo.s32"]           "`a * b`, wrapping";
            UDiv  udiv  (a, b)    Int   [udiv] ["arith.divui"] ["div.u32"]              "The quotient of `a` by a positive `b`, both read without sign";
            URem  urem  (a, b)    Int   [urem] ["arith.remui"] ["rem.u32"]              "The remainder of `a` by a positive `b`, both read without sign";
            And   and   (a, b)    Bits  [band] ["arith.andi"] ["and"]                  "Bitwise (or, of predicates, logical) and";
            Or    or    (a, b)    Bits  [bor]  ["arith.ori"] ["or"]                   "Bitwise (or, of predicates, logical) or";
            Xor   xor   (a, b)    Bits  [bxor] ["arith.xori"] ["xor"]                  "Bitwise (or, of predicates, logical) exclusive or";
        }
    };
}
pub(crate) use scalar_ops;

/// Which elements an operation accepts; operands and result always share one type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// f32.
    Float,
    /// Index and i32.
    Int,
    /// Index, i32 and predicates.
    Bits,
}

macro_rules! declare {
    ($($variant:ident $name:ident ($($a:ident),+) $domain:ident [$($clif:ident)?] [$($mlir:literal)?] [$($ptx:literal)?] $doc:literal;)+) => {
        /// An elementwise operation; one row of the table.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Scalar { $(#[doc = $doc] $variant),+ }

        impl Scalar {
            /// Every row, in the order of the table.
            pub const ALL: &[Scalar] = &[$(Scalar::$variant),+];

            /// The name in the text form.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($name)),+ }
            }

            /// How many operands it takes.
            pub fn arity(self) -> usize {
                match self { $(Self::$variant => [$(stringify!($a)),+].len()),+ }
            }

            /// Which elements it accepts.
            pub fn domain(self) -> Domain {
                match self { $(Self::$variant => Domain::$domain),+ }
            }

            /// Whether Cranelift has an instruction for it.
            pub fn in_cranelift(self) -> bool {
                match self { $(Self::$variant => !<[&str]>::is_empty(&[$(stringify!($clif))?])),+ }
            }

            /// The instruction of PTX that it is, if there is one; of a row of [`Domain::Bits`] without the type.
            pub fn ptx(self) -> Option<&'static str> {
                match self { $(Self::$variant => <[&str]>::first(&[$($ptx)?]).copied()),+ }
            }

            /// The operation of MLIR that it is, if there is one.
            pub fn mlir(self) -> Option<&'static str> {
                match self { $(Self::$variant => <[&str]>::first(&[$($mlir)?]).copied()),+ }
            }
        }
    };
}
scalar_ops!(declare);
