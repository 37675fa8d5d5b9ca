//! Typed addresses: subscripts, byte strides, loads and stores.

use super::{Builder, I32, Index, Mem, Op, Operand, Type, V, Value, value::Stored};
use std::{fmt, marker::PhantomData};

/// An address of `E`s: a pointer value and a constant number of bytes, which becomes part of the access.
///
/// A vector access promises an address that is a multiple of its bytes (of 16 if it is wider); [`Ptr::aligned`] promises less.
#[derive(Clone, Copy)]
pub struct Ptr<'k, E> {
    k: &'k Builder,
    id: Value,
    offset: i32,
    align: u16,
    constant: bool,
    once: bool,
    settled: bool,
    elem: PhantomData<E>,
}

impl<E> fmt::Debug for Ptr<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} + {}", self.id, self.offset)
    }
}

impl<'k, E: Stored> Ptr<'k, E> {
    pub(super) fn new(k: &'k Builder, id: Value, constant: bool) -> Self {
        Ptr { k, id, offset: 0, align: 16, constant, once: false, settled: false, elem: PhantomData }
    }

    /// Where it is built.
    pub fn builder(self) -> &'k Builder {
        self.k
    }

    /// The address of element `i`; a constant part of `i` becomes the offset of the access.
    pub fn at(self, i: impl Operand<'k, Index>) -> Self {
        self.step(i.on(self.k), E::BYTES)
    }

    /// The address `bytes` further on, for strides known only at run time.
    pub fn byte_offset(self, bytes: impl Operand<'k, Index>) -> Self {
        self.step(bytes.on(self.k), 1)
    }

    /// The address `i * bytes` further on, where the product may be beyond an index.
    pub fn strided(self, i: V<'k, Index>, bytes: V<'k, Index>) -> Self {
        let id = self.k.push1(Op::Stride, &[self.id, i.id, bytes.id], self.k.ty(self.id));
        Ptr { id, ..self }
    }

    /// Starts to copy the 16 bytes at `from` to here, which is shared memory.
    pub fn copy_async(self, from: Ptr<'k, E>) {
        self.k.push(self.copy_from(from), &[self.id, from.id], &[]);
    }

    /// The same place, which is shared memory, in CTA `rank` of the cluster.
    pub fn peer(self, rank: impl Operand<'k, Index>) -> Self {
        let id = self.k.push1(Op::Peer, &[self.id, rank.on(self.k).id], Type::Ptr(super::Space::Cluster));
        Ptr { id, ..self }
    }

    /// The same where only the first `bytes` are read, and the others are zero.
    pub fn copy_async_some(self, from: Ptr<'k, E>, bytes: V<'k, Index>) {
        self.k.push(self.copy_from(from), &[self.id, from.id, bytes.id], &[]);
    }

    fn copy_from(self, from: Ptr<'k, E>) -> Op {
        Op::CopyAsync { to: self.offset, from: from.offset, settled: from.settled }
    }

    /// Makes these 8 bytes of shared memory an mbarrier whose phases have `count` arrivals.
    pub fn mbarrier_init(self, count: u32) {
        self.k.push(Op::MbarrierInit { offset: self.offset, count }, &[self.id], &[]);
    }

    /// Arrives at the mbarrier here, which may be a peer's.
    pub fn mbarrier_arrive(self) {
        self.k.push(Op::MbarrierArrive { offset: self.offset }, &[self.id], &[]);
    }

    /// Arrives at the mbarrier here, and expects `bytes` of copies.
    pub fn mbarrier_expect(self, bytes: u32) {
        self.k.push(Op::MbarrierExpect { offset: self.offset, bytes }, &[self.id], &[]);
    }

    /// Waits for the end of the phase with this parity of the mbarrier here.
    pub fn mbarrier_wait(self, parity: V<'k, Index>) {
        self.k.push(Op::MbarrierWait { offset: self.offset }, &[self.id, parity.id], &[]);
    }

    /// Starts to copy `bytes` bytes at `from` to here, which is shared memory; `barrier` counts them.
    pub fn bulk_copy<B: Stored>(self, from: Ptr<'k, E>, bytes: u32, barrier: Ptr<'k, B>) {
        self.bulk_copy_from(from, bytes, barrier, false);
    }

    /// The same to this place in every CTA of the cluster, whose mbarrier at the place of `barrier` counts the bytes there.
    pub fn bulk_copy_everywhere<B: Stored>(self, from: Ptr<'k, E>, bytes: u32, barrier: Ptr<'k, B>) {
        self.bulk_copy_from(from, bytes, barrier, true);
    }

    fn bulk_copy_from<B: Stored>(self, from: Ptr<'k, E>, bytes: u32, barrier: Ptr<'k, B>, everywhere: bool) {
        let op = Op::BulkCopy { to: self.offset, from: from.offset, bytes, barrier: barrier.offset, everywhere };
        self.k.push(op, &[self.id, from.id, barrier.id], &[]);
    }

    /// Says that the cache line here will be read some time later, and ought to be in the cache of level 1 or 2 then; targets that take no
    /// such hints leave it out.
    pub fn prefetch(self, level: u8) {
        self.k.push(Op::Prefetch { offset: self.offset, level }, &[self.id], &[]);
    }

    /// Four matrices of 8 by 8 bf16, see [`Op::LoadMatrix`]; here is the row that this lane addresses, in shared memory.
    pub fn load_matrix(self, trans: bool) -> V<'k, I32> {
        let op = Op::LoadMatrix { offset: self.offset, trans };
        V::wrap(self.k, self.k.push1(op, &[self.id], Type::Vec(super::Elem::I32, 4)))
    }

    /// Counts an arrival here, in global memory, of which that after `last` others is the last; see [`Op::Arrive`].
    pub fn arrive(self, last: V<'k, Index>) -> V<'k, Index> {
        let op = Op::Arrive { offset: self.offset };
        V::wrap(self.k, self.k.push1(op, &[self.id, last.id], Type::Vec(super::Elem::Index, 1)))
    }

    fn step(self, i: V<'k, Index>, scale: u32) -> Self {
        let (base, add) = self.k.affine(i.id);
        let moved = add.checked_mul(i64::from(scale)).and_then(|b| i32::try_from(b + i64::from(self.offset)).ok());
        let offset_by = |v| self.k.push1(Op::Offset { scale }, &[self.id, v], self.k.ty(self.id));
        match (base, moved) {
            (None, Some(offset)) => Ptr { offset, ..self },
            (Some(base), Some(offset)) => Ptr { id: offset_by(base), offset, ..self },
            (_, None) => Ptr { id: offset_by(i.id), ..self },
        }
    }

    /// The whole address as one value, which a loop can carry.
    pub(super) fn whole(self) -> Self {
        if self.offset == 0 {
            return self;
        }
        let bytes: V<Index> = self.offset.on(self.k);
        let id = self.k.push1(Op::Offset { scale: 1 }, &[self.id, bytes.id], self.k.ty(self.id));
        Ptr { id, offset: 0, ..self }
    }

    pub(super) fn id(self) -> Value {
        self.id
    }

    pub(super) fn offset(self) -> i32 {
        self.offset
    }

    /// Another address of the same kind.
    pub(super) fn at_address(self, id: Value) -> Self {
        Ptr { id, offset: 0, ..self }
    }

    /// Promises only that addresses are multiples of `bytes`.
    pub fn aligned(self, bytes: u16) -> Self {
        Ptr { align: bytes, ..self }
    }

    /// Says of accesses to global memory here that a CTA makes each once; see [`Mem::once`].
    pub fn once(self) -> Self {
        Ptr { once: true, ..self }
    }

    /// Says that what copies from here read was written long ago, see [`Op::CopyAsync`]; they need not wait for the kernel before.
    pub fn settled(self) -> Self {
        Ptr { settled: true, ..self }
    }

    /// The same address, of other elements.
    pub fn cast<F: Stored>(self) -> Ptr<'k, F> {
        let Ptr { k, id, offset, align, constant, once, settled, .. } = self;
        Ptr { k, id, offset, align, constant, once, settled, elem: PhantomData }
    }

    fn mem(self, lanes: u16) -> Mem {
        let bytes = (E::BYTES * u32::from(lanes)).next_power_of_two().min(u32::from(self.align));
        Mem { offset: self.offset, align: bytes as u16, constant: self.constant, once: self.once }
    }

    /// The `lanes` elements from here on.
    pub fn load(self, lanes: u16) -> V<'k, E> {
        V::wrap(self.k, self.k.push1(Op::Load(self.mem(lanes)), &[self.id], Type::Vec(E::ELEM, lanes)))
    }

    /// The element here, in each of `lanes` lanes.
    pub fn load_splat(self, lanes: u16) -> V<'k, E> {
        self.load(1).splat(lanes)
    }

    /// Writes the lanes of `v` from here on.
    pub fn store(self, v: impl Operand<'k, E>) {
        let v = v.on(self.k);
        self.k.push(Op::Store(self.mem(v.lanes())), &[v.id, self.id], &[]);
    }
}
