//! Clusters of blocks: their barrier, and addresses in another block's shared memory (PTX ISA, `barrier.cluster`, `mapa`).

use super::{Event, Flow, Machine, Warp, lanes};
use crate::error::{Exec, TrapKind, fault, lane_fault};
use crate::launch::Block;
use crate::memory::CLUSTER_SHIFT;
use crate::memory::clock::{Actor, Knowledge};
use crate::types::R32;
use std::collections::HashMap;

/// The barrier of a cluster.
#[derive(Debug)]
pub(crate) struct ClusterBarrier {
    phase: u64,
    /// Warps that have arrived and not yet waited, with the phase that they arrived in.
    arrived: HashMap<Actor, u64>,
    in_phase: u32,
    arriving: Knowledge,
    complete: Knowledge,
}

impl ClusterBarrier {
    pub fn new(actors: usize) -> Self {
        let (arriving, complete) = (Knowledge::new(actors), Knowledge::new(actors));
        ClusterBarrier { phase: 0, arrived: HashMap::new(), in_phase: 0, arriving, complete }
    }

    /// Ends the phase if all `live` warps of the cluster have arrived.
    pub fn advance(&mut self, live: u32) {
        if self.in_phase > 0 && self.in_phase >= live {
            self.phase += 1;
            self.in_phase = 0;
            self.complete.take(&mut self.arriving);
        }
    }

    /// A warp that had arrived in this phase exits, and is no longer counted among the live ones.
    pub fn leave(&mut self, actor: Actor) {
        if self.arrived.remove(&actor) == Some(self.phase) {
            self.in_phase -= 1;
        }
    }
}

impl Machine<'_, '_> {
    /// An access by `actor` to the shared memory of a block that is not its own, which must exist until then.
    pub(super) fn visit(&mut self, block: usize, actor: Actor, lane: usize) -> Exec {
        let visited = &mut self.blocks[block];
        if visited.live == 0 {
            let message = format!("found an access to shared memory of block {block} of the cluster, which has exited");
            return lane_fault(TrapKind::Race, lane, message);
        }
        visited.visits.learn(actor, self.clocks.now);
        Ok(())
    }

    /// The last warp of a block exits: nobody else must be about to access its shared memory.
    pub(super) fn check_left_alone(&self, block: usize) -> Exec {
        let Block { visits, warps, .. } = &self.blocks[block];
        if self.events.iter().any(|e: &Event| e.fills(block)) {
            let message = "exits while a bulk copy to its shared memory is under way, expected a wait for its mbarrier";
            return fault(TrapKind::InFlight, message);
        }
        let first = block as u32 * warps;
        if !self.clocks.covers(first as Actor..(first + warps) as Actor, visits) {
            let message = "exits while another block may access its shared memory, expected a cluster barrier between";
            return fault(TrapKind::Race, message);
        }
        Ok(())
    }
}

/// Warps of the cluster that have not exited.
fn live(m: &Machine) -> u32 {
    m.blocks.iter().map(|b| b.live).sum()
}

impl Warp {
    fn whole_warp(&self, aligned: bool, on: u32) -> Exec {
        if !aligned && on != self.live {
            return fault(TrapKind::Invalid, "a barrier by a part of a warp is not modelled");
        }
        self.aligned(on)
    }

    pub(super) fn cluster_arrive(&mut self, aligned: bool, on: u32, m: &mut Machine) -> Exec<Flow> {
        self.whole_warp(aligned, on)?;
        if m.barrier.arrived.contains_key(&self.actor) {
            return fault(
                TrapKind::Invalid,
                "found a second `barrier.cluster.arrive`, expected `barrier.cluster.wait` between",
            );
        }
        m.barrier.arrived.insert(self.actor, m.barrier.phase);
        m.clocks.sync_lanes(self.actor);
        m.clocks.release(self.actor, &mut m.barrier.arriving);
        m.barrier.in_phase += 1;
        let live = live(m);
        m.barrier.advance(live);
        Ok(Flow::Next)
    }

    pub(super) fn cluster_wait(&mut self, aligned: bool, on: u32, m: &mut Machine) -> Exec<Flow> {
        self.whole_warp(aligned, on)?;
        match m.barrier.arrived.get(&self.actor) {
            None => fault(TrapKind::Invalid, "found `barrier.cluster.wait`, expected `barrier.cluster.arrive` before"),
            Some(phase) if *phase == m.barrier.phase => Ok(Flow::Blocked),
            Some(_) => {
                m.barrier.arrived.remove(&self.actor);
                m.clocks.acquire(self.actor, &m.barrier.complete);
                Ok(Flow::Next)
            }
        }
    }

    pub(super) fn map_address(&mut self, d: R32, a: R32, rank: R32, on: u32, m: &Machine) -> Exec {
        let (a, ranks) = (self.regs.short(a, on)?, self.regs.short(rank, on)?);
        if let Some(lane) = lanes(on).find(|l| ranks[*l] as usize >= m.blocks.len()) {
            let message = format!("found the block {} of a cluster of {}", ranks[lane], m.blocks.len());
            return lane_fault(TrapKind::Invalid, lane, message);
        }
        let within = (1 << CLUSTER_SHIFT) - 1;
        let out = std::array::from_fn(|l| (a[l] & within) | ranks[l].wrapping_add(1) << CLUSTER_SHIFT);
        self.regs.set_short(d, on, &out);
        Ok(())
    }
}
