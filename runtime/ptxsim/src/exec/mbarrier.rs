//! mbarriers (PTX ISA, "mbarrier"): phases that end when all arrivals have come and all expected bytes have been copied.

use super::{Flow, Machine, Warp, lanes};
use crate::error::{Exec, TrapKind, lane_fault};
use crate::inst::{Address, MbarrierOp, PhaseOf, WaitHow};
use crate::memory::SHARED_BASE;
use crate::memory::clock::{Clocks, Knowledge, Who};
use crate::types::{R32, R64, RP};

/// The most arrivals that a phase can wait for, and the most bytes.
const MAX_COUNT: u32 = (1 << 20) - 1;

/// An mbarrier. Its eight bytes in shared memory are opaque, so its state is kept beside them.
#[derive(Debug)]
pub(crate) struct Mbarrier {
    /// Arrivals of a whole phase, and those that the current one still waits for.
    count: u32,
    pending: u32,
    /// Bytes expected less bytes copied.
    bytes: i64,
    phase: u64,
    /// Of those that arrived in the current phase, and in all that are complete.
    arriving: Handed,
    complete: Handed,
    initialised: (Who, u32),
}

/// What arrivals hand over. Those of the scope `.cta` tell threads of their block alone, and waits of that scope hear nobody else.
#[derive(Debug)]
struct Handed {
    within_block: Knowledge,
    within_cluster: Knowledge,
}

impl Handed {
    fn new(actors: usize) -> Self {
        Handed { within_block: Knowledge::new(actors), within_cluster: Knowledge::new(actors) }
    }

    /// Moves everything from `other`, which knows nothing afterwards.
    fn take(&mut self, other: &mut Handed) {
        self.within_block.take(&mut other.within_block);
        self.within_cluster.take(&mut other.within_cluster);
    }
}

impl Mbarrier {
    /// Ends the phase if nothing is missing.
    fn advance(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.count;
            self.complete.take(&mut self.arriving);
        }
    }

    /// A bulk copy has brought `bytes` bytes.
    pub fn copied(&mut self, bytes: u32, clocks: &mut Clocks) {
        let time = clocks.tick_proxy();
        self.arriving.within_block.learn(clocks.async_proxy(), time);
        self.arriving.within_cluster.learn(clocks.async_proxy(), time);
        self.bytes -= i64::from(bytes);
        self.advance();
    }
}

/// Arrivals and bytes of an instruction; 1 and none, where it does not say.
struct Numbers {
    count: Option<R32>,
    bytes: Option<R32>,
}

impl Warp {
    pub(super) fn mbarrier(&mut self, op: &MbarrierOp, on: u32, m: &mut Machine) -> Exec<Flow> {
        match op {
            MbarrierOp::Init { address, count } => self.init(address, *count, on, m)?,
            MbarrierOp::Invalidate { address } => {
                let at = self.addresses(address, on)?;
                for lane in lanes(on) {
                    let (block, offset) = self.find(address, lane, at[lane], m)?;
                    m.blocks[block].mbarriers.remove(&offset);
                }
            }
            MbarrierOp::Arrive { address, d, count, bytes, cluster } => {
                let numbers = Numbers { count: *count, bytes: *bytes };
                self.arrive(address, *d, numbers, *cluster, on, m)?
            }
            MbarrierOp::Expect { address, bytes } => {
                let (at, bytes) = (self.addresses(address, on)?, *self.regs.short(*bytes, on)?);
                for lane in lanes(on) {
                    let (block, offset) = self.find(address, lane, at[lane], m)?;
                    expect(&mut m.blocks[block].mbarriers, offset, lane, bytes[lane])?;
                }
            }
            MbarrierOp::CopyArrive { address } => {
                self.land_all(on, m)?;
                self.arrive(address, None, Numbers { count: None, bytes: None }, false, on, m)?;
            }
            MbarrierOp::Wait { p, address, phase, how } => return self.wait(*p, address, *phase, *how, on, m),
        }
        Ok(Flow::Next)
    }

    fn init(&mut self, address: &Address, count: R32, on: u32, m: &mut Machine) -> Exec {
        let (at, counts) = (self.addresses(address, on)?, *self.regs.short(count, on)?);
        for lane in lanes(on) {
            let (block, at) = self.shared_place(address.space, lane, at[lane], m)?;
            let offset = m.blocks[block].shared.locate(lane, at, 8)?;
            let count = counts[lane];
            if !(1..=MAX_COUNT).contains(&count) {
                let message = format!("found {count} arrivals, expected 1 to {MAX_COUNT}");
                return lane_fault(TrapKind::Invalid, lane, message);
            }
            if m.blocks[block].mbarriers.contains_key(&offset) {
                return lane_fault(
                    TrapKind::Invalid,
                    lane,
                    format!("found a valid mbarrier at {at:#x} already, expected none"),
                );
            }
            let new = || Handed::new(m.clocks.actors());
            let initialised = (self.who(lane), m.clocks.now);
            let barrier =
                Mbarrier { count, pending: count, bytes: 0, phase: 0, arriving: new(), complete: new(), initialised };
            m.blocks[block].mbarriers.insert(offset, barrier);
        }
        Ok(())
    }

    /// The block and offset of a valid mbarrier, whose initialisation must be ordered before.
    pub(super) fn find(&self, address: &Address, lane: usize, at: u64, m: &mut Machine) -> Exec<(usize, usize)> {
        let (block, at) = self.shared_place(address.space, lane, at, m)?;
        let offset = m.blocks[block].shared.locate(lane, at, 8)?;
        self.valid(block, offset, lane, m)?;
        Ok((block, offset))
    }

    /// There must be a valid mbarrier at an offset in a block, whose initialisation is ordered before.
    pub(super) fn valid(&self, block: usize, offset: usize, lane: usize, m: &Machine) -> Exec {
        let at = SHARED_BASE as usize + offset;
        let Some(barrier) = m.blocks[block].mbarriers.get(&offset) else {
            let message = format!("found no mbarrier at {at:#x} in block {block}, expected one that is initialised");
            return lane_fault(TrapKind::Invalid, lane, message);
        };
        let (who, time) = barrier.initialised;
        if !m.clocks.ordered(self.who(lane), who.actor, who.lane, time) {
            let message =
                format!("the initialisation of the mbarrier at {at:#x} is not ordered before this access by a barrier");
            return lane_fault(TrapKind::Race, lane, message);
        }
        Ok(())
    }

    fn arrive(
        &mut self,
        address: &Address,
        d: Option<R64>,
        Numbers { count, bytes }: Numbers,
        cluster: bool,
        on: u32,
        m: &mut Machine,
    ) -> Exec {
        let at = self.addresses(address, on)?;
        let counts = count.map_or(Ok([1; 32]), |r| self.regs.short(r, on).copied())?;
        let bytes = bytes.map_or(Ok([0; 32]), |r| self.regs.short(r, on).copied())?;
        let mut state = [0; 32];
        for lane in lanes(on) {
            let (block, offset) = self.find(address, lane, at[lane], m)?;
            expect(&mut m.blocks[block].mbarriers, offset, lane, bytes[lane])?;
            let Some(barrier) = m.blocks[block].mbarriers.get_mut(&offset) else { continue };
            if counts[lane] == 0 || counts[lane] > barrier.pending {
                let message =
                    format!("found {} arrivals at an mbarrier, expected 1 to {}", counts[lane], barrier.pending);
                return lane_fault(TrapKind::Invalid, lane, message);
            }
            state[lane] = barrier.phase;
            if block == self.block {
                m.clocks.release(self.actor, &mut barrier.arriving.within_block);
            }
            if cluster {
                m.clocks.release(self.actor, &mut barrier.arriving.within_cluster);
            }
            barrier.pending -= counts[lane];
            barrier.advance();
        }
        if let Some(d) = d {
            self.regs.set_long(d, on, &state);
        }
        Ok(())
    }

    fn wait(&mut self, p: RP, address: &Address, phase: PhaseOf, how: WaitHow, on: u32, m: &mut Machine) -> Exec<Flow> {
        let at = self.addresses(address, on)?;
        let wanted = match phase {
            PhaseOf::State(r) => *self.regs.long(r, on)?,
            PhaseOf::Parity(r) => self.regs.short(r, on)?.map(u64::from),
        };
        let mut complete = 0u32;
        for lane in lanes(on) {
            let (owner, offset) = self.find(address, lane, at[lane], m)?;
            let Some(barrier) = m.blocks[owner].mbarriers.get(&offset) else { continue };
            let done = match phase {
                PhaseOf::State(_) => barrier.phase > wanted[lane],
                PhaseOf::Parity(_) if wanted[lane] > 1 => {
                    let message = format!("found the parity {}, expected 0 or 1", wanted[lane]);
                    return lane_fault(TrapKind::Invalid, lane, message);
                }
                PhaseOf::Parity(_) => barrier.phase & 1 != wanted[lane],
            };
            if done {
                complete |= 1 << lane;
                m.clocks.acquire(self.actor, &barrier.complete.within_block);
                if how.cluster {
                    m.clocks.acquire(self.actor, &barrier.complete.within_cluster);
                }
            }
        }
        // the time that `try_wait` may suspend a thread is without end here, unless other lanes of the warp can go on
        if complete == 0 && !self.step_aside(on) && how.blocks {
            return Ok(Flow::Blocked);
        }
        self.regs.set_pred(p, on, complete);
        Ok(Flow::Next)
    }
}

fn expect(barriers: &mut std::collections::HashMap<usize, Mbarrier>, offset: usize, lane: usize, bytes: u32) -> Exec {
    let Some(barrier) = barriers.get_mut(&offset) else { return Ok(()) };
    barrier.bytes += i64::from(bytes);
    if barrier.bytes > i64::from(MAX_COUNT) {
        let message = format!("found {} bytes expected at an mbarrier, expected at most {MAX_COUNT}", barrier.bytes);
        return lane_fault(TrapKind::Invalid, lane, message);
    }
    Ok(())
}
