//! The kernel IR: one structured, typed, target-neutral form for every kernel, between the kernels' Rust and the emitters.
//!
//! A kernel is written with the [`Builder`], checked by [`verify`], brought into a target's vocabulary by [`legalise`]
//! and handed to an emitter. Tiles, layouts, unrolling, prologues and epilogues are Rust values while a kernel is built
//! and gone before its first instruction exists.

mod builder;
mod bulk;
mod carry;
mod flight;
mod ir;
mod legalise;
mod math;
pub(crate) mod ops;
mod overlap;
mod parse;
mod pointer;
mod team;
mod text;
mod tile;
mod value;
mod verify;

pub use builder::Builder;
pub use carry::{Carry, Operand};
pub use ir::*;
pub use legalise::legalise;
pub use ops::{Domain, Scalar};
pub use overlap::{overlap, reads_settled};
pub use parse::{ParseError, Place, parse};
pub use pointer::Ptr;
pub use team::{Team, WARP};
pub use tile::{Tile, outer_product};
pub use value::{Bf16, Element, F32, I32, Index, Integer, Pred, Stored, V};
pub use verify::{Fault, verify};
