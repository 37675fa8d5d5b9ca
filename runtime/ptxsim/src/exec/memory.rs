//! `ld`, `st`, `atom`, `red`, `fence` (PTX ISA, "Data Movement and Conversion", "Parallel Synchronization and Communication").

use super::{Machine, Warp, lanes};
use crate::counters::Traffic;
use crate::error::{Exec, TrapKind, lane_fault};
use crate::inst::{Address, AtomOp, Memory, Order, Space};
use crate::memory::global::{Access, Place};
use crate::memory::{CLUSTER_SHIFT, SHARED_WINDOW, Words};
use crate::types::Reg;

/// What a load or store does, apart from its registers.
struct Transfer<'a> {
    address: &'a Address,
    /// Of each register.
    bytes: u32,
    order: Order,
    constant: bool,
}

impl Warp {
    pub(super) fn memory(&mut self, op: &Memory, on: u32, m: &mut Machine) -> Exec {
        match op {
            Memory::Load { address, bytes, signed, to, order, constant } => {
                let transfer = Transfer { address, bytes: *bytes, order: *order, constant: *constant };
                self.load(&transfer, *signed, to, on, m)
            }
            Memory::Store { address, bytes, from, order } => {
                let transfer = Transfer { address, bytes: *bytes, order: *order, constant: false };
                self.store(&transfer, from, on, m)
            }
            Memory::Atomic { op, address, d, a, b, order } => self.atomic(*op, address, *d, a, *b, *order, on, m),
            Memory::Fence { cta } => {
                if !cta {
                    let agent = &mut m.blocks[self.block].agent;
                    agent.known.fence(agent.block);
                }
                Ok(())
            }
        }
    }

    pub(super) fn access(&self, lane: usize, order: Order, constant: bool) -> Access {
        Access { lane: lane as u8, order, constant, dependencies_met: self.dependencies_met >> lane & 1 == 1 }
    }

    /// The space of a generic address, and addresses within it.
    fn resolve(&self, address: &Address, on: u32) -> Exec<(Space, [u64; 32])> {
        let at = self.addresses(address, on)?;
        if address.space != Space::Generic {
            return Ok((address.space, at));
        }
        let shared = |lane: &usize| at[*lane] >= SHARED_WINDOW;
        let count = lanes(on).filter(shared).count();
        if count == 0 {
            return Ok((Space::Global, at));
        }
        match lanes(on).find(|l| !shared(l)) {
            Some(lane) => lane_fault(TrapKind::Invalid, lane, "found generic addresses of two spaces, expected one"),
            None => Ok((Space::Shared, at.map(|a| a.wrapping_sub(SHARED_WINDOW)))),
        }
    }

    fn load(&mut self, t: &Transfer, signed: bool, to: &[Reg], on: u32, m: &mut Machine) -> Exec {
        let (space, at) = self.resolve(t.address, on)?;
        let total = t.bytes * to.len() as u32;
        let mut words = [[0; 4]; 32];
        match space {
            Space::Param => {
                let start = at[0] as usize;
                let bytes = m.context.params[start..].iter().take(total as usize);
                let mut value = [0u8; 16];
                value.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                words = [std::array::from_fn(|n| {
                    u32::from_le_bytes(value[4 * n..4 * n + 4].try_into().unwrap_or_default())
                }); 32];
            }
            Space::Global | Space::Generic => self.load_global(t, &at, total, on, m, &mut words)?,
            Space::Shared | Space::Cluster => {
                self.counters.shared_request(&at, on, total.into());
                for lane in lanes(on) {
                    let (block, address) = self.shared_place(space, lane, at[lane], m)?;
                    let offset = m.blocks[block].shared.locate(lane, address, total)?;
                    words[lane] = m.blocks[block].shared.read(m.clocks, self.who(lane), offset, total)?;
                }
            }
        }
        for (n, reg) in to.iter().enumerate() {
            let values = std::array::from_fn(|lane| element(&words[lane], n as u32, t.bytes, signed));
            self.regs.set_any(*reg, on, &values);
        }
        if space == Space::Global {
            self.regs.note_load(to);
        }
        Ok(())
    }

    fn load_global(
        &mut self,
        t: &Transfer,
        at: &[u64; 32],
        total: u32,
        on: u32,
        m: &mut Machine,
        out: &mut [Words; 32],
    ) -> Exec {
        let sectors = self.counters.global_request(lanes(on).map(|l| at[l]), total.into());
        let bytes = u64::from(total * on.count_ones());
        self.counters.global_bytes_read += bytes;
        let agent = &mut m.blocks[self.block].agent;
        let guard = t.order.strong.then(|| m.context.global.strong.lock());
        let mut near = None;
        for lane in lanes(on) {
            let place = m.context.global.locate_near(near, lane, at[lane], total)?;
            near = Some(place);
            if let Some(Ok(released)) = &guard {
                agent.known.read(released, at[lane] & !3, t.order);
            }
            out[lane] = place.read(agent, self.access(lane, t.order, t.constant), total)?;
        }
        let label = near.map_or(0, Place::label);
        self.counters.traffic[label].add(&Traffic {
            requests: 1,
            bytes_read: bytes,
            sector_bytes_read: sectors,
            ..Traffic::default()
        });
        Ok(())
    }

    fn store(&mut self, t: &Transfer, from: &[Reg], on: u32, m: &mut Machine) -> Exec {
        let (space, at) = self.resolve(t.address, on)?;
        let total = t.bytes * from.len() as u32;
        let mut words = [[0; 4]; 32];
        for (n, reg) in from.iter().enumerate() {
            let values = self.regs.any(*reg, on)?;
            lanes(on).for_each(|lane| insert(&mut words[lane], n as u32, t.bytes, values[lane]));
        }
        if matches!(space, Space::Shared | Space::Cluster) {
            self.counters.shared_request(&at, on, total.into());
            for lane in lanes(on) {
                let (block, address) = self.shared_place(space, lane, at[lane], m)?;
                let offset = m.blocks[block].shared.locate(lane, address, total)?;
                m.blocks[block].shared.write(m.clocks, self.who(lane), offset, total, words[lane])?;
            }
            return Ok(());
        }
        let sectors = self.counters.global_request(lanes(on).map(|l| at[l]), total.into());
        let bytes = u64::from(total * on.count_ones());
        self.counters.global_bytes_written += bytes;
        let agent = &m.blocks[self.block].agent;
        let mut guard = t.order.strong.then(|| m.context.global.strong.lock());
        let mut near = None;
        for lane in lanes(on) {
            let place = m.context.global.locate_near(near, lane, at[lane], total)?;
            near = Some(place);
            if let Some(Ok(released)) = &mut guard {
                agent.known.write(released, agent.block, at[lane] & !3, t.order, false);
            }
            place.write(agent, self.access(lane, t.order, false), total, words[lane])?;
        }
        let label = near.map_or(0, Place::label);
        let written =
            Traffic { requests: 1, bytes_written: bytes, sector_bytes_written: sectors, ..Traffic::default() };
        self.counters.traffic[label].add(&written);
        Ok(())
    }

    /// The block that a shared address belongs to, and the address there; another block must go on running for it.
    pub(super) fn shared_place(&self, space: Space, lane: usize, address: u64, m: &mut Machine) -> Exec<(usize, u64)> {
        let rank = address >> CLUSTER_SHIFT;
        if space != Space::Cluster || rank == 0 {
            return Ok((self.block, address));
        }
        let block = rank as usize - 1;
        if block >= m.blocks.len() {
            let message = format!("found an address in block {block} of a cluster of {}", m.blocks.len());
            return lane_fault(TrapKind::OutOfBounds, lane, message);
        }
        if block != self.block {
            m.visit(block, self.actor, lane)?;
        }
        Ok((block, address & ((1 << CLUSTER_SHIFT) - 1)))
    }

    #[allow(clippy::too_many_arguments)]
    fn atomic(
        &mut self,
        op: AtomOp,
        address: &Address,
        d: Option<Reg>,
        a: &[Reg],
        b: Option<Reg>,
        order: Order,
        on: u32,
        m: &mut Machine,
    ) -> Exec {
        let (space, at) = self.resolve(address, on)?;
        let bytes = op.bytes();
        let second = b.map_or(Ok([0; 32]), |b| self.regs.any(b, on))?;
        let mut old = [0; 32];
        if space == Space::Global {
            self.counters.global_request(lanes(on).map(|l| at[l]), u64::from(bytes) * a.len() as u64);
        }
        for (n, reg) in a.iter().enumerate() {
            let first = self.regs.any(*reg, on)?;
            for lane in lanes(on) {
                let at = at[lane].wrapping_add(u64::from(bytes) * n as u64);
                let f = |old: u64| combine(op, old, first[lane], second[lane]);
                old[lane] = match space {
                    Space::Global => self.atomic_global(lane, at, bytes, order, m, f)?,
                    _ => self.atomic_shared(space, lane, at, bytes, m, f)?,
                };
            }
        }
        if let Some(d) = d {
            self.regs.set_any(d, on, &old);
        }
        Ok(())
    }

    fn atomic_global(
        &mut self,
        lane: usize,
        at: u64,
        bytes: u32,
        order: Order,
        m: &mut Machine,
        f: impl FnOnce(u64) -> u64,
    ) -> Exec<u64> {
        self.counters.global_bytes_read += u64::from(bytes);
        self.counters.global_bytes_written += u64::from(bytes);
        let order = Order { strong: true, ..order };
        let place = m.context.global.locate(lane, at, bytes)?;
        let agent = &mut m.blocks[self.block].agent;
        // a poisoned lock means that another worker panicked, which ends the launch anyway
        let mut released = m.context.global.strong.lock().unwrap_or_else(|e| e.into_inner());
        agent.known.read(&released, at & !3, order);
        let old = place.update(agent, self.access(lane, order, false), bytes, f)?;
        agent.known.write(&mut released, agent.block, at & !3, order, true);
        Ok(old)
    }

    fn atomic_shared(
        &mut self,
        space: Space,
        lane: usize,
        at: u64,
        bytes: u32,
        m: &mut Machine,
        f: impl FnOnce(u64) -> u64,
    ) -> Exec<u64> {
        let (block, address) = self.shared_place(space, lane, at, m)?;
        let shared = &mut m.blocks[block].shared;
        let offset = shared.locate(lane, address, bytes)?;
        shared.update(m.clocks, self.who(lane), offset, bytes, f)
    }
}

/// Element `n` of `bytes` bytes of what was read.
fn element(words: &Words, n: u32, bytes: u32, signed: bool) -> u64 {
    let at = (n * bytes) as usize;
    match bytes {
        8 => u64::from(words[at / 4]) | u64::from(words[at / 4 + 1]) << 32,
        4 => u64::from(words[at / 4]),
        _ => {
            let up = 64 - 8 * bytes;
            let value = u64::from(words[at / 4] >> (8 * (at % 4)));
            if signed { ((value << up) as i64 >> up) as u64 } else { value << up >> up }
        }
    }
}

fn insert(words: &mut Words, n: u32, bytes: u32, value: u64) {
    let at = (n * bytes) as usize;
    match bytes {
        8 => {
            words[at / 4] = value as u32;
            words[at / 4 + 1] = (value >> 32) as u32;
        }
        4 => words[at / 4] = value as u32,
        _ => words[at / 4] |= (value as u32 & ((1 << (8 * bytes)) - 1)) << (8 * (at % 4)),
    }
}

/// The new value of an atomic operation.
fn combine(op: AtomOp, old: u64, a: u64, b: u64) -> u64 {
    let (o32, a32) = (old as u32, a as u32);
    let pick = |signed: bool, less: bool, bits: u32| {
        let w = |v: u64| match (bits, signed) {
            (32, true) => i128::from(v as i32),
            (32, false) => i128::from(v as u32),
            (_, true) => i128::from(v as i64),
            _ => i128::from(v),
        };
        if (w(a) < w(old)) == less { a } else { old }
    };
    match op {
        AtomOp::Add32 => o32.wrapping_add(a32).into(),
        AtomOp::Add64 => old.wrapping_add(a),
        AtomOp::AddF32 => super::float::output(f32::from_bits(o32) + f32::from_bits(a32), false).into(),
        AtomOp::AddBf16x2 => super::alu::add_bf16x2(o32, a32).into(),
        AtomOp::Min32 { signed } => pick(signed, true, 32),
        AtomOp::Max32 { signed } => pick(signed, false, 32),
        AtomOp::Min64 { signed } => pick(signed, true, 64),
        AtomOp::Max64 { signed } => pick(signed, false, 64),
        AtomOp::And32 => old & a,
        AtomOp::Or32 => old | a,
        AtomOp::Xor32 => old ^ a,
        AtomOp::Inc32 => if o32 >= a32 { 0 } else { o32 + 1 }.into(),
        AtomOp::Dec32 => if o32 == 0 || o32 > a32 { a32 } else { o32 - 1 }.into(),
        AtomOp::Exch32 | AtomOp::Exch64 => a,
        AtomOp::Cas32 | AtomOp::Cas64 => {
            if old == a {
                b
            } else {
                old
            }
        }
    }
}
