//! What came with sm_90: mbarriers with transactions (the plain ones are older), bulk copies, clusters, warpgroup products.

use super::Parsed;
use super::decode::Decoder;
use crate::inst::{CopyOp, MbarrierOp, Op, PhaseOf, Space, SyncOp, TileOp, WaitHow, WgmmaA, WgmmaOp};
use crate::types::{R32, Reg, Type};
use Type::*;

/// Whether a scope is that of the cluster; without one it is the block.
const SCOPES: &[(&str, bool)] = &[("cta", false), ("cluster", true)];

/// `fence.proxy.async{.space}`.
pub fn fence_proxy(x: &mut Decoder) -> Parsed<Op> {
    x.needs(90, false, "`fence.proxy`")?;
    x.require("async")?;
    x.optional(&[("global", ()), ("shared::cta", ()), ("shared::cluster", ())]);
    Ok(Op::Sync(SyncOp::FenceProxy))
}

/// `barrier.cluster.arrive{.sem}{.aligned}`, `barrier.cluster.wait{.acquire}{.aligned}`.
pub fn cluster_barrier(x: &mut Decoder) -> Parsed<Op> {
    x.needs(90, false, "`barrier.cluster`")?;
    let arrive = x.one_of(&[("arrive", true), ("wait", false)])?;
    if arrive && x.next_modifier() == Some("relaxed") {
        return Err(x.unexpected("`.release` or `.aligned`"));
    }
    x.accept(if arrive { "release" } else { "acquire" });
    let aligned = x.accept("aligned");
    Ok(Op::Sync(if arrive { SyncOp::ClusterArrive { aligned } } else { SyncOp::ClusterWait { aligned } }))
}

/// `mapa.shared::cluster.u32 d, a, rank`.
pub fn mapa(x: &mut Decoder) -> Parsed<Op> {
    x.needs(90, false, "`mapa`")?;
    x.require_all(&["shared::cluster", "u32"])?;
    Ok(Op::MapAddress { d: x.dst32(U32)?, a: x.src32(U32)?, rank: x.src32(U32)? })
}

pub fn griddepcontrol(x: &mut Decoder) -> Parsed<Op> {
    x.needs(90, false, "`griddepcontrol`")?;
    let wait = x.one_of(&[("wait", true), ("launch_dependents", false)])?;
    Ok(Op::Sync(if wait { SyncOp::WaitDependencies } else { SyncOp::LaunchDependents }))
}

pub fn setmaxnreg(x: &mut Decoder) -> Parsed<Op> {
    x.needs(90, true, "`setmaxnreg`")?;
    x.one_of(&[("inc", ()), ("dec", ())])?;
    x.require_all(&["sync", "aligned", "u32"])?;
    let count = x.immediate(24..=256)?;
    if count % 8 != 0 {
        return Err(x.error(format!("found {count} registers, expected a multiple of 8")));
    }
    Ok(Op::Sync(SyncOp::SetRegisters))
}

fn shared(x: &mut Decoder) -> Parsed<Space> {
    let table = [("shared", Space::Shared), ("shared::cta", Space::Shared), ("shared::cluster", Space::Cluster)];
    x.one_of(&table)
}

pub fn mbarrier(x: &mut Decoder) -> Parsed<Op> {
    let name = x.one_of(&["init", "inval", "arrive", "expect_tx", "test_wait", "try_wait"].map(|n| (n, n)))?;
    if matches!(name, "expect_tx" | "try_wait") {
        x.needs(90, false, "transactions of an mbarrier")?;
    }
    let op = match name {
        "init" => {
            let space = shared(x)?;
            x.require("b64")?;
            MbarrierOp::Init { address: x.address(space)?, count: x.src32(U32)? }
        }
        "inval" => {
            let space = shared(x)?;
            x.require("b64")?;
            MbarrierOp::Invalidate { address: x.address(space)? }
        }
        "arrive" => arrive(x)?,
        "expect_tx" => {
            x.require("relaxed")?;
            x.one_of(SCOPES)?;
            let space = shared(x)?;
            x.require("b64")?;
            MbarrierOp::Expect { address: x.address(space)?, bytes: x.src32(U32)? }
        }
        _ => wait(x, name == "try_wait")?,
    };
    Ok(Op::Sync(SyncOp::Mbarrier(op)))
}

/// `mbarrier.arrive{.expect_tx}{.release.scope}.space.b64 state, [a]{, count or bytes}`.
fn arrive(x: &mut Decoder) -> Parsed<MbarrierOp> {
    let expect = x.accept("expect_tx");
    if expect {
        x.needs(90, false, "transactions of an mbarrier")?;
    }
    let cluster = x.accept("release") && x.one_of(SCOPES)?;
    let space = shared(x)?;
    x.require("b64")?;
    let d = match x.dst_pair(B64)? {
        (None, None) => None,
        (Some(Reg::D(d)), None) if space == Space::Shared => Some(d),
        _ => return Err(x.error("found a state that cannot be had, expected a 64-bit register or `_`")),
    };
    let address = x.address(space)?;
    let number = if x.operands_left() > 0 { Some(x.src32(U32)?) } else { None };
    if number.is_some() && !expect {
        x.needs(90, false, "an arrival with a count")?;
    }
    if expect && number.is_none() {
        return Err(x.error("found no number of bytes to expect"));
    }
    let (count, bytes) = if expect { (None, number) } else { (number, None) };
    Ok(MbarrierOp::Arrive { address, d, count, bytes, cluster })
}

/// `mbarrier.try_wait{.parity}{.acquire.scope}.space.b64 p, [a], phase{, time}`.
fn wait(x: &mut Decoder, block: bool) -> Parsed<MbarrierOp> {
    let parity = x.accept("parity");
    let cluster = x.accept("acquire") && x.one_of(SCOPES)?;
    let space = x.one_of(&[("shared", Space::Shared), ("shared::cta", Space::Shared)])?;
    x.require("b64")?;
    let (p, address) = (x.dst_pred()?, x.address(space)?);
    let phase = if parity { PhaseOf::Parity(x.src32(U32)?) } else { PhaseOf::State(x.src64(B64)?) };
    if block && x.operands_left() > 0 {
        x.src32(U32)?;
    }
    Ok(MbarrierOp::Wait { p, address, phase, how: WaitHow { blocks: block, cluster } })
}

/// `cp.async.mbarrier.arrive.noinc.shared.b64 [a]`.
pub fn copy_arrive(x: &mut Decoder) -> Parsed<Op> {
    x.require_all(&["mbarrier", "arrive", "noinc"])?;
    x.one_of(&[("shared", ()), ("shared::cta", ())])?;
    x.require("b64")?;
    let address = x.address(Space::Shared)?;
    Ok(Op::Sync(SyncOp::Mbarrier(MbarrierOp::CopyArrive { address })))
}

/// `cp.async.bulk`.
pub fn bulk(x: &mut Decoder) -> Parsed<Op> {
    x.needs(90, false, "`cp.async.bulk`")?;
    x.require("bulk")?;
    if x.accept("commit_group") {
        return Ok(Op::Copy(CopyOp::BulkCommit));
    }
    if x.accept("wait_group") {
        x.accept("read");
        return Ok(Op::Copy(CopyOp::BulkWait { pending: x.immediate(0..=1 << 20)? as u32 }));
    }
    if x.accept("prefetch") {
        x.require_all(&["L2", "global"])?;
        let address = x.address(Space::Global)?;
        x.src32(U32)?;
        return Ok(Op::Touch { address });
    }
    if x.accept("global") {
        x.require_all(&["shared::cta", "bulk_group"])?;
        let policy = x.accept("L2::cache_hint");
        let (to, from, bytes) = (x.address(Space::Global)?, x.address(Space::Shared)?, x.src32(U32)?);
        if policy {
            x.src64(B64)?;
        }
        return Ok(Op::Copy(CopyOp::BulkStore { to, from, bytes }));
    }
    x.require_all(&["shared::cluster", "global", "mbarrier::complete_tx::bytes"])?;
    let multicast = x.accept("multicast::cluster");
    let policy = x.accept("L2::cache_hint");
    let (to, from, bytes) = (x.address(Space::Cluster)?, x.address(Space::Global)?, x.src32(U32)?);
    let mbarrier = x.address(Space::Cluster)?;
    let multicast = if multicast { Some(x.src32(U16)?) } else { None };
    if policy {
        x.src64(B64)?;
    }
    Ok(Op::Copy(CopyOp::BulkLoad { to, from, bytes, mbarrier, multicast }))
}

/// `wgmma`.
pub fn wgmma(x: &mut Decoder) -> Parsed<Op> {
    x.needs(90, true, "`wgmma`")?;
    let name = x.one_of(&["fence", "commit_group", "wait_group", "mma_async"].map(|n| (n, n)))?;
    x.require_all(&["sync", "aligned"])?;
    let op = match name {
        "fence" => WgmmaOp::Fence,
        "commit_group" => WgmmaOp::Commit,
        "wait_group" => WgmmaOp::Wait { pending: x.immediate(0..=7)? as u32 },
        _ => mma_async(x)?,
    };
    Ok(Op::Tile(TileOp::Wgmma(op)))
}

/// `wgmma.mma_async.sync.aligned.m64nNk16.f32.bf16.bf16 d, a, b, scale-d, scale-a, scale-b{, trans-a}, trans-b`.
fn mma_async(x: &mut Decoder) -> Parsed<WgmmaOp> {
    let unknown = x.unexpected("`.m64nNk16` or `.m64nNk8` with N a multiple of 8 up to 256");
    let Some(shape) = x.next_modifier() else { return Err(unknown) };
    let parts = shape.strip_prefix("m64n").and_then(|s| s.split_once('k'));
    let Some((n, k)) = parts.and_then(|(n, k)| Some((n.parse::<u32>().ok()?, k))) else { return Err(unknown) };
    if n % 8 != 0 || !(8..=256).contains(&n) || !matches!(k, "8" | "16") {
        return Err(unknown);
    }
    x.require(shape)?;
    let tf32 = k == "8";
    let element = if tf32 { "tf32" } else { "bf16" };
    x.require_all(&["f32", element, element])?;
    let d = x.dst_list32(n as usize / 2, F32)?;
    let a = match x.next_is_list() {
        true => {
            let list: Box<[R32]> = x.src_list32(4, B32)?;
            WgmmaA::Registers([list[0], list[1], list[2], list[3]])
        }
        false => WgmmaA::Descriptor(x.src64(B64)?),
    };
    let b = x.src64(B64)?;
    let keep = x.src_pred()?;
    let (sign_a, sign_b) = (x.immediate(-1..=1)?, x.immediate(-1..=1)?);
    if sign_a * sign_b == 0 {
        return Err(x.error("found a scale of 0, expected 1 or -1"));
    }
    let in_memory = matches!(a, WgmmaA::Descriptor(_));
    let mut flag = |wanted: bool| -> Parsed<bool> { Ok(wanted && x.immediate(0..=1)? == 1) };
    let (trans_a, trans_b) = (flag(!tf32 && in_memory)?, flag(!tf32)?);
    Ok(WgmmaOp::Mma { tf32, n, d, a, b, keep, negate: sign_a != sign_b, trans_a, trans_b })
}
