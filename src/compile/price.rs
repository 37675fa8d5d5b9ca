//! Prices for the passes, from the parameters of a code generator's target.

use super::Limits;
use jet_codegen::targets::{Backend, Target};
use jet_passes::cost::{Layout, Phase as Work};
use jet_passes::{H100, LayoutShare, Roofline, TargetParams, ZEN4_2};
use jetbin::Phase;

/// Tokens in the cache that prices assume.
const CONTEXT: usize = 4096;

/// The cost model of a target in a phase, at the speeds that the target states.
pub fn cost_model(target: &Target, phase: Phase, limits: Limits) -> Roofline {
    let params = match target.backend {
        Backend::Cranelift { .. } | Backend::Mlir { .. } => cpu(target),
        Backend::Ptx { .. } => gpu(target),
    };
    let context = CONTEXT.min(limits.max_context as usize);
    let phase = match phase {
        Phase::Prefill => Work::prefill(limits.prefill_chunk as usize),
        Phase::Decode => Work::decode(1, context),
    };
    Roofline { target: params, phase }
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
        joint_stores: false,
        conv_in_delta: false,
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
