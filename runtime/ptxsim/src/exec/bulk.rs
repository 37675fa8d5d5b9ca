//! `cp.async.bulk`: copies that arrive at a seeded later turn (PTX ISA, "Data Movement: Bulk copy").

use super::{Machine, Warp, lanes};
use crate::counters::Traffic;
use crate::error::{Exec, TrapKind, lane_fault};
use crate::inst::{Address, Order};
use crate::memory::clock::{Actor, LANES, Who};
use crate::memory::global::Access;
use crate::types::R32;

/// The most turns of the cluster that a bulk copy takes.
const LONGEST: u64 = 8;

/// A bulk copy in flight.
#[derive(Debug)]
pub(crate) struct Event {
    /// The turn in which it arrives.
    pub due: u64,
    /// Who issued it, and where.
    pub actor: Actor,
    pub lane: u8,
    pub pc: usize,
    block: usize,
    dependencies_met: bool,
    what: What,
}

#[derive(Debug)]
enum What {
    /// To blocks and offsets in shared memory, each with an mbarrier.
    Load { from: u64, data: Vec<(u32, u8)>, to: Vec<Destination> },
    /// From an offset in shared memory.
    Store { from: usize, to: u64, data: Vec<u32>, group: u32 },
}

#[derive(Clone, Copy, Debug)]
struct Destination {
    block: usize,
    offset: usize,
    mbarrier: usize,
}

impl Event {
    /// Whether it writes shared memory of this block.
    pub fn fills(&self, block: usize) -> bool {
        matches!(&self.what, What::Load { to, .. } if to.iter().any(|d| d.block == block))
    }

    fn access(&self) -> Access {
        Access { lane: self.lane, order: Order::default(), constant: false, dependencies_met: self.dependencies_met }
    }

    /// Words of global memory from `from` on.
    fn source(&self, from: u64, words: usize, m: &Machine) -> Exec<Vec<(u32, u8)>> {
        let agent = &m.blocks[self.block].agent;
        let mut out = Vec::with_capacity(words);
        for n in 0..words as u64 / 4 {
            let place = m.context.global.locate(self.lane.into(), from.wrapping_add(16 * n), 16)?;
            out.extend(place.peek(agent, self.access(), 16)?);
        }
        Ok(out)
    }
}

impl Warp {
    fn event(&self, lane: usize, what: What, m: &mut Machine) -> Event {
        m.random = m.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let due = m.turn + 1 + (m.random >> 33) % LONGEST;
        let dependencies_met = self.dependencies_met >> lane & 1 == 1;
        Event { due, actor: self.actor, lane: lane as u8, pc: self.pc(), block: self.block, dependencies_met, what }
    }

    fn check_bulk(&self, lane: usize, addresses: [u64; 2], bytes: u32) -> Exec {
        if bytes == 0 || !bytes.is_multiple_of(16) {
            return lane_fault(
                TrapKind::Invalid,
                lane,
                format!("found a bulk copy of {bytes} bytes, expected a multiple of 16"),
            );
        }
        match addresses.iter().find(|a| !a.is_multiple_of(16)) {
            Some(at) => lane_fault(
                TrapKind::Misaligned,
                lane,
                format!("found a bulk copy at {at:#x}, expected a multiple of 16"),
            ),
            None => Ok(()),
        }
    }

    pub(super) fn bulk_load(
        &mut self,
        [to, from, mbarrier]: [&Address; 3],
        bytes: R32,
        multicast: Option<R32>,
        on: u32,
        m: &mut Machine,
    ) -> Exec {
        let (at_to, at_from, at_barrier) =
            (self.addresses(to, on)?, self.addresses(from, on)?, self.addresses(mbarrier, on)?);
        let bytes = *self.regs.short(bytes, on)?;
        let masks = multicast.map(|r| self.regs.short(r, on).copied()).transpose()?;
        for lane in lanes(on) {
            let (length, who) = (bytes[lane], self.who(lane));
            self.check_bulk(lane, [at_to[lane], at_from[lane]], length)?;
            let (block, at) = self.shared_place(to.space, lane, at_to[lane], m)?;
            let (owner, barrier) = self.find(mbarrier, lane, at_barrier[lane], m)?;
            if block != owner {
                return lane_fault(
                    TrapKind::Invalid,
                    lane,
                    "found destination and mbarrier in two blocks, expected one",
                );
            }
            let blocks: Vec<usize> = match masks {
                Some(masks) => lanes(masks[lane] & 0xffff).collect(),
                None => vec![block],
            };
            let mut destinations = vec![];
            for block in blocks {
                if block >= m.blocks.len() {
                    let message = format!("found the block {block} of a cluster of {}", m.blocks.len());
                    return lane_fault(TrapKind::Invalid, lane, message);
                }
                if block != self.block {
                    m.visit(block, self.actor, lane)?;
                }
                self.valid(block, barrier, lane, m)?;
                let shared = &mut m.blocks[block].shared;
                let offset = shared.locate_range(lane, at, length)?;
                shared.begin_bulk(m.clocks, who, offset, length as usize)?;
                destinations.push(Destination { block, offset, mbarrier: barrier });
            }
            let empty = What::Load { from: at_from[lane], data: vec![], to: destinations.clone() };
            let mut event = self.event(lane, empty, m);
            let data = event.source(at_from[lane], length as usize / 4, m)?;
            event.what = What::Load { from: at_from[lane], data, to: destinations };
            self.counters.global_bytes_read += u64::from(length);
            let label = m.context.global.locate(lane, at_from[lane], 16)?.label();
            self.counters.traffic[label].add(&Traffic::read_range(at_from[lane], length));
            m.events.push(event);
        }
        Ok(())
    }

    pub(super) fn bulk_store(&mut self, to: &Address, from: &Address, bytes: R32, on: u32, m: &mut Machine) -> Exec {
        let (to, from) = (self.addresses(to, on)?, self.addresses(from, on)?);
        let bytes = *self.regs.short(bytes, on)?;
        for lane in lanes(on) {
            let (length, who) = (bytes[lane], self.who(lane));
            self.check_bulk(lane, [to[lane], from[lane]], length)?;
            let shared = &m.blocks[self.block].shared;
            let offset = shared.locate_range(lane, from[lane], length)?;
            let range = (offset..offset + length as usize).step_by(4);
            let data = range.map(|at| shared.read_async(m.clocks, who, at)).collect::<Exec<Vec<u32>>>()?;
            let group = self.bulk_committed[lane];
            let event = self.event(lane, What::Store { from: offset, to: to[lane], data, group }, m);
            self.counters.global_bytes_written += u64::from(length);
            let label = m.context.global.locate(lane, to[lane], 16)?.label();
            self.counters.traffic[label].add(&Traffic::written_range(to[lane], length));
            m.events.push(event);
        }
        Ok(())
    }

    /// Bulk stores of the lanes, but for the `pending` newest groups, are complete.
    pub(super) fn bulk_wait(&mut self, pending: u32, on: u32, m: &mut Machine) -> Exec {
        let (actor, committed) = (self.actor, self.bulk_committed);
        let due = |e: &mut Event| match e.what {
            What::Store { group, .. } => {
                let lane = usize::from(e.lane);
                e.actor == actor && on >> lane & 1 == 1 && group < committed[lane].saturating_sub(pending)
            }
            What::Load { .. } => false,
        };
        let done: Vec<Event> = m.events.extract_if(.., due).collect();
        done.iter().try_for_each(|event| land(event, m))
    }

    /// Lanes that exit must have waited for their bulk stores, whose source would vanish.
    pub(super) fn check_stores_done(&self, on: u32, m: &Machine) -> Exec {
        let open = |e: &&Event| e.actor == self.actor && on >> e.lane & 1 == 1 && matches!(e.what, What::Store { .. });
        match m.events.iter().find(open) {
            None => Ok(()),
            Some(e) => {
                let message =
                    "exits while a bulk copy still reads shared memory, expected `cp.async.bulk.wait_group` before";
                lane_fault(TrapKind::EarlyOverwrite, e.lane.into(), message)
            }
        }
    }
}

/// The copy arrives.
pub(crate) fn land(event: &Event, m: &mut Machine) -> Exec {
    let lane = usize::from(event.lane);
    match &event.what {
        What::Load { from, data, to } => {
            if event.source(*from, data.len(), m)? != *data {
                let message = format!("the source {from:#x} of a bulk copy changed before the copy was complete");
                return lane_fault(TrapKind::EarlyOverwrite, lane, message);
            }
            for d in to {
                let who = Who { actor: m.clocks.async_proxy(), lane: LANES };
                let block = &mut m.blocks[d.block];
                block.visits.learn(who.actor, m.clocks.now);
                block.shared.end_copy(m.clocks, who, d.offset, data);
                let Some(barrier) = block.mbarriers.get_mut(&d.mbarrier) else {
                    return lane_fault(
                        TrapKind::Invalid,
                        lane,
                        "the mbarrier of a bulk copy was invalidated before the copy was complete",
                    );
                };
                barrier.copied(4 * data.len() as u32, m.clocks);
            }
        }
        What::Store { from, to, data, .. } => {
            let block = &m.blocks[event.block];
            let words = (*from..).step_by(4);
            if words.zip(data).any(|(at, word)| block.shared.peek(at) != *word) {
                let message = "the source of a bulk copy in shared memory changed before the copy was complete";
                return lane_fault(TrapKind::EarlyOverwrite, lane, message);
            }
            for (n, four) in data.chunks_exact(4).enumerate() {
                let place = m.context.global.locate(lane, to.wrapping_add(16 * n as u64), 16)?;
                place.write(&block.agent, event.access(), 16, [four[0], four[1], four[2], four[3]])?;
            }
        }
    }
    Ok(())
}
