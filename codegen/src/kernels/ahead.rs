//! Weights that are asked for ahead of their use.
//!
//! **While rows take turns on the panels of a group** (prefill), those of the next group come from memory. Without it the first rows of
//! every group wait for them, a tenth of the time of a prompt of 128 tokens in 8 bits. The work on a group is many tiles (some rows by
//! some panels); each asks for its part of the next group, a few lines in every turn of its loop, so that requests never queue.
//!
//! **While a few rows are multiplied** (decode of several sequences), each panel is read from memory once. A turn of the loop is work enough for the
//! processor to look ahead a few lines only, and what reads memory by itself stops at the end of every page: a tile asks
//! for what it reads itself [`DISTANCE`] bytes later.

use crate::kir::{Cap, F32, Index, Operand, Ptr, V};

/// Bytes of a cache line.
const LINE: u32 = 64;
/// How far ahead a stream asks, in each of its panels.
const DISTANCE: u32 = 4096;

/// Memory that follows what is worked on.
#[derive(Clone, Copy)]
pub enum Ahead<'k> {
    /// `bytes` bytes that other tiles ask for too.
    Group { from: Ptr<'k, F32>, bytes: V<'k, Index> },
    /// What a tile reads next.
    Stream,
}

/// The loop of a tile: its turns, and where it reads.
#[derive(Clone, Copy)]
pub struct Tile<'k> {
    /// Its number among those that share a group.
    pub number: V<'k, Index>,
    pub turns: u32,
    /// The first of its panels, which lie one behind the other.
    pub panel: Ptr<'k, F32>,
    pub panel_bytes: u32,
    pub panels: u32,
    /// Bytes of a panel that a turn reads.
    pub turn_bytes: u32,
}

impl<'k> Ahead<'k> {
    /// The `bytes` bytes at `from`, which need not exist; none where the target takes no hints.
    pub fn group(from: Ptr<'k, F32>, bytes: V<'k, Index>) -> Option<Ahead<'k>> {
        bytes.k.target.has(Cap::Prefetch).then_some(Ahead::Group { from, bytes })
    }

    /// What a tile reads next; none where the target takes no hints.
    pub fn stream(rows: V<'k, Index>) -> Option<Ahead<'k>> {
        rows.k.target.has(Cap::Prefetch).then_some(Ahead::Stream)
    }

    /// What `tile` asks for in turn number `turn`, in a group `lines` lines; a tile beyond the last part takes the first one again.
    pub fn ask(self, tile: Tile<'k>, turn: V<'k, Index>, lines: u32) {
        match self {
            Ahead::Group { from, bytes } => {
                let start = tile.number * (tile.turns * LINE * lines);
                let none = 0u32.on(start.k);
                let part = from.byte_offset(start.lt(bytes).select(start, none));
                (0..lines).for_each(|line| part.byte_offset(turn * (LINE * lines) + LINE * line).prefetch(2));
            }
            Ahead::Stream => tile.ask_next(turn),
        }
    }
}

impl<'k> Tile<'k> {
    /// Asks for what the turn [`DISTANCE`] bytes later reads. Behind its end a panel goes on with the one that the next tile has in its place.
    fn ask_next(self, turn: V<'k, Index>) {
        let last = self.turns.saturating_sub(DISTANCE / self.turn_bytes);
        let others = (self.panels - 1) * self.panel_bytes;
        let beyond = turn.lt(last).select(0u32.on(turn.k), others.on(turn.k));
        let from = self.panel.byte_offset(turn * self.turn_bytes + beyond + DISTANCE);
        for panel in 0..self.panels {
            let lines = (0..self.turn_bytes).step_by(LINE as usize);
            lines.for_each(|line| from.byte_offset(panel * self.panel_bytes + line).prefetch(1));
        }
    }
}
