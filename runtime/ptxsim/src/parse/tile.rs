//! `mma.sync`, `ldmatrix`, `stmatrix` (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions").

use super::Parsed;
use super::decode::Decoder;
use crate::inst::{MmaKind, Op, Space, TileOp};
use crate::types::{R32, Type};

/// Shapes with their element type, and registers of the fragments A and B.
const SHAPES: &[(&str, &str, MmaKind, usize, usize)] = &[
    ("m16n8k16", "bf16", MmaKind::Bf16K16, 4, 2),
    ("m16n8k8", "bf16", MmaKind::Bf16K8, 2, 1),
    ("m16n8k16", "f16", MmaKind::F16K16, 4, 2),
    ("m16n8k8", "f16", MmaKind::F16K8, 2, 1),
    ("m16n8k8", "tf32", MmaKind::Tf32K8, 4, 2),
    ("m16n8k4", "tf32", MmaKind::Tf32K4, 2, 1),
];

fn quad(list: &[R32]) -> [R32; 4] {
    [list[0], list[1], list[2], list[3]]
}

/// `mma.sync.aligned.shape.row.col.f32.a.b.f32 d, a, b, c`.
pub fn mma(x: &mut Decoder) -> Parsed<Op> {
    x.require_all(&["sync", "aligned"])?;
    let shape = x.one_of(&["m16n8k16", "m16n8k8", "m16n8k4"].map(|s| (s, s)))?;
    x.require_all(&["row", "col", "f32"])?;
    let element = x.one_of(&["bf16", "f16", "tf32"].map(|s| (s, s)))?;
    x.require_all(&[element, "f32"])?;
    let row = SHAPES.iter().find(|row| (row.0, row.1) == (shape, element));
    let Some((_, _, kind, a, b)) = row else {
        return Err(x.error(format!("found `.{shape}` of `.{element}`, which does not exist")));
    };
    let d = quad(&x.dst_list32(4, Type::F32)?);
    let (a, b) = (x.src_list32(*a, Type::B32)?, x.src_list32(*b, Type::B32)?);
    let c = quad(&x.src_list32(4, Type::F32)?);
    Ok(Op::Tile(TileOp::Mma { kind: *kind, d, a, b, c }))
}

/// `ldmatrix` and `stmatrix` of 8 x 8 elements of 16 bits.
pub fn matrix(x: &mut Decoder) -> Parsed<Op> {
    let load = x.opcode == "ldmatrix";
    if !load {
        x.needs(90, false, "`stmatrix`")?;
    }
    x.require_all(&["sync", "aligned", "m8n8"])?;
    let count = x.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let trans = x.accept("trans");
    x.one_of(&[("shared", ()), ("shared::cta", ())])?;
    x.require("b16")?;
    Ok(Op::Tile(if load {
        let to = x.dst_list32(count, Type::B32)?;
        TileOp::LoadMatrix { trans, to, address: x.address(Space::Shared)? }
    } else {
        let address = x.address(Space::Shared)?;
        TileOp::StoreMatrix { trans, from: x.src_list32(count, Type::B32)?, address }
    }))
}
