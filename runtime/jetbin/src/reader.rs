//! Opens an artifact that lies in memory: nothing in it is trusted before it has been checked.

use crate::error::ReadError;
use crate::record::*;
use crate::types::*;
use crate::view::*;

/// An artifact in memory. After [`open`](Self::open) every index and range that it gives out is valid.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    header: Header,
    strings: Strings<'a>,
}

/// A row of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionView {
    /// What it holds.
    pub kind: SectionKind,
    /// The target that it belongs to, or zero.
    pub index: u32,
    /// Offset in its file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
}

/// Where the packed weights are.
#[derive(Clone, Copy, Debug)]
pub enum WeightPlace<'a> {
    /// In this file.
    Inside(&'a [u8]),
    /// In a second file, see [`Reader::external_weights`].
    External {
        /// Length in bytes.
        length: u64,
        /// BLAKE3 of the bytes.
        hash: [u8; 32],
    },
}

impl<'a> Reader<'a> {
    /// Checks header, section table, the hash of every section but the packed weights, and every index and range in
    /// the tables.
    ///
    /// # Errors
    /// What was found and what was expected, at the first place where they differ.
    pub fn open(bytes: &'a [u8]) -> Result<Self, ReadError> {
        let header = read_header(bytes)?;
        let mut reader = Self { bytes, header, strings: Strings(&[]) };
        reader.check_sections()?;
        let pool = reader.required(SectionKind::Strings, 0)?;
        reader.strings = Strings(pool);
        crate::check::check_tables(&reader)?;
        Ok(reader)
    }

    /// Hash of header and section table: it names the artifact.
    pub fn identity(&self) -> [u8; 32] {
        self.header.hash
    }

    /// Major and minor version of the format.
    pub fn version(&self) -> (u16, u16) {
        (self.header.major, self.header.minor)
    }

    /// Size of the file in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.header.total_bytes
    }

    fn raw_sections(&self) -> impl ExactSizeIterator<Item = Section> + use<'a> {
        let table = &self.bytes[Header::SIZE..Header::SIZE + self.header.sections as usize * Section::SIZE];
        table.chunks_exact(Section::SIZE).map(Section::get)
    }

    /// The section table.
    pub fn sections(&self) -> impl Iterator<Item = SectionView> + use<'a> {
        self.raw_sections().filter_map(|s| {
            let kind = SectionKind::from_code(s.kind)?;
            Some(SectionView { kind, index: s.index, offset: s.offset, length: s.length, hash: s.hash })
        })
    }

    /// The bytes of a section of this file.
    pub fn section(&self, kind: SectionKind, index: u32) -> Option<&'a [u8]> {
        let s = self.sections().find(|s| (s.kind, s.index) == (kind, index))?;
        if kind == SectionKind::ExternalWeights { None } else { self.slice(s.offset, s.length) }
    }

    /// The bytes of a section, as text.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn text(&self, kind: SectionKind) -> Result<Option<&'a str>, ReadError> {
        let Some(bytes) = self.section(kind, 0) else { return Ok(None) };
        std::str::from_utf8(bytes).map(Some).map_err(|e| ReadError::damaged(format!("section {kind}"), e.to_string()))
    }

    pub(crate) fn required(&self, kind: SectionKind, index: u32) -> Result<&'a [u8], ReadError> {
        let absent = || ReadError::damaged("section table", format!("no section {kind} for index {index}"));
        self.section(kind, index).ok_or_else(absent)
    }

    fn slice(&self, offset: u64, length: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(offset).ok()?;
        self.bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    }

    /// The numbers that the runtime needs.
    pub fn facts(&self) -> Facts {
        let known = self.required(SectionKind::Facts, 0).and_then(|bytes| decode_facts(bytes, self.strings));
        known.unwrap_or_default()
    }

    pub(crate) fn strings(&self) -> Strings<'a> {
        self.strings
    }

    fn table<T: Row<'a>>(&self, kind: SectionKind, index: u32, skip: usize) -> Table<'a, T> {
        let bytes = self.section(kind, index).and_then(|b| b.get(skip..)).unwrap_or(&[]);
        Table::known(bytes, self.strings)
    }

    /// Inverse frequencies of the rotary embedding, `rope_dim / 2` of them.
    pub fn inv_freq(&self) -> impl ExactSizeIterator<Item = f32> + use<'a> {
        let bytes = self.section(SectionKind::InvFreq, 0).unwrap_or(&[]);
        bytes.chunks_exact(4).map(|b| f32::from_bits(u32::get(b)))
    }

    /// Machines that the artifact holds code for.
    pub fn targets(&self) -> Table<'a, TargetDesc> {
        self.table(SectionKind::Targets, 0, 0)
    }

    /// Kernels of a target.
    pub fn kernels(&self, target: u32) -> Table<'a, KernelDesc<&'a str>> {
        self.table(SectionKind::Kernels, target, 0)
    }

    /// How the kernels of a GPU target are launched, in their order; empty for a CPU.
    pub fn launches(&self, target: u32) -> Table<'a, LaunchDesc> {
        self.table(SectionKind::Launches, target, 0)
    }

    /// The assembled code of a GPU target, if it was assembled.
    pub fn cubin(&self, target: u32) -> Option<Cubin<'a>> {
        let (head, bytes) = self.section(SectionKind::Cubin, target)?.split_at_checked(CubinRecord::SIZE)?;
        let CubinRecord { major, minor, .. } = CubinRecord::get(head);
        Some(Cubin { version: (major, minor), bytes })
    }

    /// Code of a target.
    pub fn code(&self, target: u32) -> &'a [u8] {
        self.section(SectionKind::Code, target).unwrap_or(&[])
    }

    /// A program of a target; `None` if there is no such target.
    pub fn program(&self, target: u32, phase: Phase) -> Option<ProgramView<'a>> {
        let kind = program_section(phase);
        ProgramView::cut("program", self.section(kind, target)?, self.strings).ok()
    }

    /// The program of a target that serves decode calls of up to its `max_rows` in place of the one for any number; `None` if there is none.
    pub fn program_of_few(&self, target: u32) -> Option<ProgramView<'a>> {
        ProgramView::cut("program", self.section(SectionKind::DecodeFew, target)?, self.strings).ok()
    }

    /// The program that serves a call of so many rows.
    pub fn serving(&self, target: u32, phase: Phase, rows: u32) -> Option<ProgramView<'a>> {
        let few = self.program_of_few(target).filter(|p| phase == Phase::Decode && rows <= p.max_rows());
        few.or_else(|| self.program(target, phase))
    }

    /// Bytes between the states of two sequences on a target.
    pub fn slot_bytes(&self, target: u32) -> u64 {
        self.section(SectionKind::States, self.states_index(target)).map_or(0, |b| StatesRecord::get(b).slot_bytes)
    }

    /// States of a sequence as a target keeps them.
    pub fn states(&self, target: u32) -> Table<'a, StateDesc<&'a str>> {
        self.table(SectionKind::States, self.states_index(target), StatesRecord::SIZE)
    }

    /// Index of the section with the states of a target: its own, or that of target 0.
    pub(crate) fn states_index(&self, target: u32) -> u32 {
        self.section(SectionKind::States, target).map_or(0, |_| target)
    }

    /// Packed weights.
    pub fn weights(&self) -> Table<'a, WeightView<'a>> {
        self.table(SectionKind::Weights, 0, 0)
    }

    /// Where the packed weights are.
    pub fn weight_place(&self) -> WeightPlace<'a> {
        match self.sections().find(|s| s.kind == SectionKind::ExternalWeights) {
            Some(s) => WeightPlace::External { length: s.length, hash: s.hash },
            None => WeightPlace::Inside(self.section(SectionKind::WeightData, 0).unwrap_or(&[])),
        }
    }

    /// The packed weights in a second file, after checking that the file claims to be the right one.
    ///
    /// # Errors
    /// If the artifact holds its weights itself, or if the file is another one.
    pub fn external_weights<'b>(&self, file: &'b [u8]) -> Result<&'b [u8], ReadError> {
        let WeightPlace::External { length, hash } = self.weight_place() else {
            return Err(ReadError::damaged("external weights", "the artifact holds its weights itself"));
        };
        let no = |problem: String| ReadError::damaged("external weights", problem);
        let (head, rest) = file
            .split_at_checked(SECTION_ALIGN as usize)
            .ok_or_else(|| no(format!("{} bytes, the header alone has {SECTION_ALIGN}", file.len())))?;
        let header = ExternalHeader::get(head);
        if header.magic != EXTERNAL_MAGIC || head[ExternalHeader::SIZE..].iter().any(|&b| b != 0) {
            return Err(no("the file is not one of packed weights".into()));
        }
        if header.hash != hash || header.length != length || rest.len() as u64 != length {
            let found = format!("{} of {} bytes with hash {}", rest.len(), header.length, hex(&header.hash));
            return Err(no(format!("found {found}, expected {length} bytes with hash {}", hex(&hash))));
        }
        Ok(rest)
    }

    /// Compares the packed weights with their hash; `data` are those of [`external_weights`](Self::external_weights)
    /// or [`WeightPlace::Inside`].
    ///
    /// # Errors
    /// If they differ.
    pub fn verify_weights(&self, data: &[u8]) -> Result<(), ReadError> {
        let is_data = |s: &SectionView| matches!(s.kind, SectionKind::WeightData | SectionKind::ExternalWeights);
        let Some(section) = self.sections().find(is_data) else { return Ok(()) };
        let found = blake3::hash(data);
        if *found.as_bytes() == section.hash {
            return Ok(());
        }
        let problem = format!("hash {found}, expected {}", hex(&section.hash));
        Err(ReadError::damaged("weight data", problem))
    }

    fn check_sections(&self) -> Result<(), ReadError> {
        let mut end = HEAD_BYTES;
        for (i, s) in self.raw_sections().enumerate() {
            let no = |problem: String| ReadError::damaged(format!("section {i}"), problem);
            let kind =
                SectionKind::from_code(s.kind).ok_or_else(|| no(format!("kind of section {} is unknown", s.kind)))?;
            if s.reserved != 0 || self.raw_sections().take(i).any(|p| (p.kind, p.index) == (s.kind, s.index)) {
                return Err(no(format!("{kind} for index {} appears twice or uses a reserved field", s.index)));
            }
            if kind == SectionKind::ExternalWeights {
                if s.offset != SECTION_ALIGN {
                    return Err(no(format!("{kind} at {}, expected {SECTION_ALIGN}", s.offset)));
                }
                continue;
            }
            let start = end.next_multiple_of(SECTION_ALIGN);
            let gap = self.slice(end, start - end);
            let body = self.slice(s.offset, s.length);
            let (Some(gap), Some(body), true) = (gap, body, s.offset == start) else {
                let problem = format!("{kind}: {} bytes at {}, expected to start at {start}", s.length, s.offset);
                return Err(no(format!("{problem} and to end before {}", self.bytes.len())));
            };
            if gap.iter().any(|&b| b != 0) {
                return Err(no(format!("{kind}: bytes between sections are not zero")));
            }
            if kind != SectionKind::WeightData && *blake3::hash(body).as_bytes() != s.hash {
                return Err(no(format!("{kind}: hash {}, expected {}", blake3::hash(body), hex(&s.hash))));
            }
            end = s.offset + s.length;
        }
        if end != self.bytes.len() as u64 {
            let problem = format!("sections end at {end}, the file has {} bytes", self.bytes.len());
            return Err(ReadError::damaged("section table", problem));
        }
        Ok(())
    }
}

/// The section of a program.
pub(crate) fn program_section(phase: Phase) -> SectionKind {
    match phase {
        Phase::Prefill => SectionKind::Prefill,
        Phase::Decode => SectionKind::Decode,
    }
}

fn read_header(bytes: &[u8]) -> Result<Header, ReadError> {
    if bytes.len() < Header::SIZE || bytes[..8] != MAGIC {
        let start: String = bytes.iter().take(8).map(|b| b.escape_ascii().to_string()).collect();
        let problem = format!("{} bytes, starting with \"{start}\"", bytes.len());
        return Err(ReadError::NotAnArtifact(problem));
    }
    let header = Header::get(bytes);
    if header.major != crate::MAJOR || header.minor > crate::MINOR {
        return Err(ReadError::Version { major: header.major, minor: header.minor });
    }
    let no = |problem: String| ReadError::damaged("header", problem);
    if header.total_bytes != bytes.len() as u64 || (bytes.len() as u64) < HEAD_BYTES {
        return Err(no(format!("{} bytes found, {} expected", bytes.len(), header.total_bytes)));
    }
    if header.sections as usize > MAX_SECTIONS {
        return Err(no(format!("{} sections, the table holds {MAX_SECTIONS}", header.sections)));
    }
    let (table, rest) = bytes[Header::SIZE..HEAD_BYTES as usize].split_at(header.sections as usize * Section::SIZE);
    let found = head_hash(&header, table);
    if found != header.hash {
        return Err(no(format!("hash {} found, {} expected", hex(&found), hex(&header.hash))));
    }
    if rest.iter().any(|&b| b != 0) {
        return Err(no("bytes after the section table are not zero".into()));
    }
    Ok(header)
}

pub(crate) fn decode_facts(bytes: &[u8], strings: Strings<'_>) -> Result<Facts, ReadError> {
    let no = |problem: String| ReadError::damaged("facts", problem);
    let (head, rest) = bytes
        .split_at_checked(FactsRecord::SIZE)
        .ok_or_else(|| no(format!("{} bytes, expected {} at least", bytes.len(), FactsRecord::SIZE)))?;
    let r = FactsRecord::get(head);
    if rest.len() as u64 != u64::from(r.n_eos) * 4 {
        return Err(no(format!("{} bytes for {} ids", rest.len(), r.n_eos)));
    }
    Ok(Facts {
        name: strings.get(r.name).map_err(no)?.to_string(),
        vocab_size: r.vocab_size,
        hidden_size: r.hidden_size,
        n_layers: r.n_layers,
        rope_dim: r.rope_dim,
        max_context: r.max_context,
        max_batch: r.max_batch,
        prefill_chunk: r.prefill_chunk,
        eos_ids: rest.chunks_exact(4).map(u32::get).collect(),
    })
}

/// A hash in hexadecimal digits.
pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}
