//! Kernels: what a fused group becomes. Those of CPUs are here, those of GPUs in `gpu`.
//!
//! Every kernel is a function from a group of the graph to a [`Built`]: code in the kernel IR, what its parameters
//! mean, how many items of work it has and how much scratch memory a thread needs. A kernel covers a range of its items
//! and never depends on how items are spread over threads; rows never influence each other, and the bits of a row do
//! not depend on how many rows there are.

mod ahead;
mod attention;
mod candidates;
mod chunk;
mod context;
mod delta;
mod dot;
mod epilogue;
mod flash;
mod gather;
mod gpu;
mod heads;
mod input;
mod int8;
mod lanes;
mod product;
mod quantised;
mod rowwise;
mod split;
mod tile;
mod wide;

pub(crate) use attention::attention;
pub use context::{Activations, Binding, Scratch, Unsupported};
pub(crate) use context::{Context, Drafted, Shape, build};
pub(crate) use delta::delta;
pub(crate) use gather::{argmax, embed, kv_append, ring_push};
pub(crate) use gpu::{gpu, supports as gpu_supports};
pub use int8::is_for as multiplies_bytes;
pub(crate) use product::product;
pub(crate) use rowwise::{gated_norm, l2_norm, map, rms_norm, rope, row_ms};
pub(crate) use split::{attention_merge, attention_parts};

use crate::kir::{Items, Kernel};
use jetbin::Cost;

/// A kernel and everything that a schedule needs to know about it.
#[derive(Clone, Debug)]
pub struct Built {
    /// The symbol: the strategy and a digest of `key`.
    pub name: String,
    /// Everything that shapes the code; equal keys mean equal code.
    pub key: String,
    /// The code.
    pub kernel: Kernel,
    /// What each parameter means.
    pub params: Vec<Binding>,
    /// Items of work.
    pub items: Items,
    /// Bytes of scratch memory of each thread.
    pub scratch: Scratch,
    /// What it moves and computes.
    pub cost: Cost,
    /// Columns of the tile of a product that a CTA of a GPU works on; its rows are those of the launch.
    pub columns: Option<u32>,
    /// The kernel with the same parameters that takes over in calls of more than so many rows.
    pub wider: Option<(u32, Box<Built>)>,
}

impl Built {
    /// This kernel and those that take over from it, for more and more rows.
    pub fn chain(&self) -> impl Iterator<Item = &Built> {
        std::iter::successors(Some(self), |b| b.wider.as_ref().map(|(_, next)| &**next))
    }

    /// The kernel of the chain that serves calls of so many rows.
    pub fn serving(&self, rows: u64) -> &Built {
        match &self.wider {
            Some((beyond, next)) if rows > u64::from(*beyond) => next.serving(rows),
            _ => self,
        }
    }
}
