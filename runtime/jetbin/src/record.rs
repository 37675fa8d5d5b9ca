//! Fixed-size little-endian records: each is declared once, its encoding and decoding follow.

/// A value with a fixed size in the file.
pub(crate) trait Record: Sized {
    /// Bytes in the file.
    const SIZE: usize;
    /// Appends the bytes.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads it back from exactly `SIZE` bytes.
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! numbers {
    ($($ty:ty)*) => {$(
        impl Record for $ty {
            const SIZE: usize = size_of::<$ty>();
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$ty>()];
                raw.copy_from_slice(&bytes[..size_of::<$ty>()]);
                <$ty>::from_le_bytes(raw)
            }
        }
    )*};
}
numbers!(u16 u32 u64);

impl<const N: usize> Record for [u8; N] {
    const SIZE: usize = N;
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn get(bytes: &[u8]) -> Self {
        let mut raw = [0; N];
        raw.copy_from_slice(&bytes[..N]);
        raw
    }
}

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct $name { $(pub $field: $ty,)* }

        impl Record for $name {
            const SIZE: usize = 0 $(+ <$ty as Record>::SIZE)*;
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
            fn get(bytes: &[u8]) -> Self {
                let mut rest = bytes;
                $(
                    let $field = <$ty as Record>::get(rest);
                    rest = &rest[<$ty as Record>::SIZE..];
                )*
                debug_assert!(rest.len() == bytes.len() - Self::SIZE);
                Self { $($field,)* }
            }
        }
    )*};
}

records! {
    /// A string of the pool.
    Text { offset: u32, length: u32, }
    /// The first bytes of the file; `hash` covers them (with zeros in its own place) and the section table.
    Header { magic: [u8; 8], major: u16, minor: u16, sections: u32, total_bytes: u64, hash: [u8; 32], }
    /// One row of the section table; `index` is the target, or zero.
    Section { kind: u32, index: u32, offset: u64, length: u64, hash: [u8; 32], reserved: u64, }
    /// The first bytes of a file with external weights.
    ExternalHeader { magic: [u8; 8], length: u64, hash: [u8; 32], }
    FactsRecord {
        name: Text, vocab_size: u32, hidden_size: u32, n_layers: u32, rope_dim: u32, max_context: u32, max_batch: u32,
        prefill_chunk: u32, n_eos: u32,
    }
    TargetRecord { name: Text, arch: Text, features: Text, device: u32, rank: u32, }
    KernelRecord { name: Text, key: Text, offset: u64, length: u64, }
    LaunchRecord {
        threads: u32, rows: u32, items: u32, shared_bytes: u32, overlaps: u32, beyond: u32, wider: u32, reserved: u32,
    }
    CubinRecord { major: u32, minor: u32, reserved: u64, }
    StatesRecord { slot_bytes: u64, n_states: u64, }
    StateRecord {
        name: Text, kind: u32, layer: u32, offset: u64, rows: u32, cols: u32, heads: u32, window: u32,
        zero_at_start: u32, dtype: u32,
    }
    WeightRecord { name: Text, layout: Text, sources: Text, dtype: u32, reserved: u32, offset: u64, length: u64, }
    ProgramRecord {
        max_rows: u32, head_rows: u32, arena_bytes: u64, scratch_bytes: u64, logits: u32, argmax: u32, n_buffers: u32,
        n_steps: u32, n_args: u32, n_probes: u32,
    }
    BufferRecord { name: Text, offset: u64, row_bytes: u64, domain: u32, reserved: u32, }
    StepRecord {
        label: Text, kernel: u32, domain: u32, items_fixed: u32, items_per_row: u32, first_arg: u32, n_args: u32,
        weight_bytes: u64, state_bytes: u64, act_bytes: u64, flops: u64,
    }
    ArgRecord { kind: u32, index: u32, value: u64, }
    ProbeRecord { kind: u32, layer: u32, step: u32, source: u32, buffer: u32, reserved: u32, offset: u64, row_bytes: u64, }
}

/// The first eight bytes of an artifact. The high bit and the line ends reveal a transfer that was not binary.
pub(crate) const MAGIC: [u8; 8] = *b"\x89JETB\r\n\x1a";
/// The first eight bytes of a file with external weights.
pub(crate) const EXTERNAL_MAGIC: [u8; 8] = *b"\x89JETW\r\n\x1a";
/// Sections start at multiples of this many bytes.
pub(crate) const SECTION_ALIGN: u64 = 4096;
/// Header and section table lie in this many bytes; the first section follows.
pub(crate) const HEAD_BYTES: u64 = 16384;
/// Rows that fit into the section table.
pub(crate) const MAX_SECTIONS: usize = (HEAD_BYTES as usize - Header::SIZE) / Section::SIZE;
/// Stands for "none" where an index is optional.
pub(crate) const NONE: u32 = u32::MAX;

/// Hash of header and section table, with zeros in the place of the hash.
pub(crate) fn head_hash(header: &Header, table: &[u8]) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(Header::SIZE);
    Header { hash: [0; 32], ..*header }.put(&mut bytes);
    *blake3::Hasher::new().update(&bytes).update(table).finalize().as_bytes()
}
