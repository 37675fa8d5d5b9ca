//! What this machine can do at best: the rate of reading memory, and of multiply-adds in several widths and types.
//!
//! Memory is sampled again and again beside a benchmark, because its rate on a shared machine changes within seconds;
//! arithmetic is measured once. A share of these limits compares runs on machines that share nothing else.

mod arithmetic;

pub use arithmetic::Arithmetic;

use jet_runtime::{Cpu, DeviceChoice, DeviceError, Session};
use serde::Serialize;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Measured limits of a number of threads together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ceilings {
    /// Threads that ran at once.
    pub threads: usize,
    /// Reading memory that is in no cache, or copying on a GPU, in 1e9 bytes per second: the median of some passes.
    pub read_gbps: f64,
    /// A step without work, in microseconds: what it takes that the runtime's threads begin and end it together; 0 on a GPU.
    pub step_us: f64,
    /// Multiply-adds; none of a GPU are measured.
    pub arithmetic: Arithmetic,
}

/// Bytes that are read in one pass, all threads together: larger than the caches of the machines at hand.
const READ_BYTES: usize = 512 << 20;
/// Passes over memory of a whole measurement.
const PASSES: usize = 15;

/// Measures with this many threads; takes about half a second and half a gigabyte of memory, which is given back.
///
/// # Errors
/// If the system refuses the threads.
pub fn measure(threads: usize) -> Result<Ceilings, DeviceError> {
    let meter = Meter::new(threads);
    let read_gbps = median((0..PASSES).map(|_| meter.read_gbps()).collect());
    let step_us = 1e6 * Cpu::new(meter.threads as u32)?.idle_step();
    Ok(Ceilings { threads: meter.threads, read_gbps, step_us, arithmetic: arithmetic::measure(meter.threads) })
}

/// What memory is measured with.
pub enum MemoryMeter {
    /// Reading of main memory.
    Host(Meter),
    /// Copying within a GPU.
    #[cfg(feature = "cuda")]
    Gpu(jet_runtime::cuda::CopyMeter),
}

impl MemoryMeter {
    /// For the device that a session runs on, with its ceilings.
    ///
    /// # Errors
    /// If the device fails, or is one that tells nothing about time.
    pub fn of(session: &Session) -> anyhow::Result<(MemoryMeter, Ceilings)> {
        let threads = session.threads() as usize;
        Ok(match session.model().device() {
            DeviceChoice::Cpu => (MemoryMeter::Host(Meter::new(threads)), measure(threads)?),
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda(ordinal) => {
                let meter = jet_runtime::cuda::CopyMeter::new(ordinal)?;
                let passes = (0..PASSES).map(|_| meter.gbps()).collect::<Result<Vec<_>, _>>()?;
                let (read_gbps, arithmetic) = (median(passes), Arithmetic::default());
                let ceilings = Ceilings { threads, read_gbps, step_us: 0.0, arithmetic };
                (MemoryMeter::Gpu(meter), ceilings)
            }
            #[cfg(feature = "ptxsim")]
            DeviceChoice::PtxSim => {
                anyhow::bail!("the simulator tells nothing about time, expected cpu or cuda")
            }
        })
    }

    /// 1e9 bytes per second.
    ///
    /// # Errors
    /// If the device fails.
    pub fn gbps(&self) -> Result<f64, DeviceError> {
        match self {
            MemoryMeter::Host(meter) => Ok(meter.read_gbps()),
            #[cfg(feature = "cuda")]
            MemoryMeter::Gpu(meter) => meter.gbps(),
        }
    }

    /// What it measures, for a table.
    pub fn what(&self) -> &'static str {
        match self {
            MemoryMeter::Host(_) => "reading",
            #[cfg(feature = "cuda")]
            MemoryMeter::Gpu(_) => "copying",
        }
    }
}

/// The median; 0 of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n => f64::midpoint(values[(n - 1) / 2], values[n / 2]),
    }
}

/// Measures the rate of reading memory whenever it is asked.
pub struct Meter {
    threads: usize,
    memory: Vec<u64>,
}

impl Meter {
    /// Takes half a gigabyte of memory.
    pub fn new(threads: usize) -> Meter {
        Meter { threads: threads.max(1), memory: vec![1; READ_BYTES / 8] }
    }

    /// One pass over the memory with all threads, about ten milliseconds: 1e9 bytes per second.
    pub fn read_gbps(&self) -> f64 {
        let share = self.memory.len() / self.threads;
        let seconds = shortest_pass(self.threads, 1, |t| {
            black_box(read(&self.memory[t * share..][..share]));
        });
        (share * self.threads * 8) as f64 / seconds / 1e9
    }
}

/// Seconds of the shortest of some passes in which every thread runs `work(thread)` once.
fn shortest_pass(threads: usize, passes: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let pass = &|t: usize| {
        let mut best = f64::INFINITY;
        for _ in 0..passes {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_positive_and_finite() {
        let ceilings = measure(2).unwrap();
        assert!(ceilings.threads == 2 && ceilings.read_gbps > 0.01, "{ceilings:?}");
        assert!(ceilings.read_gbps.is_finite());
        println!("{ceilings:?}");
    }

    #[test]
    fn whole_blocks_are_summed() {
        let words: Vec<u64> = (0..100).collect();
        assert_eq!(read(&words), (0..96).sum::<u64>());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
