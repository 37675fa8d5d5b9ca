//! Artifacts in a short form that a fuzzer can work on: the sections alone, without padding and hashes.
//!
//! Short form of a section: kind `u8`, index `u8`, length `u16`, bytes. [`assemble`] lays the sections out as
//! `docs/format.md` says and signs them, because a wrong hash would stop the reader at once.

const HEAD: usize = 16384;
const PAGE: usize = 4096;
const ROW: usize = 64;
const HEADER: usize = 56;

/// An artifact from its short form.
pub fn assemble(mut short: &[u8]) -> Vec<u8> {
    let mut file = vec![0; HEAD];
    let mut rows = 0;
    while let Some((&[kind, index, low, high], rest)) = short.split_first_chunk() {
        let (body, rest) = rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
        short = rest;
        if rows == 255 {
            break;
        }
        file.resize(file.len().next_multiple_of(PAGE), 0);
        let row = HEADER + rows * ROW;
        let offset = file.len() as u64;
        file[row] = kind;
        file[row + 4] = index;
        file[row + 8..row + 16].copy_from_slice(&offset.to_le_bytes());
        file[row + 16..row + 24].copy_from_slice(&(body.len() as u64).to_le_bytes());
        file[row + 24..row + 56].copy_from_slice(blake3::hash(body).as_bytes());
        file.extend_from_slice(body);
        rows += 1;
    }
    let total = file.len() as u64;
    file[..8].copy_from_slice(b"\x89JETB\r\n\x1a");
    file[8..10].copy_from_slice(&jetbin::MAJOR.to_le_bytes());
    file[10..12].copy_from_slice(&jetbin::MINOR.to_le_bytes());
    file[12..16].copy_from_slice(&(rows as u32).to_le_bytes());
    file[16..24].copy_from_slice(&total.to_le_bytes());
    let hash = blake3::hash(&file[..HEADER + rows * ROW]);
    file[24..56].copy_from_slice(hash.as_bytes());
    file
}

/// The short form of an artifact.
pub fn shorten(reader: &jetbin::Reader<'_>) -> Vec<u8> {
    let mut short = Vec::new();
    for s in reader.sections() {
        let body = reader.section(s.kind, s.index).unwrap_or(&[]);
        let length = u16::try_from(body.len()).expect("a small artifact");
        short.extend([s.kind.code() as u8, s.index as u8]);
        short.extend(length.to_le_bytes());
        short.extend(body);
    }
    short
}
