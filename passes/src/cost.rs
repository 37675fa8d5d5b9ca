//! What the passes ask of a target: the price of one op as part of a kernel, and of a kernel from the sum of its ops.
//!
//! A grid pays the launch and the read of its operand, accumulators pay weights and arithmetic, a store pays its bytes. So the cost of a kernel
//! is the sum over its nodes, each counted once, and no price needs to know the whole kernel. Prices are whole picoseconds: sums do not depend
//! on the order of addition.

use jet_ir::{Op, Type};
use std::ops::{AddAssign, SubAssign};

/// What one run of a program processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Its name in reports.
    pub name: String,
    /// Sequences in the batch.
    pub sequences: usize,
    /// New tokens of each sequence.
    pub tokens: usize,
    /// Tokens of each sequence in the cache, the new ones included.
    pub context: usize,
}

impl Phase {
    /// One token of each of `sequences` sequences.
    pub fn decode(sequences: usize, context: usize) -> Phase {
        Phase { name: format!("decode B={sequences}"), sequences, tokens: 1, context }
    }

    /// `tokens` tokens of one sequence that is empty so far.
    pub fn prefill(tokens: usize) -> Phase {
        Phase { name: format!("prefill T={tokens}"), sequences: 1, tokens, context: tokens }
    }

    /// Rows of every activation.
    pub fn rows(&self) -> usize {
        self.sequences * self.tokens
    }
}

/// How a kernel wants its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// Rows as in the checkpoint.
    Rows,
    /// `pack_panel`.
    Panel,
    /// `pack_frag`.
    Frag,
    /// `pack_tile`.
    Tile,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Layout; 4] = [Layout::Rows, Layout::Panel, Layout::Frag, Layout::Tile];

    /// The layout that an op produces.
    pub fn of(op: &Op) -> Option<Layout> {
        match op {
            Op::PackPanel(_) => Some(Layout::Panel),
            Op::PackFrag(_) => Some(Layout::Frag),
            Op::PackTile(_) => Some(Layout::Tile),
            _ => None,
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Rows => "rows",
            Layout::Panel => "panel",
            Layout::Frag => "frag",
            Layout::Tile => "tile",
        }
    }
}

/// One op that a price is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The op.
    pub op: &'a Op,
    /// Type of its result.
    pub result: Type,
    /// Types of its operands.
    pub args: &'a [Type],
    /// For a product (`acc`, `matmul`): the layout of its weight. For `embed`: the layout of a table that is shared with a product.
    pub layout: Option<Layout>,
}

/// Time that an op takes of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Kernels that it starts.
    pub launches: u32,
    /// Its time if nothing overlaps with it, the launch included.
    pub alone_ps: u64,
    /// Time of each resource, which overlap within one kernel: memory, matrix units, vector units.
    pub busy_ps: [u64; 3],
}

impl AddAssign for Price {
    fn add_assign(&mut self, other: Price) {
        self.launches += other.launches;
        self.alone_ps += other.alone_ps;
        self.busy_ps.iter_mut().zip(other.busy_ps).for_each(|(a, b)| *a += b);
    }
}

impl SubAssign for Price {
    fn sub_assign(&mut self, other: Price) {
        self.launches -= other.launches;
        self.alone_ps -= other.alone_ps;
        self.busy_ps.iter_mut().zip(other.busy_ps).for_each(|(a, b)| *a -= b);
    }
}

/// Prices of a target in a phase.
pub trait CostModel {
    /// Target and phase, for reports.
    fn name(&self) -> String;

    /// What a run processes.
    fn phase(&self) -> &Phase;

    /// The price of an op; nothing if the target has no kernel with it.
    fn price(&self, work: &Work) -> Option<Price>;

    /// The time of a kernel, given the sum of its ops.
    fn kernel_ps(&self, sum: &Price) -> u64;
}

/// Another model with only one layout of weights.
pub struct OneLayout<'a> {
    /// Who answers the rest.
    pub inner: &'a dyn CostModel,
    /// The layout.
    pub layout: Layout,
}

impl CostModel for OneLayout<'_> {
    fn name(&self) -> String {
        format!("{}, {}", self.inner.name(), self.layout.name())
    }

    fn phase(&self) -> &Phase {
        self.inner.phase()
    }

    fn price(&self, work: &Work) -> Option<Price> {
        match work.layout {
            Some(layout) if layout != self.layout => None,
            _ => self.inner.price(work),
        }
    }

    fn kernel_ps(&self, sum: &Price) -> u64 {
        self.inner.kernel_ps(sum)
    }
}
