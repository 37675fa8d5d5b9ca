//! The machines that code is compiled for: their vocabulary, widths, caches and costs.

use crate::kir::{Cap, Op};
use jet_ir::Elem;

/// A machine to compile for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Target {
    /// What the command line and the artifact call it.
    pub name: &'static str,
    /// The architecture, as `std::env::consts::ARCH` and the code generator spell it.
    pub arch: &'static str,
    /// What makes its code.
    pub backend: Backend,
    /// Features of the processor that its code uses, in Rust's spelling.
    pub requires: &'static [&'static str],
    /// Of two targets that fit a machine, the one of higher rank has the faster code.
    pub rank: u32,
    /// Lanes of f32 in one register of the emitter.
    pub lanes: u16,
    /// Independent accumulators that hide the latency of a multiply-add.
    pub accumulators: usize,
    /// Vector registers.
    pub registers: usize,
    /// What it can do beyond the minimum.
    pub caps: &'static [Cap],
    /// Bytes of shared memory that a CTA of a GPU can have; a multiprocessor has 1 KB more. 0 on a CPU.
    pub shared_bytes: u32,
    /// Sizes of the caches.
    pub cache: Cache,
    /// What work costs, for comparing plans; a reader should not take it for a measurement of his machine.
    pub cost: Cost,
}

/// What turns kernels into code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// Vectors of 128 bits; part of every build.
    Cranelift {
        /// Settings of the instruction set.
        settings: &'static [&'static str],
    },
    /// Vectors of any width and bf16 dot products, through LLVM; part of builds with the cargo feature `mlir`.
    Mlir {
        /// The processor, as LLVM calls it.
        cpu: &'static str,
        /// Features added to it (`+x`) and taken away (`-x`), separated by commas.
        features: &'static str,
    },
    /// Text for NVIDIA GPUs; part of every build.
    Ptx {
        /// Version of the language.
        version: &'static str,
    },
}

impl Backend {
    /// Its name on the command line and in recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Cranelift { .. } => "cranelift",
            Backend::Mlir { .. } => "mlir",
            Backend::Ptx { .. } => "ptx",
        }
    }

    /// The names of all, each once; a build may lack some of them.
    pub fn names() -> Vec<&'static str> {
        let mut names: Vec<_> = TARGETS.iter().map(|t| t.backend.name()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether this build has it.
    pub fn is_built(&self) -> bool {
        !matches!(self, Backend::Mlir { .. }) || cfg!(feature = "mlir")
    }
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

/// Costs of one thread of a typical machine of a target; of a GPU, of all of it.
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
    /// Multiprocessors of a GPU, 1 on a CPU.
    pub processors: u32,
}

/// Multiprocessors of a group (GPC) of an H100, at least; the number of all is even in each.
const GROUP: u32 = 16;

/// Bytes of shared memory that the system takes of each CTA.
const RESERVED_SHARED: u32 = 1 << 10;

const X86_64_V3: &[&str] = &["avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt", "movbe", "popcnt"];

const X86_CACHE: Cache = Cache { l1_bytes: 32 << 10, l2_bytes: 1 << 20, l3_bytes: 32 << 20 };
const ARM_CACHE: Cache = Cache { l1_bytes: 64 << 10, l2_bytes: 1 << 20, l3_bytes: 32 << 20 };

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "x86-64-v3",
        arch: "x86_64",
        backend: Backend::Cranelift {
            settings: &[
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
        },
        requires: X86_64_V3,
        rank: 10,
        lanes: 4,
        accumulators: 8,
        registers: 16,
        caps: &[Cap::Fma, Cap::Int16Dot],
        shared_bytes: 0,
        cache: X86_CACHE,
        cost: Cost { dram_gbps: 20.0, cache_gbps: 40.0, gflops: 52.0, launch_us: 2.0, processors: 1 },
    },
    Target {
        name: "aarch64",
        arch: "aarch64",
        backend: Backend::Cranelift { settings: &[] },
        requires: &[],
        rank: 10,
        lanes: 4,
        accumulators: 8,
        registers: 32,
        caps: &[Cap::Fma],
        shared_bytes: 0,
        cache: ARM_CACHE,
        cost: Cost { dram_gbps: 20.0, cache_gbps: 40.0, gflops: 30.0, launch_us: 2.0, processors: 1 },
    },
    Target {
        name: "x86-64-v3-wide",
        arch: "x86_64",
        backend: Backend::Mlir { cpu: "x86-64-v3", features: "" },
        requires: X86_64_V3,
        rank: 20,
        lanes: 8,
        accumulators: 8,
        registers: 16,
        caps: &[Cap::Fma, Cap::Prefetch],
        shared_bytes: 0,
        cache: X86_CACHE,
        cost: Cost { dram_gbps: 25.0, cache_gbps: 80.0, gflops: 110.0, launch_us: 2.0, processors: 1 },
    },
    Target {
        name: "x86-64-v3-vnni",
        arch: "x86_64",
        backend: Backend::Mlir { cpu: "x86-64-v3", features: "+avxvnni" },
        requires: &["avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt", "movbe", "popcnt", "avxvnni"],
        rank: 25,
        lanes: 8,
        accumulators: 8,
        registers: 16,
        caps: &[Cap::Fma, Cap::Prefetch, Cap::Int8Dot],
        shared_bytes: 0,
        cache: X86_CACHE,
        cost: Cost { dram_gbps: 25.0, cache_gbps: 80.0, gflops: 110.0, launch_us: 2.0, processors: 1 },
    },
    Target {
        name: "x86-64-v4",
        arch: "x86_64",
        // LLVM would halve the vectors of an unknown AVX-512 machine
        backend: Backend::Mlir { cpu: "x86-64-v4", features: "-prefer-256-bit" },
        requires: &[
            "avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt", "movbe", "popcnt", "avx512f", "avx512bw", "avx512cd",
            "avx512dq", "avx512vl",
        ],
        rank: 30,
        lanes: 16,
        accumulators: 8,
        registers: 32,
        caps: &[Cap::Fma, Cap::Prefetch],
        shared_bytes: 0,
        cache: X86_CACHE,
        cost: Cost { dram_gbps: 27.0, cache_gbps: 100.0, gflops: 110.0, launch_us: 2.0, processors: 1 },
    },
    Target {
        name: "znver4",
        arch: "x86_64",
        // the extensions of Zen 4 that are used and no others, so that Sapphire Rapids and its successors run this too
        backend: Backend::Mlir { cpu: "x86-64-v4", features: "-prefer-256-bit,+avx512bf16,+avx512vnni" },
        requires: &[
            "avx2",
            "fma",
            "f16c",
            "bmi1",
            "bmi2",
            "lzcnt",
            "movbe",
            "popcnt",
            "avx512f",
            "avx512bw",
            "avx512cd",
            "avx512dq",
            "avx512vl",
            "avx512bf16",
            "avx512vnni",
        ],
        rank: 40,
        lanes: 16,
        accumulators: 8,
        registers: 32,
        caps: &[Cap::Fma, Cap::Prefetch, Cap::Bf16Round, Cap::Bf16Dot, Cap::Int8Dot],
        shared_bytes: 0,
        cache: X86_CACHE,
        cost: Cost { dram_gbps: 27.0, cache_gbps: 100.0, gflops: 220.0, launch_us: 2.0, processors: 1 },
    },
    Target {
        name: "neoverse-n1",
        arch: "aarch64",
        backend: Backend::Mlir { cpu: "neoverse-n1", features: "" },
        requires: &["neon", "fp16", "dotprod", "lse", "rcpc", "crc"],
        rank: 20,
        lanes: 4,
        accumulators: 8,
        registers: 32,
        caps: &[Cap::Fma, Cap::Prefetch, Cap::SignedInt8Dot],
        shared_bytes: 0,
        cache: ARM_CACHE,
        cost: Cost { dram_gbps: 20.0, cache_gbps: 40.0, gflops: 40.0, launch_us: 2.0, processors: 1 },
    },
    Target {
        name: "neoverse-v1",
        arch: "aarch64",
        backend: Backend::Mlir { cpu: "neoverse-v1", features: "" },
        requires: &["neon", "fp16", "dotprod", "lse", "rcpc", "crc", "bf16", "i8mm", "sve"],
        rank: 30,
        lanes: 4,
        accumulators: 16,
        registers: 32,
        caps: &[Cap::Fma, Cap::Prefetch, Cap::Bf16Round, Cap::Bf16Dot, Cap::Int8Dot, Cap::SignedInt8Dot],
        shared_bytes: 0,
        cache: ARM_CACHE,
        cost: Cost { dram_gbps: 25.0, cache_gbps: 80.0, gflops: 80.0, launch_us: 2.0, processors: 1 },
    },
    Target {
        name: "sm_80",
        arch: "sm_80",
        backend: Backend::Ptx { version: "7.8" },
        requires: &[],
        rank: 10,
        lanes: 4,
        accumulators: 8,
        registers: 255,
        caps: &[Cap::Fma, Cap::Bf16Round, Cap::Threads, Cap::Mma, Cap::AsyncCopy],
        shared_bytes: 163 << 10,
        cache: Cache { l1_bytes: 192 << 10, l2_bytes: 40 << 20, l3_bytes: 40 << 20 },
        cost: Cost { dram_gbps: 1800.0, cache_gbps: 4500.0, gflops: 280e3, launch_us: 2.5, processors: 108 },
    },
    Target {
        name: "sm_90a",
        arch: "sm_90a",
        backend: Backend::Ptx { version: "8.0" },
        requires: &[],
        rank: 20,
        lanes: 4,
        accumulators: 8,
        registers: 255,
        caps: &[
            Cap::Fma,
            Cap::Bf16Round,
            Cap::Threads,
            Cap::Mma,
            Cap::AsyncCopy,
            Cap::Wgmma,
            Cap::BulkCopy,
            Cap::DependentLaunch,
            Cap::Cluster,
        ],
        shared_bytes: 227 << 10,
        cache: Cache { l1_bytes: 256 << 10, l2_bytes: 50 << 20, l3_bytes: 50 << 20 },
        cost: Cost { dram_gbps: 3000.0, cache_gbps: 5500.0, gflops: 798e3, launch_us: 0.9, processors: 132 },
    },
];

impl Target {
    /// The target called `name`.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|t| t.name == name)
    }

    /// The required features that the processor this runs on lacks.
    pub fn missing(&self) -> Vec<&'static str> {
        self.requires.iter().copied().filter(|f| jetbin::has_feature(f) != Some(true)).collect()
    }

    /// Whether the processor that this runs on has all that the code needs.
    pub fn runs_here(&self) -> bool {
        self.arch == std::env::consts::ARCH && self.missing().is_empty()
    }

    /// Whether its kernels are run by a GPU.
    pub fn is_gpu(&self) -> bool {
        self.has(Cap::Threads)
    }

    /// What keys and values are kept as: what tile products multiply, so that no precision is lost that they could use.
    pub fn cache_elem(&self) -> Elem {
        if self.has(Cap::Mma) { Elem::Bf16 } else { Elem::F32 }
    }

    /// Bytes of shared memory that each of `ctas` CTAs of a multiprocessor can have.
    pub fn most_shared(&self, ctas: u32) -> u32 {
        let each = (self.shared_bytes + RESERVED_SHARED) / ctas.max(1);
        each.saturating_sub(RESERVED_SHARED)
    }

    /// Multiprocessors that clusters of `ctas` CTAs can have: a cluster lies in one group of multiprocessors, and groups have 16 or 18.
    pub fn processors_in_clusters(&self, ctas: u32) -> u32 {
        if ctas <= 2 { self.cost.processors } else { self.cost.processors / GROUP * GROUP }
    }

    /// Whether the machine can do `cap`.
    pub fn has(&self, cap: Cap) -> bool {
        self.caps.contains(&cap)
    }

    /// Whether the emitter takes this operation as it is.
    pub fn is_native(&self, op: &Op) -> bool {
        let spelled = match op {
            Op::Scalar(s) => match self.backend {
                Backend::Cranelift { .. } => s.in_cranelift(),
                Backend::Mlir { .. } => s.mlir().is_some(),
                Backend::Ptx { .. } => s.ptx().is_some(),
            },
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

/// The default target for the machine that this runs on: the one that every build can compile for.
///
/// # Errors
/// If the machine is of another architecture, or lacks an instruction set.
pub fn host() -> Result<&'static Target, HostError> {
    let arch = std::env::consts::ARCH;
    let target = TARGETS.iter().find(|t| t.arch == arch).ok_or(HostError::Architecture(arch))?;
    match &target.missing()[..] {
        [] => Ok(target),
        missing => Err(HostError::Lacks { target: target.name, missing: missing.join(", ") }),
    }
}

/// What is compiled for when no target is named: the fastest that this build makes and this machine runs, then the one
/// that most machines of the architecture run. With a `backend`, only of its targets.
///
/// # Errors
/// If the machine is of another architecture, or lacks an instruction set.
pub fn defaults(backend: Option<&str>) -> Result<Vec<&'static Target>, HostError> {
    let arch = std::env::consts::ARCH;
    let named = |t: &Target| backend.is_none_or(|b| t.backend.name() == b);
    let ours = |t: &&Target| t.arch == arch && t.backend.is_built() && named(t);
    let mut gpus: Vec<_> = TARGETS.iter().filter(|t| backend.is_some() && t.is_gpu() && named(t)).collect();
    if !gpus.is_empty() {
        // code for a GPU is made on any machine
        gpus.sort_by_key(|t| std::cmp::Reverse(t.rank));
        return Ok(gpus);
    }
    let floor = TARGETS.iter().filter(ours).min_by_key(|t| t.rank).ok_or(HostError::Architecture(arch))?;
    let best = TARGETS.iter().filter(ours).filter(|t| t.runs_here()).max_by_key(|t| t.rank);
    match best {
        Some(best) if best == floor => Ok(vec![best]),
        Some(best) => Ok(vec![best, floor]),
        None => Err(HostError::Lacks { target: floor.name, missing: floor.missing().join(", ") }),
    }
}

/// Every target that this build can compile for and this machine can run.
pub fn runnable() -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().filter(|t| t.backend.is_built() && t.runs_here())
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

    /// A loader that cannot detect a feature refuses the target on every machine.
    #[test]
    fn loaders_can_detect_all_that_a_target_requires() {
        for target in TARGETS.iter().filter(|t| !t.is_gpu()) {
            let (_, known) = jetbin::FEATURES.iter().find(|(arch, _)| *arch == target.arch).unwrap();
            let unknown: Vec<_> = target.requires.iter().filter(|f| !known.contains(f)).collect();
            assert!(unknown.is_empty(), "{}: {unknown:?}", target.name);
        }
    }

    #[test]
    fn the_default_needs_no_feature_and_runs_here() {
        assert!(matches!(host().unwrap().backend, Backend::Cranelift { .. }));
        assert!(runnable().any(|t| t == host().unwrap()));
        assert_eq!(runnable().any(|t| matches!(t.backend, Backend::Mlir { .. })), cfg!(feature = "mlir"));
    }

    #[test]
    fn defaults_are_the_fastest_and_the_most_portable() {
        let fastest = runnable().max_by_key(|t| t.rank).unwrap();
        let all = defaults(None).unwrap();
        assert_eq!((all[0], *all.last().unwrap()), (fastest, host().unwrap()));
        assert_eq!(defaults(Some("cranelift")).unwrap(), [host().unwrap()]);
        assert_eq!(defaults(Some("ptx")).unwrap(), ["sm_90a", "sm_80"].map(|name| Target::named(name).unwrap()));
        assert_eq!(defaults(Some("mlir")).is_ok(), cfg!(feature = "mlir"));
    }
}
