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
        let origin = path.display().to_string();
        let file = File::open(path).map_err(|e| Problems::io(path, "open", &e))?;
        let length = file.metadata().map_err(|e| Problems::io(path, "read", &e))?.len();
        if length < 8 {
            let message = format!("found {length} bytes, expected a safetensors file of at least 8");
            return Err(Problems::one(origin, message));
        }
        // SAFETY: the map is only read. As with every mapped file, nobody may shorten it meanwhile; a writer of ours
        // never does, because it renames finished files into place.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Problems::io(path, "map", &e))?;
        let header_bytes = u64::from_le_bytes(*map.first_chunk().expect("the length was checked"));
        if header_bytes > MAX_HEADER_BYTES || header_bytes > length - 8 {
            let message = format!(
                "the header claims {header_bytes} bytes, expected at most {} (cut short, or not a safetensors file)",
                MAX_HEADER_BYTES.min(length - 8)
            );
            return Err(Problems::one(origin, message));
        }
        let data_start = 8 + header_bytes as usize;
        let header: Header = serde_json::from_slice(&map[8..data_start])
            .map_err(|e| Problems::one(&origin, format!("the header is not valid JSON: {e}")))?;
        let mut out = Collector::default();
        let (names, entries) = read_entries(&origin, header, &mut out);
        if out.is_empty() {
            check_cover(&origin, &names, &entries, map.len() - data_start, &mut out);
        }
        out.finish(TensorFile { path: path.to_path_buf(), map, data_start, names, entries })
    }

    /// The file's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names in the header's order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Type and shape of a tensor.
    pub fn entry(&self, name: &str) -> Option<&TensorEntry> {
        self.entries.get(name)
    }

    /// The little-endian bytes of a tensor.
    pub fn bytes(&self, entry: &TensorEntry) -> &[u8] {
        &self.map[self.data_start..][entry.range.clone()]
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
