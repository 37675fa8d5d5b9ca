//! Memory, exchange between lanes, tiles, barriers and copies in compiled form.

use crate::types::{R32, R64, RP, Reg};

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
    /// Expects `bytes` more, then arrives `count` times; `d` becomes the state. Releases to the cluster, or to the block alone.
    Arrive {
        address: Address,
        d: Option<R64>,
        count: Option<R32>,
        bytes: Option<R32>,
        cluster: bool,
    },
    /// Expects `bytes` more.
    Expect {
        address: Address,
        bytes: R32,
    },
    /// Whether a phase is complete.
    Wait {
        p: RP,
        address: Address,
        phase: PhaseOf,
        how: WaitHow,
    },
    /// `cp.async.mbarrier.arrive.noinc`.
    CopyArrive {
        address: Address,
    },
}

/// How a phase is waited for: until it is complete, or only asked for; with knowledge of the cluster's threads, or of the block's alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WaitHow {
    pub blocks: bool,
    pub cluster: bool,
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
