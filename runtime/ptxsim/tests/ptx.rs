//! File tests: each `tests/ptx/**/NAME.ptx` is launched as its first lines say, and `NAME.expected` beside it holds what must come out.
//!
//! - `// device sm=90 seed=3 limit=1000`: other than sm=80, seed=1 and the default limit of instructions
//! - `// launch grid=2 block=64 cluster=2 shared=1024`: other than 1, 32, 1, 0
//! - `// in f32 1.0 -2` or `// in u32 0 1..5 0xff`: a parameter, the address of these values
//! - `// inout ..`: as `in`, and printed afterwards; `// out 8`: the address of 8 words that nobody has written, printed
//! - `// word 5`: a parameter, the value itself
//!
//! The kernel is called `k`; `// then NAME` launches another one behind it with the same parameters (`then programmatic NAME`: without waiting
//! for its end), any number of times. What comes out: a line for each buffer with its words in hexadecimal (`-` for a word that nobody wrote); or the kind of the
//! trap and the instruction; or the error of the parser. Expected values were derived without the simulator.
//!
//! `JETC_PTXAS` (or `ptxas` on the path): every file without a parse error must also assemble; without it that is reported as ignored.

use jet_ptxsim::{Device, DeviceConfig, Error, Launch, Module};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let mut files = vec![];
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx"), &mut files);
    files.sort();
    assert!(!files.is_empty());
    let assembler = assembler();
    let mut trials = vec![];
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().to_string();
        let (run, assembled, tool) = (file.clone(), file.clone(), assembler.clone());
        trials.push(Trial::test(name.clone(), move || check(&run)));
        let assemble = move || assemble(&assembled, &tool.ok_or("no ptxas")?);
        trials.push(Trial::test(format!("ptxas::{name}"), assemble).with_ignored_flag(assembler.is_none()));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder of the file tests") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "ptx") {
            files.push(path);
        }
    }
}

fn assembler() -> Option<PathBuf> {
    let tool = std::env::var_os("JETC_PTXAS").map_or_else(|| "ptxas".into(), PathBuf::from);
    let answers = Command::new(&tool).arg("--version").output().is_ok_and(|out| out.status.success());
    answers.then_some(tool)
}

fn assemble(file: &Path, tool: &Path) -> Result<(), Failed> {
    let text = std::fs::read_to_string(file)?;
    let refused = std::fs::read_to_string(file.with_extension("expected"))?.starts_with("error");
    let target = text.lines().find_map(|l| l.strip_prefix(".target ")).unwrap_or("sm_80");
    let out = Command::new(tool).args(["-arch", target, "-o", "/dev/null"]).arg(file).output()?;
    if refused || out.status.success() {
        return Ok(());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)).into())
}

fn check(file: &Path) -> Result<(), Failed> {
    let text = std::fs::read_to_string(file)?;
    let expected = std::fs::read_to_string(file.with_extension("expected"))?;
    let (found, detail) = output(&text)?;
    if found == expected { Ok(()) } else { Err(format!("found\n{found}\nexpected\n{expected}\n{detail}").into()) }
}

/// What the first lines of a file ask for.
#[derive(Default)]
struct Plan {
    config: DeviceConfig,
    launch: Option<Launch>,
    params: Vec<Param>,
    then: Vec<(String, bool)>,
}

enum Param {
    Buffer { values: Vec<u32>, words: usize, printed: bool },
    Word(u64),
}

fn settings<'l>(rest: &'l str) -> impl Iterator<Item = Result<(&'l str, u32), String>> + 'l {
    rest.split_whitespace().map(|s| {
        let (name, value) = s.split_once('=').ok_or(format!("found {s}, expected name=value"))?;
        Ok((name, value.parse().map_err(|e| format!("{s}: {e}"))?))
    })
}

fn plan(text: &str) -> Result<Plan, String> {
    let mut plan = Plan::default();
    // blocks in order, so that of two that race it is known which one traps
    plan.config.workers = 1;
    let mut launch = Launch::new(1, 32);
    for line in text.lines().map_while(|l| l.strip_prefix("// ")) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "device" => {
                for setting in settings(rest) {
                    match setting? {
                        ("sm", n) => plan.config.sm = n,
                        ("seed", n) => plan.config.seed = n.into(),
                        ("limit", n) => plan.config.instruction_limit = n.into(),
                        (other, _) => return Err(format!("found {other}")),
                    }
                }
            }
            "launch" => {
                for setting in settings(rest) {
                    match setting? {
                        ("grid", n) => launch.grid = [n, 1, 1],
                        ("block", n) => launch.block = [n, 1, 1],
                        ("cluster", n) => launch.cluster = [n, 1, 1],
                        ("shared", n) => launch.dynamic_shared_bytes = n,
                        (other, _) => return Err(format!("found {other}")),
                    }
                }
            }
            "in" | "inout" => {
                let values = values(rest)?;
                plan.params.push(Param::Buffer { words: values.len(), values, printed: word == "inout" });
            }
            "out" => {
                let words = rest.parse().map_err(|e| format!("{rest}: {e}"))?;
                plan.params.push(Param::Buffer { values: vec![], words, printed: true });
            }
            "word" => plan.params.push(Param::Word(rest.parse().map_err(|e| format!("{rest}: {e}"))?)),
            "then" => {
                let programmatic = rest.strip_prefix("programmatic ");
                plan.then.push((programmatic.unwrap_or(rest).to_string(), programmatic.is_some()));
            }
            _ => {}
        }
    }
    plan.launch = Some(launch);
    Ok(plan)
}

fn values(rest: &str) -> Result<Vec<u32>, String> {
    let (ty, list) = rest.split_once(' ').ok_or("expected values")?;
    let mut out = vec![];
    for item in list.split_whitespace() {
        let integer = |s: &str| match s.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).map_err(|e| format!("{s}: {e}")),
            None => s.parse::<i64>().map(|v| v as u32).map_err(|e| format!("{s}: {e}")),
        };
        match (ty, item.split_once("..")) {
            ("u32", Some((from, to))) => out.extend(integer(from)?..integer(to)?),
            ("u32", None) => out.push(integer(item)?),
            ("f32", None) => out.push(item.parse::<f32>().map_err(|e| format!("{item}: {e}"))?.to_bits()),
            _ => return Err(format!("found {ty} {item}")),
        }
    }
    Ok(out)
}

/// What comes out, and more about it for a person.
fn output(text: &str) -> Result<(String, String), Failed> {
    let plan = plan(text)?;
    let module = match Module::parse(text) {
        Ok(module) => module,
        Err(e) => return Ok((format!("error {e}\n"), String::new())),
    };
    let mut gpu = Device::new(plan.config);
    let mut params = vec![];
    for param in &plan.params {
        params.push(match param {
            Param::Word(word) => *word,
            Param::Buffer { values, words, .. } => {
                let at = gpu.alloc(4 * *words as u64)?;
                gpu.write(at, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
                at
            }
        });
    }
    let launch = plan.launch.unwrap_or_else(|| Launch::new(1, 32));
    let mut result = gpu.launch(&module, "k", launch.clone(), &params);
    for (name, programmatic) in &plan.then {
        if result.is_ok() {
            result = gpu.launch(&module, name, Launch { programmatic: *programmatic, ..launch.clone() }, &params);
        }
    }
    match result {
        Err(Error::Trap(trap)) => Ok((format!("{:?}: {}\n", trap.kind, trap.text), trap.to_string())),
        Err(Error::Call(what)) => Ok((format!("call {what}\n"), String::new())),
        Ok(counters) => Ok((printed(&gpu, &plan.params, &params), format!("{counters:?}"))),
    }
}

fn printed(gpu: &Device, plan: &[Param], params: &[u64]) -> String {
    let mut out = String::new();
    for (param, at) in plan.iter().zip(params) {
        let Param::Buffer { words, printed: true, .. } = param else { continue };
        let word = |n: usize| match gpu.read(at + 4 * n as u64, 4) {
            Ok(bytes) => format!("{:08x}", u32::from_le_bytes(bytes.try_into().unwrap_or_default())),
            Err(_) => "-".to_string(),
        };
        let list: Vec<String> = (0..*words).map(word).collect();
        out += &list.chunks(8).map(|line| line.join(" ") + "\n").collect::<String>();
    }
    out
}
