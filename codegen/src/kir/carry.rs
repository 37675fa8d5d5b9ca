//! What stands where the builder expects values: literals as operands, and tuples, arrays and vectors that a loop carries.

use super::value::{Element, F32, I32, Index, Stored, V};
use super::{Builder, Ptr, Value};

/// Whatever can stand where a value is expected: a value, or a literal.
pub trait Operand<'k, E> {
    /// The value in `k`.
    fn on(self, k: &'k Builder) -> V<'k, E>;
}

impl<'k, E: Element> Operand<'k, E> for V<'k, E> {
    fn on(self, _: &'k Builder) -> V<'k, E> {
        self
    }
}

impl<'k> Operand<'k, F32> for f32 {
    fn on(self, k: &'k Builder) -> V<'k, F32> {
        k.constant(1, u64::from(self.to_bits()))
    }
}

macro_rules! integer_literals {
    ($($e:ident $t:ty),+) => { $(
        impl<'k> Operand<'k, $e> for $t {
            fn on(self, k: &'k Builder) -> V<'k, $e> {
                k.constant(1, self as i64 as u64)
            }
        }
    )+ };
}
integer_literals!(Index u32, Index i32, Index usize, I32 i32);

/// What a loop can carry from one turn to the next.
pub trait Carry<'k>: Clone {
    /// Appends the values.
    fn flat(&self, out: &mut Vec<Value>);
    /// The same shape with other values.
    fn like(&self, k: &'k Builder, ids: &mut dyn Iterator<Item = Value>) -> Self;
}

impl<'k, E: Element> Carry<'k> for V<'k, E> {
    fn flat(&self, out: &mut Vec<Value>) {
        out.push(self.id);
    }
    fn like(&self, k: &'k Builder, ids: &mut dyn Iterator<Item = Value>) -> Self {
        V::wrap(k, ids.next().expect("as many values as the loop carries"))
    }
}

impl<'k, E: Stored> Carry<'k> for Ptr<'k, E> {
    fn flat(&self, out: &mut Vec<Value>) {
        out.push(self.whole().id());
    }
    fn like(&self, _: &'k Builder, ids: &mut dyn Iterator<Item = Value>) -> Self {
        self.at_address(ids.next().expect("as many values as the loop carries"))
    }
}

impl<'k, C: Carry<'k>> Carry<'k> for Vec<C> {
    fn flat(&self, out: &mut Vec<Value>) {
        self.iter().for_each(|c| c.flat(out));
    }
    fn like(&self, k: &'k Builder, ids: &mut dyn Iterator<Item = Value>) -> Self {
        self.iter().map(|c| c.like(k, ids)).collect()
    }
}

impl<'k, C: Carry<'k>, const N: usize> Carry<'k> for [C; N] {
    fn flat(&self, out: &mut Vec<Value>) {
        self.iter().for_each(|c| c.flat(out));
    }
    fn like(&self, k: &'k Builder, ids: &mut dyn Iterator<Item = Value>) -> Self {
        std::array::from_fn(|i| self[i].like(k, ids))
    }
}

impl<'k> Carry<'k> for () {
    fn flat(&self, _: &mut Vec<Value>) {}
    fn like(&self, _: &'k Builder, _: &mut dyn Iterator<Item = Value>) -> Self {}
}

macro_rules! carry_tuples {
    ($(($($t:ident $i:tt),*)),+) => { $(
        impl<'k, $($t: Carry<'k>),*> Carry<'k> for ($($t,)*) {
            fn flat(&self, out: &mut Vec<Value>) {
                $( self.$i.flat(out); )*
            }
            fn like(&self, k: &'k Builder, ids: &mut dyn Iterator<Item = Value>) -> Self {
                ($( self.$i.like(k, ids), )*)
            }
        }
    )+ };
}
carry_tuples!((A 0, B 1), (A 0, B 1, C 2), (A 0, B 1, C 2, D 3));
