//! Typed SSA values in nested blocks. Loops and branches are operations that own blocks.

pub use super::ops::Scalar;
use std::collections::HashMap;

/// Bytes of shared memory that a CTA gets without asking the driver for more.
pub const STATIC_SHARED: u32 = 48 << 10;

/// What one lane holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Elem {
    /// A truth value; never in memory.
    Pred,
    /// Counts, subscripts and strides: 64 bits on a CPU, 32 on a GPU. Enters as a parameter, never through memory.
    Index,
    /// 32 bits: token ids, slots, positions, and the bits of an f32.
    I32,
    /// IEEE single precision.
    F32,
    /// The high half of an f32; only moved and converted.
    Bf16,
}

/// Where memory lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Space {
    /// Visible to everybody: weights, activations, states.
    Global,
    /// This worker's own: a slice of the arena per thread on a CPU, memory that the threads of a CTA share on a GPU.
    Scratch,
    /// Shared memory of any CTA of this cluster.
    Cluster,
}

/// The type of a value. A scalar is a vector of one lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Type {
    /// So many lanes of one element.
    Vec(Elem, u16),
    /// An address.
    Ptr(Space),
}

/// A value of a kernel: its index into [`Kernel::types`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);

/// How an access touches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Mem {
    /// Bytes added to the address.
    pub offset: i32,
    /// Bytes that the address is a multiple of.
    pub align: u16,
    /// Nobody writes this memory while the kernel runs.
    pub constant: bool,
    /// A hint about global memory: a CTA touches these bytes once, and they will not be wanted soon again, so that no cache need
    /// keep them. Targets without such hints leave it out.
    pub once: bool,
}

/// A comparison. Integers compare with sign; with a NaN every comparison is false.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Cmp {
    /// `a < b`.
    Lt,
    /// `a <= b`.
    Le,
    /// `a == b`.
    Eq,
}

/// What only some targets can do; [`crate::targets::Target::has`] answers, the verifier asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Cap {
    /// A fused multiply-add in one instruction.
    Fma,
    /// Rounding f32 to bf16 in one instruction.
    Bf16Round,
    /// Products of pairs of bf16 summed in f32 in one instruction.
    Bf16Dot,
    /// Threads in CTAs: their numbers, barriers, shuffles and shared memory.
    Threads,
    /// Tile products of a warp.
    Mma,
    /// Copies to shared memory that go on beside the thread.
    AsyncCopy,
    /// Dot products of four bytes without sign and four with sign in one instruction.
    Int8Dot,
    /// Dot products of four bytes with sign and four with sign in one instruction.
    SignedInt8Dot,
    /// Dot products of two signed halves of a word in one instruction.
    Int16Dot,
    /// Tile products of four warps that go on beside the threads, with operands in shared memory.
    Wgmma,
    /// Hints of memory that will be read.
    Prefetch,
    /// A kernel starts while the one before still runs, and says where it needs what that one wrote.
    DependentLaunch,
    /// Copies of many bytes that one thread starts, and barriers in shared memory that count what has arrived.
    BulkCopy,
    /// CTAs in clusters: a barrier for all of them, and each other's shared memory.
    Cluster,
}

/// What an instruction does.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Op {
    /// The same bits in every lane: of an f32, or of an integer (sign-extended to 64 bits).
    Const(u64),
    /// A row of the table of scalar operations, lanewise.
    Scalar(Scalar),
    /// By a constant number of bits.
    ShiftLeft(u8),
    /// By a constant number of bits, filling with zeros.
    ShiftRight(u8),
    /// Lanewise comparison, giving `Pred`.
    Cmp(Cmp),
    /// `(pred, a, b)`, lanewise; a scalar predicate chooses between whole vectors.
    Select,
    /// A scalar to every lane of a vector.
    Splat,
    /// Lane `i` of a vector.
    Extract(u16),
    /// Scalars to a vector.
    Pack,
    /// The sum of all lanes: first of those a register's width apart, then of pairs.
    SumLanes,
    /// bf16 to f32, exact, in the order of the lanes.
    Widen,
    /// bf16 to f32, exact: the even lanes and the odd lanes, which costs no shuffle anywhere.
    WidenPairs,
    /// f32 to bf16, to nearest even.
    Round,
    /// The low 16 bits of an i32, as bf16.
    Bf16Bits,
    /// f32 to i32 or back, or i32 to pairs of bf16 (the low half first): the same bits.
    Bitcast,
    /// `(a, b, sum)`, 2n lanes of bf16 twice and n of f32: `sum[i] + a[2i] b[2i] + a[2i+1] b[2i+1]` in f32, in either order
    /// and with or without rounding in between. A target with [`Cap::Bf16Dot`] takes denormal operands and results for zero, and
    /// rounds a sum to nearest (x86-64) or to odd (Arm): of the two numbers beside an inexact sum the one whose last bit is 1,
    /// which errs by up to a unit in the last place instead of half of one, and to either side as often.
    DotPairs,
    /// `(sum, a, b)`, of i32: to each lane of `sum` the products of the four bytes of `a`, without sign, and of `b`, with sign;
    /// wrapping. 4, 8 or 16 lanes.
    DotBytes,
    /// The same where the bytes of `a` have a sign, too.
    DotSignedBytes,
    /// `(sum, a, b)`, of i32: to each lane of `sum` the products of the low and of the high halves of `a` and `b`, all with sign;
    /// wrapping. 4, 8 or 16 lanes.
    DotHalves,
    /// i32 to f32, to nearest even.
    ToF32,
    /// i32 to Index, with its sign.
    ToIndex,
    /// The low 32 bits of an Index.
    ToI32,
    /// `(ptr, index)`: `ptr + index * scale` bytes.
    Offset {
        /// Bytes per step of the index.
        scale: u32,
    },
    /// `(ptr, index, bytes)`: `ptr + index * bytes`, both read without sign, the product exact on every target.
    Stride,
    /// `(ptr)`.
    Load(Mem),
    /// `(value, ptr)`.
    Store(Mem),
    /// `(ptr)`: the cache line there will be read some time later, so that it ought to be in a cache. A hint: the address may be any.
    Prefetch {
        /// Bytes added to the address.
        offset: i32,
        /// Which cache: 1, the nearest, or 2.
        level: u8,
    },
    /// `(lo, hi, init...)`, one block with parameters `(i, carried...)`, results `carried...`.
    For {
        /// What the subscript grows by in each turn.
        step: u32,
    },
    /// `(pred)`, two blocks without parameters.
    If,
    /// Number of this thread in its CTA.
    ThreadId,
    /// Number of this CTA in the grid.
    CtaId,
    /// So many bytes of shared memory, a region of their own.
    Shared {
        /// The size.
        bytes: u32,
    },
    /// Waits until all threads of the CTA are here; what they wrote to shared memory is seen by all from here on.
    Barrier,
    /// The same for the lanes of this warp.
    WarpBarrier,
    /// The same for all CTAs of the cluster, and what their threads wrote to shared memory of any of them.
    ClusterBarrier,
    /// `(shared, rank)`: the same place in the shared memory of a CTA of the cluster.
    Peer,
    /// The value that the lane of this warp holds whose number differs in these bits.
    ShuffleXor(u8),
    /// `(value, lane)`: the value that a lane of this warp holds.
    Shuffle,
    /// `(a: bf16x8, b: bf16x4, c: f32x4)`: `A B + C` of 16 by 16 by 8, spread over a warp as PTX lays out the fragments of
    /// `mma.m16n8k16`; every product exact, sums in f32.
    Mma,
    /// `(ptr)`, to shared memory, each lane its own: four matrices of 8 by 8 bf16, of which lanes `8 i` to `8 i + 7` address the
    /// rows of matrix `i`; lane `l` gets elements `2 (l % 4)` and the next of row `l / 4` of each as the halves of an i32.
    LoadMatrix {
        /// Bytes added to the addresses.
        offset: i32,
        /// Whether rows become columns on the way.
        trans: bool,
    },
    /// Registers and shared memory as they are now are what the next tile products of this warpgroup read.
    WgmmaFence,
    /// `(sum: f32xN, a: bf16x8, shared)`: starts `sum + A B` of 64 by 16 by 2N, spread over four warps as PTX lays out the
    /// fragments of `wgmma.m64nNk16`, `B` transposed and in pieces of 8 by 8 bf16 of 128 bytes each. The sum, which is a loop's or
    /// another product's, is overwritten; until [`Op::WgmmaWait`] nothing but another product may read the result.
    Wgmma {
        /// Bytes added to the address.
        offset: i32,
        /// Bytes from a piece to the next along the summed dimension.
        lead: u32,
        /// Bytes from a piece to the next along the columns.
        stride: u32,
    },
    /// Makes the products that this warpgroup started since the last one a group.
    WgmmaCommit,
    /// Waits until at most so many groups of this warpgroup are unfinished.
    WgmmaWait(u8),
    /// What this thread wrote to shared memory is seen by products of warpgroups behind the next barrier.
    ProxyFence,
    /// `(ptr, last)`: adds one to the i32 there or, if it was `last`, makes it 0, and gives what it was, as one step among all CTAs.
    /// What a thread knows of before, another knows of behind its own arrival at the same place.
    Arrive {
        /// Bytes added to the address.
        offset: i32,
    },
    /// `(shared, global)` or `(shared, global, n)`: starts to copy 16 bytes, of which only the first `n` are read, the others zero.
    CopyAsync {
        /// Bytes added to the address in shared memory.
        to: i32,
        /// Bytes added to the address in global memory.
        from: i32,
        /// No kernel younger than the one before the kernel before has written what is read, so that it is there when this one starts.
        settled: bool,
    },
    /// Makes the copies that this thread started since the last one a group.
    CopyCommit,
    /// Waits until at most so many groups of this thread are unfinished.
    CopyWait(u8),
    /// `(shared)`: the 8 bytes there become an mbarrier: a phase ends when so many threads have arrived and all bytes that they expect
    /// have been copied. Used behind a fence ([`Op::ProxyFence`]) and a barrier.
    MbarrierInit {
        /// Bytes added to the address.
        offset: i32,
        /// Arrivals of a phase.
        count: u32,
    },
    /// `(mbarrier)`, which may be another CTA's of the cluster: arrives; what this thread did before is done for those who wait for the phase.
    MbarrierArrive {
        /// Bytes added to the address.
        offset: i32,
    },
    /// `(mbarrier)`: arrives, and expects so many bytes of this phase's copies.
    MbarrierExpect {
        /// Bytes added to the address.
        offset: i32,
        /// The bytes.
        bytes: u32,
    },
    /// `(mbarrier, parity)`: waits until the phase with this parity has ended; the first phase has parity 0, and that before it 1.
    MbarrierWait {
        /// Bytes added to the address.
        offset: i32,
    },
    /// `(shared, global, mbarrier)`: starts to copy so many bytes, which the mbarrier counts when they have arrived.
    BulkCopy {
        /// Bytes added to the address in shared memory.
        to: i32,
        /// Bytes added to the address in global memory.
        from: i32,
        /// The bytes, a multiple of 16.
        bytes: u32,
        /// Bytes added to the address of the mbarrier.
        barrier: i32,
        /// To the same place in each CTA of the cluster, whose mbarrier at the same place counts them there.
        everywhere: bool,
    },
    /// Waits until the kernel launched before has finished and what it wrote can be seen.
    AwaitPrevious,
    /// The next kernel may start once all CTAs were here.
    ReleaseNext,
}

/// One instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inst {
    /// What it does.
    pub op: Op,
    /// What it reads.
    pub args: Vec<Value>,
    /// What it defines.
    pub results: Vec<Value>,
    /// The bodies of a loop or branch.
    pub blocks: Vec<Block>,
}

/// Straight-line code that ends by yielding values to the operation that owns it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Block {
    /// Defined on entry.
    pub params: Vec<Value>,
    /// In order; the order of loads and stores is part of a kernel's meaning.
    pub insts: Vec<Inst>,
    /// Handed to the owner at the end.
    pub yields: Vec<Value>,
}

/// A parameter of a kernel: one 8-byte word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Param {
    /// For the text form and for diagnostics.
    pub name: String,
    /// A pointer or a scalar Index.
    pub value: Value,
}

/// How many items of work a kernel has; each call covers a range of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Items {
    /// Items of the whole kernel, or of one row.
    pub fixed: u32,
    /// Multiplied by the number of rows.
    pub per_row: bool,
}

/// How the threads of a GPU share the items of a kernel: one CTA for each item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Launch {
    /// Threads of a CTA: whole warps.
    pub threads: u32,
    /// CTAs that a multiprocessor must be able to hold at once, which bounds registers and shared memory.
    pub ctas: u32,
    /// Rows that one item covers where items are counted by rows.
    pub rows: u32,
}

/// One function. At run time it gets an array of 8-byte words, one per parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// The symbol.
    pub name: String,
    /// What it computes, line by line, for people.
    pub doc: String,
    /// In the order of the words.
    pub params: Vec<Param>,
    /// The type of each value.
    pub types: Vec<Type>,
    /// The body; yields nothing.
    pub body: Block,
    /// How the work divides.
    pub items: Items,
    /// How threads share it; none for a kernel that one thread runs.
    pub launch: Option<Launch>,
    /// CTAs of a cluster, neighbours in the order of items; 1 where they have nothing to do with each other.
    pub cluster: u32,
}

impl Elem {
    /// Bytes of one lane in memory; none for what never goes there.
    pub fn bytes(self) -> Option<u32> {
        match self {
            Elem::F32 | Elem::I32 => Some(4),
            Elem::Bf16 => Some(2),
            Elem::Pred | Elem::Index => None,
        }
    }
}

impl Type {
    /// How many lanes.
    pub fn lanes(self) -> u16 {
        match self {
            Type::Vec(_, n) => n,
            Type::Ptr(_) => 1,
        }
    }

    /// What each lane holds; none for a pointer.
    pub fn elem(self) -> Option<Elem> {
        match self {
            Type::Vec(e, _) => Some(e),
            Type::Ptr(_) => None,
        }
    }

    /// Bytes of the whole value in memory; none for what never goes there.
    pub fn bytes(self) -> Option<u32> {
        Some(self.elem()?.bytes()? * u32::from(self.lanes()))
    }
}

impl Op {
    /// The capability without which no target can do this in one instruction.
    pub fn needs(&self) -> Option<Cap> {
        match self {
            Op::Scalar(Scalar::Fma) => Some(Cap::Fma),
            Op::Round => Some(Cap::Bf16Round),
            Op::DotPairs => Some(Cap::Bf16Dot),
            Op::ThreadId | Op::CtaId | Op::Shared { .. } | Op::Barrier | Op::ShuffleXor(_) | Op::Shuffle => {
                Some(Cap::Threads)
            }
            Op::Arrive { .. } | Op::WarpBarrier => Some(Cap::Threads),
            Op::ClusterBarrier | Op::Peer => Some(Cap::Cluster),
            Op::Mma | Op::LoadMatrix { .. } => Some(Cap::Mma),
            Op::CopyAsync { .. } | Op::CopyCommit | Op::CopyWait(_) => Some(Cap::AsyncCopy),
            Op::DotBytes => Some(Cap::Int8Dot),
            Op::DotSignedBytes => Some(Cap::SignedInt8Dot),
            Op::DotHalves => Some(Cap::Int16Dot),
            Op::WgmmaFence | Op::Wgmma { .. } | Op::WgmmaCommit | Op::WgmmaWait(_) | Op::ProxyFence => Some(Cap::Wgmma),
            Op::MbarrierInit { .. } | Op::MbarrierArrive { .. } | Op::MbarrierExpect { .. } => Some(Cap::BulkCopy),
            Op::BulkCopy { everywhere: true, .. } => Some(Cap::Cluster),
            Op::MbarrierWait { .. } | Op::BulkCopy { .. } => Some(Cap::BulkCopy),
            Op::Prefetch { .. } => Some(Cap::Prefetch),
            Op::AwaitPrevious | Op::ReleaseNext => Some(Cap::DependentLaunch),
            _ => None,
        }
    }

    /// Whether equal operands always give equal results and nothing else happens.
    pub fn is_pure(&self) -> bool {
        let memory = matches!(self, Op::Load(_) | Op::Store(_) | Op::LoadMatrix { .. } | Op::Shared { .. });
        let threads = matches!(self, Op::Barrier | Op::ShuffleXor(_) | Op::Shuffle | Op::Mma | Op::Arrive { .. });
        let clusters = matches!(self, Op::ClusterBarrier | Op::WarpBarrier | Op::BulkCopy { .. });
        let copies = matches!(self, Op::CopyAsync { .. } | Op::CopyCommit | Op::CopyWait(_));
        let launches = matches!(self, Op::AwaitPrevious | Op::ReleaseNext);
        let groups = matches!(self.needs(), Some(Cap::Wgmma | Cap::BulkCopy));
        let others = matches!(self, Op::For { .. } | Op::If | Op::Prefetch { .. });
        !(groups || memory || threads || clusters || copies || launches || others)
    }
}

impl Kernel {
    /// Bytes of shared memory of a CTA, each region at a multiple of 16.
    pub fn shared_bytes(&self) -> u32 {
        fn count(block: &Block) -> u32 {
            let inst = |i: &Inst| match i.op {
                Op::Shared { bytes } => bytes.next_multiple_of(16),
                _ => i.blocks.iter().map(count).fold(0, u32::saturating_add),
            };
            block.insts.iter().map(inst).fold(0, u32::saturating_add)
        }
        count(&self.body)
    }

    /// Bytes of shared memory that a launch has to ask for; nothing where the kernel's own regions are few enough.
    pub fn dynamic_shared_bytes(&self) -> u32 {
        let bytes = self.shared_bytes();
        if bytes > STATIC_SHARED { bytes } else { 0 }
    }

    /// The type of `v`.
    pub fn ty(&self, v: Value) -> Type {
        self.types[v.0 as usize]
    }

    /// A new value of type `ty`, not yet defined by any instruction.
    pub fn fresh(&mut self, ty: Type) -> Value {
        self.types.push(ty);
        Value(self.types.len() as u32 - 1)
    }

    /// How often each value is used.
    pub fn uses(&self) -> HashMap<Value, usize> {
        fn count(block: &Block, uses: &mut HashMap<Value, usize>) {
            let args = block.insts.iter().flat_map(|i| &i.args);
            args.chain(&block.yields).for_each(|v| *uses.entry(*v).or_default() += 1);
            block.insts.iter().flat_map(|i| &i.blocks).for_each(|b| count(b, uses));
        }
        let mut uses = HashMap::new();
        count(&self.body, &mut uses);
        uses
    }
}
