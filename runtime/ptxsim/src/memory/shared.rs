//! The shared memory of one block, and for each word of it who wrote and who read it last.

use super::clock::{Actor, Clocks, LANES, Who};
use super::{SHARED_BASE, Words, byte_mask};
use crate::error::{Exec, TrapKind, lane_fault};

/// Nobody.
const NONE: Actor = Actor::MAX;
/// Several warps; `time` is an index into the list of readers.
const MANY: Actor = Actor::MAX - 1;

/// The last access of a kind.
#[derive(Clone, Copy, Debug)]
struct Access {
    time: u32,
    actor: Actor,
    lane: u8,
    /// The bytes, one bit each.
    mask: u8,
    /// An atomic operation.
    atomic: bool,
}

const NEVER: Access = Access { time: 0, actor: NONE, lane: 0, mask: 0, atomic: false };

#[derive(Clone, Copy, Debug)]
struct Cell {
    write: Access,
    read: Access,
    initialised: u8,
    /// An asynchronous copy to here has not been waited for.
    in_flight: bool,
}

/// Shared memory of a block.
#[derive(Debug)]
pub(crate) struct Shared {
    bytes: u32,
    words: Vec<u32>,
    cells: Vec<Cell>,
    /// Lists of readers: for each actor the time of its last read. Free ones are in `free`.
    readers: Vec<Box<[u32]>>,
    free: Vec<u32>,
}

impl Shared {
    pub fn new(bytes: u32) -> Self {
        let words = bytes.div_ceil(4) as usize;
        let cell = Cell { write: NEVER, read: NEVER, initialised: 0, in_flight: false };
        Shared { bytes, words: vec![0; words], cells: vec![cell; words], readers: vec![], free: vec![] }
    }

    /// The offset of an access, which must be aligned and inside.
    pub fn locate(&self, lane: usize, address: u64, bytes: u32) -> Exec<usize> {
        let (start, end) = (u64::from(SHARED_BASE), u64::from(SHARED_BASE + self.bytes));
        if address < start || address.saturating_add(bytes.into()) > end {
            let found = format!("found {bytes} bytes at shared address {address:#x}, expected {start:#x} to {end:#x}");
            return lane_fault(TrapKind::OutOfBounds, lane, found);
        }
        if !address.is_multiple_of(bytes.into()) {
            let found = format!("found {bytes} bytes at shared address {address:#x}, expected a multiple of {bytes}");
            return lane_fault(TrapKind::Misaligned, lane, found);
        }
        Ok((address - start) as usize)
    }

    /// The offset of a range of any length, aligned to 16.
    pub fn locate_range(&self, lane: usize, address: u64, bytes: u32) -> Exec<usize> {
        let offset = self.locate(lane, address, 16)?;
        self.locate(lane, address + u64::from(bytes) - 16, 16)?;
        Ok(offset)
    }

    /// Reads `bytes` (1, 2, 4, 8, 16) at an offset that [`Shared::locate`] gave.
    pub fn read(&mut self, clocks: &Clocks, who: Who, at: usize, bytes: u32) -> Exec<Words> {
        let mut out = [0; 4];
        let mask = byte_mask(at as u64, bytes);
        for (n, word) in (at / 4..(at + bytes as usize).div_ceil(4)).enumerate() {
            self.check_read(clocks, who, word, mask)?;
            self.note_read(clocks, who, word, mask);
            out[n] = self.words[word];
        }
        if bytes < 4 {
            out[0] = out[0] >> (8 * (at % 4)) & ((1 << (8 * bytes)) - 1);
        }
        Ok(out)
    }

    /// Writes like [`Shared::read`] reads.
    pub fn write(&mut self, clocks: &Clocks, who: Who, at: usize, bytes: u32, value: Words) -> Exec {
        let mask = byte_mask(at as u64, bytes);
        for (n, word) in (at / 4..(at + bytes as usize).div_ceil(4)).enumerate() {
            let keep = if bytes < 4 { !(((1u32 << (8 * bytes)) - 1) << (8 * (at % 4))) } else { 0 };
            let shift = if bytes < 4 { 8 * (at % 4) } else { 0 };
            let new = self.words[word] & keep | value[n] << shift & !keep;
            self.check_write(clocks, who, word, mask, Some(new))?;
            self.words[word] = new;
            self.note_write(clocks, who, word, mask);
        }
        Ok(())
    }

    /// Replaces 4 or 8 bytes by `f` of them, atomically among such operations; returns the old ones.
    pub fn update(
        &mut self,
        clocks: &Clocks,
        who: Who,
        at: usize,
        bytes: u32,
        f: impl FnOnce(u64) -> u64,
    ) -> Exec<u64> {
        let range = at / 4..(at + bytes as usize) / 4;
        for word in range.clone() {
            // atomic operations need no order among themselves
            if !self.cells[word].write.atomic {
                self.check_read(clocks, who, word, 0xf)?;
                self.check_write(clocks, who, word, 0xf, None)?;
            }
        }
        let old = range.clone().rev().fold(0, |old, word| old << 32 | u64::from(self.words[word]));
        let new = f(old);
        for (n, word) in range.enumerate() {
            self.words[word] = (new >> (32 * n)) as u32;
            self.note_write(clocks, who, word, 0xf);
            self.cells[word].write.atomic = true;
        }
        Ok(old)
    }

    fn race<T>(&self, who: Who, word: usize, what: &str, other: Access) -> Exec<T> {
        let at = SHARED_BASE as usize + 4 * word;
        let by = match other.actor {
            MANY => "several warps".to_string(),
            actor if actor == who.actor => "another lane of this warp".to_string(),
            actor => format!("warp {actor}"),
        };
        let message =
            format!("{what} of shared address {at:#x} by {by} is not ordered before this access by a barrier");
        lane_fault(TrapKind::Race, who.lane.into(), message)
    }

    fn check_in_flight(&self, who: Who, word: usize) -> Exec {
        if !self.cells[word].in_flight {
            return Ok(());
        }
        let at = SHARED_BASE as usize + 4 * word;
        let message = format!("an asynchronous copy to shared address {at:#x} has not been waited for");
        lane_fault(TrapKind::InFlight, who.lane.into(), message)
    }

    fn check_read(&self, clocks: &Clocks, who: Who, word: usize, mask: u8) -> Exec {
        let cell = &self.cells[word];
        self.check_in_flight(who, word)?;
        let w = cell.write;
        if w.mask & mask != 0 && !clocks.ordered(who, w.actor, w.lane, w.time) {
            return self.race(who, word, "a write", w);
        }
        if cell.initialised & mask != mask {
            let at = SHARED_BASE as usize + 4 * word;
            let message = format!("shared memory at {at:#x} was never written");
            return lane_fault(TrapKind::UninitialisedMemory, who.lane.into(), message);
        }
        Ok(())
    }

    /// Checks a write of the word `new` (of an unknown one, if `None`).
    pub fn check_write(&self, clocks: &Clocks, who: Who, word: usize, mask: u8, new: Option<u32>) -> Exec {
        let cell = &self.cells[word];
        self.check_in_flight(who, word)?;
        let w = cell.write;
        if w.mask & mask != 0 && !clocks.ordered(who, w.actor, w.lane, w.time) {
            // lanes that store the same value to the same place are in agreement
            let agree = w.actor == who.actor && new == Some(self.words[word]);
            if !agree {
                return self.race(who, word, "a write", w);
            }
        }
        let r = cell.read;
        if r.mask & mask == 0 || r.actor == NONE {
            return Ok(());
        }
        let ordered = match r.actor {
            MANY => {
                let times = self.readers[r.time as usize].iter().enumerate();
                times.filter(|(_, t)| **t > 0).all(|(a, t)| clocks.ordered(who, a as Actor, LANES, *t))
            }
            actor => clocks.ordered(who, actor, r.lane, r.time),
        };
        if ordered { Ok(()) } else { self.race(who, word, "a read", r) }
    }

    fn note_read(&mut self, clocks: &Clocks, who: Who, word: usize, mask: u8) {
        let r = self.cells[word].read;
        let now = Access { time: clocks.now, actor: who.actor, lane: who.lane, mask: r.mask | mask, atomic: false };
        let next = match r.actor {
            NONE => now,
            MANY => {
                self.readers[r.time as usize][usize::from(who.actor)] = clocks.now;
                Access { mask: now.mask, ..r }
            }
            actor if actor == who.actor => Access { lane: if r.lane == who.lane { r.lane } else { LANES }, ..now },
            actor if clocks.ordered(who, actor, r.lane, r.time) => now,
            actor => {
                let list = self.free.pop().unwrap_or_else(|| {
                    self.readers.push(vec![0; clocks.actors()].into());
                    self.readers.len() as u32 - 1
                });
                let times = &mut self.readers[list as usize];
                times.fill(0);
                times[usize::from(actor)] = r.time;
                times[usize::from(who.actor)] = clocks.now;
                Access { time: list, actor: MANY, lane: LANES, mask: now.mask, atomic: false }
            }
        };
        self.cells[word].read = next;
    }

    fn note_write(&mut self, clocks: &Clocks, who: Who, word: usize, mask: u8) {
        let cell = &mut self.cells[word];
        let own = cell.write.actor == who.actor && cell.write.time == clocks.now && cell.write.lane == who.lane;
        let older = if own { cell.write.mask } else { 0 };
        cell.write = Access { time: clocks.now, actor: who.actor, lane: who.lane, mask: mask | older, atomic: false };
        cell.initialised |= mask;
        if cell.read.actor != NONE {
            cell.read.mask &= !mask;
            if cell.read.mask == 0 {
                if cell.read.actor == MANY {
                    self.free.push(cell.read.time);
                }
                cell.read = NEVER;
            }
        }
    }

    /// An asynchronous copy to `bytes` at `at` begins: from now on the place must not be touched.
    pub fn begin_copy(&mut self, clocks: &Clocks, who: Who, at: usize, bytes: usize) -> Exec {
        for word in at / 4..(at + bytes) / 4 {
            self.check_write(clocks, who, word, 0xf, None)?;
            self.cells[word].in_flight = true;
        }
        Ok(())
    }

    /// The asynchronous proxy must not be sent after a write of the generic one without a fence between.
    fn check_proxy(&self, clocks: &Clocks, who: Who, word: usize) -> Exec {
        let w = self.cells[word].write;
        if w.actor == NONE || w.actor == clocks.async_proxy() || clocks.fenced(who, w.actor, w.time) {
            return Ok(());
        }
        let at = SHARED_BASE as usize + 4 * word;
        let message = format!(
            "shared memory at {at:#x} was written by ordinary instructions, expected `fence.proxy.async` between"
        );
        lane_fault(TrapKind::UnfencedProxy, who.lane.into(), message)
    }

    /// A bulk copy to `bytes` at `at` begins.
    pub fn begin_bulk(&mut self, clocks: &Clocks, who: Who, at: usize, bytes: usize) -> Exec {
        (at / 4..(at + bytes) / 4).try_for_each(|word| self.check_proxy(clocks, who, word))?;
        self.begin_copy(clocks, who, at, bytes)
    }

    /// A word as the asynchronous proxy reads it on behalf of `who`.
    pub fn read_async(&self, clocks: &Clocks, who: Who, at: usize) -> Exec<u32> {
        self.check_read(clocks, who, at / 4, 0xf)?;
        self.check_proxy(clocks, who, at / 4)?;
        Ok(self.words[at / 4])
    }

    /// The asynchronous proxy is done with reading a word on behalf of `who`: nobody must have touched it meanwhile, nor touch it before what
    /// comes behind this.
    pub fn end_read(&mut self, clocks: &Clocks, who: Who, at: usize, word: u32) -> Exec {
        if self.words[at / 4] != word || self.cells[at / 4].in_flight {
            let message = "an operand of wgmma in shared memory changed before the product was complete";
            return lane_fault(TrapKind::EarlyOverwrite, 0, message);
        }
        self.note_read(clocks, who, at / 4, 0xf);
        Ok(())
    }

    /// A word as it is now, without any check.
    pub fn peek(&self, at: usize) -> u32 {
        self.words[at / 4]
    }

    /// The copy arrives, as a write of `who`; bytes that the source did not have stay uninitialised.
    pub fn end_copy(&mut self, clocks: &Clocks, who: Who, at: usize, data: &[(u32, u8)]) {
        for (word, (value, initialised)) in (at / 4..).zip(data) {
            self.cells[word].in_flight = false;
            self.words[word] = *value;
            self.note_write(clocks, who, word, 0xf);
            self.cells[word].initialised = *initialised;
        }
    }
}
