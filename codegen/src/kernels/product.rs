//! Products of one input with any number of weights, each with its epilogue: one kernel for a whole grid.
//!
//! Items are the bundles of panels of all weights, in the order of their stores. Per item and tile of rows, the sums go
//! through a small tile in scratch memory to the epilogue, so that an epilogue exists once and not for every tile
//! shape. The weights of an item are read from memory once for all rows. With a norm in front, the first thing in
//! scratch memory is the normalised input, row-major f32. Behind the tile lies what quantised weights need: a panel of
//! numbers, or quantised rows of the input.

use super::ahead::Ahead;
use super::candidates::{Candidates, is_on_request};
use super::context::{Context, Scratch, Shape, Unsupported};
use super::dot::{self, DotProduct};
use super::epilogue::{Domain, Fragment, Lanes, Row, vector_like};
use super::gather::push_ring;
use super::input::{Input, Rows};
use super::int8;
use super::quantised::{FEW, Panel};
use super::tile::{Product, Tiling, cover, most_rows};
use crate::kir::{Bf16, Cap, F32, Index, Items, Operand, Ptr, V};
use crate::pack::{Form, PACKED, PANEL, PackSpec, RowOrder};
use crate::targets::Target;
use jet_ir::quant::Format;
use jet_ir::{Elem, Graph, Id, Op, Place, Type};
use jetbin::{Cost, Phase};

/// The outputs that come from one set of accumulators.
pub(super) struct Segment {
    pub spec: PackSpec,
    /// The weights in it: those of the accumulators.
    pub weights: Vec<Id>,
    pub accs: Vec<Id>,
    pub stores: Vec<Id>,
    /// Rings that a convolution among the stores reads, with the new values at the end.
    pub pushes: Vec<Id>,
    /// `store_argmax` of an accumulator.
    pub largest: Vec<Id>,
    pub first_item: u32,
}

impl Segment {
    /// Items that `panels` panels hold, one at least.
    fn group_items(&self, panels: u32) -> u32 {
        (panels / self.spec.item_panels() as u32).max(1)
    }
}

/// The kernel of a product grid with its stores, or of a product in memory, which is its own store.
pub(crate) fn product(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    let segments = segments(cx, stores)?;
    let k_len = match cx.graph.op(grid) {
        Some(Op::Matmul(_)) => cx.cols(cx.graph.node(grid).args[0]),
        _ => cx.cols(grid),
    };
    let x = cx.graph.node(grid).args[0];
    if cx.graph.ty(x).elem() != Some(Elem::F32) {
        let reason = format!("its rows are {}, expected f32: bf16 in memory is for tile products", cx.graph.ty(x));
        return Err(Unsupported::new(cx.graph, grid, reason));
    }
    let items: usize = segments.iter().map(|s| s.spec.items()).sum();
    let fixed = u32::try_from(items).map_err(|_| Unsupported::new(cx.graph, grid, "more than 2^32 items of work"))?;
    let (begin, end) = cx.item_range(Items { fixed, per_row: false });
    let all_bf16 = segments.iter().all(|s| s.spec.elem == Elem::Bf16);
    let Input { rows: x, row_bytes } = Input::stage(cx, grid, all_bf16, begin.lt(end))?;
    let target = &cx.k.target;
    let in_bytes = int8::is_for(target) && segments.iter().any(|s| Format::of(s.spec.elem).is_some());
    let (most, tiling) = match x {
        Rows::Pairs(_) => (dot::tiling(target).rows, Some(dot::tiling(target))),
        Rows::Floats(_) => (most_rows(target), in_bytes.then(|| int8::tiling(target))),
    };
    let group = match (cx.phase, tiling) {
        (Phase::Prefill, Some(_)) => group_panels(target, &segments),
        (_, tiling) => tiling.map_or(1, |t| t.panels as u32),
    };
    let slots = segments.iter().map(|s| s.group_items(group) as usize * s.spec.item_slots());
    let stride = slots.max().unwrap_or(PANEL) as u32;
    let tile = cx.scratch().at(cx.rows() * (row_bytes / 4));
    let tile_elems = stride * most as u32;
    let mut scratch = Scratch { fixed: 4 * u64::from(tile_elems), per_row: row_bytes.into() };
    let quantised = quantised(cx, &segments, tile.at(tile_elems), k_len, &mut scratch);
    if let (Some(Quantised::Bytes(rows)), Rows::Floats(x)) = (quantised, x) {
        cx.k.when(begin.lt(end), || rows.fill(cx, x, cx.rows(), k_len as u32));
    }
    let (k_len, most) = (k_len as u32, most as u32);
    let candidates = Candidates::of(cx, &segments);
    if let Some(lists) = candidates {
        cx.k.when(begin.lt(end), || lists.clear());
    }
    let kernel = Kernel { cx, segments: &segments, k_len, x, tile, stride, most, group, quantised, candidates };
    cx.k.range(begin, end, 1, begin, |item, next| {
        cx.k.choose(item.equals(next), || next + kernel.group(item, end), || next)
    });
    let staged = matches!(cx.graph.op(grid), Some(Op::SweepNorm(_)));
    let bytes = matches!(quantised, Some(Quantised::Bytes(_)));
    let name = match (cx.phase, staged, bytes) {
        (Phase::Decode, true, false) => "norm_product_decode",
        (Phase::Decode, false, false) => "product_decode",
        (Phase::Prefill, true, false) => "norm_product_prefill",
        (Phase::Prefill, false, false) => "product_prefill",
        (Phase::Decode, true, true) => "norm_int8_product_decode",
        (Phase::Decode, false, true) => "int8_product_decode",
        (Phase::Prefill, true, true) => "norm_int8_product_prefill",
        (Phase::Prefill, false, true) => "int8_product_prefill",
    };
    Ok(Shape { name, scratch, cost: cost(cx, grid, &segments, k_len as usize) })
}

/// Panels that many rows take turns on, so that a tile of rows is read once for all of them: an even number of 2 to 16 that takes
/// up to five eighths of the second-level cache, where a few rows have to stay beside them.
fn group_panels(target: &Target, segments: &[Segment]) -> u32 {
    let largest = segments.iter().map(|s| s.spec.panel_bytes() as u64).max().unwrap_or(1);
    let panels = target.cache.l2_bytes * 5 / 8 / largest;
    (panels.clamp(2, 16) / 2 * 2) as u32
}

/// What a kernel with quantised weights keeps in scratch memory.
#[derive(Clone, Copy)]
enum Quantised<'k> {
    /// The panels of an item as f32, if there are many rows.
    Numbers(Ptr<'k, F32>),
    /// The rows of the input, as bytes.
    Bytes(int8::Rows<'k>),
}

/// Reserves room at `at`, the end of what `scratch` counts, if a weight is quantised.
fn quantised<'k>(
    cx: &Context<'k, '_>,
    segments: &[Segment],
    at: Ptr<'k, F32>,
    k_len: usize,
    scratch: &mut Scratch,
) -> Option<Quantised<'k>> {
    let panels = segments.iter().filter(|s| Format::of(s.spec.elem).is_some()).map(|s| s.spec.item_panels()).max()?;
    if let Some(rows) = int8::Rows::at(&cx.k.target, at, cx.rows(), k_len as u32) {
        scratch.per_row += int8::row_bytes(&cx.k.target, k_len);
        return Some(Quantised::Bytes(rows));
    }
    scratch.fixed += (4 * PANEL * k_len * panels) as u64;
    Some(Quantised::Numbers(at))
}

/// What a product moves and computes: its weights, a row of its input for each row of its results.
pub(super) fn cost(cx: &Context<'_, '_>, grid: Id, segments: &[Segment], k_len: usize) -> Cost {
    let read = cx.graph.node(grid).args.iter().filter(|a| cx.graph.ty(**a).place() == Some(Place::Mem));
    let rows = read.chain(segments.iter().flat_map(|s| &s.stores)).map(|id| cx.row_bytes(*id));
    let weight_bytes = segments.iter().map(|s| s.spec.bytes() as u64).sum();
    let slots: u64 = segments.iter().map(|s| (s.spec.items() * s.spec.item_slots()) as u64).sum();
    let pushed =
        segments.iter().flat_map(|s| &s.pushes).filter_map(|p| Some(cx.pushed(*p)?.taps as u64 * cx.cols(*p) as u64));
    Cost { weight_bytes, state_bytes: 8 * pushed.sum::<u64>(), act_bytes: rows.sum(), flops: 2 * slots * k_len as u64 }
}

/// What the stores of a grid need, in their order; stores of equal accumulators become one segment. The push of a ring goes with
/// the convolution that reads it.
pub(super) fn segments(cx: &Context<'_, '_>, stores: &[Id]) -> Result<Vec<Segment>, Unsupported> {
    let mut all: Vec<Segment> = vec![];
    let mut first_item = 0u32;
    let (pushes, stores): (Vec<Id>, Vec<Id>) = stores.iter().partition(|s| cx.pushed(**s).is_some());
    for store in stores {
        let value = match cx.graph.op(store) {
            Some(Op::Matmul(_)) => store,
            _ => *cx.graph.node(store).args.last().expect("a store has operands"),
        };
        let (mut accs, mut order) = (vec![], RowOrder::Linear);
        describe(cx, value, &mut accs, &mut order)?;
        let spec = layout(cx, store, &accs, order)?;
        let is_largest = matches!(cx.graph.op(store), Some(Op::StoreArgmax(_)));
        if is_largest && (accs.len() > 1 || order != RowOrder::Linear) {
            return Err(Unsupported::new(cx.graph, store, "the largest element is found by a kernel of its own here"));
        }
        let keep = |s: &mut Segment| if is_largest { s.largest.push(store) } else { s.stores.push(store) };
        match all.iter_mut().find(|s| s.accs == accs && s.spec == spec) {
            Some(segment) => keep(segment),
            None => {
                let weights = accs.iter().map(|a| cx.graph.node(*a).args[1]).collect();
                let (stores, pushes, largest) = (vec![], vec![], vec![]);
                let mut segment = Segment { spec, weights, accs, stores, pushes, largest, first_item };
                keep(&mut segment);
                all.push(segment);
                first_item += spec.items() as u32;
            }
        }
    }
    for push in pushes {
        let ring = cx.graph.node(push).args[0];
        let convolves = |s: &&mut Segment| s.stores.iter().any(|store| reads_ring(cx.graph, *store, ring));
        match all.iter_mut().find(convolves) {
            Some(segment) => segment.pushes.push(push),
            None => return Err(Unsupported::new(cx.graph, push, "no convolution of this kernel reads the ring")),
        }
    }
    Ok(all)
}

/// Whether a stored expression has a convolution over `ring`.
fn reads_ring(graph: &Graph, id: Id, ring: Id) -> bool {
    let (args, inside) = (&graph.node(id).args, |a: &&Id| graph.ty(**a).place() == Some(Place::Reg));
    matches!(graph.op(id), Some(Op::DynamicConv(_))) && args[2] == ring
        || args.iter().filter(inside).any(|a| reads_ring(graph, *a, ring))
}

/// The accumulators of a register expression, and the order of rows that it needs.
fn describe(cx: &Context<'_, '_>, id: Id, accs: &mut Vec<Id>, order: &mut RowOrder) -> Result<(), Unsupported> {
    let needs = match cx.graph.op(id) {
        Some(Op::Acc(_) | Op::Matmul(_)) => {
            if !accs.contains(&id) {
                accs.push(id);
            }
            return Ok(());
        }
        Some(Op::Rope(op)) => RowOrder::Rope { head_dim: op.head_dim },
        Some(Op::DynamicConv(op)) => RowOrder::Taps { taps: op.taps },
        _ => RowOrder::Linear,
    };
    if needs != RowOrder::Linear {
        if *order != RowOrder::Linear && *order != needs {
            return Err(Unsupported::new(cx.graph, id, "one product cannot be laid out for two purposes"));
        }
        *order = needs;
    }
    let inside = |a: &Id| cx.graph.ty(*a).place() == Some(Place::Reg);
    cx.graph.node(id).args.iter().filter(|a| inside(a)).try_for_each(|a| describe(cx, *a, accs, order))
}

fn layout(cx: &Context<'_, '_>, store: Id, accs: &[Id], order: RowOrder) -> Result<PackSpec, Unsupported> {
    let weights: Vec<Type> = accs.iter().map(|a| cx.graph.ty(cx.graph.node(*a).args[1])).collect();
    let refuse = |reason: String| Err(Unsupported::new(cx.graph, store, reason));
    let order = match (accs.len(), order) {
        (1, order) => order,
        (2, RowOrder::Linear) => RowOrder::Gate,
        (n, order) => {
            return refuse(format!("{n} accumulators in one epilogue over {order:?}; one, or two for a gate"));
        }
    };
    if weights.iter().any(|w| *w != weights[0]) {
        return refuse("the two weights of a gate differ in type".into());
    }
    let Some((rows, cols, elem)) = packable(weights[0]) else {
        return refuse(format!("weights must be one of {}, found {}", PACKED.map(Elem::name).join(", "), weights[0]));
    };
    let form = if cx.k.target.has(Cap::Mma) { Form::Fragment } else { Form::Panel };
    let packed = cx.graph.node(accs[0]).args.get(1).and_then(|w| cx.graph.op(*w));
    match (packed, form) {
        (Some(Op::PackFrag(_) | Op::PackTile(_)), Form::Panel) => {
            return refuse("weights of CPU kernels are packed in panels".into());
        }
        (Some(Op::PackPanel(_) | Op::PackTile(_)), Form::Fragment) => {
            return refuse("weights of GPU kernels are packed in fragments".into());
        }
        (_, Form::Fragment) if elem != Elem::Bf16 => {
            return refuse(format!(
                "weights of GPU products must be bf16, found {}; `--weights bf16` rounds them",
                elem.name()
            ));
        }
        _ => {}
    }
    let fits = rows.checked_mul(cols).is_some_and(|n| n < 1 << 40) && PANEL * cols < 1 << 28;
    if !fits {
        refuse(format!("a weight of {rows} by {cols} is too large"))
    } else {
        Ok(PackSpec { form, order, elem, rows, cols })
    }
}

/// Rows, columns and elements of a weight that panels can hold.
pub fn packable(weight: Type) -> Option<(usize, usize, Elem)> {
    match weight {
        Type::Tensor { rows: jet_ir::Rows::Fixed(rows), cols, elem, .. } if PACKED.contains(&elem) => {
            Some((rows, cols, elem))
        }
        _ => None,
    }
}

struct Kernel<'a, 'k, 'g> {
    cx: &'a Context<'k, 'g>,
    segments: &'a [Segment],
    k_len: u32,
    x: Rows<'k>,
    tile: Ptr<'k, F32>,
    /// Elements between the rows of the tile.
    stride: u32,
    /// Rows of the tile.
    most: u32,
    /// Panels whose sums the tile holds at once, see [`Segment::group_items`].
    group: u32,
    quantised: Option<Quantised<'k>>,
    candidates: Option<Candidates<'a, 'k, 'g>>,
}

/// The panels of an item, or of several items of one segment.
#[derive(Clone, Copy)]
struct Item<'k> {
    weights: Ptr<'k, F32>,
    panels: V<'k, Index>,
    /// Which of the kernel's element types.
    elem: V<'k, Index>,
}

impl<'k> Kernel<'_, 'k, '_> {
    /// Some items from `item` on, of one segment and before `end`; gives their number.
    fn group(&self, item: V<'k, Index>, end: V<'k, Index>) -> V<'k, Index> {
        let (k, rows) = (self.cx.k, self.cx.rows());
        let elems = self.elems();
        let number = |s: &Segment| elems.iter().position(|e| *e == s.spec.elem).unwrap_or(0) as u32;
        let items = self.pick(item, &|s, local| {
            let left = (s.spec.items() as u32).on(k) - local;
            left.imin(s.group_items(self.group)).imin(end - item)
        });
        let panels = Item {
            weights: self.pick(item, &|s, local| self.weights(s).byte_offset(local * s.spec.item_bytes() as u32)),
            panels: self.pick(item, &|s, _| items * s.spec.item_panels() as u32),
            elem: self.pick(item, &|s, _| number(s).on(k)),
        };
        if let Some(Quantised::Numbers(to)) = self.quantised {
            k.when((FEW as u32).on(k).lt(rows), || self.unpack(panels, to));
        }
        k.range(0u32, rows, self.most, (), |row, ()| {
            let here = (rows - row).imin(self.most);
            match self.x {
                Rows::Floats(x) => self.sums(x, row, here, panels),
                Rows::Pairs(x) => self.dots(x, (row, here), panels),
            }
            self.finish((item, items), row, here);
        });
        items
    }

    /// Pairs of steps of a sum.
    fn pairs(&self) -> u32 {
        self.k_len.div_ceil(2)
    }

    /// The element types of the weights, each once.
    fn elems(&self) -> Vec<Elem> {
        PACKED.into_iter().filter(|e| self.segments.iter().any(|s| s.spec.elem == *e)).collect()
    }

    /// Builds `f` for the element type of an item.
    fn by_elem(&self, item: Item<'k>, f: &dyn Fn(Elem)) {
        fn from<'k>(k: &'k crate::kir::Builder, item: Item<'k>, elems: &[Elem], first: u32, f: &dyn Fn(Elem)) {
            match elems {
                [] => {}
                [one] => f(*one),
                [one, rest @ ..] => k.choose(item.elem.equals(first), || f(*one), || from(k, item, rest, first + 1, f)),
            }
        }
        from(self.cx.k, item, &self.elems(), 0, f);
    }

    /// Panel `p` of an item with weights of type `elem`.
    fn panel(&self, item: Item<'k>, p: V<'k, Index>, elem: Elem) -> Ptr<'k, F32> {
        item.weights.byte_offset(p * self.panel_bytes(elem))
    }

    /// What several rows ask for: the panels after those of an item, which are as many, if many take turns on them; or else what they read next.
    fn ahead(&self, item: Item<'k>, elem: Elem) -> Option<Ahead<'k>> {
        let bytes = item.panels * self.panel_bytes(elem);
        match self.cx.phase {
            Phase::Prefill => Ahead::group(item.weights.byte_offset(bytes), bytes),
            Phase::Decode => Ahead::stream(bytes),
        }
    }

    /// Bytes of a panel of type `elem`.
    fn panel_bytes(&self, elem: Elem) -> u32 {
        PackSpec { elem, ..self.segments[0].spec }.panel_bytes() as u32
    }

    /// The numbers of an item's panels, if they are quantised.
    fn unpack(&self, item: Item<'k>, to: Ptr<'k, F32>) {
        let k = self.cx.k;
        self.by_elem(item, &|elem| {
            let Some(format) = Format::of(elem) else { return };
            k.range(0u32, item.panels, 1, (), |p, ()| {
                let panel = Panel::whole(k, Some(format), self.panel(item, p, elem).cast(), self.k_len);
                panel.unpack(k, to.at(p * (PANEL as u32 * self.k_len)));
            });
        });
    }

    /// The value of `f` for the segment of `item`; `f` also gets the number of the item in its segment.
    fn pick<C: crate::kir::Carry<'k>>(&self, item: V<'k, Index>, f: &dyn Fn(&Segment, V<'k, Index>) -> C) -> C {
        fn from<'k, C: crate::kir::Carry<'k>>(
            k: &'k crate::kir::Builder,
            segments: &[Segment],
            item: V<'k, Index>,
            f: &dyn Fn(&Segment, V<'k, Index>) -> C,
        ) -> C {
            let here = || f(&segments[0], item - segments[0].first_item);
            match segments.get(1) {
                None => here(),
                Some(next) => k.choose(item.lt(next.first_item), here, || from(k, &segments[1..], item, f)),
            }
        }
        from(self.cx.k, self.segments, item, f)
    }

    fn weights(&self, segment: &Segment) -> Ptr<'k, F32> {
        self.cx.weight(segment.spec, &segment.weights)
    }

    /// Fills the tile with the sums of `here` rows from `row` on.
    fn sums(&self, x: Ptr<'k, F32>, row: V<'k, Index>, here: V<'k, Index>, item: Item<'k>) {
        let (k, x) = (self.cx.k, x.at(row * self.k_len));
        self.by_elem(item, &|elem| match (Format::of(elem), self.quantised) {
            (Some(format), Some(Quantised::Bytes(rows))) => {
                let (panel, panel_bytes) = (item.weights.cast(), self.panel_bytes(elem));
                let (out, stride, ahead) = (self.tile, self.stride, self.ahead(item, elem));
                let product = int8::Product { format, panel, panel_bytes, x: rows, ahead, out, stride };
                product.emit(k, (row, here), item.panels);
            }
            (format, quantised) => k.range(0u32, item.panels, 1, (), |p, ()| {
                let (panel, out) = (self.panel(item, p, elem), self.tile.at(p * PANEL as u32));
                match (format, quantised) {
                    (Some(format), Some(Quantised::Numbers(to))) => {
                        let codes = Panel::whole(k, Some(format), panel.cast(), self.k_len);
                        let numbers = Panel::whole(k, None, to.at(p * (PANEL as u32 * self.k_len)).cast(), self.k_len);
                        k.choose(
                            self.cx.rows().le(FEW as u32),
                            || codes.products(k, x, (out, self.stride), here),
                            || numbers.products(k, x, (out, self.stride), here),
                        );
                    }
                    _ => {
                        let product = Product { elem, panel, x, k_len: self.k_len, out, stride: self.stride };
                        product.emit_some(k, here, self.most as usize);
                    }
                }
            }),
        });
    }

    /// The same for `here` rows from `row` on of all rows `x` in pairs, as many panels at a time as a tile has.
    fn dots(&self, x: Ptr<'k, Bf16>, (row, here): (V<'k, Index>, V<'k, Index>), item: Item<'k>) {
        let (k, pairs) = (self.cx.k, self.pairs());
        let (x, panel_bytes, ahead) =
            (x.at(row * (2 * pairs)), self.panel_bytes(Elem::Bf16), self.ahead(item, Elem::Bf16));
        let Tiling { rows: most, panels: side } = dot::tiling(&k.target);
        let some = |first: V<'k, Index>, together: usize| {
            let (panel, out) = (self.panel(item, first, Elem::Bf16).cast(), self.tile.at(first * PANEL as u32));
            let number = row / most as u32 * (item.panels / side as u32) + first / side as u32;
            let ahead = ahead.map(|a| (a, number));
            let tile = DotProduct { panel, panel_bytes, x, pairs, ahead, out, stride: self.stride };
            cover(k, here, most, |row, rows| {
                let (x, out) = (x.at(row * (2 * pairs)), out.at(row * self.stride));
                DotProduct { x, out, ..tile }.emit(k, rows, together);
            });
        };
        let odd = item.panels % side as u32;
        k.range(0u32, item.panels - odd, side as u32, (), |p, ()| some(p, side));
        if side > 1 {
            k.when(odd.equals(1u32), || some(item.panels - 1u32, 1));
        }
    }

    /// The epilogue of `here` rows of some items of one segment.
    fn finish(&self, (item, items): (V<'k, Index>, V<'k, Index>), row: V<'k, Index>, here: V<'k, Index>) {
        let k = self.cx.k;
        self.pick(item, &|segment, local| {
            // rows outside: neighbouring items store to neighbouring cache lines
            k.range(0u32, here, 1, (), |r, ()| {
                let tile = self.tile.at(r * self.stride);
                k.range(0u32, items, 1, (), |i, ()| {
                    let tile = tile.at(i * segment.spec.item_slots() as u32);
                    let leaf = |id: Id| {
                        let source = segment.accs.iter().position(|a| *a == id)?;
                        Some(self.accumulators(segment, source, local + i, tile))
                    };
                    let at = Row { cx: self.cx, row: row + r, leaf: &leaf };
                    self.store(segment, &at);
                    self.push(segment, local + i, row + r);
                });
            });
        });
    }

    /// Stores the results of a segment in a row, and looks for the largest of them.
    fn store(&self, segment: &Segment, at: &Row<'_, 'k, '_>) {
        for &store in &segment.stores {
            match is_on_request(self.cx, segment, store) {
                true => self.cx.k.when(self.cx.keep_logits(), || at.store(store)),
                false => at.store(store),
            }
        }
        for (store, lists) in segment.largest.iter().zip(self.candidates) {
            lists.see(at.row, &at.eval(self.cx.graph.node(*store).args[0]));
        }
    }

    /// Moves the rings of a segment's convolutions, after the last row of a sequence: item `local` has been through all rows before.
    fn push(&self, segment: &Segment, local: V<'k, Index>, row: V<'k, Index>) {
        let RowOrder::Taps { taps } = segment.spec.order else { return };
        let (width, places) = self.places(segment, segment.spec.rows / taps, local);
        let all = || segment.pushes.iter().for_each(|p| push_ring(self.cx, *p, row, &places, width));
        match self.cx.phase {
            _ if segment.pushes.is_empty() => {}
            Phase::Decode => all(),
            Phase::Prefill => self.cx.k.when((row + 1u32).equals(self.cx.rows()), all),
        }
    }

    /// Vectors of the columns of item `local` of an output with `end` columns: their width and their places.
    fn places(&self, segment: &Segment, end: usize, local: V<'k, Index>) -> (u16, Vec<Lanes<'k>>) {
        let (lanes, k) = (segment.spec.lanes() as u32, self.cx.k);
        let width = lanes.min(k.target.lanes.into());
        let (ragged, end) = (!end.is_multiple_of(lanes as usize), (end as u32).on(k));
        let place = |v: u32| {
            let col = local * lanes + width * v;
            Lanes { col, left: ragged.then(|| end - col) }
        };
        (width as u16, (0..lanes / width).map(place).collect())
    }

    /// What accumulator `source` of a segment holds in item `local`.
    fn accumulators(&self, segment: &Segment, source: usize, local: V<'k, Index>, tile: Ptr<'k, F32>) -> Fragment<'k> {
        let spec = segment.spec;
        let lanes = spec.lanes() as u32;
        let width = lanes.min(self.cx.k.target.lanes.into());
        let places = |end: usize| self.places(segment, end, local).1;
        let vector = vector_like(&spec);
        let (places, offset, vector, first): (Vec<_>, _, _, _) = match spec.order {
            RowOrder::Linear => (places(spec.rows), 0, vector, local * lanes),
            RowOrder::Gate => (places(spec.rows), source as u32 * lanes, PackSpec::vector(spec.rows), local * lanes),
            RowOrder::Rope { head_dim } => (self.halves(head_dim, local, width), 0, vector, local * PANEL as u32),
            RowOrder::Taps { taps } => (places(spec.rows / taps), 0, vector, local * spec.item_slots() as u32),
        };
        let count = match spec.order {
            RowOrder::Taps { taps } => taps as u32 * lanes / width,
            _ => places.len() as u32,
        };
        let vecs = (0..count).map(|v| tile.at(offset + width * v).load(width as u16)).collect();
        Fragment { vecs, domain: Domain { lanes: places, width: width as u16, vector, first, step: width } }
    }

    /// Places of the vectors of a rope item: 8 columns of the low half of a head, then those of the high half.
    fn halves(&self, head_dim: usize, local: V<'k, Index>, width: u32) -> Vec<Lanes<'k>> {
        let (half, lanes) = ((head_dim / 2) as u32, (PANEL / 2) as u32);
        let blocks = half.div_ceil(lanes);
        let (head, start) = (local / blocks, (local % blocks) * lanes);
        let place = |v: u32| {
            let i = start + v * width % lanes;
            let left = (half % lanes != 0).then(|| half.on(self.cx.k) - i);
            Lanes { col: head * head_dim as u32 + i + v * width / lanes * half, left }
        };
        (0..2 * lanes / width).map(place).collect()
    }
}
