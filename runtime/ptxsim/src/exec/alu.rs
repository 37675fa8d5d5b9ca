//! Scalar operations, 32 lanes at a time (PTX ISA, "Instruction Set": arithmetic, comparison, logic, conversion).
//!
//! Lanes that are masked out are computed too and thrown away: every function here is total.

use super::float::{self, input, output};
use super::{Warp, lanes};
use crate::error::{Exec, TrapKind, lane_fault};
use crate::inst::{Alu1, Alu2, Alu3, Bf16Op, Cmp, Logic, Op, Rounding, SetpArgs, Shift, Wide1, Wide2};
use crate::types::{R32, R64};

impl Warp {
    #[inline(always)]
    fn map1(&mut self, d: R32, a: R32, on: u32, f: impl Fn(u32) -> u32) -> Exec {
        let a = self.regs.short(a, on)?;
        let out = std::array::from_fn(|lane| f(a[lane]));
        self.regs.set_short(d, on, &out);
        Ok(())
    }

    #[inline(always)]
    fn map2(&mut self, d: R32, [a, b]: [R32; 2], on: u32, f: impl Fn(u32, u32) -> u32) -> Exec {
        let (a, b) = (self.regs.short(a, on)?, self.regs.short(b, on)?);
        let out = std::array::from_fn(|lane| f(a[lane], b[lane]));
        self.regs.set_short(d, on, &out);
        Ok(())
    }

    #[inline(always)]
    fn map3(&mut self, d: R32, [a, b, c]: [R32; 3], on: u32, f: impl Fn(u32, u32, u32) -> u32) -> Exec {
        let (a, b, c) = (self.regs.short(a, on)?, self.regs.short(b, on)?, self.regs.short(c, on)?);
        let out = std::array::from_fn(|lane| f(a[lane], b[lane], c[lane]));
        self.regs.set_short(d, on, &out);
        Ok(())
    }

    #[inline(always)]
    fn wide2(&mut self, d: R64, [a, b]: [R64; 2], on: u32, f: impl Fn(u64, u64) -> u64) -> Exec {
        let (a, b) = (self.regs.long(a, on)?, self.regs.long(b, on)?);
        let out = std::array::from_fn(|lane| f(a[lane], b[lane]));
        self.regs.set_long(d, on, &out);
        Ok(())
    }

    pub(super) fn scalar(&mut self, op: &Op, on: u32) -> Exec {
        match *op {
            Op::Alu1 { op, d, a } => self.alu1(op, d, a, on),
            Op::Alu2 { op, d, a, b } => self.alu2(op, d, [a, b], on),
            Op::Alu3 { op, d, a, b, c } => self.alu3(op, d, [a, b, c], on),
            Op::Bfi { d, a, b, at, length } => {
                let (at, length) = (*self.regs.short(at, on)?, *self.regs.short(length, on)?);
                let (a, b) = (self.regs.short(a, on)?, self.regs.short(b, on)?);
                let out = std::array::from_fn(|l| bfi(a[l], b[l], at[l], length[l]));
                self.regs.set_short(d, on, &out);
                Ok(())
            }
            Op::Setp { p, q, cmp, args, combine } => {
                let holds = self.compare(cmp, args, on)?;
                let combined = |value: u32| -> Exec<u32> {
                    match combine {
                        None => Ok(value),
                        Some((logic, c, negate)) => {
                            let c = self.regs.pred(c, on)? ^ if negate { u32::MAX } else { 0 };
                            Ok(combine_bits(logic, value, c))
                        }
                    }
                };
                let (first, second) = (combined(holds)?, combined(!holds)?);
                self.regs.set_pred(p, on, first);
                if let Some(q) = q {
                    self.regs.set_pred(q, on, second);
                }
                Ok(())
            }
            Op::PredLogic { op, d, a, b } => {
                let bits = combine_bits(op, self.regs.pred(a, on)?, self.regs.pred(b, on)?);
                self.regs.set_pred(d, on, bits);
                Ok(())
            }
            Op::PredMov { d, a, negate } => {
                let bits = self.regs.pred(a, on)? ^ if negate { u32::MAX } else { 0 };
                self.regs.set_pred(d, on, bits);
                Ok(())
            }
            Op::Selp { d, a, b, p } => {
                let p = self.regs.pred(p, on)?;
                let (a, b) = (self.regs.short(a, on)?, self.regs.short(b, on)?);
                let out = std::array::from_fn(|l| if p >> l & 1 == 1 { a[l] } else { b[l] });
                self.regs.set_short(d, on, &out);
                Ok(())
            }
            _ => self.wide(op, on),
        }
    }

    /// Operations that read or write 64-bit registers.
    fn wide(&mut self, op: &Op, on: u32) -> Exec {
        match *op {
            Op::Wide1 { op, d, a } => {
                let f = match op {
                    Wide1::Mov => |a: u64| a,
                    Wide1::Not => |a: u64| !a,
                    Wide1::Neg => |a: u64| a.wrapping_neg(),
                };
                let out = self.regs.long(a, on)?.map(f);
                self.regs.set_long(d, on, &out);
            }
            Op::Wide2 { op, d, a, b } => return self.wide_two(op, d, [a, b], on),
            Op::WideMad { d, a, b, c } => {
                let c = *self.regs.long(c, on)?;
                let (a, b) = (self.regs.long(a, on)?, self.regs.long(b, on)?);
                let out = std::array::from_fn(|l| a[l].wrapping_mul(b[l]).wrapping_add(c[l]));
                self.regs.set_long(d, on, &out);
            }
            Op::WideShift { op, d, a, b } => {
                let (a, b) = (self.regs.long(a, on)?, self.regs.short(b, on)?);
                let out = std::array::from_fn(|l| wide_shift(op, a[l], b[l]));
                self.regs.set_long(d, on, &out);
            }
            Op::MulWide { signed, d, a, b, c } => {
                let c = c.map_or(Ok([0; 32]), |c| self.regs.long(c, on).copied())?;
                let (a, b) = (self.regs.short(a, on)?, self.regs.short(b, on)?);
                let extend = |v: u32| if signed { v as i32 as i64 as u64 } else { u64::from(v) };
                let out = std::array::from_fn(|l| extend(a[l]).wrapping_mul(extend(b[l])).wrapping_add(c[l]));
                self.regs.set_long(d, on, &out);
            }
            Op::Widen { signed, bits, d, a } => {
                let out = self.regs.short(a, on)?.map(|v| extend(v.into(), bits, signed));
                self.regs.set_long(d, on, &out);
            }
            Op::Narrow { signed, bits, d, a } => {
                let out = self.regs.long(a, on)?.map(|v| extend(v, bits, signed) as u32);
                self.regs.set_short(d, on, &out);
            }
            Op::WideToFloat { signed, d, a } => {
                let out = self.regs.long(a, on)?.map(|v| if signed { v as i64 as f32 } else { v as f32 }.to_bits());
                self.regs.set_short(d, on, &out);
            }
            Op::WideSelp { d, a, b, p } => {
                let p = self.regs.pred(p, on)?;
                return self.wide2_lanes(d, [a, b], on, |l, a, b| if p >> l & 1 == 1 { a } else { b });
            }
            _ => return self.pack(op, on),
        }
        Ok(())
    }

    fn wide2_lanes(&mut self, d: R64, [a, b]: [R64; 2], on: u32, f: impl Fn(usize, u64, u64) -> u64) -> Exec {
        let (a, b) = (self.regs.long(a, on)?, self.regs.long(b, on)?);
        let out = std::array::from_fn(|lane| f(lane, a[lane], b[lane]));
        self.regs.set_long(d, on, &out);
        Ok(())
    }

    /// `mov` between a register and its parts.
    fn pack(&mut self, op: &Op, on: u32) -> Exec {
        match *op {
            Op::Pack64 { d, lo, hi } => {
                let (lo, hi) = (self.regs.short(lo, on)?, self.regs.short(hi, on)?);
                let out = std::array::from_fn(|l| u64::from(lo[l]) | u64::from(hi[l]) << 32);
                self.regs.set_long(d, on, &out);
            }
            Op::Unpack64 { lo, hi, a } => {
                let a = *self.regs.long(a, on)?;
                if let Some(lo) = lo {
                    self.regs.set_short(lo, on, &a.map(|v| v as u32));
                }
                if let Some(hi) = hi {
                    self.regs.set_short(hi, on, &a.map(|v| (v >> 32) as u32));
                }
            }
            Op::Pack32 { d, lo, hi } => return self.map2(d, [lo, hi], on, |lo, hi| lo & 0xffff | hi << 16),
            Op::Unpack32 { lo, hi, a } => {
                let a = *self.regs.short(a, on)?;
                if let Some(lo) = lo {
                    self.regs.set_short(lo, on, &a.map(|v| v & 0xffff));
                }
                if let Some(hi) = hi {
                    self.regs.set_short(hi, on, &a.map(|v| v >> 16));
                }
            }
            ref other => unreachable!("not a scalar operation: {other:?}"),
        }
        Ok(())
    }

    fn alu1(&mut self, op: Alu1, d: R32, a: R32, on: u32) -> Exec {
        let function = |z: bool, f: fn(f64) -> f64| move |a: u32| output(float::through_f64(input(a, z), f), z);
        match op {
            Alu1::Mov => self.map1(d, a, on, |a| a),
            Alu1::Not => self.map1(d, a, on, |a| !a),
            Alu1::Neg => self.map1(d, a, on, u32::wrapping_neg),
            Alu1::Abs => self.map1(d, a, on, |a| (a as i32).wrapping_abs() as u32),
            Alu1::Popc => self.map1(d, a, on, u32::count_ones),
            Alu1::Clz => self.map1(d, a, on, u32::leading_zeros),
            Alu1::Brev => self.map1(d, a, on, u32::reverse_bits),
            Alu1::Extend { bits, signed } => self.map1(d, a, on, |a| extend(a.into(), bits, signed) as u32),
            Alu1::FNeg { z } => self.map1(d, a, on, |a| output(-input(a, z), z)),
            Alu1::FAbs { z } => self.map1(d, a, on, |a| output(input(a, z).abs(), z)),
            Alu1::Rcp { z } => self.map1(d, a, on, function(z, |x| 1.0 / x)),
            Alu1::Rsqrt { z } => self.map1(d, a, on, function(z, |x| 1.0 / x.sqrt())),
            Alu1::Sqrt { z } => self.map1(d, a, on, function(z, f64::sqrt)),
            Alu1::Ex2 { z } => self.map1(d, a, on, function(z, f64::exp2)),
            Alu1::Lg2 { z } => self.map1(d, a, on, function(z, f64::log2)),
            Alu1::Sin { z } => self.map1(d, a, on, function(z, f64::sin)),
            Alu1::Cos { z } => self.map1(d, a, on, function(z, f64::cos)),
            Alu1::Tanh => self.map1(d, a, on, function(false, f64::tanh)),
            Alu1::Round { to, z } => self.map1(d, a, on, |a| output(round(input(a, z), to), z)),
            // conversions to integers clamp, and NaN becomes 0
            Alu1::FloatToSigned { to, bits, z } => self.map1(d, a, on, |a| {
                let limit = 1i64 << (bits - 1);
                (round(input(a, z), to) as i64).clamp(-limit, limit - 1) as u32
            }),
            Alu1::FloatToUnsigned { to, bits, z } => self.map1(d, a, on, |a| {
                let limit = 1i64 << bits;
                (round(input(a, z), to) as i64).clamp(0, limit - 1) as u32
            }),
            Alu1::SignedToFloat => self.map1(d, a, on, |a| (a as i32 as f32).to_bits()),
            Alu1::UnsignedToFloat => self.map1(d, a, on, |a| (a as f32).to_bits()),
            Alu1::ToBf16 => self.map1(d, a, on, float::to_bf16),
            Alu1::FromBf16 => self.map1(d, a, on, |a| a << 16),
            Alu1::ToF16 => self.map1(d, a, on, float::to_f16),
            Alu1::FromF16 => self.map1(d, a, on, |a| float::from_f16(a & 0xffff).to_bits()),
            Alu1::ToTf32 => self.map1(d, a, on, float::to_tf32),
            Alu1::Bf16x2Neg => self.map1(d, a, on, |a| a ^ 0x8000_8000),
            Alu1::Bf16x2Abs => self.map1(d, a, on, |a| a & 0x7fff_7fff),
        }
    }

    fn alu2(&mut self, op: Alu2, d: R32, ab: [R32; 2], on: u32) -> Exec {
        let wide = |signed: bool| move |a: u32| if signed { i64::from(a as i32) } else { i64::from(a) };
        match op {
            Alu2::Add => self.map2(d, ab, on, u32::wrapping_add),
            Alu2::Sub => self.map2(d, ab, on, u32::wrapping_sub),
            Alu2::MulLo => self.map2(d, ab, on, u32::wrapping_mul),
            Alu2::MulHi { signed } => self.map2(d, ab, on, |a, b| mul_hi(a, b, signed)),
            Alu2::Div { signed } | Alu2::Rem { signed } => {
                let (w, rem) = (wide(signed), matches!(op, Alu2::Rem { .. }));
                self.divisor(ab[1], on)?;
                self.map2(d, ab, on, |a, b| {
                    let (a, b) = (w(a), if b == 0 { 1 } else { w(b) });
                    (if rem { a % b } else { a / b }) as u32
                })
            }
            Alu2::Min { signed } => self.map2(d, ab, on, |a, b| wide(signed)(a).min(wide(signed)(b)) as u32),
            Alu2::Max { signed } => self.map2(d, ab, on, |a, b| wide(signed)(a).max(wide(signed)(b)) as u32),
            Alu2::And => self.map2(d, ab, on, |a, b| a & b),
            Alu2::Or => self.map2(d, ab, on, |a, b| a | b),
            Alu2::Xor => self.map2(d, ab, on, |a, b| a ^ b),
            Alu2::Shift(op) => self.map2(d, ab, on, |a, b| shift(op, a, b)),
            Alu2::Shift16(op) => self.map2(d, ab, on, |a, b| {
                let a = extend(a.into(), 16, op == Shift::RightSigned) as u32;
                shift(op, a, b) & 0xffff
            }),
            Alu2::FAdd { z } => self.map2(d, ab, on, |a, b| output(input(a, z) + input(b, z), z)),
            Alu2::FSub { z } => self.map2(d, ab, on, |a, b| output(input(a, z) - input(b, z), z)),
            Alu2::FMul { z } => self.map2(d, ab, on, |a, b| output(input(a, z) * input(b, z), z)),
            Alu2::FDiv { z } => self.map2(d, ab, on, |a, b| output(input(a, z) / input(b, z), z)),
            Alu2::FMin { z, nan } => self.map2(d, ab, on, |a, b| output(float::min(input(a, z), input(b, z), nan), z)),
            Alu2::FMax { z, nan } => self.map2(d, ab, on, |a, b| output(float::max(input(a, z), input(b, z), nan), z)),
            Alu2::PackBf16 { relu } => self.map2(d, ab, on, |a, b| {
                let part = |x: u32| if relu && x >> 31 == 1 && x <= 0xff80_0000 { 0 } else { float::to_bf16(x) };
                part(a) << 16 | part(b)
            }),
            Alu2::PackF16 => self.map2(d, ab, on, |a, b| float::to_f16(a) << 16 | float::to_f16(b)),
            Alu2::Bf16x2(op) => self.map2(d, ab, on, |a, b| bf16_pairs(|i| bf16(op, half(a, i), half(b, i)))),
        }
    }

    fn alu3(&mut self, op: Alu3, d: R32, abc: [R32; 3], on: u32) -> Exec {
        match op {
            Alu3::MadLo => self.map3(d, abc, on, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            Alu3::MadHi { signed } => self.map3(d, abc, on, |a, b, c| mul_hi(a, b, signed).wrapping_add(c)),
            Alu3::Fma { z } => {
                self.map3(d, abc, on, |a, b, c| output(input(a, z).mul_add(input(b, z), input(c, z)), z))
            }
            Alu3::Bfe { signed } => self.map3(d, abc, on, |a, b, c| bfe(a, b, c, signed)),
            Alu3::Lop3 { table } => self.map3(d, abc, on, |a, b, c| lop3(a, b, c, table)),
            Alu3::Prmt => self.map3(d, abc, on, prmt),
            Alu3::Funnel { left, wrap } => self.map3(d, abc, on, |a, b, c| funnel(a, b, c, left, wrap)),
            Alu3::Bf16x2Fma => {
                self.map3(d, abc, on, |a, b, c| bf16_pairs(|i| fma_bf16(half(a, i), half(b, i), half(c, i))))
            }
            Alu3::Dp4a { a_signed, b_signed } => self.map3(d, abc, on, |a, b, c| {
                let byte = |v: u32, n: u32, signed| extend(u64::from(v >> (8 * n)), 8, signed) as u32;
                (0..4).fold(c, |sum, n| sum.wrapping_add(byte(a, n, a_signed).wrapping_mul(byte(b, n, b_signed))))
            }),
        }
    }

    /// Division by zero gives a machine-specific value.
    fn divisor(&self, b: R32, on: u32) -> Exec {
        let b = self.regs.short(b, on)?;
        match lanes(on).find(|lane| b[*lane] == 0) {
            Some(lane) => lane_fault(TrapKind::Invalid, lane, "found a division by 0"),
            None => Ok(()),
        }
    }

    fn wide_two(&mut self, op: Wide2, d: R64, ab: [R64; 2], on: u32) -> Exec {
        let signed = |a: u64, b: u64, f: fn(i128, i128) -> i128, s: bool| {
            let w = |v: u64| if s { i128::from(v as i64) } else { i128::from(v) };
            f(w(a), w(b)) as u64
        };
        if matches!(op, Wide2::Div { .. } | Wide2::Rem { .. }) {
            let b = self.regs.long(ab[1], on)?;
            if let Some(lane) = lanes(on).find(|lane| b[*lane] == 0) {
                return lane_fault(TrapKind::Invalid, lane, "found a division by 0");
            }
        }
        match op {
            Wide2::Add => self.wide2(d, ab, on, u64::wrapping_add),
            Wide2::Sub => self.wide2(d, ab, on, u64::wrapping_sub),
            Wide2::MulLo => self.wide2(d, ab, on, u64::wrapping_mul),
            Wide2::Div { signed: s } => self.wide2(d, ab, on, |a, b| signed(a, b.max(1), |a, b| a / b, s)),
            Wide2::Rem { signed: s } => self.wide2(d, ab, on, |a, b| signed(a, b.max(1), |a, b| a % b, s)),
            Wide2::Min { signed: s } => self.wide2(d, ab, on, |a, b| signed(a, b, Ord::min, s)),
            Wide2::Max { signed: s } => self.wide2(d, ab, on, |a, b| signed(a, b, Ord::max, s)),
            Wide2::And => self.wide2(d, ab, on, |a, b| a & b),
            Wide2::Or => self.wide2(d, ab, on, |a, b| a | b),
            Wide2::Xor => self.wide2(d, ab, on, |a, b| a ^ b),
        }
    }

    /// One bit for each lane for which the comparison holds.
    fn compare(&self, cmp: Cmp, args: SetpArgs, on: u32) -> Exec<u32> {
        use std::cmp::Ordering::{self, Equal, Greater, Less};
        let Cmp::Order { less, equal, greater, unordered } = cmp;
        let holds = |o: Option<Ordering>| match o {
            Some(Less) => less,
            Some(Equal) => equal,
            Some(Greater) => greater,
            None => unordered,
        };
        let bits = |order: &dyn Fn(usize) -> Option<Ordering>| {
            (0..32).fold(0, |bits, lane| bits | u32::from(holds(order(lane))) << lane)
        };
        Ok(match args {
            SetpArgs::Unsigned(a, b) => {
                let (a, b) = (self.regs.short(a, on)?, self.regs.short(b, on)?);
                bits(&|l| Some(a[l].cmp(&b[l])))
            }
            SetpArgs::Signed(a, b) => {
                let (a, b) = (self.regs.short(a, on)?, self.regs.short(b, on)?);
                bits(&|l| Some((a[l] as i32).cmp(&(b[l] as i32))))
            }
            SetpArgs::Float { a, b, z } => {
                let (a, b) = (self.regs.short(a, on)?, self.regs.short(b, on)?);
                bits(&|l| input(a[l], z).partial_cmp(&input(b[l], z)))
            }
            SetpArgs::WideUnsigned(a, b) => {
                let (a, b) = (self.regs.long(a, on)?, self.regs.long(b, on)?);
                bits(&|l| Some(a[l].cmp(&b[l])))
            }
            SetpArgs::WideSigned(a, b) => {
                let (a, b) = (self.regs.long(a, on)?, self.regs.long(b, on)?);
                bits(&|l| Some((a[l] as i64).cmp(&(b[l] as i64))))
            }
        })
    }
}

fn combine_bits(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// The low `bits` bits, extended to 64.
#[inline(always)]
fn extend(v: u64, bits: u32, signed: bool) -> u64 {
    let up = 64 - bits;
    if signed { ((v << up) as i64 >> up) as u64 } else { v << up >> up }
}

fn mul_hi(a: u32, b: u32, signed: bool) -> u32 {
    let product = if signed { (i64::from(a as i32) * i64::from(b as i32)) as u64 } else { u64::from(a) * u64::from(b) };
    (product >> 32) as u32
}

#[inline(always)]
fn shift(op: Shift, a: u32, b: u32) -> u32 {
    match op {
        Shift::Left => a.checked_shl(b).unwrap_or(0),
        Shift::Right => a.checked_shr(b).unwrap_or(0),
        Shift::RightSigned => (a as i32 >> b.min(31)) as u32,
    }
}

fn wide_shift(op: Shift, a: u64, b: u32) -> u64 {
    match op {
        Shift::Left => a.checked_shl(b).unwrap_or(0),
        Shift::Right => a.checked_shr(b).unwrap_or(0),
        Shift::RightSigned => (a as i64 >> b.min(63)) as u64,
    }
}

fn round(x: f32, to: Rounding) -> f32 {
    match to {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// `length` bits of `a` from bit `at`; position and length are bytes, and bits beyond the top repeat the sign.
fn bfe(a: u32, at: u32, length: u32, signed: bool) -> u32 {
    let (at, length) = (at & 0xff, length & 0xff);
    let sign = signed && length > 0 && a >> (at + length - 1).min(31) & 1 == 1;
    let source =
        u64::from(a.checked_shr(at).unwrap_or(0)) | if sign { u64::MAX << 32u32.saturating_sub(at) } else { 0 };
    if length >= 32 { source as u32 } else { extend(source, length.max(1), signed) as u32 * u32::from(length > 0) }
}

fn bfi(a: u32, b: u32, at: u32, length: u32) -> u32 {
    let (at, length) = (at & 0xff, length & 0xff);
    let field = (1u64.checked_shl(length).unwrap_or(0).wrapping_sub(1)).checked_shl(at).unwrap_or(0) as u32;
    b & !field | a.checked_shl(at).unwrap_or(0) & field
}

/// Bit `n` of the result is bit `4a + 2b + c` of the table.
fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let term = |n: u32| {
        let pick = |v: u32, bit: u32| if n & bit != 0 { v } else { !v };
        if table >> n & 1 == 1 { pick(a, 4) & pick(b, 2) & pick(c, 1) } else { 0 }
    };
    (0..8).fold(0, |bits, n| bits | term(n))
}

/// Each nibble of `c` selects a byte of `b:a`; its top bit replicates the sign of that byte.
fn prmt(a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    (0..4).fold(0, |out, n| {
        let select = c >> (4 * n) & 0xf;
        let byte = (bytes >> (8 * (select & 7))) as u8;
        let byte = if select & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
        out | u32::from(byte) << (8 * n)
    })
}

fn funnel(a: u32, b: u32, c: u32, left: bool, wrap: bool) -> u32 {
    let n = if wrap { c & 31 } else { c.min(32) };
    let both = u64::from(a) | u64::from(b) << 32;
    if left { (both << n >> 32) as u32 } else { (both >> n) as u32 }
}

fn half(v: u32, i: u32) -> f32 {
    float::from_bf16(v >> (16 * i) & 0xffff)
}

fn bf16_pairs(f: impl Fn(u32) -> u32) -> u32 {
    f(0) | f(1) << 16
}

fn bf16(op: Bf16Op, a: f32, b: f32) -> u32 {
    let x = match op {
        // a sum of two bf16 can need more bits than f32 has
        Bf16Op::Add => return round_bf16(f64::from(a) + f64::from(b)),
        Bf16Op::Sub => return round_bf16(f64::from(a) - f64::from(b)),
        Bf16Op::Mul => a * b,
        Bf16Op::Min => float::min(a, b, false),
        Bf16Op::Max => float::max(a, b, false),
    };
    float::to_bf16(x.to_bits())
}

/// The sum of two pairs.
pub(super) fn add_bf16x2(a: u32, b: u32) -> u32 {
    bf16_pairs(|i| bf16(Bf16Op::Add, half(a, i), half(b, i)))
}

fn fma_bf16(a: f32, b: f32, c: f32) -> u32 {
    round_bf16(f64::from(a) * f64::from(b) + f64::from(c))
}

/// Rounds once: to odd on the way to f32, so that the second rounding sees what the first one lost.
fn round_bf16(x: f64) -> u32 {
    let near = x as f32;
    let exact = f64::from(near) == x || !near.is_finite();
    let bits = near.to_bits();
    let toward_zero = if !exact && f64::from(near).abs() > x.abs() { bits - 1 } else { bits };
    float::to_bf16(if exact { bits } else { toward_zero | 1 })
}
