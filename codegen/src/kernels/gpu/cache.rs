//! Keys and values of a head on their way from the caches of a sequence to shared memory, beside the threads.
//!
//! A copy is 16 bytes, the part of a row in one piece of a [`Matrix`]. Eight lanes bring four rows of two neighbouring pieces:
//! whole sectors of memory, and no two lanes in a bank. Position `p` lies in cache row `p % capacity`.

use super::super::attention::Attention;
use super::matrix::Matrix;
use crate::kir::{Bf16, F32, Index, Operand, Ptr, V};

/// Columns of a copy.
const COPIED: u32 = 8;
/// Rows that eight lanes bring at once.
const ROWS: u32 = 4;
/// Copies of a row that a warp makes at once.
const PIECES: u32 = 8;

/// Whether copies of 16 bytes make up the rows of heads.
pub fn supports(a: &Attention<'_, '_, '_>) -> bool {
    a.head_dim.is_multiple_of(COPIED)
}

/// Where blocks of keys and values of one key-value head come from and go to.
pub struct Blocks<'a, 'k, 'g> {
    a: &'a Attention<'a, 'k, 'g>,
    /// Columns of the head in the keys and the values of the sequence.
    caches: [Ptr<'k, Bf16>; 2],
    capacity: V<'k, Index>,
    /// `[buffer][keys, values][keys of a block][padded]`.
    buffers: Ptr<'k, Bf16>,
    /// Columns of a head, up to whole tiles.
    pub padded: u32,
    /// Keys of a block.
    pub keys: u32,
    /// Buffers.
    pub depth: u32,
}

impl<'a, 'k, 'g> Blocks<'a, 'k, 'g> {
    /// Those of `row` and `kv_head`, `keys` at a time, through so many buffers as `depth`.
    pub fn new(
        a: &'a Attention<'a, 'k, 'g>,
        (row, kv_head): (V<'k, Index>, V<'k, Index>),
        (keys, depth): (u32, u32),
    ) -> Self {
        let (cx, padded) = (a.cx, padded(a));
        let buffers = cx.k.shared::<Bf16>(elements(a, keys, depth));
        let caches = [a.keys, a.values].map(|leaf| cx.state::<Bf16>(leaf, row).aligned(16).at(kv_head * a.head_dim));
        Blocks { a, caches, capacity: cx.state_rows(a.keys), buffers, padded, keys, depth }
    }

    /// The keys and the values in a buffer.
    pub fn matrices(&self, buffer: V<'k, Index>) -> [Matrix<'k>; 2] {
        let each = self.keys * self.padded;
        let base = self.buffers.at(buffer * (2 * each));
        [0, each].map(|at| Matrix::for_copies(self.a.cx.k, base.at(at), self.padded))
    }

    /// Zeros in the columns that fill up tiles, in every buffer; no copy touches them.
    pub fn clear(&self) {
        let (k, real) = (self.a.cx.k, self.a.head_dim / COPIED);
        if self.padded / COPIED == real {
            return;
        }
        for buffer in 0..self.depth {
            for matrix in self.matrices(buffer.on(k)) {
                k.cta().each(self.keys, |key| {
                    matrix.row(key, real.on(k)).aligned(16).store(k.splat(0.0, 8).round_bf16());
                });
            }
        }
    }

    /// The memory of all buffers, for other use when no copy is on its way.
    pub fn memory(&self) -> Ptr<'k, F32> {
        self.buffers.cast()
    }

    /// Starts to copy the block from position `p` on to a buffer, zeros for positions from `end` on. `settled` says that all of it was
    /// there before this step.
    pub fn copy(&self, (p, end): (V<'k, Index>, V<'k, Index>), buffer: V<'k, Index>, settled: bool) {
        let (k, a) = (self.a.cx.k, self.a);
        let (lane, mine) = (k.warp().rank, self.keys / k.warps());
        let (key, piece) = (lane / 2u32 % ROWS, lane % 2u32 + lane / PIECES * 2u32);
        let matrices = self.matrices(buffer);
        let (start, last) = (p % self.capacity, end - p - 1u32);
        for first in (0..mine).step_by(ROWS as usize) {
            let key = k.warp_id() * mine + first + key;
            // less than a capacity further on than `p`, since all keys in sight have a row each
            let row = start + key.imin(last);
            let bytes = key.le(last).select(2 * COPIED, 0u32);
            let row = self.capacity.le(row).select(row - self.capacity, row) * (a.kv_heads * a.head_dim);
            for (cache, matrix) in self.caches.iter().zip(matrices) {
                let cache = if settled { cache.settled() } else { *cache };
                for pieces in (0..a.head_dim / COPIED).step_by(PIECES as usize) {
                    let piece = piece + pieces;
                    let copy = || matrix.row(key, piece).copy_async_some(cache.at(row).at(piece * COPIED), bytes);
                    match (pieces + PIECES) * COPIED <= a.head_dim {
                        true => copy(),
                        false => k.when(piece.lt(a.head_dim / COPIED), copy),
                    }
                }
            }
        }
    }
}

/// Columns of a head, up to whole tiles.
fn padded(a: &Attention<'_, '_, '_>) -> u32 {
    a.head_dim.next_multiple_of(2 * COPIED)
}

/// Elements of `depth` buffers for `keys` keys and values each.
pub fn elements(a: &Attention<'_, '_, '_>, keys: u32, depth: u32) -> u32 {
    depth * 2 * keys * padded(a)
}
