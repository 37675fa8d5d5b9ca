//! Products of a warpgroup: `wgmma` (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//!
//! Warp `w` of the warpgroup holds rows `16 w` to `16 w + 15` of A and D; register `4 j + r` of D is register `r` of the fragment C of
//! `mma.sync` for columns `8 j` to `8 j + 7`; a register operand A is the fragment A. Each warp computes its rows when it issues the
//! instruction; until it waits, its registers must not be touched (but as the same accumulators, or as A again), and at the wait the operands
//! in shared memory must be what they were.
//!
//! Where an element lies in shared memory, with rows of 16-byte pieces (`W` is the width of the swizzle in bytes):
//!
//! | order | address of row `r`, byte `b` of a row of k (or of column byte `b`, k) |
//! |---|---|
//! | k-major, swizzled | `(r / 8) SBO + (r % 8) W + b` |
//! | k-major, plain | `(r / 8) SBO + (b / 16) LBO + (r % 8) 16 + b % 16` |
//! | transposed, swizzled | `(k / 8) SBO + (b / W) LBO + (k % 8) W + b % W` |
//! | transposed, plain | `(k / 8) LBO + (b / 16) SBO + (k % 8) 16 + b % 16` |
//!
//! The swizzle exchanges 16-byte pieces by the absolute address: `x ^ ((x >> 7 & m) << 4)`, m = 7, 3, 1 for 128, 64, 32 bytes.

use super::{FULL, Machine, Warp, float};
use crate::error::{Exec, TrapKind, fault};
use crate::inst::{WgmmaA, WgmmaOp};
use crate::memory::clock::{LANES, Who};
use crate::types::R32;

/// Epoch of a register that an instruction in flight uses.
const FLYING: u32 = u32::MAX;

/// What a warp knows of its registers and products in flight.
#[derive(Debug, Default)]
pub(crate) struct Tracked {
    /// For each register, fences executed when it was last written, or [`FLYING`].
    epochs: Vec<u32>,
    fences: u32,
    committed: u32,
    flying: Vec<Flight>,
    /// A register in flight has been written.
    violated: bool,
}

/// A product in flight.
#[derive(Debug)]
struct Flight {
    group: u32,
    d: Box<[R32]>,
    a: Option<[R32; 4]>,
    /// What it reads of shared memory: offsets and words.
    operands: Vec<(usize, u32)>,
}

impl Tracked {
    pub fn new(registers: usize) -> Self {
        Tracked { epochs: vec![0; registers], ..Tracked::default() }
    }

    pub fn note_write(&mut self, n: usize) {
        self.violated |= self.epochs[n] == FLYING;
        self.epochs[n] = self.fences;
    }

    pub fn in_flight(&self, n: usize) -> bool {
        self.epochs[n] == FLYING
    }

    /// After each instruction.
    #[inline(always)]
    pub fn check(&self) -> Exec {
        if self.violated { in_flight() } else { Ok(()) }
    }
}

#[cold]
pub(crate) fn in_flight<T>() -> Exec<T> {
    fault(TrapKind::InFlight, "a register of a wgmma.mma_async that has not been waited for is accessed")
}

/// A matrix in shared memory.
struct Descriptor {
    start: usize,
    leading: usize,
    stride: usize,
    /// Bytes of a row; 16 is no swizzle.
    width: usize,
}

impl Descriptor {
    fn new(bits: u64) -> Exec<Self> {
        let field = |at: u32| (bits >> at & 0x3fff) as usize * 16;
        if bits >> 49 & 7 != 0 {
            return fault(TrapKind::Invalid, "found a matrix descriptor with a base offset, which is not modelled");
        }
        let width = [16, 128, 64, 32][(bits >> 62) as usize];
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), width })
    }

    /// The address of byte `b` along the contiguous direction in row `r` of the other one.
    fn address(&self, r: usize, b: usize, trans: bool) -> u64 {
        let w = self.width;
        let (inner, outer) = if w == 16 && trans { (self.stride, self.leading) } else { (self.leading, self.stride) };
        let x = self.start + r / 8 * outer + b / w * inner + r % 8 * w + b % w;
        let mask = w / 16 - 1;
        (x ^ ((x >> 7 & mask) << 4)) as u64
    }
}

impl Warp {
    pub(super) fn wgmma(&mut self, op: &WgmmaOp, m: &mut Machine) -> Exec {
        let Some(tracked) = &mut self.regs.tracked else { return Ok(()) };
        match op {
            WgmmaOp::Fence => tracked.fences += 1,
            WgmmaOp::Commit => tracked.committed += 1,
            WgmmaOp::Wait { pending } => return self.wgmma_wait(*pending, m),
            WgmmaOp::Mma { tf32, n, d, a, b, keep, negate, trans_a, trans_b } => {
                let shape = Shape { tf32: *tf32, n: *n as usize };
                let keep_bits = self.regs.pred(keep.0, FULL)? ^ if keep.1 { u32::MAX } else { 0 };
                if keep_bits != 0 && keep_bits != FULL {
                    return fault(
                        TrapKind::Divergent,
                        "found a scale-d that differs between lanes, expected one for the warp",
                    );
                }
                self.product(&shape, d, *a, self.descriptor(*b)?, keep_bits != 0, *negate, [*trans_a, *trans_b], m)?;
            }
        }
        Ok(())
    }

    fn descriptor(&self, r: crate::types::R64) -> Exec<Descriptor> {
        let values = self.regs.long(r, FULL)?;
        if values.iter().any(|v| *v != values[0]) {
            return fault(
                TrapKind::Divergent,
                "found matrix descriptors that differ between lanes, expected one for the warp",
            );
        }
        Descriptor::new(values[0])
    }

    #[allow(clippy::too_many_arguments)]
    fn product(
        &mut self,
        shape: &Shape,
        d: &[R32],
        a: WgmmaA,
        b: Descriptor,
        keep: bool,
        negate: bool,
        trans: [bool; 2],
        m: &mut Machine,
    ) -> Exec {
        let mut operands = vec![];
        let first_row = 16 * (self.index as usize % 4);
        let mut left = [[0f32; 16]; 16];
        match a {
            WgmmaA::Registers(a) => {
                self.check_registers(&a, false)?;
                self.left_from_registers(shape, &a, &mut left);
            }
            WgmmaA::Descriptor(r) => {
                let descriptor = self.descriptor(r)?;
                for (row, out) in left.iter_mut().enumerate() {
                    let elements = self.row(shape, &descriptor, first_row + row, trans[0], m, &mut operands)?;
                    out[..shape.depth()].copy_from_slice(&elements[..shape.depth()]);
                }
            }
        }
        let mut columns = Vec::with_capacity(shape.n);
        for col in 0..shape.n {
            columns.push(self.row(shape, &b, col, trans[1], m, &mut operands)?);
        }
        self.check_accumulators(d, keep)?;
        for (j, quad) in d.chunks_exact(4).enumerate() {
            for (r, reg) in quad.iter().enumerate() {
                let slot = &mut self.regs.short[reg.0 as usize];
                for (l, slot) in slot.iter_mut().enumerate() {
                    let (row, col) = (&left[l / 4 + 8 * (r / 2)], &columns[8 * j + 2 * (l % 4) + r % 2]);
                    let sum = row.iter().zip(col).fold(0.0, |sum, (a, b)| sum + a * b);
                    let old = if keep { f32::from_bits(*slot) } else { 0.0 };
                    *slot = (old + if negate { -sum } else { sum }).to_bits();
                }
            }
        }
        self.counters.tile_products += 1;
        self.counters.tile_flops += 2 * 16 * (shape.n * shape.depth()) as u64;
        let a = if let WgmmaA::Registers(a) = a { Some(a) } else { None };
        self.take_off(d, a, operands);
        Ok(())
    }

    fn left_from_registers(&self, shape: &Shape, a: &[R32; 4], left: &mut [[f32; 16]; 16]) {
        for (r, reg) in a.iter().enumerate() {
            for (l, bits) in self.regs.short[reg.0 as usize].iter().enumerate() {
                let (row, t) = (l / 4 + 8 * (r % 2), l % 4);
                if shape.tf32 {
                    left[row][t + 4 * (r / 2)] = f32::from_bits(bits & !0x1fff);
                } else {
                    left[row][2 * t + 8 * (r / 2)] = float::from_bf16(bits & 0xffff);
                    left[row][2 * t + 1 + 8 * (r / 2)] = float::from_bf16(bits >> 16);
                }
            }
        }
    }

    /// Row `r` of A, or column `r` of B: its elements along k.
    fn row(
        &self,
        shape: &Shape,
        d: &Descriptor,
        r: usize,
        trans: bool,
        m: &Machine,
        operands: &mut Vec<(usize, u32)>,
    ) -> Exec<[f32; 16]> {
        let mut out = [0.0; 16];
        let size = if shape.tf32 { 4 } else { 2 };
        for (k, out) in out.iter_mut().enumerate().take(shape.depth()) {
            let at = if trans { d.address(k, size * r, true) } else { d.address(r, size * k, false) };
            let shared = &m.blocks[self.block].shared;
            let offset = shared.locate(0, at & !3, 4)?;
            // elements of a row lie in pairs, and each word is checked once
            let word = match operands.last() {
                Some((last, word)) if *last == offset => *word,
                _ => {
                    let word = shared.read_async(m.clocks, self.who(0), offset)?;
                    operands.push((offset, word));
                    word
                }
            };
            *out = if shape.tf32 {
                f32::from_bits(word & !0x1fff)
            } else {
                float::from_bf16(word >> (8 * (at & 2)) & 0xffff)
            };
        }
        Ok(out)
    }

    /// Operands must have been written, before the last `wgmma.fence`.
    fn check_registers(&self, registers: &[R32], may_be_unset: bool) -> Exec {
        let Some(tracked) = &self.regs.tracked else { return Ok(()) };
        for reg in registers {
            let n = reg.0 as usize;
            if tracked.in_flight(n) {
                // as a fragment A it may be read again
                if tracked.flying.iter().any(|f| f.d.contains(reg)) {
                    return in_flight();
                }
                continue;
            }
            if !may_be_unset {
                self.regs.short(*reg, FULL)?;
            }
            if self.regs.short_set[n] != 0 && tracked.epochs[n] >= tracked.fences {
                return fault(
                    TrapKind::InFlight,
                    "a register was written after the last wgmma.fence, expected one between",
                );
            }
        }
        Ok(())
    }

    fn check_accumulators(&self, d: &[R32], keep: bool) -> Exec {
        let Some(tracked) = &self.regs.tracked else { return Ok(()) };
        if tracked.fences == 0 {
            return fault(TrapKind::InFlight, "found no wgmma.fence before the first wgmma.mma_async");
        }
        let uses =
            |f: &Flight| f.d.iter().any(|r| d.contains(r)) || f.a.is_some_and(|a| a.iter().any(|r| d.contains(r)));
        match tracked.flying.iter().rev().find(|f| uses(f)) {
            // accumulators of the same shape follow each other without a fence
            Some(f) if *f.d == *d => Ok(()),
            Some(_) => in_flight(),
            None => self.check_registers(d, !keep),
        }
    }

    fn take_off(&mut self, d: &[R32], a: Option<[R32; 4]>, operands: Vec<(usize, u32)>) {
        let Some(tracked) = &mut self.regs.tracked else { return };
        for reg in d.iter().chain(a.iter().flatten()) {
            tracked.epochs[reg.0 as usize] = FLYING;
            self.regs.short_set[reg.0 as usize] = 0;
        }
        let group = tracked.committed;
        tracked.flying.push(Flight { group, d: d.into(), a, operands });
    }

    /// All but the `pending` newest groups are complete.
    fn wgmma_wait(&mut self, pending: u32, m: &mut Machine) -> Exec {
        let who = Who { actor: self.actor, lane: LANES };
        let Some(tracked) = &mut self.regs.tracked else { return Ok(()) };
        let complete = tracked.committed.saturating_sub(pending);
        let landed: Vec<Flight> = tracked.flying.extract_if(.., |f| f.group < complete).collect();
        let shared = &mut m.blocks[self.block].shared;
        for flight in &landed {
            for (offset, word) in &flight.operands {
                shared.end_read(m.clocks, who, *offset, *word)?;
            }
            for reg in flight.d.iter().chain(flight.a.iter().flatten()) {
                let busy = |f: &Flight| f.d.contains(reg) || f.a.is_some_and(|a| a.contains(reg));
                if !tracked.flying.iter().any(busy) {
                    tracked.epochs[reg.0 as usize] = 0;
                    self.regs.short_set[reg.0 as usize] = FULL;
                }
            }
        }
        Ok(())
    }
}

struct Shape {
    tf32: bool,
    n: usize,
}

impl Shape {
    fn depth(&self) -> usize {
        if self.tf32 { 8 } else { 16 }
    }
}
