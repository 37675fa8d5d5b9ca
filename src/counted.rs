//! What the simulator counts in a call of an artifact for a GPU, and how long that takes at the speeds that its target states. No time of the
//! simulator itself is a figure.

use crate::bench::{Test, call};
use anyhow::Context;
use jet_codegen::targets::{Cost, Target};
use jet_frontend::synth::token_ids;
use jet_runtime::{Counters, Counts, Model, Session, SharedCounts};
use jetbin::Phase;
use serde::Serialize;

/// What one call does: a prompt of `n_prompt` tokens, or one step of `n_batch` sequences. Bytes are those of the sectors of 32 bytes that
/// requests touch, each time that it is requested.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Name of the test.
    pub test: String,
    /// Tokens of the prompt.
    pub n_prompt: u32,
    /// Tokens that each sequence gets.
    pub n_gen: u32,
    /// Tokens that each sequence holds before.
    pub n_depth: u32,
    /// Sequences.
    pub n_batch: u32,
    /// Kernels launched, and how many different ones.
    pub launches: u64,
    /// Different kernels.
    pub kernels: usize,
    /// Instructions issued by warps.
    pub warp_instructions: u64,
    /// Of matrices of weights.
    pub weight_bytes: u64,
    /// Of norms and biases.
    pub vector_bytes: u64,
    /// Of states and caches, read and written.
    pub state_bytes: u64,
    /// Of activations and inputs, read and written; a second-level cache serves them.
    pub activation_bytes: u64,
    /// Of any global memory; 4 is what 32 lanes with neighbouring words need, 16 with 16 bytes each.
    pub sectors_per_request: f64,
    /// Passes over the banks of shared memory beyond those that the size asks for, for each request.
    pub conflicts_per_request: f64,
    /// Operations of tile products.
    pub tile_flops: u64,
    /// The sum over the kernels of a launch and the longest of memory, second-level cache and tile products.
    pub roofline_us: f64,
}

/// What `call` makes a device count.
///
/// # Errors
/// Those of the call.
pub fn count(counts: &SharedCounts, call: impl FnOnce() -> jet_runtime::Result<()>) -> jet_runtime::Result<Counts> {
    // a poisoned lock means that a reader panicked, which does not spoil the counts
    *counts.lock().unwrap_or_else(|e| e.into_inner()) = Counts::default();
    call()?;
    Ok(counts.lock().unwrap_or_else(|e| e.into_inner()).clone())
}

/// Bytes that the simulator loads, and operations of the model that it computes, in a second: 2000 tokens of a model of 4 million parameters
/// took it 20 seconds on two cores.
const SIMULATED: (f64, f64) = (3e8, 1e9);

/// Seconds that the simulator takes for the call of a test and for what comes before, within a factor of a few.
pub fn seconds(model: &Model, test: Test) -> f64 {
    let chunk = model.facts().prefill_chunk;
    let prompt = |tokens: u32| {
        let held = u64::from(test.n_depth + tokens);
        let work = call(model, (Phase::Prefill, held), chunk.min(tokens), 1);
        let chunks = f64::from(tokens.div_ceil(chunk));
        chunks * (work.bytes as f64 / SIMULATED.0 + work.flops as f64 / SIMULATED.1)
    };
    let step = call(model, (Phase::Decode, u64::from(test.n_depth) + 1), test.n_batch, test.n_batch);
    let step = step.bytes as f64 / SIMULATED.0 + step.flops as f64 / SIMULATED.1;
    f64::from(test.n_batch) * prompt(test.n_depth) + if test.n_gen > 0 { step } else { prompt(test.n_prompt) }
}

/// Counts one call of a test: all of its prompt, or one step.
///
/// # Errors
/// If the tokens do not fit, the device fails, or this build does not know the artifact's target.
pub fn measure(session: &mut Session, counts: &SharedCounts, test: Test) -> anyhow::Result<Row> {
    let name = session.model().candidates().first().map(|c| c.name.clone()).unwrap_or_default();
    let target = Target::named(&name).with_context(|| format!("this build does not know the target {name}"))?;
    let vocab = session.model().facts().vocab_size as usize;
    for sequence in 0..test.n_batch {
        session.reset(sequence)?;
        if test.n_depth > 0 {
            session.prefill(sequence, &token_ids(sequence as usize, 1, vocab, test.n_depth as usize))?;
        }
    }
    let found = count(counts, || {
        if test.n_gen > 0 {
            session.decode(&(0..test.n_batch).map(|s| (s, s % vocab as u32)).collect::<Vec<_>>())?;
            (0..test.n_batch).try_for_each(|row| session.argmax(row).map(drop))
        } else {
            session.prefill(0, &token_ids(100, 1, vocab, test.n_prompt as usize))?;
            session.argmax(session.rows() - 1).map(drop)
        }
    })?;
    Ok(row(test, &found, &target.cost))
}

fn row(test: Test, counts: &Counts, cost: &Cost) -> Row {
    let mut all = Counters::default();
    counts.kernels.values().for_each(|(_, c)| all.add(c));
    let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
    let Test { n_prompt, n_gen, n_depth, n_batch } = test;
    let [weight_bytes, vector_bytes, state_bytes, activation_bytes] =
        [counts.matrices, counts.vectors, counts.states, counts.activations]
            .map(|t| t.sector_bytes_read + t.sector_bytes_written);
    Row {
        test: test.name(),
        n_prompt,
        n_gen,
        n_depth,
        n_batch,
        launches: counts.launches,
        kernels: counts.kernels.len(),
        warp_instructions: all.warp_instructions,
        weight_bytes,
        vector_bytes,
        state_bytes,
        activation_bytes,
        sectors_per_request: ratio(all.global_sectors, all.global_requests),
        conflicts_per_request: ratio(all.bank_conflicts, all.shared_requests),
        tile_flops: all.tile_flops,
        roofline_us: counts.kernels.values().map(|(launches, c)| roofline_us(*launches, c, cost)).sum(),
    }
}

/// The time of all launches of a kernel: one launch each, and the longest of its resources.
fn roofline_us(launches: u64, c: &Counters, cost: &Cost) -> f64 {
    let moved = |i: usize| (c.traffic[i].sector_bytes_read + c.traffic[i].sector_bytes_written) as f64;
    let ([activations, matrices, vectors, states], micro) = ([0, 1, 2, 3].map(moved), 1e-3);
    let memory = (matrices + states) / cost.dram_gbps * micro;
    let cache = (activations + vectors) / cost.cache_gbps * micro;
    let products = c.tile_flops as f64 / cost.gflops * micro;
    launches as f64 * cost.launch_us + memory.max(cache).max(products)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3 MB from memory at 3 TB/s take a microsecond.
    #[test]
    fn the_longest_resource_sets_the_time() {
        let cost = Cost { dram_gbps: 3000.0, cache_gbps: 6000.0, gflops: 1e6, launch_us: 2.0, processors: 1 };
        let mut c = Counters { tile_flops: 500_000_000, ..Counters::default() };
        (c.traffic[1].sector_bytes_read, c.traffic[0].sector_bytes_written) = (3_000_000, 3_000_000);
        assert_eq!(roofline_us(2, &c, &cost), 5.0);
        c.tile_flops = 5_000_000_000;
        assert_eq!(roofline_us(1, &c, &cost), 7.0);
    }
}
