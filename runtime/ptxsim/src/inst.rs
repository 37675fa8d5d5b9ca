//! The compiled form of a kernel: operands are register numbers, branch targets are indices, modifiers are decoded.
//!
//! Constants, shared-memory addresses and special registers are registers too, filled before a warp starts, so that every operand is one index.

use crate::types::{R32, R64, RP, Reg};

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

/// A base register and a constant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    pub base: Base,
    pub offset: i64,
    pub space: Space,
}

/// The register of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Base {
    Short(R32),
    Long(R64),
    /// The constant alone.
    None,
}

/// State spaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    Param,
    Global,
    /// The shared memory of this CTA.
    Shared,
    /// The shared memory of any CTA of the cluster.
    Cluster,
    /// Global or shared, as the address says.
    Generic,
}

/// How strong an access is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Order {
    /// Not `.weak`: other CTAs may access the same place at the same time.
    pub strong: bool,
    pub acquire: bool,
    pub release: bool,
}

/// Loads, stores and atomic operations.
#[derive(Debug)]
pub(crate) enum Memory {
    /// `bytes` for each register; `signed` extends.
    Load {
        address: Address,
        bytes: u32,
        signed: bool,
        to: Box<[Reg]>,
        order: Order,
        constant: bool,
    },
    Store {
        address: Address,
        bytes: u32,
        from: Box<[Reg]>,
        order: Order,
    },
    /// `red` has no `d`. Several operands are `.v2`, `.v4`.
    Atomic {
        op: AtomOp,
        address: Address,
        d: Option<Reg>,
        a: Box<[Reg]>,
        b: Option<Reg>,
        order: Order,
    },
    /// `fence`, `membar`; `cta` if no other CTA need see the order.
    Fence {
        cta: bool,
    },
}

/// Atomic operations; the type is in the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtomOp {
    Add32,
    Add64,
    AddF32,
    AddBf16x2,
    Min32 { signed: bool },
    Max32 { signed: bool },
    Min64 { signed: bool },
    Max64 { signed: bool },
    And32,
    Or32,
    Xor32,
    Inc32,
    Dec32,
    Exch32,
    Exch64,
    Cas32,
    Cas64,
}

impl AtomOp {
    pub fn bytes(self) -> u32 {
        match self {
            AtomOp::Add64 | AtomOp::Min64 { .. } | AtomOp::Max64 { .. } | AtomOp::Exch64 | AtomOp::Cas64 => 8,
            _ => 4,
        }
    }
}

/// Exchange between the lanes of a warp. `members` is the mask operand.
#[derive(Debug)]
pub(crate) enum WarpOp {
    Shuffle {
        mode: Shuffle,
        d: R32,
        p: Option<RP>,
        a: R32,
        b: R32,
        c: R32,
        members: R32,
    },
    Vote {
        mode: Vote,
        a: RP,
        negate: bool,
        d: VoteTo,
        members: R32,
    },
    Redux {
        op: Redux,
        d: R32,
        a: R32,
        members: R32,
    },
    /// `match.any`: the lanes with an equal value.
    MatchAny {
        d: R32,
        a: R32,
        members: R32,
    },
    ActiveMask {
        d: R32,
    },
    Elect {
        d: Option<R32>,
        p: RP,
        members: R32,
    },
    /// `bar.warp.sync`.
    Sync {
        members: R32,
    },
    /// `movmatrix.m8n8.trans`.
    Transpose {
        d: R32,
        a: R32,
    },
}

/// Which lane a shuffle reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What a vote asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// Where the answer of a vote goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VoteTo {
    Pred(RP),
    Bits(R32),
}

/// Reductions over a warp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Redux {
    Add,
    Min { signed: bool },
    Max { signed: bool },
    And,
    Or,
    Xor,
}

/// Tile products and the movement of tiles.
#[derive(Debug)]
pub(crate) enum TileOp {
    /// `mma.sync`: `[m16n8k]` of `kind`.
    Mma {
        kind: MmaKind,
        d: [R32; 4],
        a: Box<[R32]>,
        b: Box<[R32]>,
        c: [R32; 4],
    },
    LoadMatrix {
        trans: bool,
        to: Box<[R32]>,
        address: Address,
    },
    Wgmma(WgmmaOp),
    StoreMatrix {
        trans: bool,
        from: Box<[R32]>,
        address: Address,
    },
}

/// Products of a warpgroup.
#[derive(Debug)]
pub(crate) enum WgmmaOp {
    Fence,
    Commit,
    Wait {
        pending: u32,
    },
    /// `D = A B + D`, or `A B` where `keep` does not hold; signs of A and B.
    Mma {
        tf32: bool,
        n: u32,
        d: Box<[R32]>,
        a: WgmmaA,
        b: R64,
        keep: (RP, bool),
        negate: bool,
        trans_a: bool,
        trans_b: bool,
    },
}

/// The operand A of a warpgroup's product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WgmmaA {
    Registers([R32; 4]),
    Descriptor(R64),
}

/// Shapes and types of `mma.sync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MmaKind {
    Bf16K16,
    Bf16K8,
    F16K16,
    F16K8,
    Tf32K8,
    Tf32K4,
}

/// Barriers, and the order between proxies and launches.
#[derive(Debug)]
pub(crate) enum SyncOp {
    /// `bar.sync`, `bar.arrive` (`wait` is false), `bar.red`.
    Barrier {
        id: R32,
        threads: Option<R32>,
        wait: bool,
        aligned: bool,
        red: Option<BarrierRed>,
    },
    /// `barrier.cluster.arrive`, `barrier.cluster.wait`.
    ClusterArrive {
        aligned: bool,
    },
    ClusterWait {
        aligned: bool,
    },
    Mbarrier(MbarrierOp),
    /// `fence.proxy.async`.
    FenceProxy,
    /// `setmaxnreg`, which changes no value.
    SetRegisters,
    /// `griddepcontrol`.
    LaunchDependents,
    WaitDependencies,
}

/// Operations on an mbarrier.
#[derive(Debug)]
pub(crate) enum MbarrierOp {
    Init {
        address: Address,
        count: R32,
    },
    Invalidate {
        address: Address,
    },
    /// Expects `bytes` more, then arrives `count` times; `d` becomes the state.
    Arrive {
        address: Address,
        d: Option<R64>,
        count: Option<R32>,
        bytes: Option<R32>,
    },
    /// Expects `bytes` more.
    Expect {
        address: Address,
        bytes: R32,
    },
    /// Whether a phase is complete; `block` waits until it is.
    Wait {
        p: RP,
        address: Address,
        phase: PhaseOf,
        block: bool,
    },
    /// `cp.async.mbarrier.arrive.noinc`.
    CopyArrive {
        address: Address,
    },
}

/// Which phase is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PhaseOf {
    State(R64),
    Parity(R32),
}

/// The reduction of a `bar.red`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BarrierRed {
    pub a: RP,
    pub negate: bool,
    pub to: BarrierRedTo,
}

/// Its kind and where the answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BarrierRedTo {
    Popc(R32),
    And(RP),
    Or(RP),
}

/// `cp.async`, `cp.async.bulk` and their groups.
#[derive(Debug)]
pub(crate) enum CopyOp {
    /// Global to shared memory, of the blocks in the mask if there is one; completes bytes of the mbarrier at the same place there.
    BulkLoad {
        to: Address,
        from: Address,
        bytes: R32,
        mbarrier: Address,
        multicast: Option<R32>,
    },
    /// Shared to global memory.
    BulkStore {
        to: Address,
        from: Address,
        bytes: R32,
    },
    BulkCommit,
    BulkWait {
        pending: u32,
    },
    /// The last `bytes - source_bytes` are zeros; with `skip`, all are.
    Async {
        to: Address,
        from: Address,
        bytes: u32,
        source_bytes: Option<R32>,
        skip: Option<(RP, bool)>,
    },
    Commit,
    /// Waits until at most `pending` groups of the lane are in flight.
    Wait {
        pending: u32,
    },
    /// `cp.async.wait_all`: also what has not been committed.
    WaitAll,
}
