//! The printed form of a kernel. Values are numbered in the order of their definitions, so that equal kernels print alike.

use super::{Block, Cmp, Elem, Inst, Kernel, Mem, Op, Space, Type, Value};
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter, Write};

impl Elem {
    /// Every element with its name.
    pub(super) const NAMES: [(Elem, &str); 5] =
        [(Elem::Pred, "pred"), (Elem::Index, "index"), (Elem::I32, "i32"), (Elem::F32, "f32"), (Elem::Bf16, "bf16")];
}

impl Display for Elem {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(Elem::NAMES.iter().find(|(e, _)| e == self).map_or("?", |(_, name)| name))
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Type::Ptr(Space::Global) => f.write_str("ptr.global"),
            Type::Ptr(Space::Scratch) => f.write_str("ptr.scratch"),
            Type::Vec(e, 1) => write!(f, "{e}"),
            Type::Vec(e, n) => write!(f, "{e}x{n}"),
        }
    }
}

impl Display for Mem {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{} {:+} align {}", if self.constant { ".const" } else { "" }, self.offset, self.align)
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Op::Const(bits) => write!(f, "const {bits:#x}"),
            Op::Scalar(s) => f.write_str(s.name()),
            Op::ShiftLeft(by) => write!(f, "shl {by}"),
            Op::ShiftRight(by) => write!(f, "shr {by}"),
            Op::Cmp(Cmp::Lt) => f.write_str("lt"),
            Op::Cmp(Cmp::Le) => f.write_str("le"),
            Op::Cmp(Cmp::Eq) => f.write_str("eq"),
            Op::Select => f.write_str("select"),
            Op::Splat => f.write_str("splat"),
            Op::Extract(lane) => write!(f, "extract {lane}"),
            Op::Pack => f.write_str("pack"),
            Op::SumLanes => f.write_str("sum_lanes"),
            Op::Widen => f.write_str("widen"),
            Op::WidenPairs => f.write_str("widen_pairs"),
            Op::Round => f.write_str("round"),
            Op::Bf16Bits => f.write_str("bf16_bits"),
            Op::Bitcast => f.write_str("bitcast"),
            Op::ToIndex => f.write_str("to_index"),
            Op::ToI32 => f.write_str("to_i32"),
            Op::Offset { scale } => write!(f, "offset {scale}"),
            Op::Load(m) => write!(f, "load{m}"),
            Op::Store(m) => write!(f, "store{m}"),
            Op::For { step } => write!(f, "for step {step}"),
            Op::If => f.write_str("if"),
        }
    }
}

/// The numbers that the values of a kernel print as.
pub(super) struct Names(HashMap<Value, usize>);

impl Names {
    /// Parameters first, then in the order of the text.
    pub fn of(kernel: &Kernel) -> Names {
        fn walk(block: &Block, names: &mut HashMap<Value, usize>) {
            let mut define = |v: &Value| {
                let n = names.len();
                names.entry(*v).or_insert(n);
            };
            block.params.iter().for_each(&mut define);
            for inst in &block.insts {
                inst.results.iter().for_each(&mut |v: &Value| {
                    let n = names.len();
                    names.entry(*v).or_insert(n);
                });
                inst.blocks.iter().for_each(|b| walk(b, names));
            }
        }
        let mut names = HashMap::new();
        kernel.params.iter().enumerate().for_each(|(n, p)| {
            names.insert(p.value, n);
        });
        walk(&kernel.body, &mut names);
        Names(names)
    }

    /// `%7`; a value that nothing defines prints as `%undefined`.
    pub fn value(&self, v: Value) -> String {
        self.0.get(&v).map_or("%undefined".into(), |n| format!("%{n}"))
    }

    fn list(&self, values: &[Value]) -> String {
        values.iter().map(|v| self.value(*v)).collect::<Vec<_>>().join(", ")
    }

    fn typed(&self, k: &Kernel, values: &[Value]) -> String {
        values.iter().map(|v| format!("{}: {}", self.value(*v), k.ty(*v))).collect::<Vec<_>>().join(", ")
    }

    /// An instruction without its blocks.
    pub fn head(&self, k: &Kernel, inst: &Inst) -> String {
        let results = if inst.results.is_empty() { String::new() } else { self.typed(k, &inst.results) + " = " };
        let gap = if inst.args.is_empty() { "" } else { " " };
        format!("{results}{}{gap}{}", inst.op, self.list(&inst.args))
    }
}

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let names = Names::of(self);
        let param = |p: &super::Param| format!("{} {}: {}", names.value(p.value), p.name, self.ty(p.value));
        let params: Vec<_> = self.params.iter().map(param).collect();
        let per_row = if self.items.per_row { " per_row" } else { "" };
        writeln!(f, "kernel {}({}) items {}{per_row} {{", self.name, params.join(", "), self.items.fixed)?;
        let mut text = String::new();
        print_block(self, &names, &self.body, 1, &mut text)?;
        writeln!(f, "{text}}}")
    }
}

fn print_block(k: &Kernel, names: &Names, block: &Block, depth: usize, out: &mut String) -> fmt::Result {
    let pad = "  ".repeat(depth);
    for inst in &block.insts {
        write!(out, "{pad}{}", names.head(k, inst))?;
        for (i, b) in inst.blocks.iter().enumerate() {
            let params = if b.params.is_empty() { String::new() } else { format!("({}) ", names.typed(k, &b.params)) };
            writeln!(out, "{}{params}{{", if i == 0 { " " } else { " else " })?;
            print_block(k, names, b, depth + 1, out)?;
            write!(out, "{pad}}}")?;
        }
        writeln!(out)?;
    }
    if !block.yields.is_empty() {
        writeln!(out, "{pad}yield {}", names.list(&block.yields))?;
    }
    Ok(())
}
