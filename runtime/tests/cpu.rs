//! Real machine code on the real device, written by hand: words, threads, protection, choice of target.

mod toy;

use jet_runtime::jetbin::KernelDesc;
use jet_runtime::{Code, Cpu, Device, Error, Launch, Model, OpenOptions, Session};
use toy::*;

/// `*(words[0] as *mut u64) = words[1]; return`
fn store_word() -> &'static [u8] {
    if cfg!(target_arch = "aarch64") {
        // ldr x1, [x0]; ldr x2, [x0, 8]; str x2, [x1]; ret
        &[0x01, 0, 0x40, 0xf9, 0x02, 0x04, 0x40, 0xf9, 0x22, 0, 0, 0xf9, 0xc0, 0x03, 0x5f, 0xd6]
    } else {
        // mov rax, [rdi]; mov rcx, [rdi+8]; mov [rax], rcx; ret
        &[0x48, 0x8b, 0x07, 0x48, 0x8b, 0x4f, 0x08, 0x48, 0x89, 0x08, 0xc3]
    }
}

fn code<'a>(bytes: &'a [u8], kernels: &'a [KernelDesc<&'a str>]) -> Code<'a> {
    Code { target: "this", bytes, cubin: None, arch: "", kernels, launches: &[] }
}

/// A device with the kernel at offset 64, to see that offsets count.
fn loaded(threads: u32) -> Cpu {
    let mut cpu = Cpu::new(threads).unwrap();
    let bytes = [&[0; 64][..], store_word()].concat();
    let kernel = KernelDesc { name: "store", key: "store", offset: 64, length: 16 };
    // SAFETY: the bytes are code for this machine.
    unsafe { cpu.load(&code(&bytes, &[kernel])).unwrap() };
    cpu
}

#[test]
fn every_active_thread_runs_its_own_words() {
    let mut cpu = loaded(4);
    let memory = cpu.alloc(8 * 8).unwrap();
    let words: Vec<u64> = (0..8).flat_map(|i| [memory + 8 * i, 100 + i]).collect();
    let launches = [
        Launch { kernel: 0, active: 4, first_word: 0, n_words: 2, ..Launch::default() },
        Launch { kernel: 0, active: 2, first_word: 8, n_words: 2, ..Launch::default() },
    ];
    // SAFETY: the words are addresses of this device.
    unsafe { cpu.launch(&launches, &words).unwrap() };
    let mut bytes = [0; 64];
    cpu.download(memory, &mut bytes).unwrap();
    let values: Vec<u64> = bytes.chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values, [100, 101, 102, 103, 104, 105, 0, 0]);
}

#[test]
fn a_kernel_that_is_not_there_and_memory_of_others_are_refused() {
    let mut cpu = loaded(1);
    let launch = Launch { kernel: 1, active: 1, first_word: 0, n_words: 2, ..Launch::default() };
    // SAFETY: the call is refused.
    let error = unsafe { cpu.launch(&[launch], &[0, 0]).unwrap_err() };
    assert_eq!(error.to_string(), "device: launch: kernel 1 of 1");
    let memory = cpu.alloc(100).unwrap();
    cpu.upload(memory + 90, &[1; 10]).unwrap();
    assert!(cpu.upload(memory + 91, &[1; 10]).is_err());
    assert!(cpu.download(memory - 1, &mut [0]).is_err());
    assert!(cpu.zero(memory, 101).is_err());
    assert!(cpu.download(u64::MAX, &mut [0; 8]).is_err());
    assert!(cpu.alloc(1 << 60).unwrap_err().to_string().starts_with("device: alloc: 1152921504606846976 bytes: "));
    let kernel = KernelDesc { name: "far", key: "", offset: 4, length: 1 };
    // SAFETY: the call is refused.
    let error = unsafe { cpu.load(&code(&[0xc3; 4], &[kernel])).unwrap_err() };
    assert_eq!(error.to_string(), "device: load: kernel far at 4 of 4 bytes");
}

#[cfg(target_os = "linux")]
#[test]
fn no_page_is_writable_and_executable() {
    let cpu = loaded(2);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let rights = maps.lines().filter_map(|l| l.split_whitespace().nth(1));
    assert_eq!(rights.filter(|r| r.contains('w') && r.contains('x')).count(), 0, "{maps}");
    drop(cpu);
}

#[test]
fn a_session_runs_machine_code_from_an_artifact() {
    // All kernels are `return` but the last step's: argmax(logits, argmax, rows) stores the word `argmax`, an
    // address, at the first logit.
    let mut code = store_word().to_vec();
    code.resize(16, 0);
    let ret: &[u8] = if cfg!(target_arch = "aarch64") { &[0xc0, 0x03, 0x5f, 0xd6] } else { &[0xc3] };
    let returns: Vec<u8> =
        (0..KERNELS.len()).flat_map(|_| ret.iter().copied().chain(vec![0; 16 - ret.len()])).collect();
    let code = [&returns[..5 * 16], &code, &returns[6 * 16..]].concat();
    let (_folder, model) = model_of("machine-code", &Recipe { code, ..Recipe::default() });
    let mut session = Session::new(&model, Default::default()).unwrap();
    assert!(session.threads() >= 1);
    session.prefill(0, &[1, 2, 3]).unwrap();
    let logits = session.logits(2).unwrap();
    let word = u64::from(logits[0].to_bits()) | u64::from(logits[1].to_bits()) << 32;
    assert_ne!(word, 0);
    assert_eq!(logits[2..], [0.0; VOCAB - 2]);
    // The word is the address of the greedy choice, which nobody wrote.
    assert_eq!(word % 64, 0);
    assert_eq!(session.argmax(2).unwrap(), 0);
}

#[test]
fn the_best_target_is_taken_and_a_missing_one_explained() {
    let mut far = this_target("far");
    far.arch = "z80".into();
    far.rank = 9;
    let better = jet_runtime::jetbin::TargetDesc { rank: 2, ..this_target("better") };
    let targets = vec![far.clone(), this_target("floor"), better];
    let (folder, model) = model_of("targets", &Recipe { targets, ..Recipe::default() });
    let names: Vec<(&str, bool)> = model.candidates().iter().map(|c| (&c.name[..], c.rejected.is_none())).collect();
    assert_eq!(names, [("better", true), ("floor", true), ("far", false)]);
    assert_eq!(model.target(), 2);
    let path = folder.0.join("toy.jetbin");
    let ask =
        |name: &str| Model::open_with(&path, &OpenOptions { target: Some(name.into()), ..OpenOptions::default() });
    assert_eq!(ask("floor").unwrap().target(), 1);
    let arch = std::env::consts::ARCH;
    let expected = format!(
        "no target of the artifact can run on this machine\n  better is not the one that was asked for\n  floor is \
         not the one that was asked for\n  far is for z80, this machine is {arch}"
    );
    assert_eq!(ask("far").err().unwrap().to_string(), expected);
    let alone = Recipe { targets: vec![far], ..Recipe::default() };
    write(&path, &alone);
    assert!(matches!(Model::open(&path), Err(Error::NoTarget(_))));
    assert_eq!(Model::read(&path, &OpenOptions::default()).unwrap().facts().name, "toy");
    write(&path, &Recipe { targets: vec![], ..Recipe::default() });
    let error = Model::open(&path).err().unwrap().to_string();
    assert_eq!(error, "no target of the artifact can run on this machine: it holds none");
}

#[test]
fn weights_can_lie_in_a_second_file_and_are_verified_on_demand() {
    let folder = Folder::new("external");
    let (path, weights) = (folder.0.join("toy.jetbin"), folder.0.join("toy.weights"));
    write(&path, &Recipe { external: Some(weights.clone()), ..Recipe::default() });
    let model = Model::open(&path).unwrap();
    assert_eq!(model.weight_data().len(), VOCAB * HIDDEN * 4);
    let mut session = Session::with_device(&model, Box::new(Toy::new(1)), 1).unwrap();
    session.prefill(0, &[5]).unwrap();
    assert_eq!(session.logits(0).unwrap(), reference(&[5]).logits[0]);
    drop((session, model));
    let moved = folder.0.join("elsewhere");
    std::fs::rename(&weights, &moved).unwrap();
    assert!(matches!(Model::open(&path), Err(Error::Io { path, .. }) if path == weights));
    let mut options = OpenOptions { weights: Some(moved.clone()), verify: true, ..OpenOptions::default() };
    Model::open_with(&path, &options).unwrap();
    let mut bytes = std::fs::read(&moved).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&moved, bytes).unwrap();
    assert!(matches!(Model::open_with(&path, &options), Err(Error::Artifact { .. })));
    options.verify = false;
    Model::open_with(&path, &options).unwrap();
}

#[test]
fn what_is_not_an_artifact_is_refused_with_its_path() {
    let folder = Folder::new("not");
    let path = folder.0.join("model.jetbin");
    assert!(Model::open(&path).err().unwrap().to_string().contains("model.jetbin: No such file"));
    std::fs::write(&path, b"GGUF and more").unwrap();
    let error = Model::open(&path).err().unwrap().to_string();
    assert!(error.ends_with("model.jetbin: not a jetbin artifact: 13 bytes, starting with \"GGUF and\""), "{error}");
    std::fs::write(&path, b"").unwrap();
    assert!(Model::open(&path).is_err());
}
