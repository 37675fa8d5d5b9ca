//! Bulk copies go on beside the threads: says where a kernel reads a tile that it has not waited for, fills one that may still be
//! read, waits for a phase that is over, or uses an mbarrier too early.
//!
//! Memory is told apart by region, barriers by the region that they lie in: that of the barriers which copies complete on must not hold
//! those by which readers hand their tiles back. A region is plain memory again behind a barrier of the CTA that follows, outside loops and
//! branches, on the last copy to it.
//!
//! In a cluster, copies go to all CTAs and readers arrive at the mbarriers of all: then the barriers are those of the cluster, copies wait for
//! the readers of all, and no CTA may exit before a barrier of the cluster behind the last of both.

use super::{Block, Inst, Kernel, Op, Space, Type, Value};
use std::collections::{HashMap, HashSet};

/// Copies to one region.
struct Filled {
    /// Regions of the mbarriers that count them.
    barriers: HashSet<Value>,
    /// Positions in the body of the first and the last instruction that starts one, or has one inside.
    span: (usize, usize),
    /// Whether some of them are for all CTAs of the cluster.
    everywhere: bool,
}

struct Copies<'k> {
    kernel: &'k Kernel,
    defined: HashMap<Value, &'k Inst>,
    /// The region or parameter that an address was computed from, if it was.
    roots: HashMap<Value, Value>,
    filled: HashMap<Value, Filled>,
    /// Parameters that copies read.
    sources: HashSet<Value>,
    /// Regions of mbarriers at which somebody expects bytes.
    expected: HashSet<Value>,
    /// Regions of mbarriers at which other CTAs of the cluster arrive.
    shared: HashSet<Value>,
    /// Regions of mbarriers that have been initialised; that are behind a fence, too; that all of the CTA know of; and all of the cluster.
    ready: [HashSet<Value>; 4],
    /// Position of the next instruction, and of that in the body which it belongs to.
    next: usize,
    outer: usize,
    /// Positions in the body of the last barrier of the CTA or the cluster, and of the last one of the cluster.
    barrier: Option<usize>,
    cluster_barrier: Option<usize>,
    /// The last instruction that touches other CTAs, and its position in the body.
    abroad: Option<(usize, usize)>,
    faults: Vec<(usize, String)>,
}

/// What is known at an instruction.
#[derive(Clone, Default)]
struct Known {
    /// Regions of mbarriers that have been waited for in this turn of the innermost loop.
    waited: HashSet<Value>,
    /// Values that this turn defines; none outside loops.
    turn: Option<HashSet<Value>>,
}

/// Each position of an instruction in the text with what is wrong there.
pub fn faults(kernel: &Kernel) -> Vec<(usize, String)> {
    let mut copies = Copies {
        kernel,
        defined: HashMap::new(),
        roots: HashMap::new(),
        filled: HashMap::new(),
        sources: HashSet::new(),
        expected: HashSet::new(),
        shared: HashSet::new(),
        ready: Default::default(),
        next: 0,
        outer: 0,
        barrier: None,
        cluster_barrier: None,
        abroad: None,
        faults: vec![],
    };
    copies.define(&kernel.body);
    for (at, inst) in kernel.body.insts.iter().enumerate() {
        copies.collect(at, inst);
    }
    copies.block(&kernel.body, Known::default(), true);
    if let Some((at, _)) = copies.abroad.filter(|(_, outer)| copies.cluster_barrier.is_none_or(|b| b < *outer)) {
        let message = "found no barrier of the cluster behind this, outside loops and branches: a CTA may have exited";
        copies.faults.push((at, message.into()));
        copies.faults.sort_by_key(|(at, _)| *at);
    }
    copies.faults
}

impl<'k> Copies<'k> {
    fn define(&mut self, block: &'k Block) {
        for inst in &block.insts {
            self.defined.extend(inst.results.iter().map(|r| (*r, inst)));
            // in the order of the text: a kernel where a value depends on itself is refused elsewhere
            if let (Op::Offset { .. } | Op::Stride | Op::Peer, [from, ..], [to]) =
                (&inst.op, &inst.args[..], &inst.results[..])
            {
                self.roots.insert(*to, self.root(*from));
            }
            inst.blocks.iter().for_each(|b| self.define(b));
        }
    }

    /// The region or parameter that an address was computed from.
    fn root(&self, address: Value) -> Value {
        self.roots.get(&address).copied().unwrap_or(address)
    }

    /// All copies, wherever they stand; `at` is the position in the body.
    fn collect(&mut self, at: usize, inst: &Inst) {
        match (&inst.op, &inst.args[..]) {
            (Op::BulkCopy { everywhere, .. }, [to, from, barrier]) => {
                let (to, from, barrier) = (self.root(*to), self.root(*from), self.root(*barrier));
                let none = Filled { barriers: HashSet::new(), span: (at, at), everywhere: false };
                let filled = self.filled.entry(to).or_insert(none);
                filled.barriers.insert(barrier);
                filled.span.1 = at;
                filled.everywhere |= everywhere;
                self.sources.insert(from);
            }
            (Op::MbarrierExpect { .. }, [barrier]) => self.expected.extend([self.root(*barrier)]),
            (Op::MbarrierArrive { .. }, [barrier]) if self.is_abroad(inst) => self.shared.extend([self.root(*barrier)]),
            _ => {}
        }
        inst.blocks.iter().flat_map(|b| &b.insts).for_each(|i| self.collect(at, i));
    }

    fn block(&mut self, block: &Block, mut known: Known, body: bool) {
        for inst in &block.insts {
            let at = self.next;
            self.next += 1;
            if let Err(message) = self.inst(at, inst, &mut known) {
                self.faults.push((at, message));
            }
            for inside in &inst.blocks {
                let known = match inst.op {
                    Op::For { .. } => Known { turn: Some(defined_in(inside)), ..Known::default() },
                    _ => known.clone(),
                };
                self.block(inside, known, false);
            }
            if body {
                match inst.op {
                    Op::Barrier => self.barrier = Some(self.outer),
                    Op::ClusterBarrier => (self.barrier, self.cluster_barrier) = (Some(self.outer), Some(self.outer)),
                    _ => {}
                }
                self.outer += 1;
            }
        }
    }

    /// Whether an instruction touches shared memory of other CTAs.
    fn is_abroad(&self, inst: &Inst) -> bool {
        match (&inst.op, &inst.args[..]) {
            (Op::BulkCopy { everywhere, .. }, _) => *everywhere,
            (Op::MbarrierArrive { .. }, [barrier]) => self.kernel.ty(*barrier) == Type::Ptr(Space::Cluster),
            _ => false,
        }
    }

    fn inst(&mut self, at: usize, inst: &Inst, known: &mut Known) -> Result<(), String> {
        if self.is_abroad(inst) {
            self.abroad = Some((at, self.outer));
            if self.kernel.cluster == 1 {
                return Err("found no clusters, expected a kernel with some".into());
            }
        }
        match (&inst.op, &inst.args[..]) {
            (Op::MbarrierInit { .. }, [barrier]) => self.ready[0].extend([self.root(*barrier)]),
            (Op::ProxyFence, _) => self.ready[1] = self.ready[0].clone(),
            (Op::Barrier, _) => self.ready[2] = self.ready[1].clone(),
            (Op::ClusterBarrier, _) => [2, 3].into_iter().for_each(|i| self.ready[i] = self.ready[1].clone()),
            (Op::MbarrierArrive { .. } | Op::MbarrierExpect { .. }, [barrier]) => {
                self.is_ready(*barrier, self.is_abroad(inst))?
            }
            (Op::MbarrierWait { .. }, [barrier, parity]) => {
                self.is_ready(*barrier, false)?;
                known.waited.insert(self.root(*barrier));
                if known.turn.as_ref().is_some_and(|turn| !turn.contains(parity)) {
                    return Err(
                        "found a parity that is the same in each turn, expected that of the turn's phase".into()
                    );
                }
            }
            (Op::BulkCopy { everywhere, .. }, [to, _, barrier]) => return self.copy(*to, *barrier, *everywhere, known),
            (Op::Load(_) | Op::LoadMatrix { .. }, [from]) => self.read(*from, known)?,
            (Op::Wgmma { .. }, [_, _, from]) => self.read(*from, known)?,
            (Op::Store(_), [_, to]) | (Op::CopyAsync { .. }, [to, ..]) => self.written(*to)?,
            _ => {}
        }
        Ok(())
    }

    /// An mbarrier must be initialised before it is used, those of other CTAs with their knowledge.
    fn is_ready(&self, barrier: Value, abroad: bool) -> Result<(), String> {
        let (ready, barriers) =
            if abroad { (&self.ready[3], "barrier of the cluster") } else { (&self.ready[2], "barrier") };
        match ready.contains(&self.root(barrier)) {
            true => Ok(()),
            false => Err(format!(
                "found an mbarrier that is not initialised, expected that, a fence and a {barriers} before"
            )),
        }
    }

    fn copy(&self, to: Value, barrier: Value, everywhere: bool, known: &Known) -> Result<(), String> {
        self.is_ready(barrier, everywhere)?;
        let (to, barrier) = (self.root(to), self.root(barrier));
        let is_region = |v: &Value| matches!(self.defined.get(v), Some(Inst { op: Op::Shared { .. }, .. }));
        if !is_region(&to) || !is_region(&barrier) {
            return Err("found an address of unknown origin, expected one in a region of shared memory".into());
        }
        if !self.expected.contains(&barrier) {
            return Err("found an mbarrier at which nobody expects these bytes".into());
        }
        let counted = &self.filled[&to].barriers;
        if known.turn.is_some() && known.waited.is_subset(counted) {
            return Err(
                "found a copy to memory that may still be read, expected a wait for its readers in each turn".into()
            );
        }
        if known.turn.is_some() && everywhere && known.waited.is_disjoint(&self.shared) {
            return Err(
                "found a copy to memory that other CTAs may still read, expected a wait for their readers".into()
            );
        }
        Ok(())
    }

    /// The copies to a region, unless it is plain memory here.
    fn copies_to(&self, address: Value) -> Option<&Filled> {
        let filled = self.filled.get(&self.root(address))?;
        let before = self.outer < filled.span.0;
        let barrier = if filled.everywhere { self.cluster_barrier } else { self.barrier };
        let behind = barrier.is_some_and(|b| b > filled.span.1);
        (!before && !behind).then_some(filled)
    }

    fn read(&self, from: Value, known: &Known) -> Result<(), String> {
        match self.copies_to(from) {
            Some(filled) if known.waited.is_disjoint(&filled.barriers) => {
                Err("found a read of what bulk copies bring, expected a wait for their mbarrier in each turn".into())
            }
            _ => Ok(()),
        }
    }

    fn written(&self, to: Value) -> Result<(), String> {
        if self.copies_to(to).is_some() {
            return Err(
                "found a write to memory that bulk copies fill, expected a barrier behind the last of them".into()
            );
        }
        if self.kernel.ty(to) == Type::Ptr(Space::Global) && self.sources.contains(&self.root(to)) {
            return Err("found a write to memory that bulk copies read".into());
        }
        Ok(())
    }
}

/// Values that a block and those inside define.
fn defined_in(block: &Block) -> HashSet<Value> {
    let inside = block.insts.iter().flat_map(|i| &i.blocks).flat_map(defined_in);
    let results = block.insts.iter().flat_map(|i| &i.results).chain(&block.params).copied();
    results.chain(inside).collect()
}
