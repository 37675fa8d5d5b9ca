//! The table of scalar operations: the one place where an operation meets its spelling on each target.
//!
//! Every row is elementwise and lane-polymorphic. An empty cell means "not native there": [`super::legalise`] must have
//! rewritten the operation before the emitter sees it, and the verifier says so. From the table come the enum, its names
//! and arities, the builder's methods and the bodies of the emitters.

/// Hands the table to the macro `$then`.
macro_rules! scalar_ops {
    ($then:ident) => {
        $then! {
        //  variant name  operands   domain  Cranelift  meaning
            Add   add   (a, b)    Float [fadd]  "`a + b`";
            Sub   sub   (a, b)    Float [fsub]  "`a - b`";
            Mul   mul   (a, b)    Float [fmul]  "`a * b`";
            Div   div   (a, b)    Float [fdiv]  "`a / b`, correctly rounded";
            Min   min   (a, b)    Float []      "`a < b ? a : b`";
            Max   max   (a, b)    Float []      "`b < a ? a : b`";
            Neg   neg   (a)       Float [fneg]  "`-a`";
            Abs   abs   (a)       Float [fabs]  "`|a|`";
            Fma   fma   (a, b, c) Float [fma]   "`a * b + c`, rounded once";
            Sqrt  sqrt  (a)       Float [sqrt]  "The square root, correctly rounded";
            Rcp   rcp   (a)       Float []      "`1 / a`";
            Rsqrt rsqrt (a)       Float []      "`1 / sqrt(a)`";
            Exp2  exp2  (a)       Float []      "`2^a`, clamped to finite results: `a` in [-126, 127.99]";
            Log2  log2  (a)       Float []      "The binary logarithm of a positive normal number";
            IAdd  iadd  (a, b)    Int   [iadd]  "`a + b`, wrapping";
            ISub  isub  (a, b)    Int   [isub]  "`a - b`, wrapping";
            IMul  imul  (a, b)    Int   [imul]  "`a * b`, wrapping";
            UDiv  udiv  (a, b)    Int   [udiv]  "The quotient of `a` by a positive `b`, both read without sign";
            URem  urem  (a, b)    Int   [urem]  "The remainder of `a` by a positive `b`, both read without sign";
            And   and   (a, b)    Bits  [band]  "Bitwise (or, of predicates, logical) and";
            Or    or    (a, b)    Bits  [bor]   "Bitwise (or, of predicates, logical) or";
            Xor   xor   (a, b)    Bits  [bxor]  "Bitwise (or, of predicates, logical) exclusive or";
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
    ($($variant:ident $name:ident ($($a:ident),+) $domain:ident [$($clif:ident)?] $doc:literal;)+) => {
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
        }
    };
}
scalar_ops!(declare);
