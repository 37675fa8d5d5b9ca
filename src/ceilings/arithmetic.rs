//! Loops of independent multiply-adds: what the arithmetic units can do, by width and type.

use super::shortest_pass;
use serde::Serialize;
use std::hint::black_box;

/// Rates of multiply-adds of all threads together, each counted as two operations, in 1e9 operations per second; 0 where
/// the machine has no such instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Arithmetic {
    /// f32 in vectors of 128 bits, all that Cranelift has.
    pub f32_128: f64,
    /// f32 in the widest vectors of the machine.
    pub f32_wide: f64,
    /// Dot products of pairs of bf16 with sums in f32.
    pub bf16_dot: f64,
    /// Dot products of four 8-bit integers with sums in 32 bits.
    pub int8_dot: f64,
}

impl Arithmetic {
    /// The same fields with `f` of their values.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Arithmetic {
        let Arithmetic { f32_128, f32_wide, bf16_dot, int8_dot } = self;
        Arithmetic { f32_128: f(f32_128), f32_wide: f(f32_wide), bf16_dot: f(bf16_dot), int8_dot: f(int8_dot) }
    }

    /// Values with their names, for tables; a kind that the machine lacks is left out.
    pub fn named(self) -> impl Iterator<Item = (&'static str, f64)> {
        let Arithmetic { f32_128, f32_wide, bf16_dot, int8_dot } = self;
        [("f32 128-bit", f32_128), ("f32 wide", f32_wide), ("bf16 dot", bf16_dot), ("int8 dot", int8_dot)]
            .into_iter()
            .filter(|(_, value)| *value > 0.0)
    }
}

/// Enough to hide the latency of two units, few enough for 16 registers.
const CHAINS: usize = 10;
/// The same for 32 registers, which the compiler uses only with AVX512VL: a dot product of bf16 takes about eight cycles on Zen 5.
#[cfg(target_arch = "x86_64")]
const MANY_CHAINS: usize = 24;
/// Steps of every chain in one pass: some milliseconds.
const STEPS: u64 = 500_000;
/// Passes, of which the shortest counts: other load only makes them longer.
const PASSES: usize = 7;

/// A loop of independent multiply-adds.
struct Loop {
    /// Operations of one step of all chains.
    ops: usize,
    /// Runs so many steps.
    run: fn(u64) -> f32,
}

/// Measures all that the machine has; takes about 50 milliseconds.
pub fn measure(threads: usize) -> Arithmetic {
    let rate = |l: Option<Loop>| {
        l.map_or(0.0, |l| {
            let seconds = shortest_pass(threads, PASSES, |_| {
                black_box((l.run)(STEPS));
            });
            (l.ops as u64 * STEPS * threads as u64) as f64 / seconds / 1e9
        })
    };
    Arithmetic {
        f32_128: rate(Some(f32_128())),
        f32_wide: rate(Some(f32_wide())),
        bf16_dot: rate(bf16_dot()),
        int8_dot: rate(int8_dot()),
    }
}

fn f32_128() -> Loop {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") {
        // SAFETY: the processor has FMA.
        return Loop { ops: CHAINS * 8, run: |steps| unsafe { x86::fma_128(steps) } };
    }
    Loop { ops: CHAINS * 8, run: fma_portable }
}

/// The widest f32 loop that this machine runs.
fn f32_wide() -> Loop {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has AVX-512F and VL.
            return Loop { ops: MANY_CHAINS * 32, run: |steps| unsafe { x86::fma_512(steps) } };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return Loop { ops: CHAINS * 16, run: |steps| unsafe { x86::fma_256(steps) } };
        }
    }
    f32_128()
}

fn bf16_dot() -> Option<Loop> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the processor has AVX-512F, VL and BF16.
        return Some(Loop { ops: MANY_CHAINS * 64, run: |steps| unsafe { x86::bf16_512(steps) } });
    }
    None
}

fn int8_dot() -> Option<Loop> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the processor has AVX-512F, VL and VNNI.
            return Some(Loop { ops: MANY_CHAINS * 128, run: |steps| unsafe { x86::int8_512(steps) } });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
            // SAFETY: the processor has AVX-VNNI.
            return Some(Loop { ops: CHAINS * 64, run: |steps| unsafe { x86::int8_256(steps) } });
        }
    }
    None
}

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
    use super::{CHAINS, MANY_CHAINS, black_box};
    use std::arch::x86_64::*;

    /// A loop over chains of one register type; the sum of all lanes keeps it alive.
    macro_rules! chains {
        ($(#[$doc:meta])* $name:ident[$chains:expr], $features:literal, $start:expr, $a:expr, $b:expr, $step:expr, $sum:expr) => {
            $(#[$doc])*
            #[target_feature(enable = $features)]
            pub unsafe fn $name(steps: u64) -> f32 {
                let (a, b) = ($a, $b);
                let mut chains = [$start; $chains];
                for _ in 0..steps {
                    for chain in &mut chains {
                        *chain = $step(*chain, a, b);
                    }
                }
                chains.into_iter().map($sum).sum()
            }
        };
    }

    chains! {
        /// # Safety
        /// The processor must have FMA.
        fma_128[CHAINS], "fma", _mm_set1_ps(1.0), _mm_set1_ps(black_box(0.999)), _mm_set1_ps(black_box(1e-3)),
        |c, a, b| _mm_fmadd_ps(c, a, b), |c| 4.0 * _mm_cvtss_f32(c)
    }
    chains! {
        /// # Safety
        /// The processor must have AVX2 and FMA.
        fma_256[CHAINS], "avx2,fma", _mm256_set1_ps(1.0), _mm256_set1_ps(black_box(0.999)),
        _mm256_set1_ps(black_box(1e-3)), |c, a, b| _mm256_fmadd_ps(c, a, b), |c| 8.0 * _mm256_cvtss_f32(c)
    }
    chains! {
        /// # Safety
        /// The processor must have AVX-512F and VL.
        fma_512[MANY_CHAINS], "avx512f,avx512vl", _mm512_set1_ps(1.0), _mm512_set1_ps(black_box(0.999)),
        _mm512_set1_ps(black_box(1e-3)), |c, a, b| _mm512_fmadd_ps(c, a, b), |c| 16.0 * _mm512_cvtss_f32(c)
    }
    chains! {
        /// # Safety
        /// The processor must have AVX-512F, VL and BF16.
        bf16_512[MANY_CHAINS], "avx512f,avx512vl,avx512bf16", _mm512_setzero_ps(), ones_bf16(), ones_bf16(),
        |c, a, b| _mm512_dpbf16_ps(c, a, b), |c| 16.0 * _mm512_cvtss_f32(c)
    }
    chains! {
        /// # Safety
        /// The processor must have AVX-512F, VL and VNNI.
        int8_512[MANY_CHAINS], "avx512f,avx512vl,avx512vnni", _mm512_setzero_si512(), _mm512_set1_epi8(black_box(1)),
        _mm512_set1_epi8(black_box(1)), |c, a, b| _mm512_dpbusd_epi32(c, a, b),
        |c| 16.0 * _mm512_cvtsi512_si32(c) as f32
    }
    chains! {
        /// # Safety
        /// The processor must have AVX2 and AVX-VNNI.
        int8_256[CHAINS], "avx2,avxvnni", _mm256_setzero_si256(), _mm256_set1_epi8(black_box(1)),
        _mm256_set1_epi8(black_box(1)), |c, a, b| _mm256_dpbusd_avx_epi32(c, a, b),
        |c| 8.0 * _mm256_cvtsi256_si32(c) as f32
    }

    /// 32 times 1 in bf16.
    #[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
    fn ones_bf16() -> __m512bh {
        let ones = _mm512_set1_ps(black_box(1.0));
        _mm512_cvtne2ps_pbh(ones, ones)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loops_compute_what_they_say() {
        // x -> 0.999 x + 0.001 stays at 1
        for l in [f32_128(), f32_wide(), Loop { ops: CHAINS * 8, run: fma_portable }] {
            let sum = (l.run)(1000);
            assert!((sum - l.ops as f32 / 2.0).abs() < 0.1, "{sum}");
        }
        // ones times ones, summed: every step adds its number of products
        for l in [bf16_dot(), int8_dot()].into_iter().flatten() {
            assert_eq!((l.run)(100), 100.0 * l.ops as f32 / 2.0);
        }
    }

    #[test]
    fn every_machine_has_f32() {
        let found = measure(1);
        assert!(found.f32_128 > 0.01 && found.f32_wide.is_finite(), "{found:?}");
        assert!(found.f32_wide > 0.8 * found.f32_128, "wide vectors are no slower: {found:?}");
    }
}
