//! One kernel to one entry: parameters, registers, loops and branches; straight-line operations are in `plain`.

use super::super::EmitError;
use crate::kir::{Block, Elem, Inst, Kernel, Launch, Op, Space, Type, Value};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// A class of registers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Predicates.
    Pred,
    /// 16 bits: one bf16.
    Half,
    /// 32 bits: integers, addresses of shared memory, two bf16.
    Word,
    /// f32.
    Float,
    /// 64 bits: addresses of global memory.
    Wide,
}

impl Class {
    /// Prefix of the names.
    fn prefix(self) -> &'static str {
        match self {
            Class::Pred => "p",
            Class::Half => "h",
            Class::Word => "r",
            Class::Float => "f",
            Class::Wide => "rd",
        }
    }

    /// The type in declarations, moves and accesses.
    pub fn ty(self) -> &'static str {
        match self {
            Class::Pred => "pred",
            Class::Half => "b16",
            Class::Word => "b32",
            Class::Float => "f32",
            Class::Wide => "b64",
        }
    }
}

/// Operations of a loop body beyond which the kernel has unrolled what pays: the assembler would only run out of registers.
const UNROLLED: usize = 32;

/// Shared memory that a launch asks for.
pub const DYNAMIC: &str = "dynamic_shared";

/// Threads of a warpgroup, and registers of a multiprocessor.
const WARPGROUP: u32 = 128;
const REGISTERS: u32 = 65536;

/// What bounds the registers of a thread. The assembler would round the threads of a kernel with products of warpgroups up to whole warpgroups, and leave
/// registers unused where a warp is on its own.
fn residence(launch: Launch) -> String {
    if launch.threads.is_multiple_of(WARPGROUP) || launch.threads < WARPGROUP {
        return format!(".minnctapersm {}", launch.ctas);
    }
    let most = REGISTERS / (launch.threads * launch.ctas) / 8 * 8;
    format!(".maxnreg {}", most.min(255))
}

/// Operations of a block and those inside.
fn operations(block: &Block) -> usize {
    block.insts.iter().map(|i| 1 + i.blocks.iter().map(operations).sum::<usize>()).sum()
}

/// The class of the registers of a value, and how many it has.
pub fn registers(ty: Type) -> (Class, usize) {
    match ty {
        Type::Ptr(Space::Global) => (Class::Wide, 1),
        Type::Ptr(Space::Scratch | Space::Cluster) => (Class::Word, 1),
        Type::Vec(Elem::Pred, n) => (Class::Pred, n.into()),
        Type::Vec(Elem::F32, n) => (Class::Float, n.into()),
        Type::Vec(Elem::I32 | Elem::Index, n) => (Class::Word, n.into()),
        Type::Vec(Elem::Bf16, 1) => (Class::Half, 1),
        Type::Vec(Elem::Bf16, n) => (Class::Word, usize::from(n).div_ceil(2)),
    }
}

/// The registers (or immediates) of a value, lowest lanes first.
pub type Regs = Vec<String>;

/// An entry under construction.
pub struct Emitter<'a> {
    pub k: &'a Kernel,
    code: String,
    shared: String,
    regs: HashMap<Value, Regs>,
    counts: BTreeMap<Class, usize>,
    labels: usize,
    /// How many regions of shared memory there are, and their bytes.
    regions: (usize, u32),
    /// What the next line is for.
    comment: String,
}

/// The text of the entry.
pub fn emit(kernel: &Kernel) -> Result<String, EmitError> {
    let Some(launch) = kernel.launch else {
        let message = "found no number of threads, which a kernel of a GPU has".into();
        return Err(EmitError { subject: kernel.name.clone(), message });
    };
    let mut e = Emitter {
        k: kernel,
        code: String::new(),
        shared: String::new(),
        regs: HashMap::new(),
        counts: BTreeMap::new(),
        labels: 0,
        regions: (0, 0),
        comment: String::new(),
    };
    e.params();
    e.block(&kernel.body);
    e.line("ret");
    let params: Vec<_> = (0..kernel.params.len()).map(|i| format!("  .param .u64 {}", e.param(i))).collect();
    let mut text: String = kernel.doc.lines().map(|line| format!("// {line}\n")).collect();
    let _ = writeln!(text, ".visible .entry {}(\n{}\n)", kernel.name, params.join(",\n"));
    let _ = writeln!(text, ".reqntid {}, 1, 1\n{}", launch.threads, residence(launch));
    if kernel.cluster > 1 {
        let _ = writeln!(text, ".reqnctapercluster {}, 1, 1", kernel.cluster);
    }
    text += "{\n";
    for (class, n) in &e.counts {
        let _ = writeln!(text, "  .reg .{} %{}<{n}>;", class.ty(), class.prefix());
    }
    text += &e.shared;
    text += &e.code;
    text += "}\n";
    Ok(text)
}

impl Emitter<'_> {
    /// Appends an instruction.
    pub fn line(&mut self, text: &str) {
        let comment = std::mem::take(&mut self.comment);
        let gap = if comment.is_empty() { "" } else { "  // " };
        let _ = writeln!(self.code, "  {text};{gap}{comment}");
    }

    /// Names this place.
    pub fn place(&mut self, label: &str) {
        let _ = writeln!(self.code, "{label}:");
    }

    /// A register that no value has.
    pub fn fresh(&mut self, class: Class) -> String {
        let n = self.counts.entry(class).or_default();
        *n += 1;
        format!("%{}{}", class.prefix(), *n - 1)
    }

    /// New registers for a value.
    pub fn define(&mut self, v: Value) -> Regs {
        let (class, n) = registers(self.k.ty(v));
        let regs: Regs = (0..n).map(|_| self.fresh(class)).collect();
        self.regs.insert(v, regs.clone());
        regs
    }

    /// The value is what these registers hold already.
    pub fn alias(&mut self, v: Value, regs: Regs) {
        self.regs.insert(v, regs);
    }

    /// The operand in a register, where an instruction takes no immediate.
    pub fn in_register(&mut self, operand: &str, class: Class) -> String {
        if operand.starts_with('%') {
            return operand.to_string();
        }
        let r = self.fresh(class);
        self.line(&format!("mov.{} {r}, {operand}", class.ty()));
        r
    }

    /// A region of shared memory; gives the name and the bytes behind it where it starts: it is within the memory of the launch if the regions
    /// together are large.
    pub fn region(&mut self, bytes: u32) -> (String, u32) {
        let ((number, start), bytes) = (self.regions, bytes.next_multiple_of(16));
        self.regions = (number + 1, start + bytes);
        if self.k.dynamic_shared_bytes() > 0 {
            return (DYNAMIC.into(), start);
        }
        let name = format!("shared{number}");
        let _ = writeln!(self.shared, "  .shared .align 16 .b8 {name}[{bytes}];");
        (name, 0)
    }

    /// A name for a place.
    pub fn label(&mut self) -> String {
        self.labels += 1;
        format!("$L{}", self.labels)
    }

    fn param(&self, i: usize) -> String {
        format!("{}_{}", self.k.name, self.k.params[i].name)
    }

    fn params(&mut self) {
        for (i, p) in self.k.params.iter().enumerate() {
            let (word, name) = (self.fresh(Class::Wide), self.param(i));
            self.line(&format!("ld.param.u64 {word}, [{name}]"));
            let reg = self.define(p.value)[0].clone();
            match self.k.ty(p.value) {
                Type::Ptr(_) => self.line(&format!("cvta.to.global.u64 {reg}, {word}")),
                Type::Vec(..) => self.line(&format!("cvt.u32.u64 {reg}, {word}")),
            }
        }
    }

    fn block(&mut self, block: &Block) {
        for inst in &block.insts {
            self.comment = inst.op.to_string();
            match &inst.op {
                Op::For { step } => self.for_loop(inst, *step),
                Op::If => self.branch(inst),
                _ => {
                    let args: Vec<Regs> = inst.args.iter().map(|a| self.regs[a].clone()).collect();
                    self.plain(inst, &args);
                }
            }
            self.comment.clear();
        }
    }

    /// `to = from`, all at once: what would be overwritten before it is read goes through a copy.
    fn moves(&mut self, to: &[Value], from: &[Value]) {
        let mut pairs: Vec<(Class, String, String)> = vec![];
        for (t, f) in to.iter().zip(from) {
            let class = registers(self.k.ty(*t)).0;
            let both = self.regs[t].iter().cloned().zip(self.regs[f].iter().cloned());
            pairs.extend(both.filter(|(t, f)| t != f).map(|(t, f)| (class, t, f)));
        }
        for i in 0..pairs.len() {
            if pairs[..i].iter().any(|(_, t, _)| *t == pairs[i].2) {
                let copy = self.fresh(pairs[i].0);
                self.line(&format!("mov.{} {copy}, {}", pairs[i].0.ty(), pairs[i].2));
                pairs[i].2 = copy;
            }
        }
        for (class, t, f) in pairs {
            self.line(&format!("mov.{} {t}, {f}", class.ty()));
        }
    }

    /// Tested at the bottom, so that a turn has one branch; before the first turn only where that may not happen.
    fn for_loop(&mut self, inst: &Inst, step: u32) {
        let body = &inst.blocks[0];
        body.params.iter().for_each(|p| drop(self.define(*p)));
        self.moves(&body.params[..1], &inst.args[..1]);
        self.moves(&body.params[1..], &inst.args[2..]);
        let (top, end, more) = (self.label(), self.label(), self.fresh(Class::Pred));
        let subscript = self.regs[&body.params[0]][0].clone();
        let (lo, hi) = (self.regs[&inst.args[0]][0].clone(), self.regs[&inst.args[1]][0].clone());
        let runs = lo.parse::<i64>().ok().zip(hi.parse::<i64>().ok()).is_some_and(|(lo, hi)| lo < hi);
        if !runs {
            self.line(&format!("setp.ge.s32 {more}, {subscript}, {hi}"));
            self.line(&format!("@{more} bra {end}"));
        }
        self.place(&top);
        if operations(body) > UNROLLED {
            self.line(".pragma \"nounroll\"");
        }
        self.block(body);
        self.moves(&body.params[1..], &body.yields);
        self.line(&format!("add.s32 {subscript}, {subscript}, {step}"));
        self.line(&format!("setp.lt.s32 {more}, {subscript}, {hi}"));
        self.line(&format!("@{more} bra {top}"));
        self.place(&end);
        for (r, p) in inst.results.iter().zip(&body.params[1..]) {
            self.regs.insert(*r, self.regs[p].clone());
        }
    }

    fn branch(&mut self, inst: &Inst) {
        let p = self.regs[&inst.args[0]][0].clone();
        let (other, end) = (self.label(), self.label());
        inst.results.iter().for_each(|r| drop(self.define(*r)));
        let short = inst.blocks[1].insts.is_empty() && inst.results.is_empty();
        self.line(&format!("@!{p} bra {}", if short { &end } else { &other }));
        self.block(&inst.blocks[0]);
        self.moves(&inst.results, &inst.blocks[0].yields);
        if !short {
            self.line(&format!("bra {end}"));
            self.place(&other);
            self.block(&inst.blocks[1]);
            self.moves(&inst.results, &inst.blocks[1].yields);
        }
        self.place(&end);
    }
}
