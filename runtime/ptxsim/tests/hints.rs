//! Cache hints of loads and stores: which forms the PTX ISA has ("Data Movement": `ld`, `ld.global.nc`, `st`), and which it has not.
//!
//! `JETC_PTXAS` (or `ptxas` on the path) gives a second opinion of every line; without it that is reported as ignored.

use jet_ptxsim::Module;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Forms that exist.
const LEGAL: [&str; 22] = [
    "ld.global.nc.L1::no_allocate.v4.f32 {f0, f1, f2, f3}, [a]",
    "ld.global.nc.L1::no_allocate.L2::256B.v4.f32 {f0, f1, f2, f3}, [a]",
    "ld.global.nc.L1::evict_first.L2::cache_hint.L2::128B.f32 f0, [a], policy",
    "ld.global.nc.L2::64B.f32 f0, [a]",
    "ld.global.cs.nc.f32 f0, [a]",
    "ld.global.cg.nc.L2::cache_hint.f32 f0, [a], policy",
    "ld.global.L1::no_allocate.v2.f32 {f0, f1}, [a]",
    "ld.global.cv.L2::128B.f32 f0, [a]",
    "ld.weak.global.cs.f32 f0, [a]",
    "ld.L1::evict_last.f32 f0, [a]",
    "ld.lu.f32 f0, [a]",
    "ld.shared.ca.f32 f0, [s]",
    "ld.relaxed.gpu.global.L1::no_allocate.L2::128B.f32 f0, [a]",
    "ld.volatile.global.L2::128B.f32 f0, [a]",
    "st.global.cs.v4.f32 [a], {f0, f1, f2, f3}",
    "st.global.wt.L2::cache_hint.f32 [a], f0, policy",
    "st.global.L1::no_allocate.f32 [a], f0",
    "st.global.L1::evict_unchanged.L2::cache_hint.f32 [a], f0, policy",
    "st.cg.f32 [a], f0",
    "st.shared.wb.f32 [s], f0",
    "st.relaxed.gpu.global.L1::no_allocate.f32 [a], f0",
    "st.release.gpu.global.L1::evict_normal.f32 [a], f0",
];

/// Forms that do not, with a part of what is said of each.
const ILLEGAL: [(&str, &str); 21] = [
    ("ld.global.lu.nc.f32 f0, [a]", "found `.lu` of `.nc`, expected `.ca`, `.cg`, `.cs`"),
    ("ld.global.cs.nc.L1::no_allocate.f32 f0, [a]", "found `.L1::no_allocate` beside a cache operator"),
    ("ld.global.cs.L1::no_allocate.f32 f0, [a]", "found `.L1::no_allocate` beside a cache operator"),
    ("ld.global.wb.f32 f0, [a]", "found `.wb`, expected"),
    ("ld.global.nc.L2::512B.f32 f0, [a]", "found `.L2::512B`, expected"),
    ("ld.global.nc.L1::no_allocate.L2::evict_first.f32 f0, [a]", "found `.L2::evict_first`, expected"),
    ("ld.global.nc.L1::no_allocate.L2::cache_hint.f32 f0, [a]", "found too few operands"),
    ("ld.global.nc.L1::no_allocate.f32 f0, [a], policy", "expected no further operand"),
    ("ld.weak.global.nc.f32 f0, [a]", "found `.nc`, expected"),
    ("ld.shared.nc.f32 f0, [s]", "found `.nc`, expected"),
    ("ld.shared.L1::no_allocate.f32 f0, [s]", "found `.L1::no_allocate`, expected"),
    ("ld.shared.L2::128B.f32 f0, [s]", "found `.L2::128B`, expected"),
    ("ld.shared.L2::cache_hint.f32 f0, [s], policy", "found `.L2::cache_hint`, expected"),
    ("ld.relaxed.gpu.global.cs.f32 f0, [a]", "found `.cs`, expected"),
    ("ld.volatile.global.L1::no_allocate.f32 f0, [a]", "found `.L1::no_allocate`, expected"),
    ("ld.volatile.global.L2::cache_hint.f32 f0, [a], policy", "found `.L2::cache_hint`, expected"),
    ("st.global.cs.L1::no_allocate.f32 [a], f0", "found `.L1::no_allocate` beside a cache operator"),
    ("st.global.ca.f32 [a], f0", "found `.ca`, expected"),
    ("st.global.L2::128B.f32 [a], f0", "found `.L2::128B`, expected"),
    ("st.volatile.global.cs.f32 [a], f0", "found `.cs`, expected"),
    ("st.shared.L1::no_allocate.f32 [s], f0", "found `.L1::no_allocate`, expected"),
];

fn main() {
    let tool = std::env::var_os("JETC_PTXAS").map_or_else(|| "ptxas".into(), PathBuf::from);
    let answers = Command::new(&tool).arg("--version").output().is_ok_and(|out| out.status.success());
    let mut trials = vec![];
    let legal = LEGAL.iter().map(|line| (*line, None));
    for (line, message) in legal.chain(ILLEGAL.iter().map(|(line, message)| (*line, Some(*message)))) {
        let tool = tool.clone();
        trials.push(Trial::test(line, move || check(line, message)));
        let second = Trial::test(format!("ptxas::{line}"), move || second_opinion(&tool, line, message.is_none()));
        trials.push(second.with_ignored_flag(!answers));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A module with one line of interest.
fn module(line: &str) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 x)\n{{\n  .reg .b64 a, policy;\n  .reg .b32 s;\n  \
         .reg .f32 f<4>;\n  .shared .align 16 .b8 words[64];\n  ld.param.u64 a, [x];\n  mov.u32 s, words;\n  \
         createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n  {line};\n  st.global.f32 [a], f0;\n  ret;\n}}\n"
    )
}

fn check(line: &str, message: Option<&str>) -> Result<(), Failed> {
    match (Module::parse(&module(line)), message) {
        (Ok(_), None) => Ok(()),
        (Err(found), Some(expected)) if found.to_string().contains(expected) => Ok(()),
        (Ok(_), Some(expected)) => Err(format!("it was taken, expected: {expected}").into()),
        (Err(found), expected) => Err(format!("found: {found}\nexpected: {}", expected.unwrap_or("nothing")).into()),
    }
}

fn second_opinion(tool: &PathBuf, line: &str, legal: bool) -> Result<(), Failed> {
    let mut assembler = Command::new(tool)
        .args(["-arch", "sm_80", "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut assembler.stdin.take().ok_or("no input")?, module(line).as_bytes())?;
    let out = assembler.wait_with_output()?;
    if out.status.success() == legal {
        return Ok(());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)).into())
}
