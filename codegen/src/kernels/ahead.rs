//! Weights that are asked for ahead of their use: while rows take turns on the panels of a group, those of the next group come from
//! memory. Without it the first rows of every group wait for them, a tenth of the time of a prompt of 128 tokens in 8 bits.
//!
//! The work on a group is many tiles (some rows by some panels); each asks for its part of the next group, a few lines in every turn
//! of its loop, so that requests never queue.

use crate::kir::{Cap, F32, Index, Operand, Ptr, V};

/// Bytes of a cache line.
const LINE: u32 = 64;

/// Memory that follows what is worked on.
#[derive(Clone, Copy)]
pub struct Ahead<'k> {
    from: Ptr<'k, F32>,
    bytes: V<'k, Index>,
}

impl<'k> Ahead<'k> {
    /// The `bytes` bytes at `from`, which need not exist; none where the target takes no hints.
    pub fn new(from: Ptr<'k, F32>, bytes: V<'k, Index>) -> Option<Ahead<'k>> {
        bytes.k.target.has(Cap::Prefetch).then_some(Ahead { from, bytes })
    }

    /// What tile number `tile` asks for, in turns of `lines` lines; a tile beyond the last part takes the first one again.
    pub fn part(self, tile: V<'k, Index>, turns: V<'k, Index>, lines: u32) -> Part<'k> {
        let start = tile * turns * (LINE * lines);
        let none = 0u32.on(start.k);
        Part { from: self.from.byte_offset(start.lt(self.bytes).select(start, none)), lines }
    }
}

/// The part of a tile.
#[derive(Clone, Copy)]
pub struct Part<'k> {
    from: Ptr<'k, F32>,
    lines: u32,
}

impl<'k> Part<'k> {
    /// Asks for the lines of turn `turn`.
    pub fn ask(self, turn: V<'k, Index>) {
        (0..self.lines).for_each(|line| self.from.byte_offset(turn * (LINE * self.lines) + LINE * line).prefetch());
    }
}
