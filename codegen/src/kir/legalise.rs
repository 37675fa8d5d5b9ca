//! Rewrites what a target cannot spell into what it can, in the IR itself, so that each rewrite is written once.

use super::value::{Bf16, F32, I32, V};
use super::{Block, Builder, Cap, Inst, Kernel, Op, Operand, Scalar, Value};
use crate::targets::Target;
use std::collections::HashMap;

/// Repeats until every operation is native (a rewrite may use operations that need one themselves).
pub fn legalise(kernel: &Kernel, target: &Target) -> Kernel {
    let mut kernel = kernel.clone();
    if !target.has(Cap::Prefetch) {
        without_hints(&mut kernel.body);
    }
    while let Some(next) = one_round(&kernel, target) {
        kernel = next;
    }
    kernel
}

fn without_hints(block: &mut Block) {
    block.insts.retain(|i| !matches!(i.op, Op::Prefetch { .. }));
    block.insts.iter_mut().flat_map(|i| &mut i.blocks).for_each(without_hints);
}

fn one_round(kernel: &Kernel, target: &Target) -> Option<Kernel> {
    let k = Builder::resume(Kernel { body: Block::default(), ..kernel.clone() }, target);
    let mut renamed = HashMap::new();
    copy(&k, &kernel.body, &mut renamed);
    (!renamed.is_empty()).then(|| k.finish())
}

fn copy(k: &Builder, block: &Block, renamed: &mut HashMap<Value, Value>) -> Vec<Value> {
    for inst in &block.insts {
        let args: Vec<_> = inst.args.iter().map(|a| *renamed.get(a).unwrap_or(a)).collect();
        if !k.target.is_native(&inst.op)
            && let Some(v) = expand(k, &inst.op, &args)
        {
            renamed.insert(inst.results[0], v);
            continue;
        }
        let mut blocks = vec![];
        for b in &inst.blocks {
            k.open_block(b.params.clone());
            let yields = copy(k, b, renamed);
            blocks.push(k.close_block(yields));
        }
        k.push_as_is(Inst { args, blocks, ..inst.clone() });
    }
    block.yields.iter().map(|y| *renamed.get(y).unwrap_or(y)).collect()
}

/// The meaning of an operation in terms of simpler ones.
fn expand(k: &Builder, op: &Op, args: &[Value]) -> Option<Value> {
    let f = |i: usize| V::<F32>::wrap(k, args[i]);
    let one = || 1.0f32.on(k);
    Some(match op {
        Op::Scalar(Scalar::Min) => f(0).lt(f(1)).select(f(0), f(1)).id,
        Op::Scalar(Scalar::Max) => f(1).lt(f(0)).select(f(0), f(1)).id,
        Op::Scalar(Scalar::Rcp) => one().div(f(0)).id,
        Op::Scalar(Scalar::Rsqrt) => one().div(f(0).sqrt()).id,
        Op::Scalar(Scalar::Exp) if k.target.is_native(&Op::Scalar(Scalar::Exp2)) => exp_by_exp2(f(0)).id,
        Op::Scalar(Scalar::Exp) => exp(f(0)).id,
        Op::Scalar(Scalar::Exp2) => (f(0) * std::f32::consts::LN_2).exp().id,
        Op::Scalar(Scalar::Log) => log(f(0)).id,
        Op::Round => round_bf16(f(0)).id,
        Op::DotPairs => {
            let halves = |i: usize| V::<Bf16>::wrap(k, args[i]).widen_pairs();
            let ((a0, a1), (b0, b1)) = (halves(0), halves(1));
            a1.fma(b1, a0.fma(b0, f(2))).id
        }
        Op::DotBytes | Op::DotSignedBytes => {
            dot_bytes([0, 1, 2].map(|i| V::wrap(k, args[i])), *op == Op::DotSignedBytes).id
        }
        Op::DotHalves => dot_halves([0, 1, 2].map(|i| V::wrap(k, args[i]))).id,
        _ => return None,
    })
}

/// Half by half: `x ^ 0x8000` is `x + 0x8000` of a half with a sign.
fn dot_halves<'k>([sum, a, b]: [V<'k, I32>; 3]) -> V<'k, I32> {
    let half = |v: V<'k, I32>, i: u8| v.shift_right(16 * i).and(0xffff).xor(0x8000).isub(0x8000);
    let low = sum.iadd(half(a, 0).imul(half(b, 0)));
    low.iadd(half(a, 1).imul(half(b, 1)))
}

/// Byte by byte, those of `b` and if `both` those of `a` with a sign: `x ^ 0x80` is `x + 128` of such a byte.
fn dot_bytes<'k>([sum, a, b]: [V<'k, I32>; 3], both: bool) -> V<'k, I32> {
    let byte = |v: V<'k, I32>, i: u8| v.shift_right(8 * i).and(0xff);
    let signed = |v: V<'k, I32>, i: u8| byte(v, i).xor(0x80).isub(0x80);
    let first = |i: u8| if both { signed(a, i) } else { byte(a, i) };
    (0..4).fold(sum, |sum, i| sum.iadd(first(i).imul(signed(b, i))))
}

/// The bits of 1.
const ONE_BITS: i32 = 0x3f80_0000;
/// ln 2 in two parts; the first has so few bits that its products with exponents are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// What rounding took from `LOG2_E`.
const LOG2_E_LOW: f32 = 1.925_963e-8;
/// Where `e^x` stays a normal, finite number.
const EXP_MIN: f32 = -87.33;
const EXP_MAX: f32 = 88.37;

/// A polynomial; the leading coefficient comes first.
fn horner<'k>(x: V<'k, F32>, coefficients: &[f32]) -> V<'k, F32> {
    let start = coefficients[0].on(x.k).splat(x.lanes());
    coefficients[1..].iter().fold(start, |p, c| p.fma(x, *c))
}

/// `e^x = 2^n e^r` with `n = round(x / ln 2)` and `r` in [-ln2/2, ln2/2], by a polynomial `1 + r + r^2 q(r)` fitted to the
/// smallest relative error (3e-9 before rounding). `n` is read from the low bits of `x / ln 2 + 1.5 * 2^23`, so that no
/// target has to convert between float and integer. A NaN stays one: the bounds are the first operands.
fn exp(x: V<F32>) -> V<F32> {
    const MAGIC: f32 = 12_582_912.0;
    const POLY: [f32; 7] = [1.381_446_7e-3, 8.368_781e-3, 4.166_839_4e-2, 0.166_665_2, 0.499_999_94, 1.0, 1.0];
    let bound = |c: f32| c.on(x.k).splat(x.lanes());
    let x = bound(EXP_MAX).min(bound(EXP_MIN).max(x));
    let shifted = x.fma(std::f32::consts::LOG2_E, bound(MAGIC));
    let n = shifted - MAGIC;
    let r = n.fma(-LN2_LOW, n.fma(-LN2_HIGH, x));
    let scale = shifted.as_i32().shift_left(23).iadd(ONE_BITS).as_f32();
    horner(r, &POLY) * scale
}

/// `e^x = 2^high (1 + low ln 2)`, where `high + low` is `x / ln 2` to more digits than an f32 has.
fn exp_by_exp2(x: V<F32>) -> V<F32> {
    let bound = |c: f32| c.on(x.k).splat(x.lanes());
    let x = bound(EXP_MAX).min(bound(EXP_MIN).max(x));
    let high = x * std::f32::consts::LOG2_E;
    let low = x.fma(LOG2_E_LOW, x.fma(std::f32::consts::LOG2_E, -high));
    let power = high.exp2();
    power.fma(low * std::f32::consts::LN_2, power)
}

/// `ln x` of a positive normal number: `e ln 2 + ln m` with `m` in [sqrt(1/2), sqrt(2)), by `ln(1 + f) = f + f^2 q(f)`, fitted
/// to the smallest relative error (3e-8 before rounding), so that the result keeps its digits near `x = 1`.
fn log(x: V<F32>) -> V<F32> {
    const POLY: [f32; 8] = [
        8.987_385e-2,
        -0.144_221_25,
        0.148_789_73,
        -0.165_524_45,
        0.199_640_18,
        -0.250_025_5,
        0.333_339_16,
        -0.499_999_85,
    ];
    const HALF_ROOT_BITS: i32 = 0x3f35_04f3;
    const TWO_TO_23_BITS: i32 = 0x4b00_0000;
    let biased = x.as_i32().iadd(ONE_BITS - HALF_ROOT_BITS).shift_right(23);
    let f = x.as_i32().isub(biased.isub(127).shift_left(23)).as_f32() - 1.0;
    // an integer below 2^23 in the low bits of 2^23 reads as their sum
    let e = biased.or(TWO_TO_23_BITS).as_f32() - (8_388_608.0 + 127.0);
    e.fma(LN2_HIGH, f + e.fma(LN2_LOW, f * f * horner(f, &POLY)))
}

/// To nearest even by integer arithmetic (a NaN with a full payload would overflow: activations are finite here).
fn round_bf16(x: V<F32>) -> V<Bf16> {
    let bits = x.as_i32();
    let odd = bits.shift_right(16).and(1);
    bits.iadd(odd).iadd(0x7fff).shift_right(16).bf16_bits()
}
