//! Straight-line operations, piece by piece. The bodies of scalar operations come from the table.

use super::super::shape::{Pieces, little, memory, pieces};
use super::Emitter;
use crate::kir::{Cmp, Inst, Op, Scalar, ops::scalar_ops};
use cranelift::frontend::FunctionBuilder;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F32X4, I16, I16X8, I32, I32X4, I64};
use cranelift_codegen::ir::{self as clif, InstBuilder};

macro_rules! scalar_emitter {
    ($($variant:ident $name:ident ($($a:ident),+) $domain:ident [$($clif:ident)?] $mlir:tt $ptx:tt $doc:literal;)+) => {
        fn scalar(b: &mut FunctionBuilder, op: Scalar, args: &[clif::Value]) -> clif::Value {
            match op { $(Scalar::$variant => scalar_emitter!(@ b args [$($clif)?] $($a)+)),+ }
        }
    };
    (@ $b:ident $args:ident [] $($a:ident)+) => { unreachable!("not legal in Cranelift: the verifier refuses it") };
    (@ $b:ident $args:ident [$clif:ident] $($a:ident)+) => {{
        let [$($a),+] = *$args else { unreachable!("arity was verified") };
        $b.ins().$clif($($a),+)
    }};
}
scalar_ops!(scalar_emitter);

/// The pattern of `pmaddwd`.
fn dot_halves(b: &mut FunctionBuilder, args: &[clif::Value]) -> clif::Value {
    let [x, y] = [args[1], args[2]].map(|v| b.ins().bitcast(I16X8, little(), v));
    let [x0, y0] = [x, y].map(|v| b.ins().swiden_low(v));
    let [x1, y1] = [x, y].map(|v| b.ins().swiden_high(v));
    let (low, high) = (b.ins().imul(x0, y0), b.ins().imul(x1, y1));
    let products = b.ins().iadd_pairwise(low, high);
    b.ins().iadd(args[0], products)
}

impl Emitter<'_, '_> {
    fn each(
        &mut self,
        args: &[Pieces],
        mut f: impl FnMut(&mut FunctionBuilder, &[clif::Value]) -> clif::Value,
    ) -> Pieces {
        let piece = |i: usize| args.iter().map(|a| a[i]).collect::<Vec<_>>();
        (0..args[0].len()).map(|i| f(&mut self.b, &piece(i))).collect()
    }

    pub(super) fn plain(&mut self, op: &Op, inst: &Inst, args: &[Pieces]) -> Pieces {
        let (ty, n) = inst.results.first().map_or((I64, 0), |r| pieces(self.k.ty(*r)));
        let of = |i: usize| pieces(self.k.ty(inst.args[i])).0;
        match op {
            Op::Const(bits) => {
                let one = self.constant(ty.lane_type(), *bits);
                vec![if ty.is_vector() { self.b.ins().splat(ty, one) } else { one }; n]
            }
            Op::Scalar(s) => self.each(args, |b, a| scalar(b, *s, a)),
            Op::ShiftLeft(by) => self.each(args, |b, a| b.ins().ishl_imm_u(a[0], i64::from(*by))),
            Op::ShiftRight(by) => self.each(args, |b, a| b.ins().ushr_imm_u(a[0], i64::from(*by))),
            Op::Cmp(c) if of(0).lane_type().is_float() => {
                let cc = match c {
                    Cmp::Lt => FloatCC::LessThan,
                    Cmp::Le => FloatCC::LessThanOrEqual,
                    Cmp::Eq => FloatCC::Equal,
                };
                self.each(args, |b, a| b.ins().fcmp(cc, a[0], a[1]))
            }
            Op::Cmp(c) => {
                let cc = match c {
                    Cmp::Lt => IntCC::SignedLessThan,
                    Cmp::Le => IntCC::SignedLessThanOrEqual,
                    Cmp::Eq => IntCC::Equal,
                };
                self.each(args, |b, a| b.ins().icmp(cc, a[0], a[1]))
            }
            Op::Select => self.select(args, of(0), ty),
            Op::Splat => {
                vec![if ty.is_vector() { self.b.ins().splat(ty, args[0][0]) } else { args[0][0] }; n]
            }
            Op::Extract(i) => vec![self.lane(&args[0], of(0), *i)],
            Op::Pack if ty.is_vector() => args.chunks(4).map(|lanes| self.pack(ty, lanes)).collect(),
            Op::Pack => args.concat(),
            Op::SumLanes => vec![self.sum_lanes(&args[0], of(0))],
            Op::Widen => self.widen(&args[0], of(0), ty),
            Op::Bf16Bits => self.bf16_bits(&args[0], of(0), ty),
            // a lone i32 is a scalar, its halves are scalars too
            Op::Bitcast if n > args[0].len() => self.halves(&args[0]),
            Op::Bitcast => self.each(args, |b, a| b.ins().bitcast(ty, little(), a[0])),
            Op::DotHalves => self.each(args, dot_halves),
            Op::ToF32 => self.each(args, |b, a| b.ins().fcvt_from_sint(ty, a[0])),
            Op::ToIndex => self.each(args, |b, a| b.ins().sextend(I64, a[0])),
            Op::ToI32 => self.each(args, |b, a| b.ins().ireduce(I32, a[0])),
            Op::Offset { scale } => vec![self.offset(args[0][0], args[1][0], *scale)],
            Op::Load(m) => {
                let at = |i: usize| m.offset + (i as u32 * ty.bytes()) as i32;
                (0..n).map(|i| self.b.ins().load(ty, memory(), args[0][0], at(i))).collect()
            }
            Op::Store(m) => {
                let at = |i: usize| m.offset + (i as u32 * of(0).bytes()) as i32;
                args[0].iter().enumerate().for_each(|(i, v)| {
                    self.b.ins().store(memory(), *v, args[1][0], at(i));
                });
                vec![]
            }
            Op::Stride => {
                let bytes = self.b.ins().imul(args[1][0], args[2][0]);
                vec![self.b.ins().iadd(args[0][0], bytes)]
            }
            _ => {
                unreachable!("{op} is not a straight-line operation of Cranelift")
            }
        }
    }

    fn constant(&mut self, lane: clif::Type, bits: u64) -> clif::Value {
        match lane {
            F32 => self.b.ins().f32const(f32::from_bits(bits as u32)),
            I64 => self.b.ins().iconst(I64, bits as i64),
            I32 => self.b.ins().iconst(I32, i64::from(bits as u32)),
            other => unreachable!("constants of {other} are not verified"),
        }
    }

    fn select(&mut self, args: &[Pieces], predicate: clif::Type, ty: clif::Type) -> Pieces {
        let choose = |(i, (a, b)): (usize, (&clif::Value, &clif::Value))| match predicate.is_vector() {
            true => {
                let mask = self.b.ins().bitcast(ty, little(), args[0][i]);
                self.b.ins().bitselect(mask, *a, *b)
            }
            false => self.b.ins().select(*args[0].get(i).unwrap_or(&args[0][0]), *a, *b),
        };
        args[1].iter().zip(&args[2]).enumerate().map(choose).collect()
    }

    fn lane(&mut self, from: &Pieces, piece: clif::Type, i: u16) -> clif::Value {
        let lanes = piece.lane_count() as u16;
        let v = from[usize::from(i / lanes)];
        if piece.is_vector() { self.b.ins().extractlane(v, (i % lanes) as u8) } else { v }
    }

    fn pack(&mut self, ty: clif::Type, lanes: &[Pieces]) -> clif::Value {
        let first = self.b.ins().splat(ty, lanes[0][0]);
        (1..lanes.len()).fold(first, |v, i| self.b.ins().insertlane(v, lanes[i][0], i as u8))
    }

    fn sum_lanes(&mut self, from: &Pieces, piece: clif::Type) -> clif::Value {
        let mut sum = from[0];
        from[1..].iter().for_each(|p| sum = self.b.ins().fadd(sum, *p));
        if !piece.is_vector() {
            return sum;
        }
        let l: Vec<_> = (0..4).map(|i| self.b.ins().extractlane(sum, i)).collect();
        let (a, b) = (self.b.ins().fadd(l[0], l[1]), self.b.ins().fadd(l[2], l[3]));
        self.b.ins().fadd(a, b)
    }

    /// A shift of at most 3 becomes part of the address of the access.
    fn offset(&mut self, base: clif::Value, index: clif::Value, scale: u32) -> clif::Value {
        let bytes = match scale {
            1 => index,
            _ if scale.is_power_of_two() => self.b.ins().ishl_imm_u(index, i64::from(scale.trailing_zeros())),
            _ => self.b.ins().imul_imm_s(index, i64::from(scale)),
        };
        self.b.ins().iadd(base, bytes)
    }

    /// In lane order: the low and high halves are unpacked.
    fn widen(&mut self, from: &Pieces, piece: clif::Type, to: clif::Type) -> Pieces {
        let mut wide: Pieces = vec![];
        for p in from {
            let ints = match piece.is_vector() {
                true => vec![self.b.ins().uwiden_low(*p), self.b.ins().uwiden_high(*p)],
                false => vec![self.b.ins().uextend(I32, *p)],
            };
            for i in ints {
                let bits = self.b.ins().ishl_imm_u(i, 16);
                wide.push(self.b.ins().bitcast(if piece.is_vector() { F32X4 } else { F32 }, little(), bits));
            }
        }
        if piece.is_vector() || !to.is_vector() {
            return wide;
        }
        let lanes: Vec<Pieces> = wide.into_iter().map(|w| vec![w]).collect();
        lanes.chunks(4).map(|l| self.pack(F32X4, l)).collect()
    }

    /// Values whose high halves are zero: unsigned saturation keeps them.
    fn bf16_bits(&mut self, from: &Pieces, piece: clif::Type, to: clif::Type) -> Pieces {
        if to.is_vector() {
            return from.chunks(2).map(|p| self.b.ins().unarrow(p[0], p[1])).collect();
        }
        let lanes = from.iter().flat_map(|p| (0..piece.lane_count() as u16).map(|i| (vec![*p], i))).collect::<Vec<_>>();
        lanes
            .iter()
            .map(|(p, i)| {
                let lane = self.lane(p, piece, *i);
                self.b.ins().ireduce(I16, lane)
            })
            .collect()
    }

    fn halves(&mut self, ints: &Pieces) -> Pieces {
        let mut halves = vec![];
        for &int in ints {
            let high = self.b.ins().ushr_imm_u(int, 16);
            halves.extend([int, high].map(|i| self.b.ins().ireduce(I16, i)));
        }
        halves
    }

    pub(super) fn widen_pairs(&mut self, inst: &Inst, from: &Pieces) {
        let (mut even, mut odd) = (vec![], vec![]);
        if !pieces(self.k.ty(inst.args[0])).0.is_vector() {
            let wide = self.widen(from, I16, F32);
            even.extend(wide.iter().step_by(2));
            odd.extend(wide.iter().skip(1).step_by(2));
        } else {
            for p in from {
                let pairs = self.b.ins().bitcast(I32X4, little(), *p);
                let (e, o) = (self.b.ins().ishl_imm_u(pairs, 16), self.b.ins().band(pairs, self.high_halves));
                even.push(self.b.ins().bitcast(F32X4, little(), e));
                odd.push(self.b.ins().bitcast(F32X4, little(), o));
            }
        }
        self.map.extend([(inst.results[0], even), (inst.results[1], odd)]);
    }
}
