//! The machines that code is compiled for: their vocabulary, widths, caches and costs.

use crate::kir::{Cap, Op};

/// A machine to compile for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Target {
    /// What the command line and the artifact call it.
    pub name: &'static str,
    /// The architecture, as Cranelift names it.
    pub triple: &'static str,
    /// Lanes of f32 in one register of the emitter.
    pub lanes: u16,
    /// Independent accumulators that hide the latency of a multiply-add.
    pub accumulators: usize,
    /// Vector registers.
    pub registers: usize,
    /// What it can do beyond the minimum.
    pub caps: &'static [Cap],
    /// Settings of the Cranelift instruction set.
    pub features: &'static [&'static str],
    /// Sizes of the caches.
    pub cache: Cache,
    /// What work costs, for comparing plans; a reader should not take it for a measurement of his machine.
    pub cost: Cost,
}

/// Sizes of the data caches of a typical machine of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cache {
    /// First level, of each core.
    pub l1_bytes: u64,
    /// Second level, of each core.
    pub l2_bytes: u64,
    /// Last level, shared.
    pub l3_bytes: u64,
}

/// Costs of one thread of a typical machine of a target.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// Reading weights from memory, in 1e9 bytes per second.
    pub dram_gbps: f64,
    /// Reading activations from the second-level cache, in 1e9 bytes per second.
    pub cache_gbps: f64,
    /// f32 arithmetic of the emitted code, in 1e9 operations per second.
    pub gflops: f64,
    /// Starting one kernel on all threads and waiting for the last, in microseconds.
    pub launch_us: f64,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "x86-64-v3",
        triple: "x86_64",
        lanes: 4,
        accumulators: 8,
        registers: 16,
        caps: &[Cap::Fma],
        features: &[
            "has_sse3",
            "has_ssse3",
            "has_sse41",
            "has_sse42",
            "has_popcnt",
            "has_avx",
            "has_avx2",
            "has_fma",
            "has_bmi1",
            "has_bmi2",
        ],
        cache: Cache { l1_bytes: 32 << 10, l2_bytes: 1 << 20, l3_bytes: 32 << 20 },
        cost: Cost { dram_gbps: 20.0, cache_gbps: 40.0, gflops: 43.0, launch_us: 2.0 },
    },
    Target {
        name: "aarch64",
        triple: "aarch64",
        lanes: 4,
        accumulators: 8,
        registers: 32,
        caps: &[Cap::Fma],
        features: &[],
        cache: Cache { l1_bytes: 64 << 10, l2_bytes: 1 << 20, l3_bytes: 32 << 20 },
        cost: Cost { dram_gbps: 20.0, cache_gbps: 40.0, gflops: 30.0, launch_us: 2.0 },
    },
];

impl Target {
    /// The target called `name`.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|t| t.name == name)
    }

    /// Whether the machine can do `cap`.
    pub fn has(&self, cap: Cap) -> bool {
        self.caps.contains(&cap)
    }

    /// Whether the emitter takes this operation as it is.
    pub fn is_native(&self, op: &Op) -> bool {
        let spelled = match op {
            Op::Scalar(s) => s.in_cranelift(),
            _ => true,
        };
        spelled && op.needs().is_none_or(|cap| self.has(cap))
    }
}

/// Why no target fits this machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    /// A processor of a known architecture that is too old.
    #[error("this processor lacks {missing}, which {target} needs")]
    Lacks {
        /// The nearest target.
        target: &'static str,
        /// The features, separated by commas.
        missing: String,
    },
    /// An architecture without a target.
    #[error("no target for the architecture {0}; expected x86_64 or aarch64")]
    Architecture(&'static str),
}

/// The best target for the machine that this runs on.
///
/// # Errors
/// If the machine is of another architecture, or lacks an instruction set (AVX2, FMA, F16C, BMI1, BMI2).
pub fn host() -> Result<&'static Target, HostError> {
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("f16c", is_x86_feature_detected!("f16c")),
            ("bmi1", is_x86_feature_detected!("bmi1")),
            ("bmi2", is_x86_feature_detected!("bmi2")),
        ];
        let missing: Vec<_> = found.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            return Err(HostError::Lacks { target: "x86-64-v3", missing: missing.join(", ") });
        }
    }
    TARGETS.iter().find(|t| t.triple == std::env::consts::ARCH).ok_or(HostError::Architecture(std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for t in TARGETS {
            assert_eq!(Target::named(t.name), Some(t));
        }
        assert_eq!(Target::named("sm_00"), None);
    }
}
