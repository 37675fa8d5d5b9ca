//! Rows of products that lie in memory as tile products of warpgroups want them, so that bulk copies can bring them.
//!
//! Eight rows are a tile; of each block of 32 columns it has four pieces of 8 by 8, row by row without a gap. Piece `p` has columns `8 t + 2 p` and
//! the next of a block for `t` from 0 to 3, which is the order of `k` in fragments of weights. Rows are padded to whole tiles.

use crate::kir::{Bf16, Cap, Index, Ptr, V};
use crate::pack::FRAGMENT_BLOCK;
use crate::targets::Target;
use jet_ir::{Elem, Graph, Id, Op};
use jetbin::Phase;
use std::collections::BTreeSet;

/// Rows of a tile.
pub const TILE_ROWS: u32 = 8;
/// Columns of a block.
const BLOCK: u32 = FRAGMENT_BLOCK as u32;
/// Elements of a piece.
const PIECE: u32 = TILE_ROWS * 8;

/// The values of a program that lie in tiles: in prefill on targets with bulk copies, rounded rows of whole blocks that nothing but products read. `windowed`
/// says of a value that a step may be given its rows from any row on, which is no tile.
pub fn tiled_rows(graph: &Graph, target: &Target, phase: Phase, windowed: impl Fn(Id) -> bool) -> BTreeSet<Id> {
    if !target.has(Cap::BulkCopy) || phase != Phase::Prefill {
        return BTreeSet::new();
    }
    let product = |id: &Id| matches!(graph.op(*id), Some(Op::Sweep(_) | Op::SweepScaled(_)));
    let rounded = |id: &Id| {
        let ty = graph.ty(*id);
        let rows = ty.elem() == Some(Elem::Bf16) && matches!(graph.op(*id), Some(Op::Store(_)));
        rows && ty.cols().is_multiple_of(FRAGMENT_BLOCK)
    };
    let read_by_products = |id: &Id| {
        let mut readers = graph.ids().filter(|r| graph.node(*r).args.contains(id)).peekable();
        readers.peek().is_some() && readers.all(|r| product(&r) && graph.node(r).args[0] == *id)
    };
    let returned = |id: &Id| graph.outputs.iter().any(|o| o.value == *id);
    graph.ids().filter(rounded).filter(read_by_products).filter(|id| !returned(id) && !windowed(*id)).collect()
}

/// The address of an element of rows in tiles at `base`; that of the next column is behind it if `col` is even.
pub fn tiled_at<'k>(base: Ptr<'k, Bf16>, cols: u32, row: V<'k, Index>, col: V<'k, Index>) -> Ptr<'k, Bf16> {
    let (block, rest) = (col / BLOCK, col % BLOCK);
    let (piece, within) = (rest % 8u32 / 2u32, rest / 8u32 * 2u32 + rest % 2u32);
    let tile = base.at(row / TILE_ROWS * (TILE_ROWS * cols)).at(block * (TILE_ROWS * BLOCK));
    tile.at(piece * PIECE).at(row % TILE_ROWS * 8u32).at(within)
}
