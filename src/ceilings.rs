//! What this machine can do at best, measured in the same run as a benchmark: the rate of reading memory and of f32 multiply-adds.
//!
//! Both are maxima of a few short loops on all threads at once; a share of them compares runs on machines that share nothing else.

use serde::Serialize;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Measured limits of a number of threads together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ceilings {
    /// Threads that ran at once.
    pub threads: usize,
    /// Reading memory that is in no cache, in 1e9 bytes per second.
    pub read_gbps: f64,
    /// f32 multiply-adds, counted as two operations, in 1e9 operations per second.
    pub fma_gflops: f64,
}

/// Bytes that are read in one pass, all threads together: larger than the caches of the machines at hand.
const READ_BYTES: usize = 512 << 20;
/// Repetitions, of which the best one counts: other load only makes it slower.
const PASSES: usize = 5;
/// Multiply-adds of every lane in one pass, a thread.
const FMA_STEPS: u64 = 4_000_000;

/// Measures with this many threads; takes about a quarter of a second and half a gigabyte of memory, which is given back.
pub fn measure(threads: usize) -> Ceilings {
    let threads = threads.max(1);
    let memory = vec![1u64; READ_BYTES / 8];
    let share = memory.len() / threads;
    let read_seconds = best_pass(threads, |t| {
        black_box(read(&memory[t * share..][..share]));
    });
    let kernel = fma_kernel();
    let fma_seconds = best_pass(threads, |_| {
        black_box((kernel.run)(FMA_STEPS));
    });
    let flops = 2.0 * kernel.chains as f64 * kernel.lanes as f64 * FMA_STEPS as f64 * threads as f64;
    Ceilings {
        threads,
        read_gbps: (share * threads * 8) as f64 / read_seconds / 1e9,
        fma_gflops: flops / fma_seconds / 1e9,
    }
}

/// Seconds of the shortest of a few passes in which every thread runs `work(thread)` once.
fn best_pass(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let pass = &|t: usize| {
        let mut best = f64::INFINITY;
        for _ in 0..PASSES {
            barrier.wait();
            let start = Instant::now();
            work(t);
            barrier.wait();
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|t| scope.spawn(move || pass(t))).collect();
        let mine = pass(0);
        for other in others {
            other.join().expect("the loops do not panic");
        }
        mine
    })
}

fn read(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { read_avx2(words) };
    }
    read_portable(words)
}

/// Sums with independent accumulators, so that the loads are what takes the time.
#[inline(always)]
fn read_portable(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for block in words.as_chunks::<32>().0 {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// # Safety
/// The processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn read_avx2(words: &[u64]) -> u64 {
    read_portable(words)
}

/// A loop of independent multiply-adds.
struct FmaKernel {
    /// Dependent chains that run side by side.
    chains: usize,
    /// Lanes of each.
    lanes: usize,
    /// Runs so many steps of every chain.
    run: fn(u64) -> f32,
}

/// The widest loop that this machine runs.
fn fma_kernel() -> FmaKernel {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F.
            return FmaKernel { chains: CHAINS, lanes: 16, run: |steps| unsafe { x86::fma_512(steps) } };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return FmaKernel { chains: CHAINS, lanes: 8, run: |steps| unsafe { x86::fma_256(steps) } };
        }
    }
    FmaKernel { chains: CHAINS, lanes: 4, run: fma_portable }
}

/// Enough to hide the latency of two units, few enough for 16 registers.
const CHAINS: usize = 10;

/// Four lanes: what NEON and SSE registers hold. Where a fused multiply-add would be a library call, product and sum stand in for it.
fn fma_portable(steps: u64) -> f32 {
    let (a, b) = (black_box(0.999f32), black_box(1e-3f32));
    let mut chains = [[1f32; 4]; CHAINS];
    for _ in 0..steps {
        for lane in chains.iter_mut().flatten() {
            *lane = if cfg!(target_arch = "x86_64") { *lane * a + b } else { lane.mul_add(a, b) };
        }
    }
    chains.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, black_box};
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor must have AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn fma_256(steps: u64) -> f32 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        let mut chains = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..steps {
            for chain in &mut chains {
                *chain = _mm256_fmadd_ps(*chain, a, b);
            }
        }
        let sum = chains.into_iter().fold(_mm256_setzero_ps(), |x, y| _mm256_add_ps(x, y));
        let half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
        _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
    }

    /// # Safety
    /// The processor must have AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn fma_512(steps: u64) -> f32 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
        let mut chains = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..steps {
            for chain in &mut chains {
                *chain = _mm512_fmadd_ps(*chain, a, b);
            }
        }
        _mm512_reduce_add_ps(chains.into_iter().fold(_mm512_setzero_ps(), |x, y| _mm512_add_ps(x, y)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_positive_and_finite() {
        let ceilings = measure(2);
        assert!(ceilings.threads == 2 && ceilings.read_gbps > 0.01 && ceilings.fma_gflops > 0.01, "{ceilings:?}");
        assert!(ceilings.read_gbps.is_finite() && ceilings.fma_gflops.is_finite());
        println!("{ceilings:?}");
    }

    #[test]
    fn the_loops_compute_what_they_say() {
        let words: Vec<u64> = (0..100).collect();
        assert_eq!(read(&words), (0..96).sum::<u64>(), "whole blocks are summed");
        // x -> 0.999 x + 0.001 stays at 1
        let kernel = fma_kernel();
        let sum = (kernel.run)(1000);
        assert!((sum - (kernel.lanes * kernel.chains) as f32).abs() < 0.1, "{sum}");
        assert!((fma_portable(1000) - 4.0 * CHAINS as f32).abs() < 0.1);
    }
}
