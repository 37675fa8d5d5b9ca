//! `jetc doctor`: what this build and this machine can do, and why not.

use super::{Outcome, output};
use crate::ceilings;
use jet_codegen::targets::{Backend, TARGETS, defaults};
use jet_runtime::DeviceChoice;
use serde::Serialize;

/// Say what this build and this machine can do, and why not
#[derive(clap::Args)]
#[command(after_help = "Example:\n  jetc doctor --measure")]
pub struct Args {
    /// Measure the rate of reading memory and of f32 multiply-adds as well; takes a second and half a gigabyte
    #[arg(long)]
    measure: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    artifact_format: [u16; 2],
    arch: &'static str,
    os: &'static str,
    threads: usize,
    memory_bytes: Option<u64>,
    /// The target that would be chosen.
    cpu_target: Option<&'static str>,
    /// Why there is none.
    cpu_problem: Option<String>,
    backends: Vec<&'static str>,
    devices: Vec<&'static str>,
    /// The first GPU, or why there is none; absent in a build without the device `cuda`.
    gpu: Option<Gpu>,
    ceilings: Option<ceilings::Ceilings>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Gpu {
    Found { name: String, compute_capability: String, driver: String, multiprocessors: u32 },
    Problem(String),
}

#[cfg(feature = "cuda")]
fn gpu() -> Option<Gpu> {
    Some(match jet_runtime::cuda::Gpu::open(0) {
        Ok(gpu) => Gpu::Found {
            compute_capability: format!("{}.{}", gpu.compute.0, gpu.compute.1),
            driver: gpu.driver_version(),
            name: gpu.name,
            multiprocessors: gpu.multiprocessors,
        },
        Err(error) => Gpu::Problem(error.to_string()),
    })
}

#[cfg(not(feature = "cuda"))]
fn gpu() -> Option<Gpu> {
    None
}

/// Generators of CPU code in this build, each once.
fn backends() -> Vec<&'static str> {
    let built = |name: &&str| TARGETS.iter().any(|t| t.backend.name() == *name && t.backend.is_built());
    Backend::names().into_iter().filter(built).collect()
}

/// Prints the report; fails the check if no target fits this machine.
///
/// # Errors
/// If stdout cannot be written, or the system refuses threads to measure with.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let targets = defaults(None);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        artifact_format: [jetbin::MAJOR, jetbin::MINOR],
        arch: std::env::consts::ARCH,
        os: std::env::consts::OS,
        threads,
        memory_bytes: memory_bytes(),
        cpu_target: targets.as_ref().ok().map(|t| t[0].name),
        cpu_problem: targets.as_ref().err().map(ToString::to_string),
        backends: backends(),
        devices: DeviceChoice::ALL.iter().map(|(name, _)| *name).collect(),
        gpu: gpu(),
        ceilings: args.measure.then(|| ceilings::measure(threads)).transpose()?,
    };
    if args.json {
        output::json(&report)?;
    } else {
        print_text(&report);
    }
    Ok(if report.cpu_target.is_some() { Outcome::Done } else { Outcome::CheckFailed })
}

fn print_text(report: &Report) {
    let [major, minor] = report.artifact_format;
    println!("jetc      {}, artifact format {major}.{minor}", report.version);
    println!("machine   {} {}, {} threads", report.os, report.arch, report.threads);
    if let Some(bytes) = report.memory_bytes {
        println!("memory    {}", output::bytes(bytes));
    }
    if let Some(name) = report.cpu_target {
        println!("cpu       runs {name}");
    }
    if let Some(problem) = &report.cpu_problem {
        println!("cpu       cannot run artifacts: {problem}");
    }
    println!("backends  {}", report.backends.join(", "));
    println!("devices   {}", report.devices.join(", "));
    match &report.gpu {
        Some(Gpu::Found { name, compute_capability, driver, multiprocessors }) => println!(
            "gpu       {name}, compute capability {compute_capability}, {multiprocessors} multiprocessors, driver for CUDA {driver}"
        ),
        Some(Gpu::Problem(problem)) => println!("gpu       none: {problem}"),
        None => {}
    }
    if let Some(c) = &report.ceilings {
        let rates: String = c.arithmetic.named().map(|(name, rate)| format!(", {rate:.0} {name}")).collect();
        println!("ceilings  {} threads: {:.1} GB/s read{rates} GFLOP/s, a step without work {:.2} us", c.threads, c.read_gbps, c.step_us);
    }
}

/// Main memory, where `/proc` tells.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
