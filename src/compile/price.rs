//! Prices for the passes, from the parameters of a code generator's target.

use super::Limits;
use jet_codegen::targets::{Backend, Target};
use jet_passes::cost::{Layout, Phase as Work};
use jet_passes::{CostModel, H100, LayoutShare, Price, Roofline, TargetParams, ZEN4_2};
use jetbin::Phase;

/// Tokens in the cache that prices assume.
const CONTEXT: usize = 4096;

/// Sequences that a GPU's plan for many of them is made for.
const MANY: u32 = 8;

/// Prices of the kernels that a target has.
#[derive(Clone)]
pub struct Prices {
    target: Target,
    roofline: Roofline,
}

/// The cost model of a target in a phase, at the speeds that the target states; in decode for one sequence on a CPU, on a GPU for as many as
/// a batch may have.
pub fn cost_model(target: &Target, phase: Phase, limits: Limits) -> Prices {
    match phase {
        Phase::Prefill => prices(target, Work::prefill(limits.prefill_chunk as usize)),
        Phase::Decode if target.is_gpu() => of_sequences(target, limits.max_batch.min(MANY), limits),
        Phase::Decode => of_sequences(target, 1, limits),
    }
}

/// The same in decode for so many sequences.
pub fn of_sequences(target: &Target, sequences: u32, limits: Limits) -> Prices {
    prices(target, Work::decode(sequences as usize, CONTEXT.min(limits.max_context as usize)))
}

impl Prices {
    /// The same for sequences that hold `context` tokens, the new ones included.
    pub fn in_context(mut self, context: usize) -> Prices {
        let phase = &mut self.roofline.phase;
        phase.context = context;
        phase.name += &format!(", context {context}");
        self
    }
}

fn prices(target: &Target, phase: Work) -> Prices {
    let params = match target.backend {
        Backend::Cranelift { .. } | Backend::Mlir { .. } => cpu(target),
        Backend::Ptx { .. } => gpu(target),
    };
    Prices { target: *target, roofline: Roofline { target: params, phase } }
}

impl CostModel for Prices {
    fn name(&self) -> String {
        self.roofline.name()
    }

    fn phase(&self) -> &Work {
        self.roofline.phase()
    }

    fn price(&self, work: &jet_passes::Work) -> Option<Price> {
        jet_codegen::supports(&self.target, work.op, work.args, work.result).then(|| self.roofline.price(work))?
    }

    fn kernel_ps(&self, sum: &Price) -> u64 {
        self.roofline.kernel_ps(sum)
    }
}

/// One GPU: what its kernels can do, and what the target says of its speeds.
fn gpu(target: &Target) -> TargetParams {
    let cost = target.cost;
    TargetParams {
        name: target.name,
        dram: cost.dram_gbps * 1e3,
        cache: cost.cache_gbps * 1e3,
        cache_bytes: target.cache.l2_bytes as f64 / 2.0,
        mma: cost.gflops * 1e3,
        vec: cost.gflops * 1e3 * H100.vec / H100.mma,
        launch_us: cost.launch_us,
        workers: cost.processors.into(),
        layouts: &[LayoutShare { layout: Layout::Frag, few: (0.9, 0.25), many: (0.8, 0.5) }],
        staged_rows: f64::INFINITY,
        // where there is a kernel for it
        conv_in_delta: true,
        ..H100
    }
}

/// Two cores of a server.
fn cpu(target: &Target) -> TargetParams {
    let cost = target.cost;
    let cores = ZEN4_2.workers;
    TargetParams {
        name: target.name,
        // cores share the memory: two of them read about half as much again as one
        dram: cost.dram_gbps * 1e3 * 1.5,
        cache: cost.cache_gbps * 1e3 * cores,
        cache_bytes: target.cache.l3_bytes as f64 / 2.0,
        mma: cost.gflops * 1e3 * cores,
        vec: cost.gflops * 1e3 * cores / 4.0,
        launch_us: cost.launch_us,
        ..ZEN4_2
    }
}
