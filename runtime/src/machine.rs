//! Which target of an artifact this machine can run, and why not the others.

use crate::device::DeviceError;
use jetbin::{DeviceKind, TargetDesc};

/// What runs the kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processors of this machine.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its number among those that the driver shows.
    #[cfg(feature = "cuda")]
    Cuda(u32),
    /// The simulator of PTX text: a GPU for tests.
    #[cfg(feature = "ptxsim")]
    PtxSim,
}

impl DeviceChoice {
    /// Every kind of device of this build, by its name.
    pub const ALL: &[(&str, DeviceChoice)] = &[
        ("cpu", DeviceChoice::Cpu),
        #[cfg(feature = "cuda")]
        ("cuda", DeviceChoice::Cuda(0)),
        #[cfg(feature = "ptxsim")]
        ("ptxsim", DeviceChoice::PtxSim),
    ];

    /// The device of a name: one of the table, or `cuda:N`.
    ///
    /// # Errors
    /// The names that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        if let Some((_, device)) = Self::ALL.iter().find(|(n, _)| *n == name) {
            return Ok(*device);
        }
        #[cfg(feature = "cuda")]
        if let Some(Ok(ordinal)) = name.strip_prefix("cuda:").map(str::parse) {
            return Ok(DeviceChoice::Cuda(ordinal));
        }
        let names: Vec<_> = Self::ALL.iter().map(|(n, _)| if *n == "cuda" { "cuda[:N]" } else { n }).collect();
        Err(format!("expected {}", names.join(" or ")))
    }

    /// What it runs.
    ///
    /// # Errors
    /// If there is no such GPU, or no driver: what was looked for.
    pub fn machine(self) -> Result<Machine<'static>, DeviceError> {
        match self {
            DeviceChoice::Cpu => Ok(this_machine()),
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda(ordinal) => {
                let compute = Some(crate::cuda::Gpu::open(ordinal)?.compute);
                Ok(Machine { device: DeviceKind::Cuda, compute, ..this_machine() })
            }
            #[cfg(feature = "ptxsim")]
            DeviceChoice::PtxSim => Ok(Machine { device: DeviceKind::Cuda, ..this_machine() }),
        }
    }
}

/// What a machine offers to code.
pub struct Machine<'a> {
    /// What kind of device runs it.
    pub device: DeviceKind,
    /// As `std::env::consts::ARCH` spells it.
    pub arch: &'a str,
    /// Whether a feature is there; `None` if this build does not know its name.
    pub has: &'a dyn Fn(&str) -> Option<bool>,
    /// Compute capability of a GPU, major and minor; `None` takes code for any, as the simulator does.
    pub compute: Option<(u32, u32)>,
}

/// What the loader thinks of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Index in the artifact.
    pub index: u32,
    /// Name of the target.
    pub name: String,
    /// Why it cannot run here; `None` if it can.
    pub rejected: Option<String>,
    rank: u32,
}

/// The machine that this process runs on.
pub fn this_machine() -> Machine<'static> {
    Machine { device: DeviceKind::Cpu, arch: std::env::consts::ARCH, has: &jetbin::has_feature, compute: None }
}

/// Judges every target of an artifact; those that fit come first, the one to take at the front.
pub fn judge(targets: impl IntoIterator<Item = TargetDesc>, machine: &Machine<'_>) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = (0..)
        .zip(targets)
        .map(|(index, t)| Candidate { index, rejected: rejection(&t, machine), rank: t.rank, name: t.name })
        .collect();
    // Stable: of equal ranks, the first in the artifact wins.
    all.sort_by_key(|c| (c.rejected.is_some(), std::cmp::Reverse(c.rank)));
    all
}

fn rejection(target: &TargetDesc, machine: &Machine<'_>) -> Option<String> {
    if target.device != machine.device {
        return Some(format!("needs a {} device, kernels are to run on a {} device", target.device, machine.device));
    }
    if target.device == DeviceKind::Cuda {
        return machine.compute.and_then(|found| wrong_gpu(&target.arch, found));
    }
    if target.arch != machine.arch {
        return Some(format!("is for {}, this machine is {}", target.arch, machine.arch));
    }
    let missing = |want: bool| -> Vec<&str> {
        let features = target.features.iter().map(String::as_str);
        features.filter(|f| if want { (machine.has)(f) == Some(false) } else { (machine.has)(f).is_none() }).collect()
    };
    let (absent, unknown) = (missing(true), missing(false));
    if !absent.is_empty() {
        return Some(format!("needs {}, which this CPU lacks", absent.join(", ")));
    }
    (!unknown.is_empty()).then(|| format!("needs {}, which this build cannot detect", unknown.join(", ")))
}

/// The compute capability of an architecture like `sm_80`, and whether its code is for that one alone, as that of `sm_90a` is.
pub(crate) fn gpu_architecture(arch: &str) -> Option<((u32, u32), bool)> {
    let number = arch.strip_prefix("sm_")?;
    let (number, specific) = match number.strip_suffix(['a', 'f']) {
        Some(shorter) => (shorter, true),
        None => (number, false),
    };
    let number = number.parse::<u32>().ok()?;
    Some(((number / 10, number % 10), specific))
}

/// Why a GPU of a compute capability cannot run code for an architecture: `sm_80` runs on 8.0 and all later ones, `sm_90a` on
/// 9.0 alone.
fn wrong_gpu(arch: &str, (major, minor): (u32, u32)) -> Option<String> {
    let Some((needed, specific)) = gpu_architecture(arch) else {
        return Some(format!("names the GPU architecture `{arch}`, expected one like `sm_80`; compile again"));
    };
    let fits = if specific { (major, minor) == needed } else { (major, minor) >= needed };
    let more = if specific { "" } else { " or more" };
    (!fits).then(|| format!("needs compute capability {}.{}{more}, this GPU has {major}.{minor}", needed.0, needed.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, arch: &str, features: &[&str], rank: u32) -> TargetDesc {
        let features = features.iter().map(|f| f.to_string()).collect();
        TargetDesc { name: name.into(), device: DeviceKind::Cpu, arch: arch.into(), features, rank }
    }

    #[test]
    fn the_highest_rank_that_fits_wins_and_the_others_say_why_not() {
        let machine = Machine {
            device: DeviceKind::Cpu,
            arch: "x86_64",
            has: &|f| match f {
                "avx2" | "fma" => Some(true),
                "avx512f" => Some(false),
                _ => None,
            },
            compute: None,
        };
        let gpu = TargetDesc { device: DeviceKind::Cuda, ..target("sm_80", "", &[], 99) };
        let targets = [
            target("v3", "x86_64", &["avx2", "fma"], 3),
            target("v2", "x86_64", &[], 2),
            target("v4", "x86_64", &["avx2", "avx512f"], 4),
            target("v9", "x86_64", &["amx"], 9),
            target("neoverse", "aarch64", &[], 5),
            gpu,
        ];
        let judged = judge(targets, &machine);
        let text: Vec<String> =
            judged.iter().map(|c| format!("{}: {}", c.name, c.rejected.as_deref().unwrap_or("fits"))).collect();
        let expected = [
            "v3: fits",
            "v2: fits",
            "sm_80: needs a cuda device, kernels are to run on a cpu device",
            "v9: needs amx, which this build cannot detect",
            "neoverse: is for aarch64, this machine is x86_64",
            "v4: needs avx512f, which this CPU lacks",
        ];
        assert_eq!(text, expected);
    }

    #[test]
    fn a_gpu_runs_what_is_for_it_or_for_an_older_one() {
        let gpu = |arch: &str, rank| TargetDesc { device: DeviceKind::Cuda, ..target(arch, arch, &[], rank) };
        let targets = [gpu("sm_80", 1), gpu("sm_90a", 2), gpu("sm_120", 3), target("v3", "x86_64", &[], 9), gpu("", 4)];
        let judged = |compute| {
            let machine = Machine { device: DeviceKind::Cuda, compute, ..this_machine() };
            judge(targets.clone(), &machine)
        };
        let fitting = |compute| -> Vec<String> {
            judged(Some(compute)).into_iter().filter(|c| c.rejected.is_none()).map(|c| c.name).collect()
        };
        assert_eq!(fitting((7, 5)), Vec::<String>::new());
        assert_eq!(fitting((8, 6)), ["sm_80"]);
        assert_eq!(fitting((9, 0)), ["sm_90a", "sm_80"]);
        assert_eq!(fitting((10, 0)), ["sm_80"]);
        assert_eq!(fitting((12, 0)), ["sm_120", "sm_80"]);
        let reasons: Vec<_> = judged(Some((7, 5))).into_iter().filter_map(|c| c.rejected).collect();
        let expected = [
            "needs a cpu device, kernels are to run on a cuda device",
            "names the GPU architecture ``, expected one like `sm_80`; compile again",
            "needs compute capability 12.0 or more, this GPU has 7.5",
            "needs compute capability 9.0, this GPU has 7.5",
            "needs compute capability 8.0 or more, this GPU has 7.5",
        ];
        assert_eq!(reasons, expected);
        assert_eq!(judged(None).iter().filter(|c| c.rejected.is_none()).count(), 4);
    }

    #[test]
    fn devices_have_names() {
        assert_eq!(DeviceChoice::named("cpu"), Ok(DeviceChoice::Cpu));
        #[cfg(feature = "cuda")]
        assert_eq!(DeviceChoice::named("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        for unknown in ["", "gpu", "cuda:", "cuda:x", "cuda:-1"] {
            assert!(DeviceChoice::named(unknown).unwrap_err().starts_with("expected cpu"), "{unknown}");
        }
    }

    #[test]
    fn this_machine_knows_its_own_features() {
        let machine = this_machine();
        let base = if machine.arch == "x86_64" { "sse3" } else { "neon" };
        assert_eq!((machine.has)(base), Some(true));
        assert_eq!((machine.has)("no such feature"), None);
    }
}
