//! Writes an artifact, section by section, without holding its weights in memory.
//!
//! Same calls in the same order, same bytes: nothing of the clock, the machine or the path enters the file.

use crate::error::WriteError;
use crate::file::NewFile;
use crate::record::*;
use crate::types::*;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// How to write.
#[derive(Clone, Debug, Default)]
pub struct WriterOptions {
    /// Put the packed weights into this second file, bound to the artifact by its hash.
    pub external_weights: Option<PathBuf>,
    /// Wait until the disk has everything before the file gets its name.
    pub sync: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Size of the artifact in bytes, without external weights.
    pub bytes: u64,
    /// Size of the packed weights in bytes.
    pub weight_bytes: u64,
    /// Hash of header and section table: it names the artifact.
    pub identity: [u8; 32],
}

/// Writes an artifact: call the section methods in any order, [`weight`](Self::weight) once per weight without
/// another section in between, then [`finish`](Self::finish). Dropped before that, it leaves nothing behind.
pub struct Writer {
    file: NewFile,
    external: Option<NewFile>,
    options: WriterOptions,
    sections: Vec<Section>,
    strings: Strings,
    targets: Vec<TargetRecord>,
    weights: Vec<WeightRecord>,
    /// Where the packed weights start in their file, and whether they still grow.
    weight_data: Option<(u64, bool)>,
}

#[derive(Default)]
struct Strings {
    pool: Vec<u8>,
    known: HashMap<String, Text>,
}

impl Strings {
    fn add(&mut self, text: &str) -> Text {
        if let Some(&known) = self.known.get(text) {
            return known;
        }
        let at = Text { offset: self.pool.len() as u32, length: text.len() as u32 };
        self.pool.extend_from_slice(text.as_bytes());
        self.known.insert(text.to_string(), at);
        at
    }
}

impl Writer {
    /// Starts an artifact that will appear at `path`.
    ///
    /// # Errors
    /// If a file cannot be created beside `path`.
    pub fn create(path: &Path, options: WriterOptions) -> Result<Self, WriteError> {
        let file = NewFile::create(path, HEAD_BYTES)?;
        let external = options.external_weights.as_ref().map(|p| NewFile::create(p, SECTION_ALIGN)).transpose()?;
        Ok(Self {
            file,
            external,
            options,
            sections: Vec::new(),
            strings: Strings::default(),
            targets: Vec::new(),
            weights: Vec::new(),
            weight_data: None,
        })
    }

    /// Writes a section of plain bytes: recipe, model, tokenizer, chat template, generation or licence.
    ///
    /// # Errors
    /// If the kind is a table with a method of its own, or on a second section of the kind.
    pub fn bytes(&mut self, kind: SectionKind, bytes: &[u8]) -> Result<(), WriteError> {
        use SectionKind::*;
        if !matches!(kind, Recipe | Model | Tokenizer | ChatTemplate | Generation | License) {
            return Err(WriteError::Misuse(format!("section {kind} is not one of plain bytes")));
        }
        self.section(kind, 0, bytes)
    }

    /// Writes the numbers that the runtime needs.
    ///
    /// # Errors
    /// On a second call.
    pub fn facts(&mut self, facts: &Facts) -> Result<(), WriteError> {
        let mut out = Vec::new();
        let record = FactsRecord {
            name: self.strings.add(&facts.name),
            vocab_size: facts.vocab_size,
            hidden_size: facts.hidden_size,
            n_layers: facts.n_layers,
            rope_dim: facts.rope_dim,
            max_context: facts.max_context,
            max_batch: facts.max_batch,
            prefill_chunk: facts.prefill_chunk,
            n_eos: facts.eos_ids.len() as u32,
        };
        record.put(&mut out);
        facts.eos_ids.iter().for_each(|id| id.put(&mut out));
        self.section(SectionKind::Facts, 0, &out)
    }

    /// Writes the inverse frequencies of the rotary embedding, `rope_dim / 2` of them.
    ///
    /// # Errors
    /// On a second call.
    pub fn inv_freq(&mut self, values: &[f32]) -> Result<(), WriteError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.section(SectionKind::InvFreq, 0, &bytes)
    }

    /// Writes the states of a sequence as a target keeps them; `slot_bytes` is the distance between two sequences.
    /// A target for which this is not called has those of target 0.
    ///
    /// # Errors
    /// On a second call for a target.
    pub fn states(&mut self, target: u32, slot_bytes: u64, states: &[StateDesc]) -> Result<(), WriteError> {
        let mut out = Vec::new();
        StatesRecord { slot_bytes, n_states: states.len() as u64 }.put(&mut out);
        for s in states {
            let record = StateRecord {
                name: self.strings.add(&s.name),
                kind: s.kind.code(),
                layer: s.layer,
                offset: s.offset,
                rows: s.rows,
                cols: s.cols,
                heads: s.heads,
                window: s.window,
                zero_at_start: u32::from(s.zero_at_start),
                dtype: s.dtype.code(),
            };
            record.put(&mut out);
        }
        self.section(SectionKind::States, target, &out)
    }

    /// Appends a packed weight, whose bytes `fill` writes, and gives its index.
    ///
    /// # Errors
    /// If another section was written since the first weight, or if `fill` or the file system fails.
    pub fn weight(
        &mut self,
        desc: &WeightDesc,
        fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<u32, WriteError> {
        let start = match self.weight_data {
            Some((start, true)) => start,
            Some((_, false)) => {
                return Err(WriteError::Misuse(format!("weight {} comes after another section", desc.name)));
            }
            None => {
                let file = self.external.as_mut().unwrap_or(&mut self.file);
                file.align(SECTION_ALIGN)?;
                file.start_hash()?;
                self.weight_data = Some((file.position(), true));
                file.position()
            }
        };
        let file = self.external.as_mut().unwrap_or(&mut self.file);
        file.align(ALIGN)?;
        let offset = file.position() - start;
        fill(file).map_err(|e| WriteError::Misuse(format!("weight {}: {e}", desc.name)))?;
        let length = file.position() - start - offset;
        self.weights.push(WeightRecord {
            name: self.strings.add(&desc.name),
            layout: self.strings.add(&desc.layout),
            sources: self.strings.add(&desc.sources.join("\n")),
            dtype: desc.dtype.code(),
            reserved: 0,
            offset,
            length,
        });
        Ok(self.weights.len() as u32 - 1)
    }

    /// Writes the kernels and the code of a target, and gives its index.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn target(&mut self, desc: &TargetDesc, kernels: &[KernelDesc], code: &[u8]) -> Result<u32, WriteError> {
        let index = self.targets.len() as u32;
        self.targets.push(TargetRecord {
            name: self.strings.add(&desc.name),
            arch: self.strings.add(&desc.arch),
            features: self.strings.add(&desc.features.join(",")),
            device: desc.device.code(),
            rank: desc.rank,
        });
        let mut out = Vec::new();
        for k in kernels {
            let (name, key) = (self.strings.add(&k.name), self.strings.add(&k.key));
            KernelRecord { name, key, offset: k.offset, length: k.length }.put(&mut out);
        }
        self.section(SectionKind::Kernels, index, &out)?;
        self.section(SectionKind::Code, index, code)?;
        Ok(index)
    }

    /// Writes how the kernels of a GPU target are launched, in their order.
    ///
    /// # Errors
    /// If the target has such a table already.
    pub fn launches(&mut self, target: u32, launches: &[LaunchDesc]) -> Result<(), WriteError> {
        let mut out = Vec::new();
        for l in launches {
            let LaunchDesc { threads, rows, items, shared_bytes, overlaps, wider } = *l;
            let (beyond, wider) = wider.map_or((0, NONE), |w| (w.beyond, w.kernel));
            let overlaps = overlaps.into();
            LaunchRecord { threads, rows, items, shared_bytes, overlaps, beyond, wider, reserved: 0 }.put(&mut out);
        }
        self.section(SectionKind::Launches, target, &out)
    }

    /// Writes the assembled code of a GPU target.
    ///
    /// # Errors
    /// If the target has one already.
    pub fn cubin(&mut self, target: u32, cubin: Cubin<'_>) -> Result<(), WriteError> {
        let (major, minor) = cubin.version;
        let mut out = Vec::with_capacity(CubinRecord::SIZE + cubin.bytes.len());
        CubinRecord { major, minor, reserved: 0 }.put(&mut out);
        out.extend_from_slice(cubin.bytes);
        self.section(SectionKind::Cubin, target, &out)
    }

    /// Writes a program of a target.
    ///
    /// # Errors
    /// If the target has one of this phase already.
    pub fn program(&mut self, program: &Program) -> Result<(), WriteError> {
        let kind = match program.phase {
            Phase::Prefill => SectionKind::Prefill,
            Phase::Decode => SectionKind::Decode,
        };
        let out = self.encode_program(program);
        self.section(kind, program.target, &out)
    }

    /// Writes the decode program of a target for few sequences.
    ///
    /// # Errors
    /// If the target has one already.
    pub fn program_of_few(&mut self, program: &Program) -> Result<(), WriteError> {
        let out = self.encode_program(program);
        self.section(SectionKind::DecodeFew, program.target, &out)
    }

    fn encode_program(&mut self, p: &Program) -> Vec<u8> {
        let mut out = Vec::new();
        ProgramRecord {
            max_rows: p.max_rows,
            head_rows: p.head_rows,
            arena_bytes: p.arena_bytes,
            scratch_bytes: p.scratch_bytes,
            logits: p.logits,
            argmax: p.argmax.unwrap_or(NONE),
            n_buffers: p.buffers.len() as u32,
            n_steps: p.steps.len() as u32,
            n_args: p.steps.iter().map(|s| s.args.len() as u32).sum(),
            n_probes: p.probes.len() as u32,
        }
        .put(&mut out);
        for b in &p.buffers {
            let (name, domain) = (self.strings.add(&b.name), b.domain.code());
            BufferRecord { name, offset: b.offset, row_bytes: b.row_bytes, domain, reserved: 0 }.put(&mut out);
        }
        let mut first_arg = 0;
        for s in &p.steps {
            let n_args = s.args.len() as u32;
            StepRecord {
                label: self.strings.add(&s.label),
                kernel: s.kernel,
                domain: s.domain.code(),
                items_fixed: s.items_fixed,
                items_per_row: s.items_per_row,
                first_arg,
                n_args,
                weight_bytes: s.cost.weight_bytes,
                state_bytes: s.cost.state_bytes,
                act_bytes: s.cost.act_bytes,
                flops: s.cost.flops,
            }
            .put(&mut out);
            first_arg += n_args;
        }
        p.steps.iter().flat_map(|s| &s.args).for_each(|a| ArgRecord::from(*a).put(&mut out));
        p.probes.iter().for_each(|probe| ProbeRecord::from(*probe).put(&mut out));
        out
    }

    fn section(&mut self, kind: SectionKind, index: u32, bytes: &[u8]) -> Result<(), WriteError> {
        if self.sections.iter().any(|s| (s.kind, s.index) == (kind.code(), index)) {
            return Err(WriteError::Misuse(format!("a second section {kind} for target {index}")));
        }
        self.close_weights()?;
        self.file.align(SECTION_ALIGN)?;
        let offset = self.file.position();
        self.file.append(bytes)?;
        let hash = *blake3::hash(bytes).as_bytes();
        self.sections.push(Section { kind: kind.code(), index, offset, length: bytes.len() as u64, hash, reserved: 0 });
        Ok(())
    }

    fn close_weights(&mut self) -> Result<(), WriteError> {
        if let Some((offset, open @ true)) = &mut self.weight_data {
            *open = false;
            let kind = if self.external.is_some() { SectionKind::ExternalWeights } else { SectionKind::WeightData };
            let file = self.external.as_mut().unwrap_or(&mut self.file);
            let (length, hash) = (file.position() - *offset, file.end_hash()?);
            self.sections.push(Section { kind: kind.code(), index: 0, offset: *offset, length, hash, reserved: 0 });
        }
        Ok(())
    }

    /// Writes the tables, then header and section table, and gives the file its name.
    ///
    /// # Errors
    /// If there are too many sections, or if the file system fails.
    pub fn finish(mut self) -> Result<Written, WriteError> {
        let table = encode_all(&self.weights);
        self.section(SectionKind::Weights, 0, &table)?;
        let table = encode_all(&self.targets);
        self.section(SectionKind::Targets, 0, &table)?;
        if u32::try_from(self.strings.pool.len()).is_err() {
            return Err(WriteError::Misuse("the string pool is larger than 4 GiB".into()));
        }
        let pool = std::mem::take(&mut self.strings.pool);
        self.section(SectionKind::Strings, 0, &pool)?;
        if self.sections.len() > MAX_SECTIONS {
            let n = self.sections.len();
            return Err(WriteError::Misuse(format!("{n} sections, the table holds {MAX_SECTIONS}")));
        }
        let weights = self
            .sections
            .iter()
            .find(|s| [SectionKind::WeightData.code(), SectionKind::ExternalWeights.code()].contains(&s.kind));
        let (weight_bytes, weight_hash) = weights.map_or((0, [0; 32]), |s| (s.length, s.hash));
        let table = encode_all(&self.sections);
        let mut header = Header {
            magic: MAGIC,
            major: crate::MAJOR,
            minor: crate::MINOR,
            sections: self.sections.len() as u32,
            total_bytes: self.file.position(),
            hash: [0; 32],
        };
        header.hash = head_hash(&header, &table);
        let mut head = Vec::new();
        header.put(&mut head);
        head.extend(table);
        if let Some(external) = self.external.take() {
            let mut head = Vec::new();
            ExternalHeader { magic: EXTERNAL_MAGIC, length: weight_bytes, hash: weight_hash }.put(&mut head);
            external.finish(&head, self.options.sync)?;
        }
        self.file.finish(&head, self.options.sync)?;
        Ok(Written { bytes: header.total_bytes, weight_bytes, identity: header.hash })
    }
}

fn encode_all<R: Record>(records: &[R]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() * R::SIZE);
    records.iter().for_each(|r| r.put(&mut out));
    out
}

impl From<Arg> for ArgRecord {
    fn from(arg: Arg) -> Self {
        let (kind, index, value) = match arg {
            Arg::Buffer(i) => (0, i, 0),
            Arg::Weight(i) => (1, i, 0),
            Arg::State(i) => (2, i, 0),
            Arg::SlotStride => (3, 0, 0),
            Arg::Slots => (4, 0, 0),
            Arg::Positions => (5, 0, 0),
            Arg::Rows => (6, 0, 0),
            Arg::ItemBegin => (7, 0, 0),
            Arg::ItemEnd => (8, 0, 0),
            Arg::Scratch => (9, 0, 0),
            Arg::TokenIds => (10, 0, 0),
            Arg::Rope => (11, 0, 0),
            Arg::Const(v) => (12, 0, v),
            Arg::Arrivals => (13, 0, 0),
            Arg::Candidates(n) => (14, n, 0),
            Arg::KeepLogits => (15, 0, 0),
        };
        Self { kind, index, value }
    }
}

impl From<Probe> for ProbeRecord {
    fn from(probe: Probe) -> Self {
        let (kind, layer) = match probe.kind {
            ProbeKind::LayerHidden(l) => (0, l),
            ProbeKind::MixerHidden(l) => (1, l),
            ProbeKind::LastHidden => (2, 0),
        };
        let (source, buffer, offset, row_bytes) = match probe.source {
            ProbeSource::Buffer(b) => (0, b, 0, 0),
            ProbeSource::Scratch { offset, row_bytes } => (1, 0, offset, row_bytes),
        };
        Self { kind, layer, step: probe.step, source, buffer, reserved: 0, offset, row_bytes }
    }
}
