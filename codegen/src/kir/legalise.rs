//! Rewrites what a target cannot spell into what it can, in the IR itself, so that each rewrite is written once.

use super::value::{Bf16, F32, V};
use super::{Block, Builder, Inst, Kernel, Op, Operand, Scalar, Value};
use crate::targets::Target;
use std::collections::HashMap;

/// Repeats until every operation is native (a rewrite may use operations that need one themselves).
pub fn legalise(kernel: &Kernel, target: &Target) -> Kernel {
    let mut kernel = kernel.clone();
    while let Some(next) = one_round(&kernel, target) {
        kernel = next;
    }
    kernel
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
        Op::Scalar(Scalar::Exp2) => exp2(f(0)).id,
        Op::Scalar(Scalar::Log2) => log2(f(0)).id,
        Op::Round => round_bf16(f(0)).id,
        _ => return None,
    })
}

fn horner<'k>(x: V<'k, F32>, coefficients: &[f32]) -> V<'k, F32> {
    let start = coefficients[0].on(x.k).splat(x.lanes());
    coefficients[1..].iter().fold(start, |p, c| p.fma(x, *c))
}

/// `2^x` by a polynomial on [-1/2, 1/2], fitted to the smallest relative error (9e-8; the Taylor series of that degree has
/// 2.4e-6). The integer part is read from the low bits of `x + 1.5 * 2^23`, so that no target has to convert between
/// float and integer.
fn exp2(x: V<F32>) -> V<F32> {
    const MAGIC: f32 = 12582912.0;
    #[allow(clippy::approx_constant, reason = "fitted: the nearest f32 to ln 2 would be worse")]
    const POLY: [f32; 6] = [1.326_472_7e-3, 9.671_513e-3, 5.550_733_7e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0];
    let bound = |c: f32| c.on(x.k).splat(x.lanes());
    let x = bound(127.0).min(bound(-126.0).max(x));
    let shifted = x + MAGIC;
    let fraction = x - (shifted - MAGIC);
    let scale = shifted.as_i32().shift_left(23).iadd(0x3f80_0000).as_f32();
    horner(fraction, &POLY) * scale
}

/// To nearest even by integer arithmetic (a NaN with a full payload would overflow: activations are finite here).
fn round_bf16(x: V<F32>) -> V<Bf16> {
    let bits = x.as_i32();
    let odd = bits.shift_right(16).and(1);
    bits.iadd(odd).iadd(0x7fff).shift_right(16).bf16_bits()
}

/// `log2(x)` of a positive normal number: the exponent of `x / sqrt(1/2)`, and a polynomial in the rest, which lies around 1
/// in [sqrt(1/2), sqrt(2)). The polynomial is `log2(1 + f) / f`, fitted to the smallest relative error (2.6e-8), so that the
/// result keeps its digits near `x = 1`.
fn log2(x: V<F32>) -> V<F32> {
    #[allow(clippy::approx_constant, reason = "fitted: close to log2(e), by its meaning")]
    const POLY: [f32; 9] = [
        1.258_370_5e-1,
        -2.072_697_6e-1,
        2.157_156e-1,
        -2.389_448_2e-1,
        2.879_162_5e-1,
        -3.607_037e-1,
        4.809_106_4e-1,
        -7.213_473_5e-1,
        1.442_695,
    ];
    const ONE: i32 = 0x3f80_0000;
    const HALF_ROOT: i32 = 0x3f35_04f3;
    const TWO_TO_23: i32 = 0x4b00_0000;
    let exponent = x.as_i32().iadd(ONE - HALF_ROOT).shift_right(23);
    let rest = x.as_i32().isub(exponent.isub(127).shift_left(23)).as_f32() - 1.0;
    // an integer below 2^23 in the low bits of 2^23 reads as their sum
    let whole = exponent.or(TWO_TO_23).as_f32() - (8_388_608.0 + 127.0);
    horner(rest, &POLY).fma(rest, whole)
}
