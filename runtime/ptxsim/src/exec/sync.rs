//! Barriers of a block: `bar.sync`, `bar.arrive`, `bar.red` (PTX ISA, `barrier{.cta}`).

use super::{Flow, Machine, Warp};
use crate::error::{Exec, TrapKind, fault};
use crate::inst::{BarrierRed, BarrierRedTo, SyncOp};
use crate::memory::clock::{Actor, Clocks, Knowledge};
use crate::types::R32;

/// Barriers of a block.
pub(crate) const BARRIERS: u32 = 16;

/// What a warp stands at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    Barrier { id: usize, red: Option<BarrierRed>, on: u32 },
}

/// Of the predicates that lanes brought to a barrier: how many hold, and how many there are.
#[derive(Clone, Copy, Debug, Default)]
struct Votes {
    hold: u32,
    all: u32,
}

/// One barrier.
#[derive(Debug)]
pub(crate) struct Barrier {
    /// Warps that have arrived since it was last complete.
    arrived: u32,
    /// Threads that it waits for; all of the block, if `None`.
    expected: Option<u32>,
    waiters: Vec<Actor>,
    /// Warps that may go on, with what `bar.red` found.
    released: Vec<(Actor, Votes)>,
    votes: Votes,
    knowledge: Knowledge,
}

impl Barrier {
    pub fn new(actors: usize) -> Self {
        let (waiters, released) = (vec![], vec![]);
        let knowledge = Knowledge::new(actors);
        Barrier { arrived: 0, expected: None, waiters, released, votes: Votes::default(), knowledge }
    }

    /// After a warp has exited: fewer are waited for.
    pub fn complete_if_all(&mut self, clocks: &mut Clocks, live: u32) {
        if self.expected.is_none() {
            self.complete(clocks, live);
        }
    }

    /// Lets the waiting warps go on if all have arrived; `live` warps of the block have not exited.
    pub fn complete(&mut self, clocks: &mut Clocks, live: u32) {
        let wanted = self.expected.map_or(live, |threads| threads / 32);
        if self.arrived == 0 || self.arrived < wanted {
            return;
        }
        for actor in self.waiters.drain(..) {
            clocks.acquire(actor, &self.knowledge);
            self.released.push((actor, self.votes));
        }
        self.arrived = 0;
        self.votes = Votes::default();
        self.knowledge.clear();
    }
}

impl Warp {
    pub(super) fn sync(&mut self, op: &SyncOp, on: u32, m: &mut Machine) -> Exec<Flow> {
        match op {
            SyncOp::Barrier { id, threads, wait, aligned, red } => {
                if !aligned && on != self.live {
                    return fault(TrapKind::Invalid, "a barrier by a part of a warp is not modelled");
                }
                self.aligned(on)?;
                self.barrier(*id, *threads, *wait, *red, on, m)
            }
            SyncOp::ClusterArrive { aligned } => self.cluster_arrive(*aligned, on, m),
            SyncOp::ClusterWait { aligned } => self.cluster_wait(*aligned, on, m),
            SyncOp::Mbarrier(op) => self.mbarrier(op, on, m),
            SyncOp::FenceProxy => {
                m.clocks.fence_proxy(self.actor);
                Ok(Flow::Next)
            }
            SyncOp::SetRegisters => self.aligned(on).map(|()| Flow::Next),
            SyncOp::LaunchDependents => {
                m.blocks[self.block].triggered = true;
                Ok(Flow::Next)
            }
            SyncOp::WaitDependencies => {
                self.dependencies_met |= on;
                m.context.progress.wait(m.blocks[self.block].triggered);
                Ok(Flow::Next)
            }
        }
    }

    fn barrier(
        &mut self,
        id: R32,
        threads: Option<R32>,
        wait: bool,
        red: Option<BarrierRed>,
        on: u32,
        m: &mut Machine,
    ) -> Exec<Flow> {
        let id = self.uniform(id, on, "barrier numbers")?;
        let threads = threads.map(|t| self.uniform(t, on, "numbers of threads")).transpose()?;
        if id >= BARRIERS {
            return fault(TrapKind::Invalid, format!("found barrier {id}, expected one below {BARRIERS}"));
        }
        let block = &mut m.blocks[self.block];
        if let Some(t) = threads.filter(|t| *t == 0 || t % 32 != 0 || *t > 32 * block.warps) {
            let most = 32 * block.warps;
            return fault(
                TrapKind::Invalid,
                format!("found a barrier of {t} threads, expected a multiple of 32 up to {most}"),
            );
        }
        let barrier = &mut block.barriers[id as usize];
        if barrier.arrived > 0 && barrier.expected != threads {
            let show = |t: Option<u32>| t.map_or("all".into(), |t| t.to_string());
            let (found, expected) = (show(threads), show(barrier.expected));
            return fault(
                TrapKind::Invalid,
                format!("found barrier {id} of {found} threads, expected {expected} as another warp said"),
            );
        }
        barrier.expected = threads;
        barrier.arrived += 1;
        if let Some(red) = red {
            let bits = self.regs.pred(red.a, on)? ^ if red.negate { u32::MAX } else { 0 };
            barrier.votes.hold += (bits & on).count_ones();
            barrier.votes.all += on.count_ones();
        }
        m.clocks.sync_lanes(self.actor);
        m.clocks.release(self.actor, &mut barrier.knowledge);
        if wait {
            barrier.waiters.push(self.actor);
        }
        barrier.complete(m.clocks, block.live);
        if !wait {
            return Ok(Flow::Next);
        }
        self.waiting = Some(Waiting::Barrier { id: id as usize, red, on });
        // the last to arrive goes on at once
        Ok(if self.resume(m)? { Flow::Resumed } else { Flow::Blocked })
    }

    /// Goes on after what the warp waits for, if that has happened; false if it must go on waiting.
    pub(super) fn resume(&mut self, m: &mut Machine) -> Exec<bool> {
        let Some(Waiting::Barrier { id, red, on }) = self.waiting else { return Ok(true) };
        let released = &mut m.blocks[self.block].barriers[id].released;
        let Some(n) = released.iter().position(|(actor, _)| *actor == self.actor) else { return Ok(false) };
        let (_, votes) = released.swap_remove(n);
        match red.map(|r| r.to) {
            Some(BarrierRedTo::Popc(d)) => self.regs.set_short(d, on, &[votes.hold; 32]),
            Some(BarrierRedTo::And(d)) => self.regs.set_pred(d, on, if votes.hold == votes.all { u32::MAX } else { 0 }),
            Some(BarrierRedTo::Or(d)) => self.regs.set_pred(d, on, if votes.hold > 0 { u32::MAX } else { 0 }),
            None => {}
        }
        self.waiting = None;
        let pc = self.pc();
        self.go(pc + 1);
        Ok(true)
    }

    /// What the warp stands at, for a message.
    pub fn stands_at(&self) -> String {
        match self.waiting {
            Some(Waiting::Barrier { id, .. }) => format!("barrier {id}"),
            None => "an mbarrier or cluster barrier, or runs".into(),
        }
    }
}
