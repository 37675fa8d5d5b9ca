//! One legal kernel to MLIR text, in the scf, arith, math, vector and llvm dialects. Vectors keep their width, addresses are
//! `!llvm.ptr`, and bf16 is held as i16: LLVM would turn every move of a bf16 vector into calls on machines without it.

use crate::kir::{Block, Cmp, Elem, Inst, Kernel, Op, Scalar, Type, Value};
use crate::targets::Target;
use std::{collections::HashMap, fmt::Write};

/// A module with one function. It unwinds nowhere and calls nothing, so that the object needs no tables and no libraries.
pub fn print(kernel: &Kernel, target: &Target) -> String {
    let mut e = Emitter { k: kernel, target: *target, text: String::new(), names: HashMap::new(), fresh: 0 };
    let attributes = r#"passthrough = ["nounwind", "no-builtins"]"#;
    e.line(&format!("llvm.func @{}(%words: !llvm.ptr) attributes {{{attributes}}} {{", kernel.name));
    for (i, p) in kernel.params.iter().enumerate() {
        let word = e.temp(&format!("llvm.getelementptr %words[{i}] : (!llvm.ptr) -> !llvm.ptr, i64"));
        e.define(
            p.value,
            &format!("llvm.load {word} {{alignment = 8 : i64}} : !llvm.ptr -> {}", ty(kernel.ty(p.value))),
        );
    }
    e.block(&kernel.body);
    e.line("llvm.return\n}");
    e.text
}

pub(super) struct Emitter<'a> {
    k: &'a Kernel,
    pub(super) target: Target,
    text: String,
    /// How each value is written; an operation that does nothing gives its result the name of its operand.
    names: HashMap<Value, String>,
    fresh: usize,
}

fn ty(t: Type) -> String {
    let Type::Vec(elem, n) = t else { return "!llvm.ptr".into() };
    let lane = match elem {
        Elem::Pred => "i1",
        Elem::Index => "i64",
        Elem::I32 => "i32",
        Elem::F32 => "f32",
        Elem::Bf16 => "i16",
    };
    lanes(lane, n)
}

pub(super) fn lanes(lane: &str, n: u16) -> String {
    if n == 1 { lane.into() } else { format!("vector<{n}x{lane}>") }
}

/// A constant with the same bits in every lane.
fn literal(bits: u64, t: Type) -> String {
    let one = match t.elem() {
        Some(Elem::Pred) => (bits != 0).to_string(),
        Some(Elem::F32) => format!("0x{:08X}", bits as u32),
        Some(Elem::Bf16) => (bits as i16).to_string(),
        Some(Elem::I32) => (bits as i32).to_string(),
        Some(Elem::Index) | None => (bits as i64).to_string(),
    };
    match t.lanes() {
        1 if t.elem() == Some(Elem::Pred) => format!("arith.constant {one}"),
        1 => format!("arith.constant {one} : {}", ty(t)),
        _ => format!("arith.constant dense<{one}> : {}", ty(t)),
    }
}

impl Emitter<'_> {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// The name of a new value that the IR does not know.
    pub(super) fn temp(&mut self, text: &str) -> String {
        self.fresh += 1;
        let name = format!("%t{}", self.fresh);
        self.line(&format!("{name} = {text}"));
        name
    }

    fn define(&mut self, v: Value, text: &str) {
        let name = format!("%v{}", v.0);
        self.line(&format!("{name} = {text}"));
        self.names.insert(v, name);
    }

    fn names(&self, values: &[Value]) -> Vec<String> {
        values.iter().map(|v| self.names[v].clone()).collect()
    }

    fn types(&self, values: &[Value]) -> String {
        values.iter().map(|v| ty(self.k.ty(*v))).collect::<Vec<_>>().join(", ")
    }

    fn block(&mut self, block: &Block) {
        block.insts.iter().for_each(|i| self.inst(i));
    }

    fn inst(&mut self, inst: &Inst) {
        let a = self.names(&inst.args);
        match &inst.op {
            Op::For { step } => self.for_loop(inst, &a, *step),
            Op::If => self.branch(inst, &a[0]),
            Op::WidenPairs => self.widen_pairs(inst, &a[0]),
            Op::Store(m) => {
                let (p, t) = (self.address(&a[1], m.offset), ty(self.k.ty(inst.args[0])));
                self.line(&format!("llvm.store {}, {p} {{alignment = {} : i64}} : {t}, !llvm.ptr", a[0], m.align));
            }
            Op::Prefetch { offset, level } => {
                let p = self.address(&a[0], *offset);
                // a read of data, near (3) or less so
                let hint = format!("rw = 0 : i32, hint = {} : i32, cache = 1 : i32", 4 - level);
                self.line(&format!("\"llvm.intr.prefetch\"({p}) <{{{hint}}}> : (!llvm.ptr) -> ()"));
            }
            Op::Splat | Op::Pack | Op::Extract(_) | Op::SumLanes if self.is_scalar(inst) => {
                self.names.insert(inst.results[0], a[0].clone());
            }
            op => {
                let text = self.plain(op, inst, &a);
                self.define(inst.results[0], &text);
            }
        }
    }

    /// Whether nothing here is a vector.
    fn is_scalar(&self, inst: &Inst) -> bool {
        inst.args.iter().chain(&inst.results).all(|v| self.k.ty(*v).lanes() == 1)
    }

    /// The right side of a straight-line operation with one result.
    fn plain(&mut self, op: &Op, inst: &Inst, a: &[String]) -> String {
        let to = self.k.ty(inst.results[0]);
        let (out, n) = (ty(to), to.lanes());
        let first = inst.args.first().map_or(to, |v| self.k.ty(*v));
        let from = ty(first);
        match op {
            Op::Const(bits) => literal(*bits, to),
            Op::Scalar(s) => format!("{} {} : {out}", spelling(*s), a.join(", ")),
            Op::ShiftLeft(by) => self.shift("arith.shli", &a[0], *by, to),
            Op::ShiftRight(by) => self.shift("arith.shrui", &a[0], *by, to),
            Op::Cmp(c) => format!("{}, {}, {} : {from}", comparison(*c, first), a[0], a[1]),
            Op::Select if n == 1 => format!("arith.select {} : {out}", a.join(", ")),
            Op::Select => format!("arith.select {} : {from}, {out}", a.join(", ")),
            Op::Splat => format!("vector.broadcast {} : {from} to {out}", a[0]),
            Op::Extract(i) => format!("vector.extract {}[{i}] : {out} from {from}", a[0]),
            Op::Pack => format!("vector.from_elements {} : {out}", a.join(", ")),
            Op::SumLanes => format!("vector.reduction <add>, {} fastmath<reassoc> : {from} into f32", a[0]),
            Op::Widen => self.widen(&a[0], &from, n),
            Op::Round => self.round(&a[0], n),
            Op::Bf16Bits | Op::ToI32 => format!("arith.trunci {} : {from} to {out}", a[0]),
            Op::Bitcast if n != first.lanes() => self.halves(&a[0], first.lanes()),
            Op::Bitcast => format!("arith.bitcast {} : {from} to {out}", a[0]),
            Op::DotPairs => self.dot_pairs([&a[0], &a[1], &a[2]], n),
            Op::DotBytes | Op::DotSignedBytes => self.dot(op, [&a[0], &a[1], &a[2]], n),
            Op::ToF32 => format!("arith.sitofp {} : {from} to {out}", a[0]),
            Op::ToIndex => format!("arith.extsi {} : {from} to {out}", a[0]),
            Op::Offset { scale } => {
                let pointer = "(!llvm.ptr, i64) -> !llvm.ptr";
                format!("llvm.getelementptr {}[{}] : {pointer}, !llvm.array<{scale} x i8>", a[0], a[1])
            }
            Op::Load(m) => {
                let p = self.address(&a[0], m.offset);
                format!("llvm.load {p} {{alignment = {} : i64}} : !llvm.ptr -> {out}", m.align)
            }
            Op::Stride => {
                let bytes = self.temp(&format!("arith.muli {}, {} : i64", a[1], a[2]));
                format!("llvm.getelementptr {}[{bytes}] : (!llvm.ptr, i64) -> !llvm.ptr, i8", a[0])
            }
            _ => {
                unreachable!("{op} is not a straight-line operation with one result")
            }
        }
    }

    fn address(&mut self, p: &str, offset: i32) -> String {
        match offset {
            0 => p.into(),
            _ => self.temp(&format!("llvm.getelementptr {p}[{offset}] : (!llvm.ptr) -> !llvm.ptr, i8")),
        }
    }

    fn shift(&mut self, op: &str, a: &str, by: u8, t: Type) -> String {
        let by = self.temp(&literal(by.into(), t));
        format!("{op} {a}, {by} : {}", ty(t))
    }

    /// The bits of a bf16 are the high half of the f32.
    fn widen(&mut self, a: &str, from: &str, n: u16) -> String {
        let (bits, t) = (lanes("i32", n), Type::Vec(Elem::I32, n));
        let low = self.temp(&format!("arith.extui {a} : {from} to {bits}"));
        let shifted = self.shift("arith.shli", &low, 16, t);
        let high = self.temp(&shifted);
        format!("arith.bitcast {high} : {bits} to {}", lanes("f32", n))
    }

    fn round(&mut self, a: &str, n: u16) -> String {
        let (wide, narrow) = (lanes("f32", n), lanes("bf16", n));
        let rounded = self.temp(&format!("arith.truncf {a} : {wide} to {narrow}"));
        format!("arith.bitcast {rounded} : {narrow} to {}", lanes("i16", n))
    }

    /// The halves of i32 as i16.
    fn halves(&mut self, a: &str, n: u16) -> String {
        let (vector, halves) = (format!("vector<{n}xi32>"), lanes("i16", 2 * n));
        let ints = if n == 1 { self.temp(&format!("vector.broadcast {a} : i32 to {vector}")) } else { a.into() };
        format!("vector.bitcast {ints} : {vector} to {halves}")
    }

    fn widen_pairs(&mut self, inst: &Inst, from: &str) {
        let n = self.k.ty(inst.results[0]).lanes();
        // one pair is an i32, but a bitcast of vectors gives a vector
        let of_pairs = format!("vector<{n}xi32>");
        let mut pairs = self.temp(&format!("vector.bitcast {from} : {} to {of_pairs}", lanes("i16", 2 * n)));
        if n == 1 {
            pairs = self.temp(&format!("vector.extract {pairs}[0] : i32 from {of_pairs}"));
        }
        let (t, ints, floats) = (Type::Vec(Elem::I32, n), lanes("i32", n), lanes("f32", n));
        let shifted = self.shift("arith.shli", &pairs, 16, t);
        let even = self.temp(&shifted);
        let mask = self.temp(&literal(0xffff_0000, t));
        let odd = self.temp(&format!("arith.andi {pairs}, {mask} : {ints}"));
        self.define(inst.results[0], &format!("arith.bitcast {even} : {ints} to {floats}"));
        self.define(inst.results[1], &format!("arith.bitcast {odd} : {ints} to {floats}"));
    }

    /// The left side of an operation that owns blocks: several results of one operation are named `%base#i`.
    fn results(&mut self, values: &[Value]) -> String {
        self.fresh += 1;
        let base = format!("%m{}", self.fresh);
        for (i, v) in values.iter().enumerate() {
            self.names.insert(*v, if values.len() == 1 { base.clone() } else { format!("{base}#{i}") });
        }
        match values.len() {
            0 => String::new(),
            1 => format!("{base} = "),
            n => format!("{base}:{n} = "),
        }
    }

    fn yields(&mut self, values: &[Value]) {
        if !values.is_empty() {
            self.line(&format!("scf.yield {} : {}", self.names(values).join(", "), self.types(values)));
        }
    }

    fn for_loop(&mut self, inst: &Inst, a: &[String], step: u32) {
        let body = &inst.blocks[0];
        let step = self.temp(&literal(step.into(), Type::Vec(Elem::Index, 1)));
        for p in &body.params {
            self.names.insert(*p, format!("%v{}", p.0));
        }
        let mut carried = String::new();
        if !inst.results.is_empty() {
            let init: Vec<_> =
                self.names(&body.params[1..]).iter().zip(&a[2..]).map(|(p, i)| format!("{p} = {i}")).collect();
            let _ = write!(carried, "iter_args({}) -> ({}) ", init.join(", "), self.types(&inst.results));
        }
        let subscript = self.names[&body.params[0]].clone();
        let results = self.results(&inst.results);
        self.line(&format!("{results}scf.for {subscript} = {} to {} step {step} {carried}: i64 {{", a[0], a[1]));
        self.block(body);
        self.yields(&body.yields);
        self.line("}");
    }

    fn branch(&mut self, inst: &Inst, p: &str) {
        let types = self.types(&inst.results);
        let arrow = if inst.results.is_empty() { String::new() } else { format!("-> ({types}) ") };
        let results = self.results(&inst.results);
        self.line(&format!("{results}scf.if {p} {arrow}{{"));
        self.block(&inst.blocks[0]);
        self.yields(&inst.blocks[0].yields);
        self.line("} else {");
        self.block(&inst.blocks[1]);
        self.yields(&inst.blocks[1].yields);
        self.line("}");
    }
}

fn spelling(s: Scalar) -> &'static str {
    s.mlir().unwrap_or_else(|| unreachable!("{} is not legal in MLIR: the verifier refuses it", s.name()))
}

fn comparison(c: Cmp, t: Type) -> &'static str {
    match (c, t.elem() == Some(Elem::F32)) {
        (Cmp::Lt, true) => "arith.cmpf olt",
        (Cmp::Le, true) => "arith.cmpf ole",
        (Cmp::Eq, true) => "arith.cmpf oeq",
        (Cmp::Lt, false) => "arith.cmpi slt",
        (Cmp::Le, false) => "arith.cmpi sle",
        (Cmp::Eq, false) => "arith.cmpi eq",
    }
}
