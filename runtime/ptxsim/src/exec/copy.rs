//! `cp.async`: a copy is in flight from its issue until its lane waits for it, and then arrives at once (PTX ISA, `cp.async`).

use super::{Machine, Warp, lanes};
use crate::counters::Traffic;
use crate::error::{Exec, TrapKind, lane_fault};
use crate::inst::{CopyOp, Order};
use crate::memory::global::Place;

/// A copy of one lane in flight.
#[derive(Debug)]
struct Copy {
    lane: u8,
    /// Groups that the lane had committed before.
    group: u32,
    to: usize,
    from: u64,
    /// Of the destination, and how many of them come from memory.
    bytes: u32,
    source_bytes: u32,
    data: Data,
}

/// Words with the bytes of each that were initialised.
type Data = [(u32, u8); 4];

/// Copies of a warp in flight.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    flying: Vec<Copy>,
    committed: [u32; 32],
}

impl Warp {
    pub(super) fn copy(&mut self, op: &CopyOp, on: u32, m: &mut Machine) -> Exec {
        match op {
            CopyOp::Async { .. } => self.copy_async(op, on, m),
            CopyOp::Commit => {
                lanes(on).for_each(|lane| self.copies.committed[lane] += 1);
                Ok(())
            }
            CopyOp::Wait { pending } => {
                let done = self.copies.committed.map(|n| n.saturating_sub(*pending));
                self.land(on, m, |copy| copy.group < done[usize::from(copy.lane)])
            }
            CopyOp::WaitAll => self.land(on, m, |_| true),
            CopyOp::BulkLoad { to, from, bytes, mbarrier, multicast } => {
                self.bulk_load([to, from, mbarrier], *bytes, *multicast, on, m)
            }
            CopyOp::BulkStore { to, from, bytes } => self.bulk_store(to, from, *bytes, on, m),
            CopyOp::BulkCommit => {
                lanes(on).for_each(|lane| self.bulk_committed[lane] += 1);
                Ok(())
            }
            CopyOp::BulkWait { pending } => self.bulk_wait(*pending, on, m),
        }
    }

    fn copy_async(&mut self, op: &CopyOp, on: u32, m: &mut Machine) -> Exec {
        let CopyOp::Async { to, from, bytes, source_bytes, skip } = op else { return Ok(()) };
        let (to, from) = (self.addresses(to, on)?, self.addresses(from, on)?);
        let sizes = match source_bytes {
            Some(r) => *self.regs.short(*r, on)?,
            None => [*bytes; 32],
        };
        let skip = match skip {
            Some((p, negate)) => self.regs.pred(*p, on)? ^ if *negate { u32::MAX } else { 0 },
            None => 0,
        };
        // a copy of zeros reads nothing
        let reads = |lane: &usize| skip >> lane & 1 == 0 && sizes[*lane] > 0;
        let sectors = self.counters.global_request(lanes(on).filter(reads).map(|l| from[l]), (*bytes).into());
        let mut read = Traffic { requests: 1, sector_bytes_read: sectors, ..Traffic::default() };
        for lane in lanes(on) {
            let source_bytes = if skip >> lane & 1 == 1 { 0 } else { sizes[lane] };
            if source_bytes > *bytes {
                let message = format!("found {source_bytes} bytes of source for a copy of {bytes}");
                return lane_fault(TrapKind::Invalid, lane, message);
            }
            if !from[lane].is_multiple_of((*bytes).into()) {
                let message = format!("found the source {:#x}, expected a multiple of {bytes}", from[lane]);
                return lane_fault(TrapKind::Misaligned, lane, message);
            }
            let data = self.source(lane, from[lane], source_bytes, m)?;
            let who = self.who(lane);
            let shared = &mut m.blocks[self.block].shared;
            let offset = shared.locate(lane, to[lane], *bytes)?;
            shared.begin_copy(m.clocks, who, offset, *bytes as usize)?;
            let group = self.copies.committed[lane];
            self.copies.flying.push(Copy {
                lane: lane as u8,
                group,
                to: offset,
                from: from[lane],
                bytes: *bytes,
                source_bytes,
                data,
            });
            self.counters.global_bytes_read += u64::from(source_bytes);
            if self.dependencies_met >> lane & 1 == 0 {
                self.counters.copy_bytes_before_wait += u64::from(source_bytes);
            }
            read.bytes_read += u64::from(source_bytes);
        }
        let label = lanes(on).next().map_or(Ok(0), |l| m.context.global.locate(l, from[l], 1).map(Place::label))?;
        self.counters.traffic[label].add(&read);
        let flying = self.copies.flying.iter().map(|c| u64::from(c.bytes)).sum();
        self.counters.copy_bytes_in_flight = self.counters.copy_bytes_in_flight.max(flying);
        Ok(())
    }

    /// What is at the source now; zeros follow after `source_bytes`.
    fn source(&self, lane: usize, from: u64, source_bytes: u32, m: &Machine) -> Exec<Data> {
        let mut data = [(0, 0xf); 4];
        let agent = &m.blocks[self.block].agent;
        for n in 0..source_bytes.div_ceil(4) {
            let part = (source_bytes - 4 * n).min(4);
            let at = from.wrapping_add(u64::from(4 * n));
            m.context.global.locate(lane, at.wrapping_add(u64::from(part - 1)), 1)?;
            let place = m.context.global.locate(lane, at, if part == 4 { 4 } else { 1 })?;
            let (word, initialised) = place.peek(agent, self.access(lane, Order::default(), false), part)?[0];
            let keep = if part == 4 { u32::MAX } else { (1 << (8 * part)) - 1 };
            data[n as usize] = (word & keep, initialised | 0xf << part & 0xf);
        }
        Ok(data)
    }

    /// All copies of the lanes `on` so far arrive.
    pub(super) fn land_all(&mut self, on: u32, m: &mut Machine) -> Exec {
        self.land(on, m, |_| true)
    }

    /// Copies of the lanes `on` that are `due` arrive.
    fn land(&mut self, on: u32, m: &mut Machine, due: impl Fn(&Copy) -> bool) -> Exec {
        let landing: Vec<Copy> =
            self.copies.flying.extract_if(.., |copy| on >> copy.lane & 1 == 1 && due(copy)).collect();
        for copy in landing {
            let lane = usize::from(copy.lane);
            if self.source(lane, copy.from, copy.source_bytes, m)? != copy.data {
                let message = format!(
                    "the source {:#x} of an asynchronous copy changed before the copy was waited for",
                    copy.from
                );
                return lane_fault(TrapKind::EarlyOverwrite, lane, message);
            }
            let words = &copy.data[..copy.bytes as usize / 4];
            let who = self.who(lane);
            m.blocks[self.block].shared.end_copy(m.clocks, who, copy.to, words);
        }
        Ok(())
    }
}
