//! The gate of the PTX backend: `ptxas` assembles every kernel of every golden configuration, the full 2B and 4B among them,
//! without a spill, a stack frame or a complaint about performance, within the registers and the shared memory that the
//! kernel states.
//!
//! Needs `ptxas`: the variable `JETC_PTXAS` (`scripts/install-ptxas.sh` prints it) or one on the path; without it every test is
//! reported as ignored.

use jet_codegen::Activations;
use jet_codegen::kir::Kernel;
use jet_codegen::targets::{TARGETS, Target};
use jet_frontend::{ModelConfig, WeightFormat};
use jetbin::Phase;
use jetc::compile::{Limits, select_few, select_phase, source_graph};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Registers of a multiprocessor.
const REGISTERS: u32 = 65536;

fn main() {
    let args = Arguments::from_args();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = std::fs::read_dir(golden).expect("the golden data").map(|e| e.expect("an entry").path());
    let mut configs: Vec<PathBuf> = folders.map(|f| f.join("config.json")).filter(|f| f.is_file()).collect();
    configs.sort();
    assert!(!configs.is_empty());
    let assembler = assembler();
    let mut trials = vec![];
    for config in configs {
        for target in TARGETS.iter().filter(|t| t.is_gpu()) {
            let case = config.parent().and_then(|p| p.file_name()).unwrap_or_default().to_string_lossy();
            let (name, config, assembler) = (format!("{}::{case}", target.name), config.clone(), assembler.clone());
            let missing = assembler.is_none();
            let run = move || check(&assembler.expect("not ignored"), &config, target);
            trials.push(Trial::test(name, run).with_ignored_flag(missing));
        }
    }
    libtest_mimic::run(&args, trials).exit();
}

fn assembler() -> Option<PathBuf> {
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|p| p.join("ptxas")).find(|p| p.is_file())
    };
    std::env::var_os("JETC_PTXAS").map(PathBuf::from).or_else(on_path)
}

/// Every kernel of all programs, each once.
fn kernels(config: &Path, target: &Target) -> Result<Vec<Kernel>, Failed> {
    let graph = source_graph(&ModelConfig::read(config)?, WeightFormat::Bf16)?;
    let limits = Limits { max_context: 4096, max_batch: 64, prefill_chunk: 512 };
    let mut all = BTreeMap::new();
    let [prefill, decode] =
        [Phase::Prefill, Phase::Decode].map(|phase| select_phase(&graph, limits, target, (phase, Activations::F32)));
    let (prefill, decode) = (prefill?, decode?);
    let few = select_few(&graph, limits, target, &decode)?;
    for built in [prefill, decode].iter().chain(&few).flat_map(|program| &program.built) {
        built.chain().for_each(|b| drop(all.insert(b.name.clone(), b.kernel.clone())));
    }
    Ok(all.into_values().collect())
}

fn check(assembler: &Path, config: &Path, target: &Target) -> Result<(), Failed> {
    let kernels = kernels(config, target)?;
    let code = jet_codegen::compile(&kernels, target)?;
    let folder = tempfile::tempdir()?;
    let text = folder.path().join("kernels.ptx");
    std::fs::write(&text, code.bytes)?;
    let cubin = folder.path().join("kernels.cubin");
    let out = Command::new(assembler).args(["-v", "-arch", target.arch, "-o"]).arg(cubin).arg(text).output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        return Err(format!("ptxas: {}\n{said}", out.status).into());
    }
    let used = usage(&said)?;
    let mut faults = vec![];
    for kernel in &kernels {
        let launch = kernel.launch.ok_or("a kernel without launch data")?;
        let Some(found) = used.get(kernel.name.as_str()) else {
            faults.push(format!("{}: ptxas says nothing of it", kernel.name));
            continue;
        };
        println!("{} {} {:?}", kernel.name, launch.threads, found);
        if (found.stack, found.spilled) != (0, 0) {
            let (name, doc) = (&kernel.name, &kernel.doc);
            faults.push(format!("{name}: {} bytes of stack, {} bytes spilled\n{doc}", found.stack, found.spilled));
        }
        let most = REGISTERS / (launch.threads * launch.ctas) / 8 * 8;
        if found.registers > most {
            faults.push(format!("{}: {} registers, expected at most {most}", kernel.name, found.registers));
        }
        let fixed = kernel.shared_bytes() - kernel.dynamic_shared_bytes();
        if found.shared != fixed {
            faults.push(format!("{}: {} bytes shared, expected {fixed}", kernel.name, found.shared));
        }
    }
    faults.extend(said.lines().filter(|l| l.contains("erformance") || l.contains("warning")).map(str::to_string));
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// What a kernel takes.
#[derive(Clone, Copy, Default, Debug)]
struct Usage {
    stack: u32,
    spilled: u32,
    registers: u32,
    shared: u32,
}

/// The report of `ptxas -v`, by kernel.
fn usage(said: &str) -> Result<BTreeMap<&str, Usage>, Failed> {
    let mut all: BTreeMap<&str, Usage> = BTreeMap::new();
    let mut name = "";
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().unwrap_or_default();
        }
        let before = |what: &str| {
            let (head, _) = line.split_once(what)?;
            head.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
        };
        let entry = all.entry(name).or_default();
        if let Some(stack) = before("bytes stack frame") {
            entry.stack = stack;
            entry.spilled = before("bytes spill stores").ok_or("no spill stores")?;
            entry.spilled += before("bytes spill loads").ok_or("no spill loads")?;
        }
        if let Some(registers) = before("registers") {
            entry.registers = registers;
            entry.shared = before("bytes smem").unwrap_or(0);
        }
    }
    Ok(all)
}
