//! The device `cuda` without a GPU: the driver's library is the stand-in of `runtime/ptxsim/driver`. Whole models run through the real code of the
//! device, and everything that it refuses is refused with its reason.

use crate::args;
use crate::ptxsim::{GPUS, compiled, matches};
use crate::support::*;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder in which the stand-in has the names that the driver's library is looked for by.
fn library(folder: &Path) -> PathBuf {
    let here = std::env::current_exe().expect("the path of this test");
    let standin = here.parent().expect("a folder").join("libjet_cuda_standin.so");
    assert!(standin.is_file(), "{}: expected the library of jet-cuda-standin", standin.display());
    let library = folder.join("lib");
    std::fs::create_dir_all(&library).expect("a folder");
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = library.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(&standin, link).expect("a link");
        }
    }
    library
}

/// The command line on a machine with a simulated GPU; `settings` as `jet_cuda_standin::Settings` documents them.
fn with_gpu(folder: &Path, settings: &str) -> Command {
    let mut command = jetc();
    command.env("LD_LIBRARY_PATH", library(folder)).env("JET_STANDIN", settings);
    command
}

macro_rules! cases {
    ($($test:ident $case:literal $more:expr;)*) => {$(
        #[test]
        fn $test() {
            for target in GPUS {
                let folder = folder();
                let artifact = compiled(folder.path(), $case, target);
                matches(with_gpu(folder.path(), ""), "cuda", &artifact, $case, &$more);
            }
        }
    )*};
}
cases! {
    every_kind_of_layer "tiny-a" [];
    ragged_batches "tiny-b" ["--together"];
    short_prompts_and_chunks "tiny-c-mix" ["--chunks", "2,3,7", "--together"];
    small_norms "tiny-d-eps" [];
}

/// The same bits as in the simulator, steps from graphs, one wait a token, and everything given back.
#[test]
fn generated_tokens_come_from_graphs_and_are_those_of_the_simulator() {
    let folder = folder();
    let artifact = compiled(folder.path(), "tiny-c-mix", "sm_90a");
    let args = |device| args!["run", artifact, "--ids", "1,2,3", "-n", "12", "--temp", "0", "--device", device];
    let expected = run(args("ptxsim")).ok();
    let said = Said::of(with_gpu(folder.path(), "report=1").args(args("cuda:0")).output().unwrap()).ok();
    assert_eq!(said.stdout, expected.stdout);
    assert_eq!(said.stdout.trim().split(',').count(), 12);
    let numbers: Vec<u32> = said.stderr.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    let [launches, from_graphs, graphs, waits, left, unfinished] = numbers[..] else { panic!("{}", said.stderr) };
    // Eleven calls of the decode program: the first runs as it is, ten from two graphs, of token steps and of the head.
    assert_eq!((graphs, left, unfinished), (2, 0, 0), "{}", said.stderr);
    assert!(from_graphs > launches / 2 && from_graphs < launches, "{}", said.stderr);
    // One for each token, and one at the end.
    assert_eq!(waits, 13, "{}", said.stderr);
}

/// Runs two tokens and gives the exit code with what was said on stderr.
fn refused(folder: &Path, artifact: &Path, settings: &str, device: &str) -> (Option<i32>, String) {
    let args = args!["run", artifact, "--ids", "1,2", "-n", "2", "--temp", "0", "--device", device];
    let said = Said::of(with_gpu(folder, settings).args(args).output().unwrap());
    assert_eq!(said.stdout, "", "{}", said.stderr);
    (said.code, said.stderr.replace(&format!("{}", artifact.display()), "ARTIFACT"))
}

#[test]
fn what_the_machine_lacks_is_said() {
    let folder = folder();
    let artifact = compiled(folder.path(), "tiny-c-attn", "sm_80");
    let cases = [
        ("driver=11.4", "cuda", "error: device: cuda: found a driver for CUDA 11.4, expected one for 11.8 or newer\n"),
        ("devices=0", "cuda", "error: device: cuInit: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)\n"),
        ("", "cuda:1", "error: device: cuda: found no GPU 1: the driver shows 1, numbered from 0\n"),
        (
            "capability=7.5",
            "cuda",
            "error: ARTIFACT: no target of the artifact can run on this machine\n\
             error:   sm_80 needs compute capability 8.0 or more, this GPU has 7.5\n",
        ),
        ("jit=ptxas application ptx input, line 7; fatal", "cuda", "JET_STANDIN: found ` fatal`, expected key=value"),
        (
            "jit=ptxas application ptx input, line 7: fatal",
            "cuda",
            "error: device: load: sm_80: cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX (a PTX JIT compilation failed)\n\
             error: ptxas application ptx input, line 7: fatal\n",
        ),
    ];
    for (settings, device, expected) in cases {
        let (code, said) = refused(folder.path(), &artifact, settings, device);
        match expected.strip_prefix("JET_STANDIN") {
            // A typing error in a test must not pass for a machine without faults.
            Some(_) => assert!(code == Some(2) && said.contains(expected), "{said}"),
            None => assert_eq!((code, said.as_str()), (Some(3), expected), "{settings} {device}"),
        }
    }
}

#[test]
fn too_little_memory_is_said_before_any_is_taken() {
    let folder = folder();
    let artifact = compiled(folder.path(), "tiny-c-attn", "sm_80");
    let (code, said) = refused(folder.path(), &artifact, "memory=1000;report=1", "cuda");
    assert_eq!(code, Some(3));
    let start = "error: device: memory: 1000 of 1000 bytes are free on simulated GPU, ";
    let needed: u64 = said
        .lines()
        .find_map(|l| l.strip_prefix(start)?.split_once(" are needed: weights "))
        .unwrap_or_else(|| panic!("{said}"))
        .0
        .parse()
        .unwrap();
    // That is exactly what is needed.
    let said = |memory: u64| refused_or_not(folder.path(), &artifact, memory);
    assert_eq!(said(needed), Some(0));
    assert_eq!(said(needed - 1), Some(3));
}

fn refused_or_not(folder: &Path, artifact: &Path, memory: u64) -> Option<i32> {
    let args = args!["run", artifact, "--ids", "1,2", "-n", "2", "--temp", "0", "--device", "cuda"];
    with_gpu(folder, &format!("memory={memory}")).args(args).output().unwrap().status.code()
}

/// A kernel that fails ends the run with the driver's error, wherever in the run it is.
#[test]
fn a_failing_launch_is_reported() {
    let folder = folder();
    let artifact = compiled(folder.path(), "tiny-c-attn", "sm_80");
    for launch in [1, 20, 45] {
        let settings = format!("launch={launch}");
        let args = args!["run", artifact, "--ids", "1,2", "-n", "8", "--temp", "0", "--device", "cuda"];
        let said = Said::of(with_gpu(folder.path(), &settings).args(args).output().unwrap());
        assert_eq!(said.code, Some(3), "{}", said.stderr);
        assert!(said.stderr.contains(": CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access"), "{}", said.stderr);
    }
}

#[test]
fn an_artifact_for_cpus_is_refused() {
    let folder = folder();
    let artifact = compile(folder.path(), &golden("tiny-c-attn"), &["--max-context", "64", "--target", "x86-64-v3"]);
    let (code, said) = refused(folder.path(), &artifact, "", "cuda");
    let expected = "error: ARTIFACT: no target of the artifact can run on this machine\n\
        error:   x86-64-v3 needs a cpu device, kernels are to run on a cuda device\n";
    assert_eq!((code, said.as_str()), (Some(3), expected));
}

/// Without the library a program that has the device starts and runs on the CPU, and the device says what was looked for.
#[test]
fn without_a_driver_the_device_says_what_is_missing() {
    let folder = folder();
    let artifact = compiled(folder.path(), "tiny-c-attn", "sm_80");
    let said = run(args!["run", artifact, "--ids", "1,2", "-n", "2", "--device", "cuda"]);
    if said.code == Some(0) {
        assert!(!said.stdout.is_empty(), "a real GPU: {}", said.stderr);
        return;
    }
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert!(said.stderr.starts_with("error: device: cu"), "{}", said.stderr);
    let missing = said.stderr.contains("found no NVIDIA driver: looked for libcuda.so and libcuda.so.1");
    assert!(missing || said.stderr.contains("cuInit"), "{}", said.stderr);
}
