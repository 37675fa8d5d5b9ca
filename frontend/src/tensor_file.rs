//! Reading one safetensors file: the header is checked completely, the data stay in a memory map.
//!
//! # Source
//! <https://github.com/huggingface/safetensors>, section "Format".

use crate::problem::{Collector, Problems, Result, shown};
use memmap2::Mmap;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest header that the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;

macro_rules! element_types {
    ($($variant:ident = $name:literal, $bytes:literal;)*) => {
        /// An element type of the safetensors format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ElementType {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl ElementType {
            /// The type's name in a header.
            pub fn name(self) -> &'static str {
                match self { $(ElementType::$variant => $name,)* }
            }

            /// The size of one element.
            pub fn bytes(self) -> usize {
                match self { $(ElementType::$variant => $bytes,)* }
            }

            fn from_name(name: &str) -> Option<ElementType> {
                match name { $($name => Some(ElementType::$variant),)* _ => None }
            }
        }
    };
}

element_types! {
    Bool = "BOOL", 1;
    U8 = "U8", 1;
    I8 = "I8", 1;
    F8E5M2 = "F8_E5M2", 1;
    F8E4M3 = "F8_E4M3", 1;
    I16 = "I16", 2;
    U16 = "U16", 2;
    F16 = "F16", 2;
    Bf16 = "BF16", 2;
    I32 = "I32", 4;
    U32 = "U32", 4;
    F32 = "F32", 4;
    F64 = "F64", 8;
    I64 = "I64", 8;
    U64 = "U64", 8;
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Element type.
    pub dtype: ElementType,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Where the elements lie in the file's data.
    range: Range<usize>,
}

/// An open safetensors file whose header has been checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    layout: Layout,
}

/// What a file's header says, once it has been found to fit the file.
#[derive(Debug)]
struct Layout {
    data_start: usize,
    names: Vec<String>,
    entries: HashMap<String, TensorEntry>,
}

impl TensorFile {
    /// Opens and checks a file; the data are mapped, not read.
    ///
    /// # Errors
    /// The file cannot be mapped; it is cut short; the header is not what the format asks for; tensors overlap, leave
    /// holes, or do not fit their types and shapes. All problems of the header's entries are listed.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let file = File::open(path).map_err(|e| Problems::io(path, "open", &e))?;
        // SAFETY: the map is only read. As with every mapped file, nobody may shorten it meanwhile; a writer of ours
        // never does, because it renames finished files into place.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Problems::io(path, "map", &e))?;
        let layout = Layout::parse(&map, &path.display().to_string())?;
        Ok(TensorFile { path: path.to_path_buf(), map, layout })
    }

    /// The file's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names in the header's order.
    pub fn names(&self) -> &[String] {
        &self.layout.names
    }

    /// Type and shape of a tensor.
    pub fn entry(&self, name: &str) -> Option<&TensorEntry> {
        self.layout.entries.get(name)
    }

    /// The little-endian bytes of a tensor.
    pub fn bytes(&self, entry: &TensorEntry) -> &[u8] {
        &self.map[self.layout.data_start..][entry.range.clone()]
    }

    /// The values of an f32 tensor.
    ///
    /// # Errors
    /// The tensor is missing or of another type.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let bytes = self.typed(name, ElementType::F32)?;
        Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// The values of an i64 tensor.
    ///
    /// # Errors
    /// The tensor is missing or of another type.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let bytes = self.typed(name, ElementType::I64)?;
        Ok(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }

    fn typed(&self, name: &str, expected: ElementType) -> Result<&[u8]> {
        let origin = || format!("{}: {name}", self.path.display());
        let missing = || Problems::one(origin(), format!("missing, expected a tensor of type {}", expected.name()));
        let entry = self.entry(name).ok_or_else(missing)?;
        if entry.dtype != expected {
            let message = format!("found type {}, expected {}", entry.dtype.name(), expected.name());
            return Err(Problems::one(origin(), message));
        }
        Ok(self.bytes(entry))
    }
}

impl Layout {
    fn parse(bytes: &[u8], origin: &str) -> Result<Layout> {
        let Some((length, rest)) = bytes.split_first_chunk() else {
            let message = format!("found {} bytes, expected a safetensors file of at least 8", bytes.len());
            return Err(Problems::one(origin, message));
        };
        let (length, most) = (u64::from_le_bytes(*length), MAX_HEADER_BYTES.min(rest.len() as u64));
        if length > most {
            let message = format!(
                "the header claims {length} bytes, expected at most {most} (cut short, or not a safetensors file)"
            );
            return Err(Problems::one(origin, message));
        }
        let (header, data) = rest.split_at(length as usize);
        let header: Header = serde_json::from_slice(header)
            .map_err(|e| Problems::one(origin, format!("the header is not valid JSON: {e}")))?;
        let mut out = Collector::default();
        let (names, entries) = read_entries(origin, header, &mut out);
        if out.is_empty() {
            check_cover(origin, &names, &entries, data.len(), &mut out);
        }
        out.finish(Layout { data_start: bytes.len() - data.len(), names, entries })
    }
}

/// The header's entries in the file's order. A plain JSON map would hide a tensor that is listed twice.
struct Header(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Header, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn read_entries(origin: &str, header: Header, out: &mut Collector) -> (Vec<String>, HashMap<String, TensorEntry>) {
    let mut names = Vec::with_capacity(header.0.len());
    let mut entries = HashMap::with_capacity(header.0.len());
    for (name, value) in header.0 {
        if name == "__metadata__" {
            continue;
        }
        match read_entry(&value) {
            Ok(entry) => {
                if entries.insert(name.clone(), entry).is_some() {
                    out.push(format!("{origin}: {name}"), "the header lists this tensor twice");
                } else {
                    names.push(name);
                }
            }
            Err(message) => out.push(format!("{origin}: {name}"), message),
        }
    }
    (names, entries)
}

/// One `{"dtype": .., "shape": [..], "data_offsets": [begin, end]}`, or what is wrong with it.
fn read_entry(value: &Value) -> std::result::Result<TensorEntry, String> {
    let sizes = |field: &str| -> Option<Vec<usize>> {
        let list = value.get(field)?.as_array()?;
        list.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
    };
    let found = |field: &str| value.get(field).map_or("nothing".to_string(), shown);
    let dtype = value.get("dtype").and_then(Value::as_str).and_then(ElementType::from_name);
    let dtype = dtype.ok_or_else(|| format!("found dtype {}, expected a type such as \"BF16\"", found("dtype")))?;
    let shape = sizes("shape").ok_or_else(|| format!("found shape {}, expected a list of sizes", found("shape")))?;
    let offsets = sizes("data_offsets").filter(|o| o.len() == 2 && o[0] <= o[1]);
    let offsets =
        offsets.ok_or_else(|| format!("found data_offsets {}, expected [begin, end]", found("data_offsets")))?;
    let bytes = shape.iter().try_fold(dtype.bytes(), |bytes, &n| bytes.checked_mul(n));
    if bytes != Some(offsets[1] - offsets[0]) {
        return Err(format!(
            "found {} bytes at data_offsets {}, expected those of a tensor {} {shape:?}",
            offsets[1] - offsets[0],
            found("data_offsets"),
            dtype.name()
        ));
    }
    Ok(TensorEntry { dtype, shape, range: offsets[0]..offsets[1] })
}

/// The tensors have to cover the data without overlap, hole or remainder.
fn check_cover(
    origin: &str,
    names: &[String],
    entries: &HashMap<String, TensorEntry>,
    data_bytes: usize,
    out: &mut Collector,
) {
    let mut order: Vec<(&str, &Range<usize>)> = names.iter().map(|n| (n.as_str(), &entries[n].range)).collect();
    order.sort_by_key(|(_, range)| (range.start, range.end));
    let mut covered = 0;
    for (name, range) in order {
        if range.end > data_bytes {
            let message =
                format!("ends at byte {} of the data, but the file holds {data_bytes} (cut short?)", range.end);
            out.push(format!("{origin}: {name}"), message);
        } else if range.start != covered {
            let message = format!("starts at byte {} of the data, expected {covered}", range.start);
            out.push(format!("{origin}: {name}"), message);
        }
        covered = range.end;
    }
    if out.is_empty() && covered != data_bytes {
        out.push(origin, format!("found {data_bytes} bytes of data, expected {covered}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tensors of different types, and the length of the file's header.
    fn sample() -> (Vec<u8>, usize) {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
            "b":{"dtype":"BF16","shape":[5],"data_offsets":[24,34]},"c":{"dtype":"U8","shape":[],"data_offsets":[34,35]}}"#;
        let length = (header.len() as u64).to_le_bytes();
        ([&length[..], header.as_bytes(), &[7; 35]].concat(), 8 + header.len())
    }

    #[test]
    fn a_good_file() {
        let (bytes, header) = sample();
        let layout = Layout::parse(&bytes, "x").unwrap();
        assert_eq!((layout.data_start, layout.names), (header, ["a", "b", "c"].map(String::from).to_vec()));
    }

    #[test]
    fn every_cut_is_refused() {
        let (bytes, _) = sample();
        for end in 0..bytes.len() {
            assert!(Layout::parse(&bytes[..end], "x").is_err(), "cut at {end}");
        }
    }

    /// Whatever two bits of the header flip: no panic, and what is accepted lies within the file.
    #[test]
    fn flipped_header_bits() {
        let (bytes, header) = sample();
        let mut accepted = 0;
        for bit in 0..8 * header {
            for distance in [0, 1, 3, 8, 25, 177] {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                if distance > 0 {
                    let second = (bit + distance) % (8 * header);
                    damaged[second / 8] ^= 1 << (second % 8);
                }
                if let Ok(layout) = Layout::parse(&damaged, "x") {
                    accepted += 1;
                    let data = damaged.len() - layout.data_start;
                    assert!(layout.entries.values().all(|entry| entry.range.end <= data));
                }
            }
        }
        // Only names, the metadata and blanks may change without notice.
        assert!(accepted < 8 * header, "{accepted} of {} damaged headers were accepted", 6 * 8 * header);
    }
}
