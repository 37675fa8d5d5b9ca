//! Dot products of pairs and of bytes: the processor's instructions, which LLVM calls by other names on every architecture and for
//! every width. A vector that is wider than a register is cut in halves.

use super::text::{Emitter, lanes};
use crate::kir::Op;

impl Emitter<'_> {
    /// The right side of a dot product of `n` sums: `a` and `b` are vectors of bf16, held as i16.
    pub(super) fn dot_pairs(&mut self, [a, b, sum]: [&str; 3], n: u16) -> String {
        let (held, words) = (lanes("i16", 2 * n), lanes("i32", n));
        let [a, b] = [a, b].map(|v| self.temp(&format!("vector.bitcast {v} : {held} to {words}")));
        self.dot(&Op::DotPairs, [sum, &a, &b], n)
    }

    /// The right side of a dot product of `n` sums: `a` and `b` are vectors of as many i32.
    pub(super) fn dot(&mut self, op: &Op, [sum, a, b]: [&str; 3], n: u16) -> String {
        let sums = lanes(if *op == Op::DotPairs { "f32" } else { "i32" }, n);
        let words = lanes("i32", n);
        if n > self.target.lanes {
            let half = |e: &mut Self, first: u16| {
                let part = |e: &mut Self, v: &str, ty: &str| {
                    let numbers = list(first..first + n / 2);
                    e.temp(&format!("vector.shuffle {v}, {v} [{numbers}] : {ty}, {ty}"))
                };
                let parts = [part(e, sum, &sums), part(e, a, &words), part(e, b, &words)];
                let text = e.dot(op, [&parts[0], &parts[1], &parts[2]], n / 2);
                e.temp(&text)
            };
            let (low, high) = (half(self, 0), half(self, n / 2));
            let ty = lanes(if *op == Op::DotPairs { "f32" } else { "i32" }, n / 2);
            return format!("vector.shuffle {low}, {high} [{}] : {ty}, {ty}", list(0..n));
        }
        let operands = if *op == Op::DotPairs { lanes("bf16", 2 * n) } else { lanes("i8", 4 * n) };
        let [a, b] = [a, b].map(|v| self.temp(&format!("vector.bitcast {v} : {words} to {operands}")));
        let signature = format!("({sums}, {operands}, {operands}) -> {sums}");
        format!("llvm.call_intrinsic \"{}\"({sum}, {a}, {b}) : {signature}", self.intrinsic(op, n))
    }

    /// LLVM's name of an instruction that takes the sums first, then bytes without sign before those with one.
    fn intrinsic(&self, op: &Op, n: u16) -> String {
        match (self.target.arch, op) {
            ("x86_64", Op::DotPairs) => format!("llvm.x86.avx512bf16.dpbf16ps.{}", 32 * n),
            ("x86_64", Op::DotBytes) => format!("llvm.x86.avx512.vpdpbusd.{}", 32 * n),
            ("aarch64", Op::DotPairs) => "llvm.aarch64.neon.bfdot.v4f32.v8bf16".into(),
            ("aarch64", Op::DotBytes) => "llvm.aarch64.neon.usdot.v4i32.v16i8".into(),
            ("aarch64", Op::DotSignedBytes) => "llvm.aarch64.neon.sdot.v4i32.v16i8".into(),
            (arch, _) => unreachable!("{op} is not legal on {arch}: the verifier refuses it"),
        }
    }
}

fn list(numbers: std::ops::Range<u16>) -> String {
    numbers.map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}
