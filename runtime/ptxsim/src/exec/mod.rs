//! A warp: its registers, its lanes' program counters, and one step of it.

mod alu;
mod bulk;
mod cluster;
mod copy;
mod float;
mod mbarrier;
mod memory;
mod registers;
mod sync;
mod tile;
mod warp;
mod wgmma;

use crate::counters::Counters;
use crate::error::{Exec, TrapKind, fault};
use crate::inst::{Address, Base, Inst, Op};
use crate::launch::{Block, Context};
use crate::memory::clock::{Actor, Clocks, Who};
pub(crate) use bulk::{Event, land};
pub(crate) use cluster::ClusterBarrier;
pub(crate) use copy::Copies;
pub(crate) use mbarrier::Mbarrier;
pub(crate) use registers::Registers;
pub(crate) use sync::{BARRIERS, Barrier, Waiting};

pub(crate) const FULL: u32 = u32::MAX;

/// Lanes that are at the same instruction.
#[derive(Clone, Copy, Debug)]
struct Group {
    pc: usize,
    mask: u32,
}

/// A warp.
#[derive(Debug)]
pub(crate) struct Warp {
    pub regs: Registers,
    /// Lanes that have not exited, by program counter, the lowest first.
    groups: Vec<Group>,
    /// The group whose turn it is, and lanes that let others go first.
    current: usize,
    aside: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// Index in the block, and among all warps of the cluster.
    pub index: u32,
    pub actor: Actor,
    /// Index of the block in the cluster.
    pub block: usize,
    pub waiting: Option<Waiting>,
    pub copies: Copies,
    /// Groups of bulk stores that each lane has committed.
    pub bulk_committed: [u32; 32],
    /// Lanes that have executed `griddepcontrol.wait`.
    pub dependencies_met: u32,
    pub counters: Counters,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Went on.
    Done,
    /// Stands at the same instruction until another warp or a copy helps.
    Blocked,
    /// All lanes have exited.
    Exited,
}

/// What an operation leaves to do.
enum Flow {
    Next,
    Jump(usize),
    Exit,
    Blocked,
    /// Waited, and has gone on already.
    Resumed,
}

/// What a warp needs of its surroundings while it runs.
pub(crate) struct Machine<'m, 'l> {
    pub context: &'m Context<'l>,
    pub blocks: &'m mut [Block<'l>],
    pub clocks: &'m mut Clocks,
    pub barrier: &'m mut ClusterBarrier,
    /// Bulk copies in flight.
    pub events: &'m mut Vec<Event>,
    /// For the time that the next bulk copy takes.
    pub random: u64,
    pub turn: u64,
}

/// The lanes in a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}

impl Warp {
    pub fn new(regs: Registers, live: u32, index: u32, actor: Actor, block: usize, dependencies_met: bool) -> Self {
        Warp {
            regs,
            groups: vec![Group { pc: 0, mask: live }],
            current: 0,
            aside: 0,
            live,
            index,
            actor,
            block,
            waiting: None,
            copies: Copies::default(),
            bulk_committed: [0; 32],
            dependencies_met: if dependencies_met { FULL } else { 0 },
            counters: Counters::default(),
        }
    }

    /// What the warp did.
    pub fn counts(&self) -> Counters {
        Counters { loads_in_flight: self.regs.loads.most(), ..self.counters }
    }

    /// Index of the instruction that the warp is at.
    pub fn pc(&self) -> usize {
        self.groups.get(self.current).map_or(0, |g| g.pc)
    }

    /// The warp as it accesses memory, in one lane.
    fn who(&self, lane: usize) -> Who {
        Who { actor: self.actor, lane: lane as u8 }
    }

    /// Executes up to `budget` instructions; returns why it stopped and how many are left.
    pub fn run(&mut self, m: &mut Machine, mut budget: u32) -> Exec<(Step, u32)> {
        self.aside = 0;
        if !self.resume(m)? {
            return Ok((Step::Blocked, budget));
        }
        while budget > 0 {
            match self.step(m)? {
                Step::Done => budget -= 1,
                stopped => return Ok((stopped, budget)),
            }
        }
        Ok((Step::Done, budget))
    }

    fn step(&mut self, m: &mut Machine) -> Exec<Step> {
        let Some(&Group { pc, mask }) = self.groups.get(self.current) else { return Ok(Step::Exited) };
        let code: &[Inst] = &m.context.kernel.code;
        let inst = &code[pc];
        let on = match inst.guard {
            None => mask,
            Some((p, wanted)) => {
                let bits = self.regs.pred(p, mask)?;
                mask & if wanted { bits } else { !bits }
            }
        };
        self.counters.warp_instructions += 1;
        self.counters.lane_instructions += u64::from(on.count_ones());
        let flow = if on == 0 { Flow::Next } else { self.execute(&inst.op, on, m)? };
        if let Some(tracked) = &self.regs.tracked {
            tracked.check()?;
        }
        match flow {
            Flow::Next => self.go(pc + 1),
            Flow::Jump(target) if on == mask => self.go(target),
            Flow::Jump(target) => self.split(on, target, pc + 1),
            Flow::Exit => {
                self.leave(on, m)?;
                self.groups[self.current].mask &= !on;
                if self.groups[self.current].mask == 0 {
                    self.groups.remove(self.current);
                    self.choose();
                } else {
                    self.go(pc + 1);
                }
                if self.live == 0 {
                    return Ok(Step::Exited);
                }
            }
            Flow::Resumed => {}
            Flow::Blocked => return Ok(Step::Blocked),
        }
        Ok(Step::Done)
    }

    /// The current lanes go on at `pc`.
    #[inline(always)]
    fn go(&mut self, pc: usize) {
        self.groups[self.current].pc = pc;
        if self.groups.len() > 1 {
            self.merge();
        }
    }

    /// Of the current lanes, those in `taken` go to `target`, the others to `next`.
    fn split(&mut self, taken: u32, target: usize, next: usize) {
        self.groups[self.current].mask &= !taken;
        self.groups[self.current].pc = next;
        self.groups.push(Group { pc: target, mask: taken });
        self.merge();
    }

    /// Lanes at the same instruction go on together; the lowest instruction comes first.
    fn merge(&mut self) {
        self.groups.sort_unstable_by_key(|g| g.pc);
        self.groups.dedup_by(|b, a| {
            let same = a.pc == b.pc;
            if same {
                a.mask |= b.mask;
            }
            same
        });
        self.choose();
    }

    /// The lowest group goes on that has not stepped aside.
    fn choose(&mut self) {
        let next = self.groups.iter().position(|g| g.mask & self.aside == 0);
        if next.is_none() {
            self.aside = 0;
        }
        self.current = next.unwrap_or(0);
    }

    /// Lets other lanes of the warp go first, if there are any at another instruction.
    fn step_aside(&mut self, on: u32) -> bool {
        self.aside |= on;
        self.groups.len() > 1
    }

    /// The lanes `on` exit.
    fn leave(&mut self, on: u32, m: &Machine) -> Exec {
        self.live &= !on;
        self.check_stores_done(on, m)?;
        if self.live == 0 && m.blocks[self.block].live == 1 {
            m.check_left_alone(self.block)?;
        }
        Ok(())
    }

    fn execute(&mut self, op: &Op, on: u32, m: &mut Machine) -> Exec<Flow> {
        match op {
            Op::Branch { target } => return Ok(Flow::Jump(*target)),
            Op::Exit => return Ok(Flow::Exit),
            Op::Trap => return fault(TrapKind::Trapped, "the kernel gave up"),
            Op::Nothing => {}
            Op::Clock { d } => {
                let now = self.counters.warp_instructions;
                self.regs.set_any(*d, on, &[now; 32]);
            }
            Op::Touch { address } => {
                let at = self.addresses(address, on)?;
                lanes(on).try_for_each(|lane| m.context.global.locate(lane, at[lane], 1).map(|_| ()))?;
            }
            Op::Memory(op) => self.memory(op, on, m)?,
            Op::Warp(op) => self.exchange(op, on, m)?,
            Op::Tile(op) => self.tile(op, on, m)?,
            Op::Sync(op) => return self.sync(op, on, m),
            Op::MapAddress { d, a, rank } => self.map_address(*d, *a, *rank, on, m)?,
            Op::Copy(op) => self.copy(op, on, m)?,
            scalar => self.scalar(scalar, on)?,
        }
        Ok(Flow::Next)
    }

    /// The address of each lane.
    fn addresses(&self, address: &Address, on: u32) -> Exec<[u64; 32]> {
        Ok(match address.base {
            Base::None => [address.offset as u64; 32],
            Base::Short(r) => self.regs.short(r, on)?.map(|v| u64::from(v.wrapping_add(address.offset as u32))),
            Base::Long(r) => self.regs.long(r, on)?.map(|v| v.wrapping_add_signed(address.offset)),
        })
    }

    /// A `.aligned` instruction needs all lanes of the warp that have not exited.
    fn aligned(&self, on: u32) -> Exec {
        if on == self.live {
            return Ok(());
        }
        let message =
            format!("lanes {on:#010x} of the warp's {:#010x} execute a .aligned instruction, expected all", self.live);
        fault(TrapKind::Divergent, message)
    }

    /// A tile operation needs all 32 lanes.
    fn whole(&self, on: u32) -> Exec {
        if on == FULL {
            return Ok(());
        }
        fault(TrapKind::Divergent, format!("lanes {on:#010x} execute an instruction of a whole warp, expected all 32"))
    }
}
