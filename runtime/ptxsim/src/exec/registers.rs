//! The registers of a warp, and which lanes of each were written.

use super::wgmma::{self, Tracked};
use super::{FULL, lanes};
use crate::error::{Exec, TrapKind, lane_fault};
use crate::module::Files;
use crate::types::{R32, R64, RP, Reg};
use std::cell::Cell;

/// Registers of a warp: 32 lanes of each, and which lanes were written.
#[derive(Debug)]
pub(crate) struct Registers {
    pub short: Vec<[u32; 32]>,
    pub long: Vec<[u64; 32]>,
    pub pred: Vec<u32>,
    pub short_set: Vec<u32>,
    pub long_set: Vec<u32>,
    pub pred_set: Vec<u32>,
    /// What warpgroup products need to know; absent in kernels without them.
    pub tracked: Option<Box<Tracked>>,
    pub loads: Loads,
}

/// Loads whose result no instruction has used yet.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    /// Loads since the last use, and the most that there were.
    open: Cell<u32>,
    most: Cell<u32>,
    /// Counts the uses; a register was loaded since the last one if its mark is equal.
    uses: Cell<u32>,
    short: Vec<u32>,
    long: Vec<u32>,
}

impl Loads {
    /// A register is read whose mark is `mark`.
    #[inline(always)]
    fn note_use(&self, mark: impl FnOnce(&Self) -> u32) {
        if self.open.get() != 0 && mark(self) == self.uses.get() + 1 {
            self.most.set(self.most.get().max(self.open.get()));
            self.open.set(0);
            self.uses.set(self.uses.get() + 1);
        }
    }

    /// The most loads that were open at once.
    pub fn most(&self) -> u64 {
        self.most.get().max(self.open.get()).into()
    }
}

impl Registers {
    pub fn new(files: Files, tracked: bool) -> Self {
        let (short, long, pred) = (files.short as usize, files.long as usize, files.pred as usize);
        Registers {
            short: vec![[0; 32]; short],
            long: vec![[0; 32]; long],
            pred: vec![0; pred],
            short_set: vec![0; short],
            long_set: vec![0; long],
            pred_set: vec![0; pred],
            tracked: tracked.then(|| Box::new(Tracked::new(short))),
            loads: Loads { short: vec![0; short], long: vec![0; long], ..Loads::default() },
        }
    }

    /// A load from global memory to these registers.
    pub fn note_load(&mut self, to: &[Reg]) {
        let mark = self.loads.uses.get() + 1;
        self.loads.open.set(self.loads.open.get() + 1);
        for reg in to {
            match reg {
                Reg::W(r) => self.loads.short[r.0 as usize] = mark,
                Reg::D(r) => self.loads.long[r.0 as usize] = mark,
                Reg::P(_) => {}
            }
        }
    }

    /// The lanes of a register; those in `mask` must have been written.
    #[inline(always)]
    pub fn short(&self, r: R32, mask: u32) -> Exec<&[u32; 32]> {
        let n = r.0 as usize;
        if self.short_set[n] & mask != mask {
            return self.unset_short(n, mask & !self.short_set[n]);
        }
        self.loads.note_use(|loads| loads.short[n]);
        Ok(&self.short[n])
    }

    #[inline(always)]
    pub fn long(&self, r: R64, mask: u32) -> Exec<&[u64; 32]> {
        let n = r.0 as usize;
        if self.long_set[n] & mask != mask {
            return unset(mask & !self.long_set[n]);
        }
        self.loads.note_use(|loads| loads.long[n]);
        Ok(&self.long[n])
    }

    #[inline(always)]
    pub fn pred(&self, r: RP, mask: u32) -> Exec<u32> {
        let n = r.0 as usize;
        if self.pred_set[n] & mask != mask {
            return unset(mask & !self.pred_set[n]);
        }
        Ok(self.pred[n])
    }

    #[inline(always)]
    pub fn set_short(&mut self, r: R32, mask: u32, value: &[u32; 32]) {
        let n = r.0 as usize;
        blend(&mut self.short[n], mask, value);
        self.short_set[n] |= mask;
        if let Some(tracked) = &mut self.tracked {
            tracked.note_write(n);
        }
    }

    #[inline(always)]
    pub fn set_long(&mut self, r: R64, mask: u32, value: &[u64; 32]) {
        let n = r.0 as usize;
        blend(&mut self.long[n], mask, value);
        self.long_set[n] |= mask;
    }

    #[inline(always)]
    pub fn set_pred(&mut self, r: RP, mask: u32, value: u32) {
        let n = r.0 as usize;
        self.pred[n] = self.pred[n] & !mask | value & mask;
        self.pred_set[n] |= mask;
    }

    #[cold]
    fn unset_short<T>(&self, n: usize, missing: u32) -> Exec<T> {
        match &self.tracked {
            Some(tracked) if tracked.in_flight(n) => wgmma::in_flight(),
            _ => unset(missing),
        }
    }

    /// Lane values of a register of any file, widened.
    pub fn any(&self, r: Reg, mask: u32) -> Exec<[u64; 32]> {
        Ok(match r {
            Reg::W(r) => self.short(r, mask)?.map(u64::from),
            Reg::D(r) => *self.long(r, mask)?,
            Reg::P(r) => {
                let bits = self.pred(r, mask)?;
                std::array::from_fn(|lane| u64::from(bits >> lane & 1))
            }
        })
    }

    pub fn set_any(&mut self, r: Reg, mask: u32, value: &[u64; 32]) {
        match r {
            Reg::W(r) => self.set_short(r, mask, &value.map(|v| v as u32)),
            Reg::D(r) => self.set_long(r, mask, value),
            Reg::P(r) => {
                let bits = (0..32).fold(0, |bits, lane| bits | u32::from(value[lane] & 1 == 1) << lane);
                self.set_pred(r, mask, bits);
            }
        }
    }
}

#[inline(always)]
fn blend<T: Copy>(to: &mut [T; 32], mask: u32, value: &[T; 32]) {
    if mask == FULL {
        *to = *value;
    } else {
        lanes(mask).for_each(|lane| to[lane] = value[lane]);
    }
}

#[cold]
fn unset<T>(missing: u32) -> Exec<T> {
    let lane = missing.trailing_zeros() as usize;
    lane_fault(TrapKind::UninitialisedRegister, lane, "a register that was never written is read")
}
