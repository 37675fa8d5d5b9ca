//! Where the states of sequences lie, and what of it has to be memory: recurrent states from the start, caches as far as their
//! sequence has come.

use crate::device::{Content, Device};
use crate::error::Result;
use jetbin::{Reader, StateKind};

/// The states of all sequences, as offsets.
#[derive(Clone, Debug)]
pub(crate) struct States {
    /// Bytes from one sequence to the next.
    slot_bytes: u64,
    sequences: u32,
    /// Offset in a slot and bytes of the states that have one size, and whether a new sequence needs zeros there.
    fixed: Vec<(u64, u64, bool)>,
    caches: Vec<Cache>,
    /// Place on the device, once they have one.
    base: u64,
}

/// Keys or values of a layer: a row for each token, or for the last ones.
#[derive(Clone, Copy, Debug)]
struct Cache {
    offset: u64,
    rows: u64,
    row_bytes: u64,
}

impl States {
    /// Those of so many sequences of a model on a target.
    pub fn new(reader: &Reader<'_>, target: u32, sequences: u32) -> Self {
        let (mut fixed, mut caches) = (vec![], vec![]);
        for state in reader.states(target).iter() {
            let (offset, rows) = (state.offset, u64::from(state.rows));
            match state.kind {
                StateKind::Keys | StateKind::Values => {
                    caches.push(Cache { offset, rows, row_bytes: state.bytes() / rows.max(1) });
                }
                StateKind::Conv | StateKind::Delta => fixed.push((offset, state.bytes(), state.zero_at_start)),
            }
        }
        fixed.sort_unstable();
        Self { slot_bytes: reader.slot_bytes(target), sequences, fixed, caches, base: 0 }
    }

    /// Offset and length of what has to be memory before the first token, ascending.
    pub fn at_start(&self) -> Vec<(u64, u64)> {
        let slots = (0..self.sequences).map(|i| u64::from(i) * self.slot_bytes);
        slots.flat_map(|slot| self.fixed.iter().map(move |&(offset, bytes, _)| (slot + offset, bytes))).collect()
    }

    /// Takes their place on a device.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub fn place(&mut self, device: &mut dyn Device) -> Result<u64> {
        let bytes = self.slot_bytes * u64::from(self.sequences);
        self.base = device.states(bytes)?;
        device.note(self.base, bytes, Content::States)?;
        for (offset, bytes) in self.at_start() {
            device.commit(self.base + offset, bytes)?;
        }
        Ok(self.base)
    }

    /// Has room for the first `tokens` tokens of a sequence.
    ///
    /// # Errors
    /// If there is not so much memory; what the sequence holds stays as it is.
    pub fn grow(&self, device: &mut dyn Device, sequence: u32, tokens: u32) -> Result<()> {
        let slot = self.base + u64::from(sequence) * self.slot_bytes;
        for cache in &self.caches {
            device.commit(slot + cache.offset, cache.rows.min(tokens.into()) * cache.row_bytes)?;
        }
        Ok(())
    }

    /// Zeros where a new sequence needs them, and nothing in the caches.
    ///
    /// # Errors
    /// If the device fails.
    pub fn reset(&self, device: &mut dyn Device, sequence: u32) -> Result<()> {
        let slot = self.base + u64::from(sequence) * self.slot_bytes;
        for &(offset, bytes, _) in self.fixed.iter().filter(|(.., zeroed)| *zeroed) {
            device.zero(slot + offset, bytes)?;
        }
        for cache in &self.caches {
            device.release(slot + cache.offset, cache.rows * cache.row_bytes)?;
        }
        Ok(())
    }

    /// Offset in a slot and bytes of what holds a sequence of `tokens` tokens.
    fn held(&self, tokens: u32) -> impl Iterator<Item = (u64, u64)> {
        let fixed = self.fixed.iter().map(|&(offset, bytes, _)| (offset, bytes));
        let rows = move |cache: &Cache| cache.rows.min(tokens.into());
        fixed.chain(self.caches.iter().map(move |cache| (cache.offset, rows(cache) * cache.row_bytes)))
    }

    /// What holds a sequence of `tokens` tokens.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self, device: &mut dyn Device, sequence: u32, tokens: u32) -> Result<Vec<u8>> {
        let slot = self.base + u64::from(sequence) * self.slot_bytes;
        let total: u64 = self.held(tokens).map(|(_, bytes)| bytes).sum();
        let mut out = vec![0; total as usize];
        let mut rest = &mut out[..];
        for (offset, bytes) in self.held(tokens) {
            let (here, later) = rest.split_at_mut(bytes as usize);
            device.download(slot + offset, here)?;
            rest = later;
        }
        Ok(out)
    }

    /// Puts back what [`States::read`] gave for as many tokens; there is room for it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn write(&self, device: &mut dyn Device, sequence: u32, tokens: u32, mut from: &[u8]) -> Result<()> {
        let slot = self.base + u64::from(sequence) * self.slot_bytes;
        for (offset, bytes) in self.held(tokens) {
            let (here, later) = from.split_at(bytes as usize);
            device.upload(slot + offset, here)?;
            from = later;
        }
        Ok(())
    }
}
