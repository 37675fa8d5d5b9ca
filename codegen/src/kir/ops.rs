//! The table of scalar operations: the one place where an operation meets its spelling on each target.
//!
//! Every row is elementwise and lane-polymorphic. An empty cell means "not native there": [`super::legalise`] must have
//! rewritten the operation before the emitter sees it, and the verifier says so. From the table come the enum, its names
//! and arities, the builder's methods and the bodies of the emitters.

/// Hands the table to the macro `$then`.
macro_rules! scalar_ops {
    ($then:ident) => {
        $then! {
        //  variant name operands domain Cranelift MLIR    meaning
            Add   add   (a, b)    Float [fadd] ["arith.addf"]  "`a + b`";
            Sub   sub   (a, b)    Float [fsub] ["arith.subf"]  "`a - b`";
            Mul   mul   (a, b)    Float [fmul] ["arith.mulf"]  "`a * b`";
            Div   div   (a, b)    Float [fdiv] ["arith.divf"]  "`a / b`, correctly rounded";
            Min   min   (a, b)    Float []     []              "`a < b ? a : b`";
            Max   max   (a, b)    Float []     []              "`b < a ? a : b`";
            Neg   neg   (a)       Float [fneg] ["arith.negf"]  "`-a`";
            Abs   abs   (a)       Float [fabs] ["math.absf"]   "`|a|`";
            Fma   fma   (a, b, c) Float [fma]  ["math.fma"]    "`a * b + c`, rounded once";
            Sqrt  sqrt  (a)       Float [sqrt] ["math.sqrt"]   "The square root, correctly rounded";
            Rcp   rcp   (a)       Float []     []              "`1 / a`";
            Rsqrt rsqrt (a)       Float []     []              "`1 / sqrt(a)`";
            Exp   exp   (a)       Float []     []              "`e^a`; beyond [-87.33, 88.37] the value at the bound";
            Log   log   (a)       Float []     []              "The natural logarithm of a positive normal number";
            IAdd  iadd  (a, b)    Int   [iadd] ["arith.addi"]  "`a + b`, wrapping";
            ISub  isub  (a, b)    Int   [isub] ["arith.subi"]  "`a - b`, wrapping";
            IMul  imul  (a, b)    Int   [imul] ["arith.muli"]  "`a * b`, wrapping";
            UDiv  udiv  (a, b)    Int   [udiv] ["arith.divui"] "The quotient of `a` by a positive `b`, both read without sign";
            URem  urem  (a, b)    Int   [urem] ["arith.remui"] "The remainder of `a` by a positive `b`, both read without sign";
            And   and   (a, b)    Bits  [band] ["arith.andi"]  "Bitwise (or, of predicates, logical) and";
            Or    or    (a, b)    Bits  [bor]  ["arith.ori"]   "Bitwise (or, of predicates, logical) or";
            Xor   xor   (a, b)    Bits  [bxor] ["arith.xori"]  "Bitwise (or, of predicates, logical) exclusive or";
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
    ($($variant:ident $name:ident ($($a:ident),+) $domain:ident [$($clif:ident)?] [$($mlir:literal)?] $doc:literal;)+) => {
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

            /// The operation of MLIR that it is, if there is one.
            pub fn mlir(self) -> Option<&'static str> {
                match self { $(Self::$variant => <[&str]>::first(&[$($mlir)?]).copied()),+ }
            }
        }
    };
}
scalar_ops!(declare);
