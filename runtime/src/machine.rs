//! Which target of an artifact this machine can run, and why not the others.

use jetbin::{DeviceKind, TargetDesc};

/// What runs the kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processors of this machine.
    #[default]
    Cpu,
    /// The simulator of PTX text: a GPU for tests.
    #[cfg(feature = "ptxsim")]
    PtxSim,
}

impl DeviceChoice {
    /// Every device of this build, by its name.
    pub const ALL: &[(&str, DeviceChoice)] = &[
        ("cpu", DeviceChoice::Cpu),
        #[cfg(feature = "ptxsim")]
        ("ptxsim", DeviceChoice::PtxSim),
    ];

    /// What it runs.
    pub fn machine(self) -> Machine<'static> {
        match self {
            DeviceChoice::Cpu => this_machine(),
            #[cfg(feature = "ptxsim")]
            DeviceChoice::PtxSim => Machine { device: DeviceKind::Cuda, ..this_machine() },
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
    Machine { device: DeviceKind::Cpu, arch: std::env::consts::ARCH, has: &cpu_has }
}

macro_rules! features {
    ($is_detected:ident: $($name:tt)*) => {
        fn cpu_has(feature: &str) -> Option<bool> {
            match feature {
                $($name => Some(std::arch::$is_detected!($name)),)*
                _ => None,
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
features!(is_x86_feature_detected: "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b" "avx" "avx2" "fma" "f16c"
    "bmi1" "bmi2" "lzcnt" "movbe" "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16"
    "avx512ifma" "avx512vbmi" "avx512vbmi2" "avx512bitalg" "avx512vpopcntdq");
#[cfg(target_arch = "aarch64")]
features!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "bf16" "i8mm" "sve" "sve2" "rdm" "lse" "fhm");
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_has(_: &str) -> Option<bool> {
    None
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
        return None;
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
    fn this_machine_knows_its_own_features() {
        let machine = this_machine();
        let base = if machine.arch == "x86_64" { "sse3" } else { "neon" };
        assert_eq!((machine.has)(base), Some(true));
        assert_eq!((machine.has)("no such feature"), None);
    }
}
