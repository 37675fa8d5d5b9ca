//! Says what is wrong with a kernel: scopes, types, accesses, and (for a target) what it cannot do.

use super::text::Names;
use super::{Block, Cap, Domain, Elem, Inst, Kernel, Mem, Op, Scalar, Space, Type, Value, WARP};
use super::{bulk, flight};
use crate::targets::Target;
use std::collections::HashSet;
use std::fmt;

/// One thing that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The kernel.
    pub kernel: String,
    /// The position of the instruction in the text (0 is the first one); none for the kernel as a whole.
    pub inst: Option<usize>,
    /// The instruction, as printed.
    pub head: String,
    /// What was found and what was expected.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.inst {
            Some(n) => write!(f, "kernel {}: instruction {n}, `{}`: {}", self.kernel, self.head, self.message),
            None => write!(f, "kernel {}: {}", self.kernel, self.message),
        }
    }
}

/// Checks `kernel`; after legalisation, pass the target too.
///
/// # Errors
/// Everything that is wrong, in the order of the text.
pub fn verify(kernel: &Kernel, target: Option<&Target>) -> Result<(), Vec<Fault>> {
    let params_are_typed = kernel.params.iter().all(|p| typed(kernel, p.value));
    if !params_are_typed || !block_is_typed(kernel, &kernel.body) {
        let message = format!("a value has no type; there are types for {} values", kernel.types.len());
        return Err(vec![Fault { kernel: kernel.name.clone(), inst: None, head: String::new(), message }]);
    }
    let names = Names::of(kernel);
    let mut v =
        Verifier { k: kernel, target, names, defined: HashSet::new(), scope: HashSet::new(), next: 0, faults: vec![] };
    for p in &kernel.params {
        if !matches!(kernel.ty(p.value), Type::Ptr(_) | Type::Vec(Elem::Index, 1)) {
            v.fault(None, format!("parameter {} is {}, expected a pointer or an index", p.name, kernel.ty(p.value)));
        }
        v.define(p.value, None);
    }
    v.launch();
    v.block(&kernel.body, &[], None);
    for (at, message) in flight::faults(kernel).into_iter().chain(bulk::faults(kernel)) {
        let head = flight::instruction(kernel, at).map_or(String::new(), |inst| v.names.head(kernel, inst));
        v.faults.push(Fault { kernel: kernel.name.clone(), inst: Some(at), head, message });
    }
    if v.faults.is_empty() { Ok(()) } else { Err(v.faults) }
}

fn typed(kernel: &Kernel, v: Value) -> bool {
    (v.0 as usize) < kernel.types.len()
}

fn block_is_typed(kernel: &Kernel, block: &Block) -> bool {
    let inst = |i: &Inst| {
        i.args.iter().chain(&i.results).all(|v| typed(kernel, *v)) && i.blocks.iter().all(|b| block_is_typed(kernel, b))
    };
    block.params.iter().chain(&block.yields).all(|v| typed(kernel, *v)) && block.insts.iter().all(inst)
}

/// Bytes of shared memory that a CTA of any target can have.
const MOST_SHARED: u32 = 227 << 10;

/// CTAs of a cluster that every GPU with clusters has room for.
const MOST_CLUSTER: u32 = 8;

struct Verifier<'a> {
    k: &'a Kernel,
    target: Option<&'a Target>,
    names: Names,
    defined: HashSet<Value>,
    scope: HashSet<Value>,
    next: usize,
    faults: Vec<Fault>,
}

/// An instruction with its position.
type At<'a> = Option<(usize, &'a Inst)>;

impl Verifier<'_> {
    /// How threads share the work.
    fn launch(&mut self) {
        let Some(launch) = self.k.launch else { return };
        if !launch.threads.is_multiple_of(WARP) || !(WARP..=1024).contains(&launch.threads) {
            self.fault(None, format!("found {} threads, expected a multiple of {WARP} up to 1024", launch.threads));
        }
        if launch.ctas == 0 || launch.rows == 0 {
            self.fault(None, "found no CTAs or no rows of an item, expected at least one".into());
        }
        let (cluster, items) = (self.k.cluster, self.k.items.fixed);
        if !(1..=MOST_CLUSTER).contains(&cluster) || !items.is_multiple_of(cluster) {
            self.fault(
                None,
                format!("found clusters of {cluster} CTAs, expected 1 to {MOST_CLUSTER} that divide {items} items"),
            );
        }
        let (shared, most) = (self.k.shared_bytes(), self.target.map_or(MOST_SHARED, |t| t.most_shared(launch.ctas)));
        if shared > most {
            self.fault(None, format!("found {shared} bytes of shared memory, expected at most {most}"));
        }
        for p in self.k.params.iter().filter(|p| self.k.ty(p.value) == Type::Ptr(Space::Scratch)) {
            self.fault(None, format!("parameter {} is scratch memory, which a GPU has only as `shared`", p.name));
        }
    }

    fn fault(&mut self, at: At, message: String) {
        let head = at.map_or(String::new(), |(_, inst)| self.names.head(self.k, inst));
        self.faults.push(Fault { kernel: self.k.name.clone(), inst: at.map(|(n, _)| n), head, message });
    }

    fn block(&mut self, block: &Block, yields: &[Type], owner: At) {
        let outer = self.scope.clone();
        block.params.iter().for_each(|p| self.define(*p, owner));
        for inst in &block.insts {
            let at = Some((self.next, inst));
            self.next += 1;
            inst.args.iter().for_each(|a| self.used(*a, at));
            if let Err(e) = self.inst(inst, at) {
                self.fault(at, e);
            }
            inst.results.iter().for_each(|r| self.define(*r, at));
        }
        block.yields.iter().for_each(|y| self.used(*y, owner));
        let found = self.types(&block.yields);
        if found != yields {
            self.fault(owner, format!("a block yields ({}), expected ({})", list(&found), list(yields)));
        }
        self.scope = outer;
    }

    fn types(&self, values: &[Value]) -> Vec<Type> {
        values.iter().map(|v| self.k.ty(*v)).collect()
    }

    fn define(&mut self, v: Value, at: At) {
        if let Type::Vec(e, n) = self.k.ty(v)
            && (n == 0 || (e == Elem::Index && n > 1))
        {
            self.fault(at, format!("found {n} lanes of {e}, expected {}", if n == 0 { "at least one" } else { "one" }));
        }
        if !self.defined.insert(v) {
            self.fault(at, format!("{} is defined twice", self.names.value(v)));
        }
        self.scope.insert(v);
    }

    fn used(&mut self, v: Value, at: At) {
        if !self.scope.contains(&v) {
            self.fault(at, format!("{} is used outside its scope", self.names.value(v)));
        }
    }

    fn inst(&mut self, inst: &Inst, at: At) -> Result<(), String> {
        if let Some(t) = self.target.filter(|t| !t.is_native(&inst.op)) {
            return Err(format!("{} cannot do this", t.name));
        }
        if self.k.launch.is_none()
            && matches!(
                inst.op.needs(),
                Some(Cap::Threads | Cap::Mma | Cap::AsyncCopy | Cap::Wgmma | Cap::BulkCopy | Cap::Cluster)
            )
        {
            return Err("the kernel does not say how many threads it has".into());
        }
        let (args, results) = (self.types(&inst.args), self.types(&inst.results));
        let blocks = match inst.op {
            Op::For { .. } => 1,
            Op::If => 2,
            _ => 0,
        };
        if inst.blocks.len() != blocks {
            return Err(format!("found {} blocks, expected {blocks}", inst.blocks.len()));
        }
        match &inst.op {
            Op::Load(m) | Op::Store(m) => access(&inst.op, *m, &args, &results),
            Op::For { step } => self.for_loop(inst, *step, &args, &results, at),
            Op::If => {
                if args != [Type::Vec(Elem::Pred, 1)] || inst.blocks.iter().any(|b| !b.params.is_empty()) {
                    return Err("expected one predicate and two blocks without parameters".into());
                }
                inst.blocks.iter().for_each(|b| self.block(b, &results, at));
                Ok(())
            }
            op => match plain(op, &args, &results) {
                true => Ok(()),
                false => {
                    let found = format!("({}) -> ({})", list(&args), list(&results));
                    Err(format!("expected {}, found {found}", expectation(op)))
                }
            },
        }
    }

    fn for_loop(&mut self, inst: &Inst, step: u32, args: &[Type], results: &[Type], at: At) -> Result<(), String> {
        const BOUND: Type = Type::Vec(Elem::Index, 1);
        let params = self.types(&inst.blocks[0].params);
        let ([BOUND, BOUND, carried @ ..], [BOUND, inner @ ..]) = (args, &params[..]) else {
            return Err("expected two bounds and a subscript of type index".into());
        };
        if step == 0 {
            return Err("found a step of 0, expected a positive one".into());
        }
        if inner != carried || carried != results {
            return Err("expected carried values of the same types everywhere".into());
        }
        self.block(&inst.blocks[0], carried, at);
        Ok(())
    }
}

fn list(types: &[Type]) -> String {
    types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ")
}

/// What the operands of an operation ought to be, in words.
fn expectation(op: &Op) -> &'static str {
    match op {
        Op::Scalar(_) => "operands and a result of one type of the operation's domain",
        Op::DotPairs => "twice 2n lanes of bf16, and n lanes of f32 (4, 8 or 16) that the result has too",
        Op::WidenPairs => "2n lanes of bf16 and two results of n lanes of f32",
        Op::Extract(_) => "a vector that has this lane and a scalar of its element",
        Op::Pack => "as many scalars as the result has lanes",
        Op::Select => "a predicate of one or as many lanes, and two values of one type",
        Op::DotBytes | Op::DotSignedBytes | Op::DotHalves => "three operands and a result of 4, 8 or 16 lanes of i32",
        Op::Offset { .. } => "a pointer and an index",
        Op::Stride => "a pointer and two indices",
        Op::Prefetch { .. } => "a pointer, level 1 or 2",
        Op::Peer => "scratch memory, an index, and a pointer to memory of the cluster",
        Op::Arrive { .. } => "global memory, an offset that is a multiple of 4, an index and a result like it",
        Op::Shared { .. } => "at least one byte and a pointer to scratch memory",
        Op::ShuffleXor(_) | Op::Shuffle => "lanes of 32 bits, a lane of a warp, and a result of the same type",
        Op::Mma => "bf16x8, bf16x4, f32x4 and a result f32x4",
        Op::Wgmma { .. } => {
            "f32xN with N a multiple of 4 up to 128, bf16x8, scratch memory, distances that are multiples of 16 below 2^18, and a \
             result like the first"
        }
        Op::MbarrierInit { .. } => "scratch memory at a multiple of 8, and arrivals from 1 to 2^20 - 1",
        Op::MbarrierArrive { .. } => "scratch memory or memory of the cluster at a multiple of 8",
        Op::MbarrierExpect { .. } => "scratch memory at a multiple of 8, and less than 2^20 bytes",
        Op::MbarrierWait { .. } => "scratch memory at a multiple of 8 and an index",
        Op::BulkCopy { .. } => {
            "scratch memory, global memory, an mbarrier in scratch memory at a multiple of 8, offsets and bytes that are multiples of 16"
        }
        Op::LoadMatrix { .. } => "scratch memory, an offset that is a multiple of 16 and a result i32x4",
        Op::CopyAsync { .. } => "scratch memory, global memory, perhaps an index, and offsets that are multiples of 16",
        _ => "operands that suit the operation",
    }
}

/// Whether the types suit an operation without blocks or memory.
fn plain(op: &Op, args: &[Type], results: &[Type]) -> bool {
    use Elem::{Bf16, F32, I32, Index, Pred};
    use Type::{Ptr, Vec};
    match (op, args, results) {
        (Op::Scalar(s), all, [r]) => all.len() == s.arity() && all.iter().all(|a| a == r) && in_domain(*s, *r),
        (Op::Const(_), [], [Vec(F32 | I32 | Index, _)]) => true,
        (Op::ShiftLeft(by) | Op::ShiftRight(by), [a @ Vec(e @ (I32 | Index), _)], [r]) => {
            a == r && u32::from(*by) < if *e == I32 { 32 } else { 64 }
        }
        (Op::Cmp(_), [a @ Vec(F32 | I32 | Index, n), b], [Vec(Pred, m)]) => a == b && n == m,
        (Op::Select, [Vec(Pred, n), a @ Vec(e, m), b], [r]) => a == b && a == r && (n == m || *n == 1) && *e != Bf16,
        (Op::Splat, [Vec(e, 1)], [Vec(f, _)]) => e == f && *e != Pred,
        (Op::Extract(i), [Vec(e, n)], [Vec(f, 1)]) => e == f && i < n && *e != Bf16 && *e != Pred,
        (Op::Pack, all, [Vec(e @ (F32 | I32), n)]) => {
            all.len() == usize::from(*n) && all.iter().all(|a| *a == Vec(*e, 1))
        }
        (Op::SumLanes, [Vec(F32, _)], [Vec(F32, 1)]) => true,
        (Op::Widen, [Vec(Bf16, n)], [Vec(F32, m)]) | (Op::Round, [Vec(F32, n)], [Vec(Bf16, m)]) => n == m,
        (Op::WidenPairs, [Vec(Bf16, n)], [Vec(F32, a), Vec(F32, b)]) => a == b && *n == 2 * a,
        (Op::Bf16Bits, [Vec(I32, n)], [Vec(Bf16, m)]) => n == m,
        (Op::Bitcast, [Vec(F32, n)], [Vec(I32, m)]) | (Op::Bitcast, [Vec(I32, n)], [Vec(F32, m)]) => n == m,
        (Op::Bitcast, [Vec(I32, n)], [Vec(Bf16, m)]) => *m == 2 * n,
        (Op::DotPairs, [a @ Vec(Bf16, n), b, c @ Vec(F32, m @ (4 | 8 | 16))], [r]) => a == b && c == r && *n == 2 * m,
        (Op::DotBytes | Op::DotSignedBytes | Op::DotHalves, [a @ Vec(I32, 4 | 8 | 16), b, c], [r]) => {
            a == b && a == c && a == r
        }
        (Op::ToF32, [Vec(I32, n)], [Vec(F32, m)]) => n == m,
        (Op::ToIndex, [Vec(I32, 1)], [Vec(Index, 1)]) | (Op::ToI32, [Vec(Index, 1)], [Vec(I32, 1)]) => true,
        (Op::Offset { scale }, [Ptr(s), Vec(Index, 1)], [Ptr(t)]) => s == t && *scale > 0,
        (Op::Stride, [Ptr(s), Vec(Index, 1), Vec(Index, 1)], [Ptr(t)]) => s == t,
        (Op::Prefetch { level, .. }, [Ptr(_)], []) => matches!(level, 1 | 2),
        (Op::Arrive { offset }, [Ptr(Space::Global), Vec(Index, 1)], [Vec(Index, 1)]) => offset.rem_euclid(4) == 0,
        (Op::ThreadId | Op::CtaId, [], [Vec(Index, 1)]) => true,
        (Op::Shared { bytes }, [], [Ptr(Space::Scratch)]) => *bytes > 0,
        (Op::ClusterBarrier | Op::WarpBarrier, [], []) => true,
        (Op::Peer, [Ptr(Space::Scratch), Vec(Index, 1)], [Ptr(Space::Cluster)]) => true,
        (Op::Barrier | Op::CopyCommit | Op::CopyWait(_) | Op::AwaitPrevious | Op::ReleaseNext, [], []) => true,
        (Op::ShuffleXor(bits), [a @ Vec(F32 | I32 | Index, _)], [r]) => a == r && u32::from(*bits) < WARP,
        (Op::Shuffle, [a @ Vec(F32 | I32 | Index, _), Vec(Index, 1)], [r]) => a == r,
        (Op::Mma, [Vec(Bf16, 8), Vec(Bf16, 4), c @ Vec(F32, 4)], [r]) => c == r,
        (Op::Wgmma { offset, lead, stride }, [c @ Vec(F32, n), Vec(Bf16, 8), Ptr(Space::Scratch)], [r]) => {
            let fits = |bytes: u32| bytes.is_multiple_of(16) && bytes < 1 << 18;
            c == r && n % 4 == 0 && *n <= 128 && offset.rem_euclid(16) == 0 && fits(*lead) && fits(*stride)
        }
        (Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait(_) | Op::ProxyFence, [], []) => true,
        (Op::MbarrierInit { offset, count }, [Ptr(Space::Scratch)], []) => {
            offset.rem_euclid(8) == 0 && (1..1 << 20).contains(count)
        }
        (Op::MbarrierArrive { offset }, [Ptr(Space::Scratch | Space::Cluster)], []) => offset.rem_euclid(8) == 0,
        (Op::MbarrierExpect { offset, bytes }, [Ptr(Space::Scratch)], []) => {
            offset.rem_euclid(8) == 0 && *bytes < 1 << 20
        }
        (Op::MbarrierWait { offset }, [Ptr(Space::Scratch), Vec(Index, 1)], []) => offset.rem_euclid(8) == 0,
        (
            Op::BulkCopy { to, from, bytes, barrier, .. },
            [Ptr(Space::Scratch), Ptr(Space::Global), Ptr(Space::Scratch)],
            [],
        ) => {
            let whole = to.rem_euclid(16) == 0 && from.rem_euclid(16) == 0 && bytes.is_multiple_of(16);
            whole && *bytes > 0 && *bytes < 1 << 20 && barrier.rem_euclid(8) == 0
        }
        (Op::LoadMatrix { offset, .. }, [Ptr(Space::Scratch)], [Vec(I32, 4)]) => offset.rem_euclid(16) == 0,
        (
            Op::CopyAsync { to, from, .. },
            [Ptr(Space::Scratch), Ptr(Space::Global)] | [Ptr(Space::Scratch), Ptr(Space::Global), Vec(Index, 1)],
            [],
        ) => to.rem_euclid(16) == 0 && from.rem_euclid(16) == 0,
        _ => false,
    }
}

fn in_domain(s: Scalar, ty: Type) -> bool {
    match (s.domain(), ty.elem()) {
        (Domain::Float, Some(Elem::F32)) => true,
        (Domain::Bits, Some(Elem::Pred)) => true,
        (Domain::Int, Some(Elem::I32)) => !matches!(s, Scalar::UDiv | Scalar::URem),
        (Domain::Bits, Some(Elem::I32)) => true,
        (Domain::Int | Domain::Bits, Some(Elem::Index)) => true,
        _ => false,
    }
}

fn access(op: &Op, m: Mem, args: &[Type], results: &[Type]) -> Result<(), String> {
    let v = match (op, args, results) {
        (Op::Load(_), [Type::Ptr(_)], [v]) => *v,
        (Op::Store(_), [v, Type::Ptr(_)], []) if !m.constant => *v,
        (Op::Store(_), [_, Type::Ptr(_)], []) => return Err("found a store to constant memory".into()),
        _ => return Err(format!("expected a pointer and a value, found ({}) -> ({})", list(args), list(results))),
    };
    if m.once && !args.contains(&Type::Ptr(Space::Global)) {
        return Err("found a hint for caches, expected one of global memory alone".into());
    }
    let lane = v.elem().and_then(Elem::bytes).ok_or(format!("{v} has no form in memory"))?;
    let align = u32::from(m.align);
    if !align.is_power_of_two() || align > 16 || align % lane != 0 {
        return Err(format!("found an alignment of {align}, expected a power of two from {lane} to 16"));
    }
    if m.offset.rem_euclid(align as i32) != 0 {
        return Err(format!("found offset {}, expected a multiple of the alignment {align}", m.offset));
    }
    Ok(())
}
