//! A small artifact with a bit of everything, and tools to damage it and to sign the damage.

use jetbin::*;
use std::path::{Path, PathBuf};

/// A folder that goes away with the value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("jetbin-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn program(phase: Phase, max_rows: u32, device: DeviceKind) -> Program {
    // threads of a CPU keep lists
    let kept = if device == DeviceKind::Cpu { Arg::Candidates(16) } else { Arg::Scratch };
    let buffer = |name: &str, offset, row_bytes, domain| Buffer { name: name.into(), offset, row_bytes, domain };
    let step = |kernel, domain, args: &[Arg], label: &str| Step {
        kernel,
        domain,
        items_fixed: 4,
        items_per_row: 2,
        args: args.to_vec(),
        cost: Cost { weight_bytes: 128, state_bytes: 64, act_bytes: 32, flops: 1000 },
        label: label.into(),
    };
    Program {
        target: 0,
        phase,
        max_rows,
        head_rows: 2,
        arena_bytes: 4096,
        scratch_bytes: 256,
        logits: 1,
        argmax: Some(2),
        buffers: vec![
            buffer("hidden", 0, 32, Domain::Tokens),
            buffer("logits", 1024, 40, Domain::Head),
            buffer("argmax", 2048, 4, Domain::Head),
        ],
        steps: vec![
            step(
                0,
                Domain::Tokens,
                &[
                    Arg::TokenIds,
                    Arg::Weight(0),
                    Arg::Buffer(0),
                    Arg::Rows,
                    Arg::ItemBegin,
                    Arg::ItemEnd,
                    Arg::Const(7),
                ],
                "embed",
            ),
            step(
                1,
                Domain::Tokens,
                &[Arg::Buffer(0), Arg::State(1), Arg::SlotStride, Arg::Slots, Arg::Positions, Arg::Rope, Arg::Scratch],
                "mixer",
            ),
            step(
                1,
                Domain::Head,
                &[Arg::Buffer(0), Arg::Buffer(1), Arg::Buffer(2), Arg::Weight(1), kept, Arg::KeepLogits],
                "head",
            ),
        ],
        probes: vec![
            Probe { kind: ProbeKind::LayerHidden(0), step: 0, source: ProbeSource::Buffer(0) },
            Probe { kind: ProbeKind::MixerHidden(0), step: 1, source: ProbeSource::Buffer(0) },
            Probe { kind: ProbeKind::LastHidden, step: 2, source: ProbeSource::Scratch { offset: 0, row_bytes: 32 } },
        ],
    }
}

/// Writes the artifact; the same bytes every time.
pub fn write(path: &Path, options: WriterOptions) -> Result<Written, WriteError> {
    write_for(path, options, (DeviceKind::Cpu, None), None)
}

/// The same for a kind of device, with assembled code or without, with a table of launches or without one.
pub fn write_for(
    path: &Path,
    options: WriterOptions,
    (device, cubin): (DeviceKind, Option<Cubin<'_>>),
    launches: Option<&[LaunchDesc]>,
) -> Result<Written, WriteError> {
    let mut w = Writer::create(path, options)?;
    w.bytes(SectionKind::Recipe, br#"{"compiler":"test"}"#)?;
    w.facts(&Facts {
        name: "sample".into(),
        vocab_size: 10,
        hidden_size: 8,
        n_layers: 2,
        rope_dim: 4,
        max_context: 32,
        max_batch: 3,
        prefill_chunk: 5,
        eos_ids: vec![9, 8],
    })?;
    w.inv_freq(&[1.0, 0.5])?;
    let state = |name: &str, kind, layer, offset, rows, cols, heads| StateDesc {
        name: name.into(),
        kind,
        dtype: if kind == StateKind::Keys { DType::Bf16 } else { DType::F32 },
        layer,
        offset,
        rows,
        cols,
        heads,
        window: 0,
        zero_at_start: kind == StateKind::Conv,
    };
    w.states(
        0,
        4096 * 2,
        &[
            state("layers.0.conv", StateKind::Conv, 0, 0, 4, 8, 1),
            state("layers.1.keys", StateKind::Keys, 1, 256, 32, 8, 2),
        ],
    )?;
    let weight = |name: &str, dtype| WeightDesc {
        name: name.into(),
        dtype,
        layout: "linear".into(),
        sources: vec![format!("model.{name}.weight"), "model.b".into()],
    };
    w.weight(&weight("embed", DType::Bf16), |out| out.write_all(&[1; 100]))?;
    w.weight(&weight("head", DType::F32), |out| out.write_all(&[2; 60]))?;
    let features = vec!["avx2".to_string(), "fma".to_string()];
    let target = TargetDesc { name: "x86-64-v3".into(), device, arch: "x86_64".into(), features, rank: 3 };
    let kernel = |name: &str, offset| KernelDesc { name: name.into(), key: format!("{name}()"), offset, length: 16 };
    w.target(&target, &[kernel("embed", 0), kernel("other", 16)], &[0xc3; 32])?;
    if let Some(launches) = launches {
        w.launches(0, launches)?;
    }
    if let Some(cubin) = cubin {
        w.cubin(0, cubin)?;
    }
    w.program(&program(Phase::Prefill, 5, device))?;
    w.program(&program(Phase::Decode, 3, device))?;
    w.finish()
}

/// The bytes of the artifact.
pub fn bytes() -> Vec<u8> {
    let folder = Folder::new(&format!("bytes-{:?}", std::thread::current().id()));
    let path = folder.0.join("a.jetbin");
    write(&path, WriterOptions::default()).unwrap();
    std::fs::read(path).unwrap()
}

/// Offset and length of the section with this kind, read as `docs/format.md` says.
#[allow(dead_code)]
pub fn section(file: &[u8], kind: SectionKind) -> (usize, usize) {
    let row = rows(file).find(|&row| u32_at(file, row) == kind.code()).expect("such a section");
    (u64_at(file, row + 8) as usize, u64_at(file, row + 16) as usize)
}

/// Recomputes all hashes, so that only the checks behind them can refuse.
#[allow(dead_code)]
pub fn sign(file: &mut [u8]) {
    for row in rows(file).collect::<Vec<_>>() {
        let (start, length) = (u64_at(file, row + 8) as usize, u64_at(file, row + 16) as usize);
        if let Some(body) = start.checked_add(length).and_then(|end| file.get(start..end)) {
            let hash = blake3::hash(body);
            file[row + 24..row + 56].copy_from_slice(hash.as_bytes());
        }
    }
    file[24..56].fill(0);
    let end = rows(file).last().map_or(56, |row| row + 64);
    let hash = blake3::hash(&file[..end]);
    file[24..56].copy_from_slice(hash.as_bytes());
}

#[allow(dead_code)]
fn rows(file: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let n = u32_at(file, 12) as usize;
    (0..n.min(255)).map(|i| 56 + 64 * i)
}

#[allow(dead_code)]
pub fn u32_at(file: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(file[at..at + 4].try_into().unwrap())
}

#[allow(dead_code)]
pub fn u64_at(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
}

/// Uses everything that an opened artifact offers.
#[allow(dead_code)]
pub fn walk(reader: &Reader<'_>) {
    let mut text = String::new();
    let mut show = |d: &dyn std::fmt::Display| text.push_str(&d.to_string());
    show(&print::sections(reader));
    show(&print::weights(reader));
    assert!(reader.facts().vocab_size > 0);
    assert!(reader.inv_freq().len() < 1 << 20);
    for t in 0..reader.targets().len() as u32 {
        show(&print::kernels(reader, t));
        show(&print::states(reader, t));
        for phase in [Phase::Prefill, Phase::Decode] {
            let program = reader.program(t, phase).expect("both programs");
            show(&print::schedule(reader, t, &program));
            show(&print::memory_plan(&program));
            assert!(program.probes().iter().all(|p| program.steps().get(p.step).is_some()));
        }
    }
    assert!(!text.is_empty());
}
