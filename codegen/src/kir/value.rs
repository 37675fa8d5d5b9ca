//! What can be done with values. The methods of scalar operations come from the table.

use super::{Builder, Cmp, Elem, Op, Operand, Ptr, Scalar, Type, Value, ops::scalar_ops};
use std::{fmt, marker::PhantomData};

/// An element type, as a Rust type, so that a bf16 never meets an f32 without a conversion.
pub trait Element: Copy {
    /// The element in the IR.
    const ELEM: Elem;
}

/// Elements of 32 bits, which lanes of a warp can exchange.
pub trait Shuffled: Element {}

/// Elements with integer arithmetic.
pub trait Integer: Element {}

/// Elements that memory can hold.
pub trait Stored: Element {
    /// Bytes of one lane.
    const BYTES: u32;
}

macro_rules! elements {
    ($($name:ident $doc:literal)+) => { $(
        #[doc = $doc]
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
        impl Element for $name {
            const ELEM: Elem = Elem::$name;
        }
    )+ };
}
elements! {
    Pred "A truth value."
    Index "A count, subscript or stride."
    I32 "A 32-bit integer."
    F32 "Single precision."
    Bf16 "The high half of an f32."
}
impl Shuffled for Index {}
impl Shuffled for I32 {}
impl Shuffled for F32 {}
impl Integer for Index {}
impl Integer for I32 {}
impl Stored for I32 {
    const BYTES: u32 = 4;
}
impl Stored for F32 {
    const BYTES: u32 = 4;
}
impl Stored for Bf16 {
    const BYTES: u32 = 2;
}

/// A value of some lanes; `E` is the type of each.
#[derive(Clone, Copy)]
pub struct V<'k, E> {
    /// The builder it belongs to.
    pub k: &'k Builder,
    /// The value in the IR.
    pub id: Value,
    elem: PhantomData<E>,
}

impl<E> fmt::Debug for V<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.id)
    }
}

impl<'k, E> V<'k, E> {
    /// The value `id` of `k`, which must hold lanes of `E`.
    pub(super) fn wrap(k: &'k Builder, id: Value) -> Self {
        V { k, id, elem: PhantomData }
    }
}

impl<'k, E: Element> V<'k, E> {
    /// How many lanes.
    pub fn lanes(&self) -> u16 {
        self.k.ty(self.id).lanes()
    }

    /// The scalar in each of `lanes` lanes; a vector of as many lanes stays as it is.
    pub fn splat(self, lanes: u16) -> Self {
        match self.k.known(self.id) {
            _ if self.lanes() == lanes => self,
            Some(bits) => self.k.constant(lanes, bits),
            None => self.op(Op::Splat, &[], lanes),
        }
    }

    /// Lane `i`.
    pub fn lane(self, i: u16) -> Self {
        if self.lanes() == 1 { self } else { self.op(Op::Extract(i), &[], 1) }
    }

    /// Scalars to a vector.
    ///
    /// # Panics
    /// Without parts.
    pub fn pack(parts: &[Self]) -> Self {
        let rest: Vec<_> = parts[1..].iter().map(|p| p.id).collect();
        if rest.is_empty() { parts[0] } else { parts[0].op(Op::Pack, &rest, parts.len() as u16) }
    }

    /// The instruction `op` on `self` and `rest`, whose result has `lanes` lanes of `O`.
    pub(super) fn op<O: Element>(self, op: Op, rest: &[Value], lanes: u16) -> V<'k, O> {
        let args: Vec<_> = std::iter::once(self.id).chain(rest.iter().copied()).collect();
        V::wrap(self.k, self.k.push1(op, &args, Type::Vec(O::ELEM, lanes)))
    }

    fn compare(self, cmp: Cmp, b: V<'k, E>) -> V<'k, Pred> {
        let lanes = self.lanes().max(b.lanes());
        self.splat(lanes).op(Op::Cmp(cmp), &[b.splat(lanes).id], lanes)
    }

    /// `self < b`, lanewise.
    pub fn lt(self, b: impl Operand<'k, E>) -> V<'k, Pred> {
        self.compare(Cmp::Lt, b.on(self.k))
    }

    /// `self <= b`, lanewise.
    pub fn le(self, b: impl Operand<'k, E>) -> V<'k, Pred> {
        self.compare(Cmp::Le, b.on(self.k))
    }

    /// `self == b`, lanewise.
    pub fn equals(self, b: impl Operand<'k, E>) -> V<'k, Pred> {
        self.compare(Cmp::Eq, b.on(self.k))
    }
}

impl<'k, E: Shuffled> V<'k, E> {
    /// What the lane of this warp holds whose number differs in the bits of `bits`.
    pub fn shuffle_xor(self, bits: u8) -> Self {
        self.op(Op::ShuffleXor(bits), &[], self.lanes())
    }

    /// What lane `lane` of this warp holds.
    pub fn shuffle(self, lane: impl Operand<'k, Index>) -> Self {
        self.op(Op::Shuffle, &[lane.on(self.k).id], self.lanes())
    }
}

impl<'k> V<'k, Pred> {
    /// `self ? a : b`, lanewise; a scalar predicate chooses between whole vectors.
    pub fn select<E: Element>(self, a: impl Operand<'k, E>, b: impl Operand<'k, E>) -> V<'k, E> {
        let (a, b) = (a.on(self.k), b.on(self.k));
        let lanes = self.lanes().max(a.lanes()).max(b.lanes());
        self.op(Op::Select, &[a.splat(lanes).id, b.splat(lanes).id], lanes)
    }

    /// Both.
    pub fn and(self, b: Self) -> Self {
        self.k.scalar(Scalar::And, &[self, b])
    }

    /// At least one.
    pub fn or(self, b: Self) -> Self {
        self.k.scalar(Scalar::Or, &[self, b])
    }
}

impl<'k, E: Integer> V<'k, E> {
    /// By a constant number of bits.
    pub fn shift_left(self, by: u8) -> Self {
        self.op(Op::ShiftLeft(by), &[], self.lanes())
    }

    /// By a constant number of bits, filling with zeros.
    pub fn shift_right(self, by: u8) -> Self {
        self.op(Op::ShiftRight(by), &[], self.lanes())
    }

    /// The smaller one, with sign.
    pub fn imin(self, b: impl Operand<'k, E>) -> Self {
        let b = b.on(self.k);
        self.lt(b).select(self, b)
    }

    /// The larger one, with sign.
    pub fn imax(self, b: impl Operand<'k, E>) -> Self {
        let b = b.on(self.k);
        b.lt(self).select(self, b)
    }
}

impl<'k> V<'k, I32> {
    /// The f32 with these bits.
    pub fn as_f32(self) -> V<'k, F32> {
        self.op(Op::Bitcast, &[], self.lanes())
    }

    /// The same bits as pairs of bf16, the low half first.
    pub fn as_bf16_pairs(self) -> V<'k, Bf16> {
        self.op(Op::Bitcast, &[], 2 * self.lanes())
    }

    /// The sum with the products of four bytes of `a`, without sign, and of `b`, with sign, in each lane.
    pub fn dot_bytes(self, a: Self, b: Self) -> Self {
        self.op(Op::DotBytes, &[a.id, b.id], self.lanes())
    }

    /// The sum with the products of four bytes of `a` and of `b`, both with sign, in each lane.
    pub fn dot_signed_bytes(self, a: Self, b: Self) -> Self {
        self.op(Op::DotSignedBytes, &[a.id, b.id], self.lanes())
    }

    /// The sum with the products of the two halves of `a` and of `b`, all with sign, in each lane.
    pub fn dot_halves(self, a: Self, b: Self) -> Self {
        self.op(Op::DotHalves, &[a.id, b.id], self.lanes())
    }

    /// To nearest even.
    pub fn to_f32(self) -> V<'k, F32> {
        self.op(Op::ToF32, &[], self.lanes())
    }

    /// As a subscript, with its sign.
    pub fn to_index(self) -> V<'k, Index> {
        self.op(Op::ToIndex, &[], 1)
    }

    /// The low halves, as bf16.
    pub(super) fn bf16_bits(self) -> V<'k, Bf16> {
        self.op(Op::Bf16Bits, &[], self.lanes())
    }
}

impl<'k> V<'k, Index> {
    /// The low 32 bits.
    pub fn to_i32(self) -> V<'k, I32> {
        self.op(Op::ToI32, &[], 1)
    }
}

impl<'k> V<'k, F32> {
    /// The bits.
    pub fn as_i32(self) -> V<'k, I32> {
        self.op(Op::Bitcast, &[], self.lanes())
    }

    /// To nearest even.
    pub fn round_bf16(self) -> V<'k, Bf16> {
        self.op(Op::Round, &[], self.lanes())
    }

    /// Starts `self + a b` by the warpgroup; `b` is transposed in shared memory, see [`Op::Wgmma`], with `lead` and `stride` bytes
    /// from piece to piece.
    pub fn wgmma(self, a: V<'k, Bf16>, b: Ptr<'k, Bf16>, (lead, stride): (u32, u32)) -> Self {
        let (b, offset) = (b.id(), b.offset());
        self.op(Op::Wgmma { offset, lead, stride }, &[a.id, b], self.lanes())
    }

    /// The sum of all lanes.
    pub fn sum_lanes(self) -> Self {
        if self.lanes() == 1 { self } else { self.op(Op::SumLanes, &[], 1) }
    }
}

impl<'k> V<'k, Bf16> {
    /// In the order of the lanes.
    pub fn widen(self) -> V<'k, F32> {
        self.op(Op::Widen, &[], self.lanes())
    }

    /// `sum[i] + self[2i] b[2i] + self[2i+1] b[2i+1]` for 4, 8 or 16 sums, see [`Op::DotPairs`].
    pub fn dot_pairs(self, b: Self, sum: V<'k, F32>) -> V<'k, F32> {
        self.op(Op::DotPairs, &[b.id, sum.id], self.lanes() / 2)
    }

    /// `self b + c` by the warp: `self` is its part of 16 by 16, `b` of 16 by 8, `c` of 16 by 8.
    pub fn mma(self, b: V<'k, Bf16>, c: V<'k, F32>) -> V<'k, F32> {
        self.op(Op::Mma, &[b.id, c.id], 4)
    }

    /// `(even lanes, odd lanes)`, for the price of a shift and a mask.
    pub fn widen_pairs(self) -> (V<'k, F32>, V<'k, F32>) {
        let ty = Type::Vec(Elem::F32, self.lanes() / 2);
        let r = self.k.push(Op::WidenPairs, &[self.id], &[ty, ty]);
        (V::wrap(self.k, r[0]), V::wrap(self.k, r[1]))
    }
}

macro_rules! methods {
    ($($variant:ident $name:ident ($($a:ident),+) $domain:ident $clif:tt $mlir:tt $ptx:tt $doc:literal;)+) => {
        $( methods!(@ $domain $variant $name $doc $($a)+); )+
    };
    (@ Float $variant:ident $name:ident $doc:literal $a:ident $($rest:ident)*) => {
        methods!(@ method V<'k, F32>; [] F32 $variant $name $doc $($rest)*);
    };
    (@ Int $variant:ident $name:ident $doc:literal $a:ident $($rest:ident)*) => {
        methods!(@ method V<'k, E>; [E: Integer] E $variant $name $doc $($rest)*);
    };
    (@ Bits $($row:tt)*) => { methods!(@ Int $($row)*); };
    (@ method $me:ty; [$($bound:tt)*] $e:ident $variant:ident $name:ident $doc:literal $($rest:ident)*) => {
        impl<'k, $($bound)*> $me {
            #[doc = concat!($doc, ".")]
            #[allow(clippy::should_implement_trait, reason = "operators cover the elements where they are unambiguous")]
            pub fn $name(self $(, $rest: impl Operand<'k, $e>)*) -> Self {
                self.k.scalar(Scalar::$variant, &[self $(, $rest.on(self.k))*])
            }
        }
    };
}
scalar_ops!(methods);

macro_rules! operators {
    ($($trait:ident $method:ident $e:ident $to:ident),+ $(,)?) => { $(
        impl<'k, O: Operand<'k, $e>> std::ops::$trait<O> for V<'k, $e> {
            type Output = Self;
            fn $method(self, b: O) -> Self {
                self.$to(b)
            }
        }
    )+ };
}
operators! {
    Add add F32 add, Sub sub F32 sub, Mul mul F32 mul, Div div F32 div,
    Add add Index iadd, Mul mul Index imul, Sub sub Index isub, Div div Index udiv, Rem rem Index urem,
}

impl std::ops::Neg for V<'_, F32> {
    type Output = Self;
    fn neg(self) -> Self {
        V::neg(self)
    }
}
