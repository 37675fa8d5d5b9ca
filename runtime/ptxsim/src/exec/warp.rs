//! Exchange between the lanes of a warp (PTX ISA, `shfl.sync`, `vote.sync`, `redux.sync`, `match.sync`, `elect.sync`, `bar.warp.sync`, `movmatrix`).

use super::{Machine, Warp, lanes};
use crate::error::{Exec, TrapKind, fault, lane_fault};
use crate::inst::{Redux, Shuffle, Vote, VoteTo, WarpOp};
use crate::types::{R32, RP};

impl Warp {
    pub(super) fn exchange(&mut self, op: &WarpOp, on: u32, m: &mut Machine) -> Exec {
        match *op {
            WarpOp::Shuffle { mode, d, p, a, b, c, members } => {
                self.members(members, on)?;
                self.shuffle(mode, d, p, [a, b, c], on)
            }
            WarpOp::Vote { mode, a, negate, d, members } => {
                self.members(members, on)?;
                let bits = (self.regs.pred(a, on)? ^ if negate { u32::MAX } else { 0 }) & on;
                let holds = match mode {
                    Vote::All => bits == on,
                    Vote::Any => bits != 0,
                    Vote::Uniform => bits == on || bits == 0,
                    Vote::Ballot => false,
                };
                match d {
                    VoteTo::Bits(d) => self.regs.set_short(d, on, &[bits; 32]),
                    VoteTo::Pred(d) => self.regs.set_pred(d, on, if holds { u32::MAX } else { 0 }),
                }
                Ok(())
            }
            WarpOp::Redux { op, d, a, members } => {
                self.members(members, on)?;
                let a = self.regs.short(a, on)?;
                let value = reduce(op, lanes(on).map(|lane| a[lane]));
                self.regs.set_short(d, on, &[value; 32]);
                Ok(())
            }
            WarpOp::MatchAny { d, a, members } => {
                self.members(members, on)?;
                let a = *self.regs.short(a, on)?;
                let equal = |l: usize| lanes(on).fold(0, |bits, o| bits | u32::from(a[o] == a[l]) << o);
                self.regs.set_short(d, on, &std::array::from_fn(equal));
                Ok(())
            }
            WarpOp::ActiveMask { d } => {
                self.regs.set_short(d, on, &[on; 32]);
                Ok(())
            }
            WarpOp::Elect { d, p, members } => {
                self.members(members, on)?;
                let leader = on.trailing_zeros();
                if let Some(d) = d {
                    self.regs.set_short(d, on, &[leader; 32]);
                }
                self.regs.set_pred(p, on, 1 << leader);
                Ok(())
            }
            WarpOp::Sync { members } => {
                self.members(members, on)?;
                m.clocks.sync_lanes(self.actor);
                Ok(())
            }
            WarpOp::Transpose { d, a } => {
                self.whole(on)?;
                let a = *self.regs.short(a, on)?;
                let at = |row: usize, col: usize| a[4 * row + col / 2] >> (16 * (col % 2)) & 0xffff;
                let out = std::array::from_fn(|l| at(2 * (l % 4), l / 4) | at(2 * (l % 4) + 1, l / 4) << 16);
                self.regs.set_short(d, on, &out);
                Ok(())
            }
        }
    }

    /// All lanes of the mask that have not exited must be here, and no others.
    fn members(&self, members: R32, on: u32) -> Exec {
        let masks = self.regs.short(members, on)?;
        let mask = masks[on.trailing_zeros() as usize];
        if let Some(lane) = lanes(on).find(|l| masks[*l] != mask) {
            return lane_fault(
                TrapKind::Divergent,
                lane,
                format!("found member masks {mask:#x} and {:#x}", masks[lane]),
            );
        }
        if mask & self.live == on {
            return Ok(());
        }
        fault(TrapKind::Divergent, format!("lanes {on:#010x} are here, expected those of the member mask {mask:#010x}"))
    }

    fn shuffle(&mut self, mode: Shuffle, d: R32, p: Option<RP>, [a, b, c]: [R32; 3], on: u32) -> Exec {
        let (a, b, c) = (*self.regs.short(a, on)?, *self.regs.short(b, on)?, *self.regs.short(c, on)?);
        let (mut out, mut inside) = ([0; 32], 0u32);
        for lane in lanes(on) {
            let (offset, clamp, segment) = (b[lane] & 31, c[lane] & 31, c[lane] >> 8 & 31);
            let me = lane as u32;
            let (first, last) = (me & segment, me & segment | clamp & !segment);
            let (source, good) = match mode {
                Shuffle::Up => (me.wrapping_sub(offset), me as i32 - offset as i32 >= last as i32),
                Shuffle::Down => (me + offset, me + offset <= last),
                Shuffle::Butterfly => (me ^ offset, me ^ offset <= last),
                Shuffle::Index => (first | offset & !segment, first | offset & !segment <= last),
            };
            let source = if good { source as usize } else { lane };
            if on >> source & 1 == 0 {
                return lane_fault(
                    TrapKind::Divergent,
                    lane,
                    format!("found lane {source} as the source, which is not here"),
                );
            }
            out[lane] = a[source];
            inside |= u32::from(good) << lane;
        }
        self.regs.set_short(d, on, &out);
        if let Some(p) = p {
            self.regs.set_pred(p, on, inside);
        }
        Ok(())
    }
}

fn reduce(op: Redux, values: impl Iterator<Item = u32>) -> u32 {
    let join = |a: u32, b: u32| match op {
        Redux::Add => a.wrapping_add(b),
        Redux::Min { signed: true } => (a as i32).min(b as i32) as u32,
        Redux::Max { signed: true } => (a as i32).max(b as i32) as u32,
        Redux::Min { .. } => a.min(b),
        Redux::Max { .. } => a.max(b),
        Redux::And => a & b,
        Redux::Or => a | b,
        Redux::Xor => a ^ b,
    };
    values.reduce(join).unwrap_or_default()
}
