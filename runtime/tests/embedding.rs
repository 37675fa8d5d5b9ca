//! The runtime inside other programs: the smallest Rust binary and its dependencies, and a C program.
//!
//! The programs are built here as a user would, into a folder of their own, and run on an artifact whose last kernel
//! always chooses token 7.

mod toy;

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use toy::*;

/// Room for the smallest binary; it had 576 kB when this was written.
const MAX_BINARY_BYTES: u64 = 1_000_000;

/// Everything that the smallest binary is made of, build tools and macros included.
const DEPENDENCIES: [&str; 17] = [
    "arrayvec",
    "blake3",
    "cc",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    "find-msvc-tools",
    "jet-runtime",
    "jetbin",
    "libc",
    "proc-macro2",
    "quote",
    "shlex",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn out_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("embedding")
}

fn run(command: &mut Command) -> Result<Output, Failed> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

fn cargo(args: &[&str]) -> Result<Output, Failed> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    run(Command::new(cargo).args(args).current_dir(root()).env("CARGO_TARGET_DIR", out_folder()))
}

/// An artifact that generates sevens.
fn sevens(name: &str) -> (Folder, PathBuf) {
    let (ret, seven): (&[u8], &[u8]) = if cfg!(target_arch = "aarch64") {
        // ldr x1, [x0, 8]; mov w2, 7; str w2, [x1]; ret
        let seven = &[0x01, 0x04, 0x40, 0xf9, 0xe2, 0, 0x80, 0x52, 0x22, 0, 0, 0xb9, 0xc0, 0x03, 0x5f, 0xd6];
        (&seven[12..], seven)
    } else {
        // mov rax, [rdi+8]; mov dword [rax], 7; ret
        (&[0xc3], &[0x48, 0x8b, 0x47, 0x08, 0xc7, 0, 7, 0, 0, 0, 0xc3])
    };
    let mut code = vec![0; KERNELS.len() * 16];
    for (kernel, place) in KERNELS.iter().zip(code.chunks_mut(16)) {
        let bytes = if kernel.0 == "argmax" { seven } else { ret };
        place[..bytes.len()].copy_from_slice(bytes);
    }
    let folder = Folder::new(name);
    let path = folder.0.join("toy.jetbin");
    write(&path, &Recipe { code, ..Recipe::default() });
    (folder, path)
}

fn expect(found: &Output, text: &str) -> Result<(), Failed> {
    let found = String::from_utf8_lossy(&found.stdout);
    if found == text { Ok(()) } else { Err(format!("found {found:?}, expected {text:?}").into()) }
}

fn small_binary() -> Result<(), Failed> {
    cargo(&["build", "-q", "-p", "jet-runtime", "--example", "run_ids", "--profile", "tiny"])?;
    let program = out_folder().join("tiny/examples/run_ids");
    let bytes = std::fs::metadata(&program)?.len();
    if bytes > MAX_BINARY_BYTES {
        return Err(format!("{bytes} bytes, expected {MAX_BINARY_BYTES} at most").into());
    }
    let (_folder, path) = sevens("small-binary");
    expect(&run(Command::new(&program).arg(&path).args(["1,2,3", "-n", "5", "-t", "2"]))?, "7 7 7 7 7 \n")?;
    let refused = Command::new(&program).arg(&path).arg("99").output()?;
    let error = String::from_utf8_lossy(&refused.stderr);
    if refused.status.code() != Some(2) || error != "run_ids: token id 99, expected below 11\n" {
        return Err(format!("{}: {error}", refused.status).into());
    }
    Ok(())
}

fn dependencies() -> Result<(), Failed> {
    let tree = cargo(&["tree", "-q", "-p", "jet-runtime", "-e", "no-dev", "--prefix", "none", "--format", "{p}"])?;
    let text = String::from_utf8_lossy(&tree.stdout);
    let names: std::collections::BTreeSet<&str> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    let expected = DEPENDENCIES.into_iter().collect();
    if names == expected { Ok(()) } else { Err(format!("found {names:?}, expected {expected:?}").into()) }
}

fn c_program() -> Result<(), Failed> {
    let flags = ["--features", "capi", "--crate-type", "staticlib", "--profile", "tiny"];
    cargo(&[&["rustc", "-q", "-p", "jet-runtime", "--lib"][..], &flags].concat())?;
    let library = out_folder().join("tiny/libjet_runtime.a");
    let (folder, path) = sevens("c-program");
    let program = folder.0.join("embed");
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"]).arg(root().join("runtime/include"));
    compile.arg(root().join("examples/embed-c/main.c")).arg(library).args(["-lpthread", "-ldl", "-lm", "-o"]);
    run(compile.arg(&program))?;
    expect(&run(Command::new(&program).arg(&path).args(["4", "1", "2", "3"]))?, "7 7 7 7 \n")?;
    let refused = Command::new(&program).arg(&path).args(["4", "99"]).output()?;
    let error = String::from_utf8_lossy(&refused.stderr);
    if error != "embed: token id 99, expected below 11\n" {
        return Err(format!("{}: {error}", refused.status).into());
    }
    let absent = Command::new(&program).args(["absent.jetbin", "4", "1"]).output()?;
    let error = String::from_utf8_lossy(&absent.stderr);
    if !error.starts_with("embed: absent.jetbin: No such file") {
        return Err(format!("{}: {error}", absent.status).into());
    }
    Ok(())
}

fn main() {
    let cc = Command::new("cc").arg("--version").output().is_ok_and(|o| o.status.success());
    let trials = vec![
        Trial::test("small_rust_binary", small_binary),
        Trial::test("dependencies_of_the_small_binary", dependencies),
        Trial::test("c_program", c_program).with_ignored_flag(!cc),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
