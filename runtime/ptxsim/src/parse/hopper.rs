//! What came with sm_90.

use super::Parsed;
use super::decode::Decoder;
use crate::inst::Op;

pub fn fence_proxy(x: &mut Decoder) -> Parsed<Op> {
    Err(x.error("found `fence.proxy`, which is not known"))
}

pub fn cluster_barrier(x: &mut Decoder) -> Parsed<Op> {
    Err(x.error("found `barrier.cluster`, which is not known"))
}

pub fn bulk(x: &mut Decoder) -> Parsed<Op> {
    Err(x.error("found `cp.async.bulk`, which is not known"))
}

pub fn copy_arrive(x: &mut Decoder) -> Parsed<Op> {
    Err(x.error("found `cp.async.mbarrier`, which is not known"))
}
