//! Exchange between lanes, and barriers (PTX ISA, "Parallel Synchronization and Communication Instructions", `shfl`).

use super::Parsed;
use super::decode::Decoder;
use crate::inst::{BarrierRed, BarrierRedTo, Op, Redux, Shuffle, SyncOp, Vote, VoteTo, WarpOp};
use crate::types::{Reg, Type};
use Type::*;

pub fn exchange(x: &mut Decoder) -> Parsed<Op> {
    let op = match x.opcode {
        "shfl" => shuffle(x)?,
        "vote" => vote(x)?,
        "redux" => redux(x)?,
        "match" => {
            x.require_all(&["any", "sync", "b32"])?;
            WarpOp::MatchAny { d: x.dst32(B32)?, a: x.src32(B32)?, members: x.src32(B32)? }
        }
        "activemask" => {
            x.require("b32")?;
            WarpOp::ActiveMask { d: x.dst32(B32)? }
        }
        "elect" => {
            x.needs(90, false, "`elect.sync`")?;
            x.require("sync")?;
            let (d, p) = x.dst_pair(B32)?;
            let d = d.and_then(|reg| if let Reg::W(r) = reg { Some(r) } else { None });
            let Some(Reg::P(p)) = p else {
                return Err(x.error("found `elect.sync` without a predicate, expected `d|p`"));
            };
            WarpOp::Elect { d, p, members: x.src32(B32)? }
        }
        _ => {
            x.require_all(&["sync", "aligned", "m8n8", "trans", "b16"])?;
            WarpOp::Transpose { d: x.dst32(B32)?, a: x.src32(B32)? }
        }
    };
    Ok(Op::Warp(op))
}

/// `shfl.sync.mode.b32 d|p, a, b, c, members`.
fn shuffle(x: &mut Decoder) -> Parsed<WarpOp> {
    x.require("sync")?;
    let modes = [("up", Shuffle::Up), ("down", Shuffle::Down), ("bfly", Shuffle::Butterfly), ("idx", Shuffle::Index)];
    let mode = x.one_of(&modes)?;
    x.require("b32")?;
    let (Some(Reg::W(d)), p) = x.dst_pair(B32)? else {
        return Err(x.error("found `_`, expected a register"));
    };
    let p = p.and_then(|reg| if let Reg::P(p) = reg { Some(p) } else { None });
    let (a, b, c) = (x.src32(B32)?, x.src32(B32)?, x.src32(B32)?);
    Ok(WarpOp::Shuffle { mode, d, p, a, b, c, members: x.src32(B32)? })
}

fn vote(x: &mut Decoder) -> Parsed<WarpOp> {
    x.require("sync")?;
    let modes = [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)];
    let mode = x.one_of(&modes)?;
    let d = if mode == Vote::Ballot {
        x.require("b32")?;
        VoteTo::Bits(x.dst32(B32)?)
    } else {
        x.require("pred")?;
        VoteTo::Pred(x.dst_pred()?)
    };
    let (a, negate) = x.src_pred()?;
    Ok(WarpOp::Vote { mode, a, negate, d, members: x.src32(B32)? })
}

fn redux(x: &mut Decoder) -> Parsed<WarpOp> {
    x.require("sync")?;
    let name = x.one_of(&["add", "min", "max", "and", "or", "xor"].map(|n| (n, n)))?;
    let bits = matches!(name, "and" | "or" | "xor");
    let ty = x.ty(if bits { &[B32] } else { &[U32, S32] })?;
    let signed = ty == S32;
    let op = match name {
        "add" => Redux::Add,
        "min" => Redux::Min { signed },
        "max" => Redux::Max { signed },
        "and" => Redux::And,
        "or" => Redux::Or,
        _ => Redux::Xor,
    };
    Ok(WarpOp::Redux { op, d: x.dst32(ty)?, a: x.src32(ty)?, members: x.src32(B32)? })
}

/// `bar.sync`, `bar.arrive`, `bar.red`, `bar.warp.sync`, `barrier.sync{.aligned}`, `barrier.cluster`.
pub fn barrier(x: &mut Decoder) -> Parsed<Op> {
    let short = x.opcode == "bar";
    if short && x.accept("warp") {
        x.require("sync")?;
        return Ok(Op::Warp(WarpOp::Sync { members: x.src32(B32)? }));
    }
    if !short && x.accept("cluster") {
        return super::hopper::cluster_barrier(x);
    }
    x.accept("cta");
    #[derive(Clone, Copy, PartialEq)]
    enum Form {
        Sync,
        Arrive,
        Red,
    }
    let form = x.one_of(&[("sync", Form::Sync), ("arrive", Form::Arrive), ("red", Form::Red)])?;
    let kind = match form {
        Form::Red => Some(x.one_of(&[("popc", 0), ("and", 1), ("or", 2)])?),
        _ => None,
    };
    // `bar` is `barrier` with `.aligned`
    let aligned = x.accept("aligned") || short;
    let to = match kind {
        Some(0) => {
            x.require("u32")?;
            Some(BarrierRedTo::Popc(x.dst32(U32)?))
        }
        Some(n) => {
            x.require("pred")?;
            let p = x.dst_pred()?;
            Some(if n == 1 { BarrierRedTo::And(p) } else { BarrierRedTo::Or(p) })
        }
        None => None,
    };
    let id = x.src32(U32)?;
    let predicate = usize::from(form == Form::Red);
    let threads = if x.operands_left() > predicate { Some(x.src32(U32)?) } else { None };
    if form == Form::Arrive && threads.is_none() {
        return Err(x.error("found no number of threads, which `arrive` needs"));
    }
    let red = match to {
        Some(to) => {
            let (a, negate) = x.src_pred()?;
            Some(BarrierRed { a, negate, to })
        }
        None => None,
    };
    Ok(Op::Sync(SyncOp::Barrier { id, threads, wait: form != Form::Arrive, aligned, red }))
}
