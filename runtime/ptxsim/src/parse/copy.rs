//! `cp.async` (PTX ISA, "Data Movement: Asynchronous copy", non-bulk).

use super::Parsed;
use super::decode::Decoder;
use crate::inst::{CopyOp, Op, Space};
use crate::types::Type;

pub fn cp(x: &mut Decoder) -> Parsed<Op> {
    if x.accept("reduce") {
        return Err(x.error("found `cp.reduce`, which is not known"));
    }
    x.require("async")?;
    if x.next_modifier() == Some("bulk") {
        return super::hopper::bulk(x);
    }
    if x.accept("commit_group") {
        return Ok(Op::Copy(CopyOp::Commit));
    }
    if x.accept("wait_all") {
        return Ok(Op::Copy(CopyOp::WaitAll));
    }
    if x.accept("wait_group") {
        return Ok(Op::Copy(CopyOp::Wait { pending: x.immediate(0..=1 << 20)? as u32 }));
    }
    if x.next_modifier() == Some("mbarrier") {
        return super::hopper::copy_arrive(x);
    }
    copy(x)
}

/// `cp.async.cg.shared.global [to], [from], 16{, source size or ignore}{, policy}`.
fn copy(x: &mut Decoder) -> Parsed<Op> {
    let whole = x.one_of(&[("cg", true), ("ca", false)])?;
    x.one_of(&[("shared", ()), ("shared::cta", ())])?;
    x.require("global")?;
    let policy = x.accept("L2::cache_hint");
    x.optional(&["L2::64B", "L2::128B", "L2::256B"].map(|name| (name, ())));
    let (to, from) = (x.address(Space::Shared)?, x.address(Space::Global)?);
    let bytes = x.immediate(4..=16)? as u32;
    if !(bytes == 16 || !whole && matches!(bytes, 4 | 8)) {
        return Err(x.error(format!("found a copy of {bytes} bytes, expected 16 (or 4 or 8 with `.ca`)")));
    }
    let (mut source_bytes, mut skip) = (None, None);
    if x.operands_left() > usize::from(policy) {
        if x.next_is_predicate() {
            skip = Some(x.src_pred()?);
        } else {
            source_bytes = Some(x.src32(Type::U32)?);
        }
    }
    if policy {
        x.src64(Type::B64)?;
    }
    Ok(Op::Copy(CopyOp::Async { to, from, bytes, source_bytes, skip }))
}
