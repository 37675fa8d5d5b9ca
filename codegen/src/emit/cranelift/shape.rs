//! How a value of the IR becomes Cranelift values: 128-bit pieces where the lanes fill them, scalars otherwise.

use crate::kir::{Elem, Type};
use cranelift_codegen::ir::types::{F32, F32X4, I8, I16, I16X8, I32, I32X4, I64};
use cranelift_codegen::ir::{self as clif, Endianness, MemFlagsData};

/// The Cranelift values that make one value of the IR, lowest lanes first.
pub type Pieces = Vec<clif::Value>;

/// The type of a piece and how many make a value.
pub fn pieces(ty: Type) -> (clif::Type, usize) {
    let Type::Vec(elem, n) = ty else { return (I64, 1) };
    let (wide, per, narrow) = match elem {
        Elem::Index => (I64, 1, I64),
        Elem::Pred => (I32X4, 4, I8),
        Elem::I32 => (I32X4, 4, I32),
        Elem::F32 => (F32X4, 4, F32),
        Elem::Bf16 => (I16X8, 8, I16),
    };
    if n % per == 0 { (wide, (n / per).into()) } else { (narrow, n.into()) }
}

/// How the lanes of a vector relate to its bytes.
pub fn little() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

/// Every address is valid; alignment is not promised to the processor.
pub fn memory() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}
