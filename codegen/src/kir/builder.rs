//! The typed builder. Rust is the staging language: a Rust `for` unrolls, [`Builder::range`] emits a loop, a Rust `if`
//! specialises.

use super::value::{Element, Index, Pred, Stored, V};
use super::{Block, Carry, Inst, Items, Kernel, Launch, Op, Operand, Param, Ptr, Scalar, Space, Type, Value};
use crate::targets::Target;
use std::{cell::RefCell, collections::HashMap};

/// A kernel under construction.
#[derive(Debug)]
pub struct Builder {
    /// What it is built for.
    pub target: Target,
    state: RefCell<State>,
}

/// What makes two pure instructions the same.
type Key = (Op, Vec<Value>, Vec<Type>);

#[derive(Debug)]
struct State {
    kernel: Kernel,
    open: Vec<Block>,
    /// Pure operations already emitted, per open block.
    seen: Vec<HashMap<Key, Vec<Value>>>,
    /// Emitted at the entry of the kernel.
    constants: Vec<Inst>,
    known: HashMap<Value, u64>,
    /// `value = base + constant`, so that addresses fold.
    affine: HashMap<Value, (Value, i64)>,
}

impl Builder {
    /// Builds one kernel.
    pub fn build(name: &str, target: &Target, body: impl for<'k> FnOnce(&'k Builder)) -> Kernel {
        let (params, types, body_block) = (vec![], vec![], Block::default());
        let (items, launch) = (Items::default(), None);
        let (name, doc) = (name.into(), String::new());
        let kernel = Kernel { name, doc, params, types, body: body_block, items, launch, cluster: 1 };
        let k = Builder::resume(kernel, target);
        body(&k);
        k.finish()
    }

    /// A builder that appends to an empty `kernel.body` (the legaliser rebuilds kernels through it).
    pub(super) fn resume(kernel: Kernel, target: &Target) -> Builder {
        let (open, seen) = (vec![Block::default()], vec![HashMap::new()]);
        let state = State { kernel, open, seen, constants: vec![], known: HashMap::new(), affine: HashMap::new() };
        Builder { target: *target, state: RefCell::new(state) }
    }

    pub(super) fn finish(self) -> Kernel {
        let mut s = self.state.into_inner();
        let body = s.open.pop().expect("the body is open until here");
        let mut kernel = Kernel { body, ..s.kernel };
        // a scalar literal that became a vector or part of an address leaves a constant behind
        let uses = kernel.uses();
        let used = s.constants.into_iter().filter(|c| uses.contains_key(&c.results[0]));
        kernel.body.insts.splice(0..0, used);
        kernel
    }

    /// Declares `fixed` items of work, of each row if `per_row`, and the range `begin..end` as the next two parameters;
    /// runs `body` once for each.
    pub fn items<'k>(&'k self, fixed: u32, per_row: bool, body: impl FnOnce(V<'k, Index>)) {
        let (begin, end) = self.item_range(fixed, per_row);
        self.range(begin, end, 1, (), |i, ()| body(i));
    }

    /// Declares the items of work, and the range `(begin, end)` of a call as the next two parameters.
    pub fn item_range(&self, fixed: u32, per_row: bool) -> (V<'_, Index>, V<'_, Index>) {
        self.state.borrow_mut().kernel.items = Items { fixed, per_row };
        (self.count("begin"), self.count("end"))
    }

    /// Declares the items of work, one for each CTA of `launch`, and gives the number of the item of this CTA.
    pub fn launch(&self, items: Items, launch: Launch) -> V<'_, Index> {
        {
            let kernel = &mut self.state.borrow_mut().kernel;
            (kernel.items, kernel.launch) = (items, Some(launch));
        }
        self.special(Op::CtaId)
    }

    /// Makes clusters of so many neighbouring CTAs.
    pub fn cluster(&self, ctas: u32) {
        self.state.borrow_mut().kernel.cluster = ctas;
    }

    /// How threads share the work of this kernel.
    ///
    /// # Panics
    /// Before [`Self::launch`].
    pub(super) fn launched(&self) -> Launch {
        self.state.borrow().kernel.launch.expect("launch data comes before threads")
    }

    /// An index that the machine gives.
    pub(super) fn special(&self, op: Op) -> V<'_, Index> {
        V::wrap(self, self.push1(op, &[], Type::Vec(super::Elem::Index, 1)))
    }

    /// `n` elements of memory that the threads of a CTA share.
    pub fn shared<E: Stored>(&self, n: u32) -> Ptr<'_, E> {
        let bytes = n * E::BYTES;
        Ptr::new(self, self.push1(Op::Shared { bytes }, &[], Type::Ptr(Space::Scratch)), false)
    }

    /// Waits for all threads of the CTA.
    pub fn barrier(&self) {
        self.push(Op::Barrier, &[], &[]);
    }

    /// Waits for all lanes of this warp.
    pub fn warp_barrier(&self) {
        self.push(Op::WarpBarrier, &[], &[]);
    }

    /// Waits for all threads of the cluster.
    pub fn cluster_barrier(&self) {
        self.push(Op::ClusterBarrier, &[], &[]);
    }

    /// Makes the copies since the last call a group.
    pub fn copy_commit(&self) {
        self.push(Op::CopyCommit, &[], &[]);
    }

    /// Waits until at most `groups` groups of this thread's copies are unfinished.
    pub fn copy_wait(&self, groups: u8) {
        self.push(Op::CopyWait(groups), &[], &[]);
    }

    /// See [`Op::WgmmaFence`].
    pub fn wgmma_fence(&self) {
        self.push(Op::WgmmaFence, &[], &[]);
    }

    /// Makes the products of this warpgroup since the last call a group.
    pub fn wgmma_commit(&self) {
        self.push(Op::WgmmaCommit, &[], &[]);
    }

    /// Waits until at most `groups` groups of this warpgroup's products are unfinished.
    pub fn wgmma_wait(&self, groups: u8) {
        self.push(Op::WgmmaWait(groups), &[], &[]);
    }

    /// See [`Op::ProxyFence`].
    pub fn proxy_fence(&self) {
        self.push(Op::ProxyFence, &[], &[]);
    }

    pub(super) fn ty(&self, v: Value) -> Type {
        self.state.borrow().kernel.ty(v)
    }

    fn fresh(&self, ty: Type) -> Value {
        self.state.borrow_mut().kernel.fresh(ty)
    }

    /// The bits of a constant.
    pub(super) fn known(&self, v: Value) -> Option<u64> {
        self.state.borrow().known.get(&v).copied()
    }

    fn param(&self, name: &str, ty: Type) -> Value {
        let value = self.fresh(ty);
        self.state.borrow_mut().kernel.params.push(Param { name: name.into(), value });
        value
    }

    /// A parameter: memory that nobody writes while the kernel runs.
    pub fn input<E: Stored>(&self, name: &str) -> Ptr<'_, E> {
        Ptr::new(self, self.param(name, Type::Ptr(Space::Global)), true)
    }

    /// A parameter: memory that the kernel may write (and read).
    pub fn output<E: Stored>(&self, name: &str) -> Ptr<'_, E> {
        Ptr::new(self, self.param(name, Type::Ptr(Space::Global)), false)
    }

    /// A parameter: this worker's own memory.
    pub fn scratch<E: Stored>(&self, name: &str) -> Ptr<'_, E> {
        Ptr::new(self, self.param(name, Type::Ptr(Space::Scratch)), false)
    }

    /// A parameter: a number (rows, strides, capacities, bounds of a range).
    pub fn count(&self, name: &str) -> V<'_, Index> {
        V::wrap(self, self.param(name, Type::Vec(super::Elem::Index, 1)))
    }

    /// The same bits in each of `lanes` lanes.
    pub(super) fn constant<E: Element>(&self, lanes: u16, bits: u64) -> V<'_, E> {
        let ty = Type::Vec(E::ELEM, lanes);
        let key = (Op::Const(bits), vec![], vec![ty]);
        if let Some(v) = self.state.borrow().seen[0].get(&key) {
            return V::wrap(self, v[0]);
        }
        let id = self.fresh(ty);
        let s = &mut *self.state.borrow_mut();
        s.constants.push(Inst { op: Op::Const(bits), args: vec![], results: vec![id], blocks: vec![] });
        s.seen[0].insert(key, vec![id]);
        s.known.insert(id, bits);
        V::wrap(self, id)
    }

    /// A literal subscript.
    pub fn index(&self, value: u32) -> V<'_, Index> {
        value.on(self)
    }

    /// `value` in each of `lanes` lanes.
    pub fn splat<'k, E: Element>(&'k self, value: impl Operand<'k, E>, lanes: u16) -> V<'k, E> {
        value.on(self).splat(lanes)
    }

    pub(super) fn push(&self, op: Op, args: &[Value], types: &[Type]) -> Vec<Value> {
        let key = op.is_pure().then(|| (op.clone(), args.to_vec(), types.to_vec()));
        if let Some(key) = &key
            && let Some(v) = self.state.borrow().seen.iter().find_map(|s| s.get(key).cloned())
        {
            return v;
        }
        let results: Vec<_> = types.iter().map(|t| self.fresh(*t)).collect();
        let s = &mut *self.state.borrow_mut();
        if let (Some(key), Some(seen)) = (key, s.seen.last_mut()) {
            seen.insert(key, results.clone());
        }
        s.append(Inst { op, args: args.to_vec(), results: results.clone(), blocks: vec![] });
        results
    }

    pub(super) fn push1(&self, op: Op, args: &[Value], ty: Type) -> Value {
        self.push(op, args, &[ty])[0]
    }

    pub(super) fn scalar<'k, E: Element>(&'k self, op: Scalar, args: &[V<'k, E>]) -> V<'k, E> {
        if let Some(folded) = self.fold(op, args) {
            return folded;
        }
        let lanes = args.iter().map(|a| a.lanes()).max().unwrap_or(1);
        let ids: Vec<_> = args.iter().map(|a| a.splat(lanes).id).collect();
        let out = self.push1(Op::Scalar(op), &ids, Type::Vec(E::ELEM, lanes));
        if let (Scalar::IAdd, Some(c)) = (op, args.get(1).and_then(|b| self.known(b.id))) {
            let (base, before) = self.affine(ids[0]);
            if let Some(base) = base {
                self.state.borrow_mut().affine.insert(out, (base, before.wrapping_add(c as i64)));
            }
        }
        V::wrap(self, out)
    }

    /// `v` as a value (none if it is a constant) and a constant added to it.
    pub(super) fn affine(&self, v: Value) -> (Option<Value>, i64) {
        let s = self.state.borrow();
        match (s.known.get(&v), s.affine.get(&v)) {
            (Some(c), _) => (None, *c as i64),
            (None, Some((base, add))) => (Some(*base), *add),
            (None, None) => (Some(v), 0),
        }
    }

    /// Integer identities: subscripts are written for the general case and vanish where they are constant.
    fn fold<'k, E: Element>(&'k self, op: Scalar, args: &[V<'k, E>]) -> Option<V<'k, E>> {
        use Scalar::{IAdd, IMul, ISub, UDiv, URem};
        let [a, b] = args else { return None };
        if E::ELEM != super::Elem::Index {
            return None;
        }
        match (op, self.known(a.id), self.known(b.id)) {
            (IAdd, Some(x), Some(y)) => Some(self.constant(1, x.wrapping_add(y))),
            (ISub, Some(x), Some(y)) => Some(self.constant(1, x.wrapping_sub(y))),
            (IMul, Some(x), Some(y)) => Some(self.constant(1, x.wrapping_mul(y))),
            (UDiv, Some(x), Some(y)) if y > 0 => Some(self.constant(1, x / y)),
            (URem, Some(x), Some(y)) if y > 0 => Some(self.constant(1, x % y)),
            (IAdd, Some(0), _) | (IMul, Some(1), _) => Some(*b),
            (IAdd | ISub, _, Some(0)) | (IMul | UDiv, _, Some(1)) => Some(*a),
            (IMul, _, Some(0)) | (URem, _, Some(1)) => Some(self.constant(1, 0)),
            (UDiv, _, Some(y)) if y.is_power_of_two() => Some(a.op(Op::ShiftRight(y.trailing_zeros() as u8), &[], 1)),
            (URem, _, Some(y)) if y.is_power_of_two() => Some(self.scalar(Scalar::And, &[*a, self.constant(1, y - 1)])),
            (ISub, _, Some(y)) => Some(self.scalar(IAdd, &[*a, self.constant(1, y.wrapping_neg())])),
            (IAdd | IMul, Some(_), None) => Some(self.scalar(op, &[*b, *a])),
            _ => None,
        }
    }

    pub(super) fn open_block(&self, params: Vec<Value>) {
        let s = &mut *self.state.borrow_mut();
        s.open.push(Block { params, ..Block::default() });
        s.seen.push(HashMap::new());
    }

    pub(super) fn close_block(&self, yields: Vec<Value>) -> Block {
        let s = &mut *self.state.borrow_mut();
        s.seen.pop();
        Block { yields, ..s.open.pop().expect("a block was opened") }
    }

    fn push_blocks(&self, op: Op, args: Vec<Value>, blocks: Vec<Block>) -> Vec<Value> {
        let types: Vec<_> = blocks[0].yields.iter().map(|v| self.ty(*v)).collect();
        let results: Vec<_> = types.into_iter().map(|t| self.fresh(t)).collect();
        self.push_as_is(Inst { op, args, results: results.clone(), blocks });
        results
    }

    /// Appends an instruction whose results exist already.
    pub(super) fn push_as_is(&self, inst: Inst) {
        self.state.borrow_mut().append(inst);
    }

    /// `for i in (lo..hi).step_by(step)`, carrying values.
    pub fn range<'k, C: Carry<'k>>(
        &'k self,
        lo: impl Operand<'k, Index>,
        hi: impl Operand<'k, Index>,
        step: u32,
        init: C,
        body: impl FnOnce(V<'k, Index>, C) -> C,
    ) -> C {
        let mut args = vec![lo.on(self).id, hi.on(self).id];
        init.flat(&mut args);
        let params: Vec<_> = args[1..].iter().map(|v| self.fresh(self.ty(*v))).collect();
        self.open_block(params.clone());
        let out = body(V::wrap(self, params[0]), init.like(self, &mut params[1..].iter().copied()));
        let mut yields = vec![];
        out.flat(&mut yields);
        let block = self.close_block(yields);
        init.like(self, &mut self.push_blocks(Op::For { step }, args, vec![block]).into_iter())
    }

    /// `if p { then } else { otherwise }`.
    pub fn choose<'k, C: Carry<'k>>(
        &'k self,
        p: V<'k, Pred>,
        then: impl FnOnce() -> C,
        otherwise: impl FnOnce() -> C,
    ) -> C {
        let close = |c: &C| {
            let mut yields = vec![];
            c.flat(&mut yields);
            self.close_block(yields)
        };
        self.open_block(vec![]);
        let a = then();
        let first = close(&a);
        self.open_block(vec![]);
        let second = close(&otherwise());
        a.like(self, &mut self.push_blocks(Op::If, vec![p.id], vec![first, second]).into_iter())
    }

    /// `if p { then }`.
    pub fn when<'k>(&'k self, p: V<'k, Pred>, then: impl FnOnce()) {
        self.choose(p, then, || ());
    }
}

impl State {
    fn append(&mut self, inst: Inst) {
        self.open.last_mut().expect("the body is open").insts.push(inst);
    }
}
