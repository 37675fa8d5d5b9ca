//! The device `cuda` without a GPU: the driver's library is the stand-in of `runtime/ptxsim/driver`. Whole models run through the real code of the
//! device, and everything that it refuses is refused with its reason.

use crate::args;
use crate::ptxsim::{GPUS, compiled, matches};
use crate::support::*;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library of the stand-in, which lies beside this test.
fn standin() -> PathBuf {
    let here = std::env::current_exe().expect("the path of this test");
    let library = here.parent().expect("a folder").join("libjet_cuda_standin.so");
    assert!(library.is_file(), "{}: expected the library of jet-cuda-standin", library.display());
    library
}

/// A folder in which the stand-in has the names that the driver's library is looked for by.
fn library(folder: &Path) -> PathBuf {
    let library = folder.join("lib");
    std::fs::create_dir_all(&library).expect("a folder");
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = library.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(standin(), link).expect("a link");
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

/// Where a GPU does not map pages, all states are there from the start.
#[test]
fn too_little_memory_is_said_before_any_is_taken() {
    let folder = folder();
    let artifact = compiled(folder.path(), "tiny-c-attn", "sm_80");
    let needed = needed(folder.path(), &artifact, 0);
    // That is exactly what is needed.
    let said = |memory: u64| generate(folder.path(), &artifact, 0, memory, 2).code;
    assert_eq!(said(needed), Some(0));
    assert_eq!(said(needed - 1), Some(3));
}

/// Caches take memory as sequences grow, and what is missing is said when it is.
#[test]
fn caches_grow_page_by_page() {
    let folder = folder();
    let artifact = compiled(folder.path(), "tiny-c-attn", "sm_80");
    let page = 1024;
    let (all, first) = (needed(folder.path(), &artifact, 0), needed(folder.path(), &artifact, page));
    // Keys and values of 64 tokens of a layer take 16 KiB, of 256 tokens 64.
    assert!(first + (64 << 10) <= all, "{first} {all}");
    let said = generate(folder.path(), &artifact, page, first - 1, 2);
    assert!(said.stderr.contains("bytes are free on simulated GPU, "), "{}", said.stderr);
    let some = first + (all - first) / 2;
    let expected = generate(folder.path(), &artifact, 0, 64_000_000, 200).ok().stdout;
    let found = generate(folder.path(), &artifact, page, some, 40).ok();
    assert!(expected.starts_with(found.stdout.trim_end()), "{} {expected}", found.stdout);
    assert!(found.stderr.contains("; 0 handles and ranges left, 0 unfinished"), "{}", found.stderr);
    let said = generate(folder.path(), &artifact, page, some, 200);
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    let why = format!(
        "bytes are free on simulated GPU, the sequences need {page} more (cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY"
    );
    assert!(said.stderr.contains(&why), "{}", said.stderr);
    assert!(said.stderr.contains("; 0 handles and ranges left, 0 unfinished"), "{}", said.stderr);
}

/// Generates tokens on a GPU with so many bytes that maps pages of this size.
fn generate(folder: &Path, artifact: &Path, page: u64, memory: u64, tokens: u32) -> Said {
    let args = args!["run", artifact, "--ids", "1,2", "-n", tokens.to_string(), "--temp", "0", "--device", "cuda"];
    Said::of(with_gpu(folder, &format!("memory={memory};page={page};report=1")).args(args).output().unwrap())
}

/// Bytes that the device says it needs at the start.
fn needed(folder: &Path, artifact: &Path, page: u64) -> u64 {
    let (code, said) = refused(folder, artifact, &format!("memory=1000;page={page};report=1"), "cuda");
    assert_eq!(code, Some(3));
    let start = "error: device: memory: 1000 of 1000 bytes are free on simulated GPU, ";
    let found = said.lines().find_map(|l| l.strip_prefix(start)?.split_once(" are needed: weights "));
    found.unwrap_or_else(|| panic!("{said}")).0.parse().unwrap()
}

/// The weights in the forms of other targets stay where they are.
#[test]
fn only_the_weights_of_the_target_are_copied() {
    let (alone, both) = (folder(), folder());
    let expected = needed(alone.path(), &compiled(alone.path(), "tiny-c-mix", "sm_80"), 0);
    assert_eq!(needed(both.path(), &compiled(both.path(), "tiny-c-mix", "x86-64-v3,sm_80"), 0), expected);
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

/// Something in the place of `ptxas`: what it makes is taken for binary code by the stand-in, and runs as the text that it was made from.
fn assembler(folder: &Path, release: &str) -> PathBuf {
    let path = folder.join(format!("ptxas-{release}"));
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'Cuda compilation tools, release {release}, V{release}.77'; exit; fi\n\
         [ \"$1\" = -arch ] && grep -q \"^.target $2\" \"$5\" || {{ echo \"fatal: $*\" >&2; exit 1; }}\n\
         {{ printf '\\177ELF'; cat \"$5\"; printf '\\000'; }} > \"$4\"\n"
    );
    std::fs::write(&path, script).expect("a script");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its rights");
    path
}

/// An artifact for both GPU targets, with code from an assembler of this CUDA version.
fn assembled(folder: &Path, release: &str) -> PathBuf {
    let artifact = folder.join("assembled.jetbin");
    let args =
        args!["compile", golden("tiny-c-attn"), "-o", artifact, "--target", "sm_90a,sm_80", "--max-context", "64"];
    let said = Said::of(jetc().args(args).env("JETC_PTXAS", assembler(folder, release)).output().unwrap()).ok();
    assert!(said.stdout.contains(&format!("assembled by ptxas {release}.77")), "{}", said.stdout);
    artifact
}

#[test]
fn assembled_code_is_taken_where_gpu_and_driver_can_and_otherwise_the_text_aloud() {
    let folder = folder();
    let artifact = assembled(folder.path(), "12.4");
    let inspected = run(args!["inspect", artifact]).ok().stdout;
    assert_eq!(inspected.matches("assembled by ptxas 12.4.77").count(), 2, "{inspected}");
    let recipe = run(args!["inspect", artifact, "--recipe"]).ok().stdout;
    assert!(recipe.contains("\"ptxas\": \"12.4.77\""), "{recipe}");
    let tokens = |artifact: &Path, settings: &str| {
        let args = args!["run", artifact, "--ids", "1,2,3", "-n", "3", "--temp", "0", "--device", "cuda"];
        let said = Said::of(with_gpu(folder.path(), settings).args(args).output().unwrap()).ok();
        (said.stdout, said.stderr)
    };
    for capability in ["9.0", "8.0", "8.6"] {
        // The translator of this driver fails, so only binary code can have run.
        let (_, said) = tokens(&artifact, &format!("capability={capability};jit=broken"));
        assert_eq!(said, "", "{capability}");
    }
    let (expected, _) = tokens(&artifact, "capability=9.0");
    let newer = assembled(folder.path(), "13.0");
    let (found, said) = tokens(&newer, "driver=12.4");
    let why = "warning: sm_90a: the driver translates the kernels, because it is for CUDA 12.4 and the assembled ones need one for 13.0 or newer\n";
    assert_eq!((found, said.as_str()), (expected.clone(), why));
    let refusing = folder.path().join("refused");
    std::fs::write(
        &refusing,
        "#!/bin/sh\necho 'release 12.4, V12.4.1'\n[ \"$1\" = --version ] || printf '\\177ELFx\\000' > \"$4\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&refusing, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let args = args!["compile", golden("tiny-c-attn"), "-o", newer, "--target", "sm_90a", "--max-context", "64"];
    Said::of(jetc().args(args).env("JETC_PTXAS", refusing).output().unwrap()).ok();
    let (found, said) = tokens(&newer, "");
    assert_eq!(found, expected);
    let why =
        "warning: sm_90a: the driver refuses the assembled kernels and translates them: CUDA_ERROR_NO_BINARY_FOR_GPU";
    assert!(said.starts_with(why), "{said}");
}

#[test]
fn an_assembler_that_fails_is_an_error_and_can_be_left_out() {
    let folder = folder();
    let compile = |assembler: &str, more: &str| {
        let args = args!["compile", golden("tiny-c-attn"), "-o", folder.path().join("a.jetbin"), "--target", "sm_80"];
        Said::of(jetc().args(args).args(more.split_whitespace()).env("JETC_PTXAS", assembler).output().unwrap())
    };
    let said = compile("/no/such/ptxas", "");
    assert_eq!(said.code, Some(2));
    let start = "error: /no/such/ptxas: cannot be run as ptxas; --no-cubin does without";
    assert!(said.stderr.starts_with(start), "{}", said.stderr);
    let said = compile("/bin/true", "");
    assert!(
        said.stderr.starts_with("error: /bin/true: found `")
            && said.stderr.contains("`, expected the version of ptxas"),
        "{}",
        said.stderr
    );
    compile("/no/such/ptxas", "--no-cubin").ok();
    let script = folder.path().join("failing");
    std::fs::write(
        &script,
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'release 12.4, V12.4.1' || { echo 'fatal: no'; exit 255; }\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = compile(script.to_str().unwrap(), "");
    assert_eq!(said.code, Some(2));
    let expected = "error: ptxas 12.4.1 refuses the code for sm_80; --no-cubin does without\nerror: fatal: no\n";
    assert_eq!(said.stderr, expected);
}

/// A folder with a program in place of NVIDIA's profiler, which writes what that writes of three launches.
fn profiler(folder: &Path) -> PathBuf {
    let (bin, script) = (folder.join("bin"), folder.join("bin/ncu"));
    std::fs::create_dir(&bin).unwrap();
    let metrics =
        ["dram__throughput.avg.pct_of_peak_sustained_elapsed", "sm__throughput.avg.pct_of_peak_sustained_elapsed"];
    let heading = format!("\"dram__bytes.sum\",\"{}\",\"gpu__time_duration.sum\",\"{}\"", metrics[0], metrics[1]);
    let text = format!(
        r#"#!/bin/sh
while [ "$1" != --log-file ]; do shift; done
cat >"$2" <<'END'
==PROF== Connected to process 1
"ID","Process Name","Kernel Name","Block Size",{heading}
"","","","","byte","%","ns","%"
"0","jetc","product_decode_1","(256, 1, 1)","55,050,240","80.0","20,000","12.5"
"1","jetc","embed_2","(256, 1, 1)","3072","1.0","2000","0.5"
"2","jetc","product_decode_1","(256, 1, 1)","55,050,240","60.6","24,000","12.5"
END
"#
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bin
}

/// `scripts/gpu-check` with the stand-in: every part but NVIDIA's tools and the peers runs, and the report says what it is.
#[test]
fn the_check_program_writes_its_report() {
    let folder = folder();
    let out = folder.path().join("gpu");
    let mut script = Command::new(root().join("scripts/gpu-check"));
    script.arg("--jetc").arg(env!("CARGO_BIN_EXE_jetc")).arg("--dry-run").arg(standin()).arg("--out").arg(&out);
    script
        .args(["--python", "/no/such/python"])
        .arg("--work")
        .arg(folder.path())
        .env("PATH", format!("{}:{}", profiler(folder.path()).display(), std::env::var("PATH").unwrap()))
        .env("JETC_PTXAS", assembler(folder.path(), "12.4"));
    Said::of(script.output().unwrap()).ok();
    let reports: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(reports.len(), 1, "{reports:?}");
    let report = std::fs::read_to_string(&reports[0]).unwrap();
    assert!(report.starts_with("# simulated GPU\n\n**A dry run with the stand-in for the driver"), "{report}");
    let passed = report.lines().filter(|l| l.starts_with("| tiny-c-mix, sm_") && l.contains("| ok | ")).count();
    assert_eq!(passed, 3 * GPUS.len(), "{report}");
    for line in [
        "| compute-sanitizer | not run | a dry run |",
        "of copying |",
        "| tg2 b2 |",
        // two launches of 20 and 24 us at 80 and 60 % of the memory's peak
        "| product_decode_1 | 2 | 22.00 | 55.05 | 15.27 | 69 % | 12 % |\n| embed_2 | 1 | 2.00 | ",
        "has no PyTorch.",
        "Every check passed.",
    ] {
        assert!(report.contains(line), "{line}\n{report}");
    }
}
