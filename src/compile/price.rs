//! Prices for the passes, from the parameters of a code generator's target.

use super::Limits;
use jet_codegen::targets::Target;
use jet_passes::cost::Phase as Work;
use jet_passes::{Roofline, TargetParams, ZEN4_2};
use jetbin::Phase;

/// Tokens in the cache that prices assume.
const CONTEXT: usize = 4096;

/// The cost model of a target in a phase: the parameters of two cores of a server, at the speeds that the target states.
pub fn cost_model(target: &Target, phase: Phase, limits: Limits) -> Roofline {
    let cost = target.cost;
    let cores = ZEN4_2.workers;
    let params = TargetParams {
        name: target.name,
        // cores share the memory: two of them read about half as much again as one
        dram: cost.dram_gbps * 1e3 * 1.5,
        cache: cost.cache_gbps * 1e3 * cores,
        cache_bytes: target.cache.l3_bytes as f64 / 2.0,
        mma: cost.gflops * 1e3 * cores,
        vec: cost.gflops * 1e3 * cores / 4.0,
        launch_us: cost.launch_us,
        ..ZEN4_2
    };
    let context = CONTEXT.min(limits.max_context as usize);
    let phase = match phase {
        Phase::Prefill => Work::prefill(limits.prefill_chunk as usize),
        Phase::Decode => Work::decode(1, context),
    };
    Roofline { target: params, phase }
}
