//! The printed form of a kernel. Values are numbered in the order of their definitions, so that equal kernels print alike.

use super::{Block, Cmp, Elem, Inst, Kernel, Mem, Op, Scalar, Space, Type, Value};
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
            Type::Ptr(Space::Cluster) => f.write_str("ptr.cluster"),
            Type::Vec(e, 1) => write!(f, "{e}"),
            Type::Vec(e, n) => write!(f, "{e}x{n}"),
        }
    }
}

/// An access with offset and alignment zero.
const fn mem(constant: bool, once: bool) -> Mem {
    Mem { offset: 0, align: 0, constant, once }
}

/// Every operation that is no row of the table of scalar operations, with its name; attributes are zero.
const NAMES: &[(&str, Op)] = &[
    ("const", Op::Const(0)),
    ("shl", Op::ShiftLeft(0)),
    ("shr", Op::ShiftRight(0)),
    ("lt", Op::Cmp(Cmp::Lt)),
    ("le", Op::Cmp(Cmp::Le)),
    ("eq", Op::Cmp(Cmp::Eq)),
    ("select", Op::Select),
    ("splat", Op::Splat),
    ("extract", Op::Extract(0)),
    ("pack", Op::Pack),
    ("sum_lanes", Op::SumLanes),
    ("widen", Op::Widen),
    ("widen_pairs", Op::WidenPairs),
    ("round", Op::Round),
    ("bf16_bits", Op::Bf16Bits),
    ("bitcast", Op::Bitcast),
    ("dot_pairs", Op::DotPairs),
    ("dot_bytes", Op::DotBytes),
    ("dot_signed_bytes", Op::DotSignedBytes),
    ("dot_halves", Op::DotHalves),
    ("to_f32", Op::ToF32),
    ("to_index", Op::ToIndex),
    ("to_i32", Op::ToI32),
    ("offset", Op::Offset { scale: 0 }),
    ("load", Op::Load(mem(false, false))),
    ("load.once", Op::Load(mem(false, true))),
    ("load.const", Op::Load(mem(true, false))),
    ("load.const.once", Op::Load(mem(true, true))),
    ("store", Op::Store(mem(false, false))),
    ("store.once", Op::Store(mem(false, true))),
    ("for", Op::For { step: 0 }),
    ("if", Op::If),
    ("stride", Op::Stride),
    ("thread_id", Op::ThreadId),
    ("cta_id", Op::CtaId),
    ("prefetch", Op::Prefetch { offset: 0, level: 0 }),
    ("shared", Op::Shared { bytes: 0 }),
    ("barrier", Op::Barrier),
    ("warp_barrier", Op::WarpBarrier),
    ("cluster_barrier", Op::ClusterBarrier),
    ("peer", Op::Peer),
    ("shuffle_xor", Op::ShuffleXor(0)),
    ("shuffle", Op::Shuffle),
    ("mma", Op::Mma),
    ("load_matrix", Op::LoadMatrix { offset: 0, trans: false }),
    ("load_matrix.trans", Op::LoadMatrix { offset: 0, trans: true }),
    ("wgmma_fence", Op::WgmmaFence),
    ("wgmma", Op::Wgmma { offset: 0, lead: 0, stride: 0 }),
    ("wgmma_commit", Op::WgmmaCommit),
    ("wgmma_wait", Op::WgmmaWait(0)),
    ("proxy_fence", Op::ProxyFence),
    ("arrive", Op::Arrive { offset: 0 }),
    ("copy_async", Op::CopyAsync { to: 0, from: 0, settled: false }),
    ("copy_async.settled", Op::CopyAsync { to: 0, from: 0, settled: true }),
    ("copy_commit", Op::CopyCommit),
    ("copy_wait", Op::CopyWait(0)),
    ("mbarrier_init", Op::MbarrierInit { offset: 0, count: 0 }),
    ("mbarrier_arrive", Op::MbarrierArrive { offset: 0 }),
    ("mbarrier_expect", Op::MbarrierExpect { offset: 0, bytes: 0 }),
    ("mbarrier_wait", Op::MbarrierWait { offset: 0 }),
    ("bulk_copy", Op::BulkCopy { to: 0, from: 0, bytes: 0, barrier: 0, everywhere: false }),
    ("bulk_copy.everywhere", Op::BulkCopy { to: 0, from: 0, bytes: 0, barrier: 0, everywhere: true }),
    ("await_previous", Op::AwaitPrevious),
    ("release_next", Op::ReleaseNext),
];

/// The numbers of an operation, in the order of the text, each with the word before it.
pub(super) type Attributes = Vec<(&'static str, i64)>;

impl Op {
    /// The operation called `name`, its attributes zero.
    pub(super) fn named(name: &str) -> Option<Op> {
        let scalar = Scalar::ALL.iter().find(|s| s.name() == name).map(|s| Op::Scalar(*s));
        scalar.or_else(|| NAMES.iter().find(|(n, _)| *n == name).map(|(_, op)| op.clone()))
    }

    pub(super) fn attributes(&self) -> Attributes {
        match self {
            Op::Const(bits) => vec![("", *bits as i64)],
            Op::ShiftLeft(by) | Op::ShiftRight(by) => vec![("", i64::from(*by))],
            Op::Extract(lane) => vec![("", i64::from(*lane))],
            Op::Offset { scale } => vec![("", i64::from(*scale))],
            Op::Load(m) | Op::Store(m) => vec![("", i64::from(m.offset)), ("align", i64::from(m.align))],
            Op::For { step } => vec![("step", i64::from(*step))],
            Op::Prefetch { offset, level } => vec![("", i64::from(*offset)), ("level", i64::from(*level))],
            Op::Arrive { offset } => vec![("", i64::from(*offset))],
            Op::Shared { bytes } => vec![("", i64::from(*bytes))],
            Op::ShuffleXor(n) | Op::CopyWait(n) | Op::WgmmaWait(n) => vec![("", i64::from(*n))],
            Op::Wgmma { offset, lead, stride } => {
                vec![("", i64::from(*offset)), ("lead", i64::from(*lead)), ("stride", i64::from(*stride))]
            }
            Op::LoadMatrix { offset, .. } => vec![("", i64::from(*offset))],
            Op::MbarrierInit { offset, count } => vec![("", i64::from(*offset)), ("count", i64::from(*count))],
            Op::MbarrierArrive { offset } | Op::MbarrierWait { offset } => vec![("", i64::from(*offset))],
            Op::MbarrierExpect { offset, bytes } => vec![("", i64::from(*offset)), ("bytes", i64::from(*bytes))],
            Op::BulkCopy { to, from, bytes, barrier, .. } => {
                let (to, from) = (("to", i64::from(*to)), ("from", i64::from(*from)));
                vec![to, from, ("bytes", i64::from(*bytes)), ("barrier", i64::from(*barrier))]
            }
            Op::CopyAsync { to, from, .. } => vec![("to", i64::from(*to)), ("from", i64::from(*from))],
            _ => vec![],
        }
    }

    /// The same operation with other attributes; none if one of them is out of range.
    pub(super) fn with_attributes(&self, numbers: &[i64]) -> Option<Op> {
        let mem = |m: &Mem| {
            let (offset, align) = (i32::try_from(numbers[0]).ok()?, u16::try_from(numbers[1]).ok()?);
            Some(Mem { offset, align, ..*m })
        };
        Some(match self {
            Op::Const(_) => Op::Const(numbers[0] as u64),
            Op::ShiftLeft(_) => Op::ShiftLeft(numbers[0].try_into().ok()?),
            Op::ShiftRight(_) => Op::ShiftRight(numbers[0].try_into().ok()?),
            Op::Extract(_) => Op::Extract(numbers[0].try_into().ok()?),
            Op::Offset { .. } => Op::Offset { scale: numbers[0].try_into().ok()? },
            Op::For { .. } => Op::For { step: numbers[0].try_into().ok()? },
            Op::Prefetch { .. } => {
                Op::Prefetch { offset: numbers[0].try_into().ok()?, level: numbers[1].try_into().ok()? }
            }
            Op::Arrive { .. } => Op::Arrive { offset: numbers[0].try_into().ok()? },
            Op::Shared { .. } => Op::Shared { bytes: numbers[0].try_into().ok()? },
            Op::ShuffleXor(_) => Op::ShuffleXor(numbers[0].try_into().ok()?),
            Op::CopyWait(_) => Op::CopyWait(numbers[0].try_into().ok()?),
            Op::CopyAsync { settled, .. } => {
                let (to, from) = (numbers[0].try_into().ok()?, numbers[1].try_into().ok()?);
                Op::CopyAsync { to, from, settled: *settled }
            }
            Op::MbarrierInit { .. } => {
                Op::MbarrierInit { offset: numbers[0].try_into().ok()?, count: numbers[1].try_into().ok()? }
            }
            Op::MbarrierArrive { .. } => Op::MbarrierArrive { offset: numbers[0].try_into().ok()? },
            Op::MbarrierExpect { .. } => {
                Op::MbarrierExpect { offset: numbers[0].try_into().ok()?, bytes: numbers[1].try_into().ok()? }
            }
            Op::MbarrierWait { .. } => Op::MbarrierWait { offset: numbers[0].try_into().ok()? },
            Op::BulkCopy { everywhere, .. } => {
                let [to, from, bytes, barrier] = numbers.try_into().ok()?;
                let (to, from, bytes) = (to.try_into().ok()?, from.try_into().ok()?, u32::try_from(bytes).ok()?);
                Op::BulkCopy { to, from, bytes, barrier: barrier.try_into().ok()?, everywhere: *everywhere }
            }
            Op::WgmmaWait(_) => Op::WgmmaWait(numbers[0].try_into().ok()?),
            Op::Wgmma { .. } => {
                let [offset, lead, stride] = numbers.try_into().ok()?;
                let (lead, stride) = (u32::try_from(lead).ok()?, u32::try_from(stride).ok()?);
                Op::Wgmma { offset: i32::try_from(offset).ok()?, lead, stride }
            }
            Op::LoadMatrix { trans, .. } => Op::LoadMatrix { offset: numbers[0].try_into().ok()?, trans: *trans },
            Op::Load(m) => Op::Load(mem(m)?),
            Op::Store(m) => Op::Store(mem(m)?),
            other => other.clone(),
        })
    }

    fn name(&self) -> &'static str {
        if let Op::Scalar(s) = self {
            return s.name();
        }
        let zeros = vec![0; self.attributes().len()];
        let bare = self.with_attributes(&zeros);
        NAMES.iter().find(|(_, op)| Some(op) == bare.as_ref()).map_or("?", |(name, _)| name)
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(self.name())?;
        for (word, n) in self.attributes() {
            f.write_str(" ")?;
            if !word.is_empty() {
                write!(f, "{word} ")?;
            }
            // subscripts are small; the bits of an f32 are not
            if n.unsigned_abs() < 1 << 16 { write!(f, "{n}")? } else { write!(f, "{n:#x}")? }
        }
        Ok(())
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
        let threads = |l: super::Launch| format!(" threads {} ctas {} rows {}", l.threads, l.ctas, l.rows);
        let cluster = if self.cluster > 1 { format!(" cluster {}", self.cluster) } else { String::new() };
        let launch = self.launch.map_or(String::new(), threads) + &cluster;
        writeln!(f, "kernel {}({}) items {}{per_row}{launch} {{", self.name, params.join(", "), self.items.fixed)?;
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
