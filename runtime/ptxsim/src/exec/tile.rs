//! Tile products and the movement of tiles: `mma.sync`, `ldmatrix`, `stmatrix`.
//!
//! Where an element lies (PTX ISA, "Matrix Fragments for mma.m16n8k16" and the others), for lane `l`, `g = l / 4`, `t = l % 4`:
//!
//! | fragment | row | column |
//! |---|---|---|
//! | A, 16 bits, register r, half h | `g + 8 (r % 2)` | `k = 2 t + h + 8 (r / 2)` |
//! | B, 16 bits, register r, half h | `k = 2 t + h + 8 r` | `g` |
//! | A, 32 bits, register r | `g + 8 (r % 2)` | `k = t + 4 (r / 2)` |
//! | B, 32 bits, register r | `k = t + 4 r` | `g` |
//! | C and D, register r | `g + 8 (r / 2)` | `2 t + r % 2` |

use super::{FULL, Machine, Warp, float, lanes};
use crate::error::Exec;
use crate::inst::{Address, MmaKind, TileOp};
use crate::types::R32;

/// Elements of a fragment register.
#[derive(Clone, Copy)]
enum Element {
    Bf16,
    F16,
    Tf32,
}

impl Element {
    /// The element in half `h` of a register.
    #[inline(always)]
    fn value(self, bits: u32, h: usize) -> f32 {
        match self {
            Element::Bf16 => float::from_bf16(bits >> (16 * h) & 0xffff),
            Element::F16 => float::from_f16(bits >> (16 * h) & 0xffff),
            // the lower 13 bits are no part of the format
            Element::Tf32 => f32::from_bits(bits & !0x1fff),
        }
    }
}

impl Warp {
    pub(super) fn tile(&mut self, op: &TileOp, on: u32, m: &mut Machine) -> Exec {
        self.whole(on)?;
        match op {
            TileOp::Mma { kind, d, a, b, c } => self.mma(*kind, d, a, b, c),
            TileOp::Wgmma(op) => self.wgmma(op, m),
            TileOp::LoadMatrix { trans, to, address } => self.load_matrix(*trans, to, address, m),
            TileOp::StoreMatrix { trans, from, address } => self.store_matrix(*trans, from, address, m),
        }
    }

    /// `D = A B + C`: products of narrow elements are exact in f32, and are added in f32 in the order of `k` (the ISA leaves the order open).
    fn mma(&mut self, kind: MmaKind, d: &[R32; 4], a: &[R32], b: &[R32], c: &[R32; 4]) -> Exec {
        let element = match kind {
            MmaKind::Bf16K16 | MmaKind::Bf16K8 => Element::Bf16,
            MmaKind::F16K16 | MmaKind::F16K8 => Element::F16,
            MmaKind::Tf32K8 | MmaKind::Tf32K4 => Element::Tf32,
        };
        let depth = if let Element::Tf32 = element { 4 * b.len() } else { 8 * b.len() };
        let (mut left, mut right, mut sum) = ([[0f32; 16]; 16], [[0f32; 8]; 16], [[0f32; 8]; 16]);
        for (r, reg) in a.iter().enumerate() {
            let bits = self.regs.short(*reg, FULL)?;
            for (l, bits) in bits.iter().enumerate() {
                let (row, t) = (l / 4 + 8 * (r % 2), l % 4);
                if let Element::Tf32 = element {
                    left[row][t + 4 * (r / 2)] = element.value(*bits, 0);
                } else {
                    left[row][2 * t + 8 * (r / 2)] = element.value(*bits, 0);
                    left[row][2 * t + 1 + 8 * (r / 2)] = element.value(*bits, 1);
                }
            }
        }
        for (r, reg) in b.iter().enumerate() {
            let bits = self.regs.short(*reg, FULL)?;
            for (l, bits) in bits.iter().enumerate() {
                let (col, t) = (l / 4, l % 4);
                if let Element::Tf32 = element {
                    right[t + 4 * r][col] = element.value(*bits, 0);
                } else {
                    right[2 * t + 8 * r][col] = element.value(*bits, 0);
                    right[2 * t + 1 + 8 * r][col] = element.value(*bits, 1);
                }
            }
        }
        for (r, reg) in c.iter().enumerate() {
            let bits = self.regs.short(*reg, FULL)?;
            (0..32).for_each(|l| sum[l / 4 + 8 * (r / 2)][2 * (l % 4) + r % 2] = f32::from_bits(bits[l]));
        }
        for (row, sum) in left.iter().zip(&mut sum) {
            for (a, b) in row[..depth].iter().zip(&right) {
                sum.iter_mut().zip(b).for_each(|(s, b)| *s += a * b);
            }
        }
        for (r, reg) in d.iter().enumerate() {
            let out = std::array::from_fn(|l| sum[l / 4 + 8 * (r / 2)][2 * (l % 4) + r % 2].to_bits());
            self.regs.set_short(*reg, FULL, &out);
        }
        self.counters.tile_products += 1;
        self.counters.tile_flops += 2 * 16 * 8 * depth as u64;
        Ok(())
    }

    /// Lanes `8 i` to `8 i + 7` give the addresses of the rows of matrix `i`.
    fn matrix_rows(&mut self, count: usize, address: &Address) -> Exec<[u64; 32]> {
        // only those lanes' addresses mean something
        let used = if count == 4 { FULL } else { (1 << (8 * count)) - 1 };
        let at = self.addresses(address, used)?;
        self.counters.shared_request(&at, used, 16);
        Ok(at)
    }

    fn load_matrix(&mut self, trans: bool, to: &[R32], address: &Address, m: &mut Machine) -> Exec {
        let at = self.matrix_rows(to.len(), address)?;
        for (i, reg) in to.iter().enumerate() {
            let mut rows = [[0u32; 4]; 8];
            for (row, words) in rows.iter_mut().enumerate() {
                let lane = 8 * i + row;
                let shared = &mut m.blocks[self.block].shared;
                let offset = shared.locate(lane, at[lane], 16)?;
                *words = shared.read(m.clocks, self.who(lane), offset, 16)?;
            }
            let element = |row: usize, col: usize| rows[row][col / 2] >> (16 * (col % 2)) & 0xffff;
            let out = std::array::from_fn(|l| match trans {
                false => rows[l / 4][l % 4],
                true => element(2 * (l % 4), l / 4) | element(2 * (l % 4) + 1, l / 4) << 16,
            });
            self.regs.set_short(*reg, FULL, &out);
        }
        Ok(())
    }

    fn store_matrix(&mut self, trans: bool, from: &[R32], address: &Address, m: &mut Machine) -> Exec {
        let at = self.matrix_rows(from.len(), address)?;
        for (i, reg) in from.iter().enumerate() {
            let bits = self.regs.short(*reg, FULL)?;
            let element = |row: usize, col: usize| match trans {
                false => bits[4 * row + col / 2] >> (16 * (col % 2)) & 0xffff,
                true => bits[4 * col + row / 2] >> (16 * (row % 2)) & 0xffff,
            };
            for row in 0..8 {
                let lane = 8 * i + row;
                let words = std::array::from_fn(|n| element(row, 2 * n) | element(row, 2 * n + 1) << 16);
                let shared = &mut m.blocks[self.block].shared;
                let offset = shared.locate(lane, at[lane], 16)?;
                shared.write(m.clocks, self.who(lane), offset, 16, words)?;
            }
        }
        Ok(())
    }

    /// The value that all of `on` must agree on.
    pub(super) fn uniform(&self, r: R32, on: u32, what: &str) -> Exec<u32> {
        let values = self.regs.short(r, on)?;
        let first = values[on.trailing_zeros() as usize];
        match lanes(on).find(|lane| values[*lane] != first) {
            None => Ok(first),
            Some(lane) => {
                let message = format!("found {what} {first} and {}, expected one for the warp", values[lane]);
                crate::error::lane_fault(crate::error::TrapKind::Divergent, lane, message)
            }
        }
    }
}
