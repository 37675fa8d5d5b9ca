//! What a kernel is built in: the graph, the phase, and parameters that are declared when they are first used.

use crate::kir::{Builder, F32, I32, Index, Items, Kernel, Pred, Ptr, Stored, V};
use crate::pack::PackSpec;
use crate::targets::Target;
use jet_ir::{Graph, Id, Leaf, NodeKind, Op};
use jetbin::{Cost, Phase};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// What the rows of products are multiplied as. Buffers and sums are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activations {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16, to nearest even.
    Bf16,
}

/// What a parameter of a kernel means. Each is one 8-byte word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Base of the buffer of an activation or graph input; a row takes what its type says.
    Value(Id),
    /// Base of packed weights.
    Weight {
        /// The layout.
        pack: PackSpec,
        /// Constants of the graph, as many as the layout has sources.
        sources: Vec<Id>,
    },
    /// Base of a state of slot 0.
    State(Id),
    /// Rows that a state has room for.
    StateRows(Id),
    /// Bytes between slots, the same for every state.
    SlotStride,
    /// `i32[rows]`: slot of the sequence of each row; in a prefill the first holds for all.
    Slots,
    /// `i32[rows]`: position of each row in its sequence.
    Positions,
    /// Number of rows.
    Rows,
    /// First item of this call.
    ItemBegin,
    /// End of the items of this call.
    ItemEnd,
    /// Memory of this thread; on a GPU, of all CTAs.
    Scratch,
    /// An `i32` for each CTA of a GPU, all zero between kernels.
    Arrivals,
    /// This thread's [`CandidateList`](jetbin::CandidateList)s for a `store_argmax`, one for each row.
    Candidates(Id),
    /// 1 if the logits are to be stored, else 0.
    KeepLogits,
}

/// Scratch memory of each thread (on a GPU, of all together), in bytes: `fixed + rows * per_row`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Whatever the number of rows.
    pub fixed: u64,
    /// For each row of the run.
    pub per_row: u64,
}

/// Why a group has no kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kernel for {op} (node {node}): {reason}")]
pub struct Unsupported {
    /// The op.
    pub op: String,
    /// The node.
    pub node: u32,
    /// What was found and what is possible.
    pub reason: String,
}

impl Unsupported {
    /// A refusal of node `id`.
    pub fn new(graph: &Graph, id: Id, reason: impl Into<String>) -> Unsupported {
        let op = match &graph.node(id).kind {
            NodeKind::Op(op) => op.info().name.to_string(),
            NodeKind::Leaf(leaf, name) => format!("{} `{name}`", leaf.name()),
        };
        Unsupported { op, node: id.0, reason: reason.into() }
    }
}

/// What a kernel's code does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// `op_strategy`.
    pub name: &'static str,
    /// Scratch memory.
    pub scratch: Scratch,
    /// Cost.
    pub cost: Cost,
}

/// The last rows of a ring and new values together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pushed {
    /// The old content of the state.
    pub ring: Id,
    /// The values, in memory.
    pub values: Id,
    /// Rows of the ring.
    pub taps: u32,
}

/// A declared parameter.
#[derive(Clone, Copy)]
enum Param<'k> {
    Ptr(Ptr<'k, F32>),
    Count(V<'k, Index>),
}

/// Where a kernel is built.
pub(crate) struct Context<'k, 'g> {
    /// The builder.
    pub k: &'k Builder,
    /// The fused graph.
    pub graph: &'g Graph,
    /// What rows are.
    pub phase: Phase,
    /// What products multiply.
    pub activations: Activations,
    /// Most rows of a call.
    pub most_rows: u32,
    /// Values whose rows are in tiles.
    pub tiled: &'g BTreeSet<Id>,
    /// Rows that a CTA of a GPU's decode kernel is to work on, where it is made for several numbers.
    pub tile: u32,
    /// In calls of more rows than the first, a kernel with the second as `tile` takes over.
    pub wider: Cell<Option<(u32, u32)>>,
    /// Columns of the tile of a product that a CTA works on.
    pub columns: Cell<Option<u32>>,
    params: RefCell<Vec<(Binding, Param<'k>)>>,
    refused: RefCell<Option<Unsupported>>,
}

/// A kernel as it was built.
pub(crate) struct Drafted {
    pub kernel: Kernel,
    pub params: Vec<Binding>,
    pub shape: Shape,
    /// [`Context::wider`].
    pub wider: Option<(u32, u32)>,
    /// [`Context::columns`].
    pub columns: Option<u32>,
}

/// Runs `body` to build one kernel, for calls with `tile` rows at a time and with the parameters `declared` in front.
///
/// # Errors
/// The first refusal.
pub(crate) fn build(
    (graph, tiled): (&Graph, &BTreeSet<Id>),
    target: &Target,
    ((phase, activations), most_rows): ((Phase, Activations), u32),
    (tile, declared): (u32, &[Binding]),
    name: &str,
    body: impl for<'k> FnOnce(&Context<'k, '_>) -> Result<Shape, Unsupported>,
) -> Result<Drafted, Unsupported> {
    let mut done = None;
    let kernel = Builder::build(name, target, |k| {
        let (params, refused) = (RefCell::default(), RefCell::default());
        let (wider, columns) = (Cell::new(None), Cell::new(None));
        let cx = Context { k, graph, phase, activations, most_rows, tiled, tile, wider, columns, params, refused };
        declared.iter().for_each(|b| cx.predeclare(b));
        let shape = body(&cx);
        let params = cx.params.into_inner().into_iter().map(|(b, _)| b).collect::<Vec<_>>();
        let found = (cx.wider.get(), cx.columns.get());
        done = Some(cx.refused.into_inner().map_or(shape, Err).map(|shape| (params, shape, found)));
    });
    let (params, shape, (wider, columns)) = done.expect("the builder runs its closure")?;
    Ok(Drafted { kernel, params, shape, wider, columns })
}

impl<'k> Context<'k, '_> {
    fn declare(&self, binding: Binding, make: impl FnOnce(&str) -> Param<'k>) -> Param<'k> {
        let known = self.params.borrow().iter().find(|(b, _)| *b == binding).map(|(_, p)| *p);
        known.unwrap_or_else(|| {
            let name = format!("p{}", self.params.borrow().len());
            let param = make(&name);
            self.params.borrow_mut().push((binding, param));
            param
        })
    }

    /// Declares a parameter before it is used, so that another kernel's words fit.
    fn predeclare(&self, binding: &Binding) {
        use Binding::{KeepLogits, Rows, SlotStride, StateRows};
        match binding {
            StateRows(_) | SlotStride | Rows | KeepLogits => drop(self.count(binding.clone())),
            other => drop(self.pointer::<F32>(other.clone())),
        }
    }

    /// Whether accesses may count on it that no kernel writes there: weights, and what the host lays out before a step of decode. Of
    /// that before a prompt nothing is wanted early, and of constants the assembler keeps addresses where the delta rule needs registers.
    fn is_constant(&self, binding: &Binding) -> bool {
        match binding {
            Binding::Weight { .. } => true,
            Binding::Slots | Binding::Positions => self.phase == Phase::Decode,
            _ => false,
        }
    }

    fn pointer<E: Stored>(&self, binding: Binding) -> Ptr<'k, E> {
        let (k, constant) = (self.k, self.is_constant(&binding));
        // rows may have any number of columns, so nothing but whole elements is promised
        let make = |name: &str| Param::Ptr(if constant { k.input(name) } else { k.output(name).aligned(4) });
        match self.declare(binding, make) {
            Param::Ptr(p) => p.cast(),
            Param::Count(_) => unreachable!("a binding is always declared the same way"),
        }
    }

    fn count(&self, binding: Binding) -> V<'k, Index> {
        match self.declare(binding, |name| Param::Count(self.k.count(name))) {
            Param::Count(v) => v,
            Param::Ptr(_) => unreachable!("a binding is always declared the same way"),
        }
    }

    /// The buffer of an activation.
    pub fn value<E: Stored>(&self, id: Id) -> Ptr<'k, E> {
        self.pointer(Binding::Value(id))
    }

    /// Packed weights.
    pub fn weight<E: Stored>(&self, pack: PackSpec, sources: &[Id]) -> Ptr<'k, E> {
        let sources = sources.iter().map(|s| self.unpacked(*s)).collect();
        self.pointer(Binding::Weight { pack, sources })
    }

    /// A vector of f32 that is known at compile time, in the layout `pack`.
    pub fn vector(&self, pack: PackSpec, id: Id) -> Ptr<'k, F32> {
        self.weight(pack, &[id]).aligned(4)
    }

    /// The constant under its layout.
    pub fn unpacked(&self, id: Id) -> Id {
        match self.graph.op(id) {
            Some(Op::PackPanel(_) | Op::PackFrag(_)) => self.graph.node(id).args[0],
            _ => id,
        }
    }

    /// The leaf whose content `id` is before or after an update.
    pub fn state_leaf(&self, id: Id) -> Result<Id, Unsupported> {
        let args = &self.graph.node(id).args;
        match (self.graph.leaf(id), self.graph.op(id)) {
            (Some((Leaf::State, _)), _) => Ok(id),
            (_, Some(Op::StoreKv(_) | Op::KvAppend(_) | Op::StoreRing(_) | Op::RingPush(_))) => {
                self.state_leaf(args[0])
            }
            _ => Err(Unsupported::new(self.graph, id, "expected a state or its update")),
        }
    }

    /// What `ring_push`, or `store_ring` of values in memory, does; nothing for other ops.
    pub fn pushed(&self, id: Id) -> Option<Pushed> {
        let args = &self.graph.node(id).args;
        match self.graph.op(id)? {
            Op::RingPush(op) => Some(Pushed { ring: args[0], values: args[1], taps: op.taps as u32 }),
            Op::StoreRing(op) if matches!(self.graph.op(args[1]), Some(Op::Load(_))) => {
                Some(Pushed { ring: args[0], values: self.graph.node(args[1]).args[1], taps: op.taps as u32 })
            }
            _ => None,
        }
    }

    /// A state in the slot of `row`; its elements are `E`.
    pub fn state<E: Stored>(&self, leaf: Id, row: V<'k, Index>) -> Ptr<'k, E> {
        let stride = self.count(Binding::SlotStride);
        self.pointer::<E>(Binding::State(leaf)).strided(self.slot(row), stride)
    }

    /// Rows that a state has room for.
    pub fn state_rows(&self, leaf: Id) -> V<'k, Index> {
        self.count(Binding::StateRows(leaf))
    }

    fn slot(&self, row: V<'k, Index>) -> V<'k, Index> {
        let slots = self.pointer::<I32>(Binding::Slots);
        match self.phase {
            Phase::Prefill => slots.load(1).to_index(),
            Phase::Decode => slots.at(row).load(1).to_index(),
        }
    }

    /// Position of `row` in its sequence.
    pub fn position(&self, row: V<'k, Index>) -> V<'k, Index> {
        self.pointer::<I32>(Binding::Positions).at(row).load(1).to_index()
    }

    /// Number of rows.
    pub fn rows(&self) -> V<'k, Index> {
        self.count(Binding::Rows)
    }

    /// This thread's memory; on a GPU, that of all CTAs.
    pub fn scratch(&self) -> Ptr<'k, F32> {
        self.pointer(Binding::Scratch)
    }

    /// Counters of arrivals, which a kernel leaves zero as it has found them.
    pub fn arrivals(&self) -> Ptr<'k, I32> {
        self.pointer(Binding::Arrivals)
    }

    /// This thread's lists of candidates for `store`.
    pub fn candidates(&self, store: Id) -> Ptr<'k, F32> {
        self.pointer(Binding::Candidates(store))
    }

    /// Whether the logits are to be stored.
    pub fn keep_logits(&self) -> V<'k, Pred> {
        self.count(Binding::KeepLogits).equals(1u32)
    }

    /// Declares the items and gives the range of this call.
    pub fn item_range(&self, items: Items) -> (V<'k, Index>, V<'k, Index>) {
        let range = self.k.item_range(items.fixed, items.per_row);
        let mut params = self.params.borrow_mut();
        params.push((Binding::ItemBegin, Param::Count(range.0)));
        params.push((Binding::ItemEnd, Param::Count(range.1)));
        range
    }

    /// Notes that `id` cannot be built; building goes on, its result is thrown away.
    pub fn refuse(&self, id: Id, reason: impl Into<String>) {
        self.refused.borrow_mut().get_or_insert_with(|| Unsupported::new(self.graph, id, reason));
    }

    /// Bytes of a row of a tensor in memory.
    pub fn row_bytes(&self, id: Id) -> u64 {
        let ty = self.graph.ty(id);
        ty.elem().map_or(0, |e| e.row_bytes(ty.cols())) as u64
    }

    /// Columns of a tensor or grid.
    pub fn cols(&self, id: Id) -> usize {
        self.graph.ty(id).cols()
    }
}
