//! Global memory: allocations, which bytes were ever written, and who accessed each word in this launch.
//!
//! Blocks run on several threads of the host, so every word is atomic. The record of accesses takes part in one compare-and-exchange per word.

use super::order::{Known, Released};
use super::{Words, byte_mask};
use crate::error::{Exec, TrapKind, lane_fault};
use crate::inst::Order;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// The most blocks in a grid; the number must fit in a [`Record`].
pub(crate) const MAX_BLOCKS: u64 = (1 << 19) - 2;
/// Several blocks.
const MANY: u32 = (1 << 19) - 1;
/// Launches that the record can tell apart before it must be swept.
pub(crate) const MAX_EPOCH: u8 = u8::MAX;
/// Addresses start here.
const START: u64 = 0x7_0000_0000;
/// Nothing lies in the bytes after an allocation.
const GAP: u64 = 256;

/// Who wrote, or who read, a word in which launch: block number 19 bits (0 is nobody), launch 8, bytes 4, flag 1. The flag says of a write
/// that it was strong, of a read that it was `.nc`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Record {
    block: u32,
    epoch: u8,
    mask: u8,
    flag: bool,
}

impl Record {
    fn unpack(bits: u32) -> Self {
        Record { block: bits >> 13, epoch: (bits >> 5) as u8, mask: (bits >> 1 & 0xf) as u8, flag: bits & 1 == 1 }
    }

    fn pack(self) -> u32 {
        self.block << 13 | u32::from(self.epoch) << 5 | u32::from(self.mask) << 1 | u32::from(self.flag)
    }

    /// Whether somebody is recorded for that launch and those bytes.
    fn touches(self, epoch: u8, mask: u8) -> bool {
        self.block != 0 && self.epoch == epoch && self.mask & mask != 0
    }
}

/// A block as global memory sees it.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    /// From 1.
    pub block: u32,
    pub epoch: u8,
    /// Launches that may still run until `griddepcontrol.wait`, and those that may even then.
    pub unfinished: &'a [u8],
    pub unawaited: &'a [u8],
    pub known: Known,
}

/// One access of a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub lane: u8,
    pub order: Order,
    /// `.nc`.
    pub constant: bool,
    /// The lane has executed `griddepcontrol.wait`, or need not.
    pub dependencies_met: bool,
}

#[derive(Debug)]
struct Allocation {
    base: u64,
    bytes: u64,
    /// Of reserved addresses, which pages are memory.
    pages: Option<Pages>,
    /// Ranges that are counted apart, by address, with their ends and labels.
    labels: Vec<(u64, u64, usize)>,
    words: Box<[AtomicU32]>,
    initialised: Box<[AtomicU8]>,
    /// A write record in the low half, a read record in the high one.
    records: Box<[AtomicU64]>,
}

/// Pages of reserved addresses, and whether each is mapped.
#[derive(Debug)]
struct Pages {
    bytes: u64,
    mapped: Vec<bool>,
}

impl Pages {
    /// The pages of a range, if it consists of whole pages that are all mapped, or all not.
    fn all(&self, offset: u64, bytes: u64, mapped: bool) -> Option<Range<usize>> {
        let whole = bytes > 0 && offset.is_multiple_of(self.bytes) && bytes.is_multiple_of(self.bytes);
        let range = (offset / self.bytes) as usize..((offset + bytes) / self.bytes) as usize;
        let same = self.mapped.get(range.clone())?.iter().all(|m| *m == mapped);
        (whole && same).then_some(range)
    }
}

impl Allocation {
    /// Whether the range lies in it, and all of it is memory.
    fn holds(&self, address: u64, bytes: u64) -> bool {
        let Some(end) = address.checked_add(bytes) else { return false };
        address >= self.base && end <= self.base + self.bytes && self.is_mapped(address - self.base, bytes)
    }

    fn is_mapped(&self, offset: u64, bytes: u64) -> bool {
        let Some(pages) = &self.pages else { return true };
        let touched = (offset / pages.bytes) as usize..(offset + bytes).div_ceil(pages.bytes) as usize;
        touched.into_iter().all(|page| pages.mapped[page])
    }

    fn new(base: u64, bytes: u64, pages: Option<Pages>) -> Self {
        let words = bytes.div_ceil(4) as usize;
        Allocation {
            base,
            bytes,
            pages,
            labels: vec![],
            words: std::iter::repeat_with(|| AtomicU32::new(0)).take(words).collect(),
            initialised: std::iter::repeat_with(|| AtomicU8::new(0)).take(words).collect(),
            records: std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect(),
        }
    }
}

/// All allocations, by address.
#[derive(Debug)]
pub(crate) struct Global {
    allocations: Vec<Allocation>,
    next: u64,
    used: u64,
    capacity: u64,
    /// Strong accesses exclude each other.
    pub strong: Mutex<Released>,
}

/// A word of memory that was found.
#[derive(Clone, Copy)]
pub(crate) struct Place<'g> {
    allocation: &'g Allocation,
    address: u64,
}

impl Global {
    pub fn new(capacity: u64) -> Self {
        Global { allocations: vec![], next: START, used: 0, capacity, strong: Mutex::default() }
    }

    pub fn alloc(&mut self, bytes: u64) -> Result<u64, String> {
        if bytes == 0 || bytes > self.capacity - self.used {
            return Err(format!("found an allocation of {bytes} bytes, expected 1 to {}", self.capacity - self.used));
        }
        let base = self.next;
        self.next = (base + bytes + GAP).next_multiple_of(256);
        self.used += bytes;
        self.allocations.push(Allocation::new(base, bytes, None));
        Ok(base)
    }

    /// Addresses without memory.
    pub fn reserve(&mut self, bytes: u64, page: u64) -> Result<u64, String> {
        if bytes == 0 || page < 256 || !page.is_power_of_two() || !bytes.is_multiple_of(page) {
            return Err(format!(
                "found {bytes} bytes in pages of {page}, expected whole pages of 256 bytes or more, a power of two"
            ));
        }
        let base = self.next.next_multiple_of(page);
        self.next = (base + bytes + GAP).next_multiple_of(256);
        let mapped = vec![false; (bytes / page) as usize];
        self.allocations.push(Allocation::new(base, bytes, Some(Pages { bytes: page, mapped })));
        Ok(base)
    }

    /// Makes pages of reserved addresses memory that nobody has written, or no memory.
    pub fn map(&mut self, address: u64, bytes: u64, mapped: bool) -> Result<(), String> {
        let left = self.capacity - self.used;
        if mapped && bytes > left {
            return Err(format!("found a mapping of {bytes} bytes, expected at most {left}"));
        }
        let state = if mapped { "not mapped" } else { "mapped" };
        let refused = || {
            format!("found {bytes} bytes at {address:#x}, expected whole pages of reserved addresses that are {state}")
        };
        let of = |a: &&mut Allocation| a.base <= address && address < a.base + a.bytes;
        let a = self.allocations.iter_mut().find(of).ok_or_else(refused)?;
        let offset = address - a.base;
        let pages = a.pages.as_mut().ok_or_else(refused)?;
        let range = pages.all(offset, bytes, !mapped).ok_or_else(refused)?;
        pages.mapped[range].fill(mapped);
        let words = (offset / 4) as usize..((offset + bytes) / 4) as usize;
        a.initialised[words].iter().for_each(|i| i.store(0, Relaxed));
        self.used = if mapped { self.used + bytes } else { self.used - bytes };
        Ok(())
    }

    /// Has the accesses to a range counted apart. Ranges come in ascending order and do not overlap.
    pub fn label(&mut self, address: u64, bytes: u64, label: usize) -> Result<(), String> {
        let outside = self.outside(address, bytes);
        let end = address.saturating_add(bytes);
        let spans = |a: &&mut Allocation| a.base <= address && end <= a.base + a.bytes;
        let labels = &mut self.allocations.iter_mut().find(spans).ok_or(outside)?.labels;
        if labels.last().is_some_and(|(_, last, _)| *last > address) {
            return Err(format!("found a label at {address:#x}, expected one behind those that are there"));
        }
        labels.push((address, end, label));
        Ok(())
    }

    pub fn free(&mut self, address: u64) -> Result<(), String> {
        let found = self.allocations.iter().position(|a| a.base == address);
        let n = found.ok_or_else(|| format!("found {address:#x}, expected the address of an allocation"))?;
        let freed = self.allocations.remove(n);
        self.used -= freed.pages.map_or(freed.bytes, |p| p.bytes * p.mapped.iter().filter(|m| **m).count() as u64);
        Ok(())
    }

    fn find(&self, address: u64, bytes: u64) -> Option<&Allocation> {
        let after = self.allocations.partition_point(|a| a.base <= address);
        let a = self.allocations[..after].last()?;
        a.holds(address, bytes).then_some(a)
    }

    /// Whether the address is reserved and no memory.
    fn unmapped(&self, address: u64) -> bool {
        let of = |a: &&Allocation| a.base <= address && address < a.base + a.bytes;
        self.allocations.iter().find(of).is_some_and(|a| !a.is_mapped(address - a.base, 1))
    }

    fn outside(&self, address: u64, bytes: u64) -> String {
        let after = self.allocations.partition_point(|a| a.base <= address);
        let near = self.allocations[..after].last().or(self.allocations.first());
        let near =
            near.map_or("there is none".into(), |a| format!("the nearest has {} bytes at {:#x}", a.bytes, a.base));
        let near = if self.unmapped(address) { format!("{near}, and a page is not mapped") } else { near };
        format!("found {bytes} bytes at global address {address:#x}, expected them within an allocation ({near})")
    }

    /// Copies from the host.
    pub fn upload(&mut self, address: u64, data: &[u8]) -> Result<(), String> {
        let outside = self.outside(address, data.len() as u64);
        let a = self.find(address, data.len() as u64).ok_or(outside)?;
        for (n, byte) in data.iter().enumerate() {
            let at = (address - a.base) as usize + n;
            let (word, shift) = (&a.words[at / 4], 8 * (at % 4));
            word.store(word.load(Relaxed) & !(0xff << shift) | u32::from(*byte) << shift, Relaxed);
            a.initialised[at / 4].fetch_or(1 << (at % 4), Relaxed);
        }
        Ok(())
    }

    /// Copies to the host; bytes must have been written.
    pub fn download(&self, address: u64, bytes: u64) -> Result<Vec<u8>, String> {
        let a = self.find(address, bytes).ok_or_else(|| self.outside(address, bytes))?;
        let start = (address - a.base) as usize;
        let byte = |at: usize| {
            if a.initialised[at / 4].load(Relaxed) >> (at % 4) & 1 == 0 {
                return Err(format!("found a byte at {:#x} that was never written", a.base + at as u64));
            }
            Ok((a.words[at / 4].load(Relaxed) >> (8 * (at % 4))) as u8)
        };
        (start..start + bytes as usize).map(byte).collect()
    }

    /// Forgets the records of all launches but `last`, which becomes number 1.
    pub fn sweep(&mut self, last: u8) {
        for record in self.allocations.iter().flat_map(|a| a.records.iter()) {
            let keep = |bits: u32| {
                let r = Record::unpack(bits);
                if r.epoch == last { Record { epoch: 1, ..r }.pack() } else { 0 }
            };
            let bits = record.load(Relaxed);
            record.store(u64::from(keep(bits as u32)) | u64::from(keep((bits >> 32) as u32)) << 32, Relaxed);
        }
    }

    /// Finds the place of an access of `bytes` bytes, which must be aligned.
    pub fn locate(&self, lane: usize, address: u64, bytes: u32) -> Exec<Place<'_>> {
        let Some(allocation) = self.find(address, bytes.into()) else {
            return lane_fault(TrapKind::OutOfBounds, lane, self.outside(address, bytes.into()));
        };
        if !address.is_multiple_of(bytes.into()) {
            let message = format!("found {bytes} bytes at global address {address:#x}, expected a multiple of {bytes}");
            return lane_fault(TrapKind::Misaligned, lane, message);
        }
        Ok(Place { allocation, address })
    }

    /// As [`Global::locate`], for the lane after one that touched `near`.
    pub fn locate_near<'g>(
        &'g self,
        near: Option<Place<'g>>,
        lane: usize,
        address: u64,
        bytes: u32,
    ) -> Exec<Place<'g>> {
        if let Some(Place { allocation: a, .. }) = near
            && a.holds(address, bytes.into())
            && address.is_multiple_of(bytes.into())
        {
            return Ok(Place { allocation: a, address });
        }
        self.locate(lane, address, bytes)
    }
}

impl Place<'_> {
    /// The label of the range; 0 without one.
    pub fn label(self) -> usize {
        let labels = &self.allocation.labels;
        let after = labels.partition_point(|(start, ..)| *start <= self.address);
        labels[..after].last().filter(|(_, end, _)| self.address < *end).map_or(0, |(.., label)| *label)
    }

    fn word(self) -> usize {
        (self.address - self.allocation.base) as usize / 4
    }

    /// Reads `bytes` (1, 2, 4, 8, 16) with all checks.
    pub fn read(self, agent: &Agent, access: Access, bytes: u32) -> Exec<Words> {
        let mut out = [0; 4];
        for (n, (value, _)) in self.read_words(agent, access, bytes, true)?.into_iter().enumerate().take(4) {
            out[n] = value;
        }
        if bytes < 4 {
            out[0] = out[0] >> (8 * (self.address % 4)) & ((1 << (8 * bytes)) - 1);
        }
        Ok(out)
    }

    /// Reads words of 4 bytes without demanding that they were written, with the bytes that were.
    pub fn peek(self, agent: &Agent, access: Access, bytes: u32) -> Exec<[(u32, u8); 4]> {
        self.read_words(agent, access, bytes, false)
    }

    fn read_words(self, agent: &Agent, access: Access, bytes: u32, strict: bool) -> Exec<[(u32, u8); 4]> {
        let (a, first, mask) = (self.allocation, self.word(), byte_mask(self.address, bytes));
        let mut out = [(0, 0); 4];
        for (n, out) in out.iter_mut().enumerate().take(bytes.div_ceil(4) as usize) {
            let initialised = a.initialised[first + n].load(Relaxed);
            if strict && initialised & mask != mask {
                let at = self.address + 4 * n as u64;
                let message = format!("global memory at {at:#x} was never written");
                return lane_fault(TrapKind::UninitialisedMemory, access.lane.into(), message);
            }
            self.note_read(agent, access, n, mask)?;
            *out = (a.words[first + n].load(Relaxed), initialised);
        }
        Ok(out)
    }

    /// Writes `bytes` with all checks.
    pub fn write(self, agent: &Agent, access: Access, bytes: u32, value: Words) -> Exec {
        let (a, first, mask) = (self.allocation, self.word(), byte_mask(self.address, bytes));
        for (n, value) in value.iter().enumerate().take(bytes.div_ceil(4) as usize) {
            self.note_write(agent, access, n, mask)?;
            let word = &a.words[first + n];
            if bytes >= 4 {
                word.store(*value, Relaxed);
            } else {
                let shift = 8 * (self.address % 4) as u32;
                let part = ((1u32 << (8 * bytes)) - 1) << shift;
                // another block may write the other half of the word
                let _ = word.fetch_update(Relaxed, Relaxed, |old| Some(old & !part | value << shift & part));
            }
            a.initialised[first + n].fetch_or(mask, Relaxed);
        }
        Ok(())
    }

    /// Replaces the words by `f` of them; the caller holds the lock of strong accesses. Returns the old ones.
    pub fn update(self, agent: &Agent, access: Access, bytes: u32, f: impl FnOnce(u64) -> u64) -> Exec<u64> {
        let old = self.read(agent, access, bytes)?;
        let old = u64::from(old[0]) | u64::from(old[1]) << 32;
        let new = f(old);
        self.write(agent, access, bytes, [new as u32, (new >> 32) as u32, 0, 0])?;
        Ok(old)
    }

    fn race<T>(self, access: Access, n: usize, what: &str, other: Record) -> Exec<T> {
        let at = self.address + 4 * n as u64;
        let by = if other.block == MANY { "several blocks".into() } else { format!("block {}", other.block - 1) };
        let message =
            format!("{what} of global memory at {at:#x} by {by} in this launch is not ordered with this access");
        lane_fault(TrapKind::Race, access.lane.into(), message)
    }

    fn check_dependency(self, agent: &Agent, access: Access, n: usize, what: &str, other: Record) -> Exec {
        let running = if access.dependencies_met { agent.unawaited } else { agent.unfinished };
        if other.block == 0 || !running.contains(&other.epoch) {
            return Ok(());
        }
        let at = self.address + 4 * n as u64;
        let message = format!(
            "found {what} of global memory at {at:#x} by an earlier launch that may still run, expected `griddepcontrol.wait` before"
        );
        lane_fault(TrapKind::BeforeDependency, access.lane.into(), message)
    }

    fn not_constant<T>(self, access: Access, n: usize) -> Exec<T> {
        let at = self.address + 4 * n as u64;
        let message = format!("global memory at {at:#x} is read with `.nc` and written in the same launch");
        lane_fault(TrapKind::NotConstant, access.lane.into(), message)
    }

    fn note_read(self, agent: &Agent, access: Access, n: usize, mask: u8) -> Exec {
        let record = &self.allocation.records[self.word() + n];
        let mut bits = record.load(Relaxed);
        loop {
            let (w, r) = (Record::unpack(bits as u32), Record::unpack((bits >> 32) as u32));
            self.check_dependency(agent, access, n, "a write", w)?;
            if w.touches(agent.epoch, mask) {
                if access.constant {
                    return self.not_constant(access, n);
                }
                self.check_order(agent, access, n, mask, "a write", w, w.flag)?;
            }
            if access.order.strong {
                return Ok(());
            }
            let mut next = Record { block: agent.block, epoch: agent.epoch, mask, flag: access.constant };
            if r.block != 0 && r.epoch == agent.epoch {
                next.block = if r.block == agent.block { r.block } else { MANY };
                next.mask |= r.mask;
                next.flag |= r.flag;
            }
            if next == r {
                return Ok(());
            }
            let new = bits & 0xffff_ffff | u64::from(next.pack()) << 32;
            match record.compare_exchange_weak(bits, new, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => bits = other,
            }
        }
    }

    /// Whether the access of another block is ordered with this one; `strong` says that the other was strong too.
    #[allow(clippy::too_many_arguments)]
    fn check_order(
        self,
        agent: &Agent,
        access: Access,
        n: usize,
        mask: u8,
        what: &str,
        other: Record,
        strong: bool,
    ) -> Exec {
        let known = match other.block {
            // which of them touched these bytes is not recorded
            MANY => mask != 0xf || !agent.known.blocks.is_empty(),
            block => block == agent.block || agent.known.blocks.contains(&block),
        };
        if known || (access.order.strong && strong) { Ok(()) } else { self.race(access, n, what, other) }
    }

    fn note_write(self, agent: &Agent, access: Access, n: usize, mask: u8) -> Exec {
        let record = &self.allocation.records[self.word() + n];
        let mut bits = record.load(Relaxed);
        loop {
            let (w, r) = (Record::unpack(bits as u32), Record::unpack((bits >> 32) as u32));
            self.check_dependency(agent, access, n, "a write", w)?;
            self.check_dependency(agent, access, n, "a read", r)?;
            if r.touches(agent.epoch, mask) {
                if r.flag {
                    return self.not_constant(access, n);
                }
                self.check_order(agent, access, n, mask, "a read", r, false)?;
            }
            if w.touches(agent.epoch, mask) {
                self.check_order(agent, access, n, mask, "a write", w, w.flag)?;
            }
            let mut next = Record { block: agent.block, epoch: agent.epoch, mask, flag: access.order.strong };
            if w.block != 0 && w.epoch == agent.epoch {
                let apart = w.block != agent.block && (w.mask & mask == 0 || next.flag);
                next.block = if apart { MANY } else { agent.block };
                next.mask |= w.mask;
            }
            if next == w {
                return Ok(());
            }
            let new = bits & !0xffff_ffff | u64::from(next.pack());
            match record.compare_exchange_weak(bits, new, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => bits = other,
            }
        }
    }
}
