//! The flat link: an object file to position-independent bytes that a loader only maps.

use object::elf::{R_AARCH64_ADR_PREL_LO21, R_AARCH64_LD_PREL_LO19};
use object::{
    Object, ObjectSection, ObjectSymbol, Relocation, RelocationFlags, RelocationKind, RelocationTarget, SectionIndex,
    SectionKind,
};
use std::collections::{BTreeMap, HashMap};

/// Every function and constant starts at a multiple of this many bytes.
pub const ALIGNMENT: usize = 64;

/// Code and constants, laid out; nothing to relocate.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CodeBlob {
    /// What to map.
    pub bytes: Vec<u8>,
    /// Where each kernel starts.
    pub symbols: BTreeMap<String, usize>,
}

impl CodeBlob {
    /// Lays `other` behind what is here.
    pub fn append(&mut self, other: CodeBlob) {
        let start = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(start, 0);
        self.bytes.extend(other.bytes);
        self.symbols.extend(other.symbols.into_iter().map(|(name, at)| (name, start + at)));
    }
}

/// Why an object cannot be linked flat.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It is not an object file.
    #[error("malformed object: {0}")]
    Malformed(#[from] object::read::Error),
    /// It needs memory that it can write.
    #[error("found a writable section {0}, expected code and constants only")]
    Writable(String),
    /// It refers to something outside.
    #[error("undefined symbol {0}")]
    Undefined(String),
    /// It refers to something in a way that is not position independent, or not known here.
    #[error("found relocation {0}, expected one relative to its place")]
    Relocation(String),
}

/// Lays out text and read-only data; refuses whatever would need a dynamic linker.
///
/// # Errors
/// On a malformed object, writable data, undefined symbols, and relocations that are not relative.
pub fn flat_link(file: &[u8]) -> Result<CodeBlob, LinkError> {
    let file = object::File::parse(file)?;
    let (mut blob, mut base) = (CodeBlob::default(), HashMap::new());
    for s in file.sections() {
        match s.kind() {
            SectionKind::Text | SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => {
                let align = ALIGNMENT.max(s.align() as usize);
                blob.bytes.resize(blob.bytes.len().next_multiple_of(align), 0);
                base.insert(s.index(), blob.bytes.len());
                blob.bytes.extend_from_slice(s.data()?);
            }
            SectionKind::Data | SectionKind::UninitializedData if s.size() > 0 => {
                return Err(LinkError::Writable(s.name()?.to_string()));
            }
            _ => {}
        }
    }
    for y in file.symbols().filter(|y| y.is_global()) {
        if let Some(at) = place(&base, &y) {
            blob.symbols.insert(y.name()?.to_string(), at);
        }
    }
    for s in file.sections() {
        if let Some(start) = base.get(&s.index()) {
            relocate(&file, &s, *start, &base, &mut blob.bytes)?;
        }
    }
    Ok(blob)
}

fn place(base: &HashMap<SectionIndex, usize>, symbol: &object::Symbol) -> Option<usize> {
    Some(base.get(&symbol.section_index()?)? + symbol.address() as usize)
}

/// Applies the relocations of one section, which starts at `start`.
fn relocate(
    file: &object::File,
    section: &object::Section,
    start: usize,
    base: &HashMap<SectionIndex, usize>,
    bytes: &mut [u8],
) -> Result<(), LinkError> {
    for (offset, r) in section.relocations() {
        let unknown = || LinkError::Relocation(format!("{:?} of {} bits, {:?}", r.kind(), r.size(), r.flags()));
        let RelocationTarget::Symbol(index) = r.target() else { return Err(unknown()) };
        let symbol = file.symbol_by_index(index)?;
        let Some(to) = place(base, &symbol) else { return Err(LinkError::Undefined(symbol.name()?.to_string())) };
        let at = start + offset as usize;
        let word: &mut [u8; 4] = (&mut bytes[at..at + 4]).try_into().map_err(|_| unknown())?;
        let patched = patch(u32::from_le_bytes(*word), to as i64 + r.addend() - at as i64, &r).ok_or_else(unknown)?;
        *word = patched.to_le_bytes();
    }
    Ok(())
}

/// The word at a relocation to a place `distance` bytes on; none if the kind is unknown or the distance does not fit.
fn patch(word: u32, distance: i64, r: &Relocation) -> Option<u32> {
    if let (RelocationKind::Relative | RelocationKind::PltRelative, 32) = (r.kind(), r.size()) {
        return Some(i32::try_from(distance).ok()? as u32);
    }
    let RelocationFlags::Elf { r_type } = r.flags() else { return None };
    (-(1 << 20)..1 << 20).contains(&distance).then_some(())?;
    let distance = distance as u32;
    match r_type {
        // a load relative to the instruction: 19 bits of words
        R_AARCH64_LD_PREL_LO19 if distance.is_multiple_of(4) => {
            Some(word & !(0x7ffff << 5) | (distance >> 2 & 0x7ffff) << 5)
        }
        // an address relative to the instruction: 21 bits of bytes, the lowest two apart
        R_AARCH64_ADR_PREL_LO21 => {
            Some(word & !(3 << 29 | 0x7ffff << 5) | (distance & 3) << 29 | (distance >> 2 & 0x7ffff) << 5)
        }
        _ => None,
    }
}
