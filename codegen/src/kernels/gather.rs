//! Kernels that move rows: the embedding, states that are appended to, and the search for the largest logit.

use super::context::{Context, Pushed, Scratch, Shape, Unsupported};
use super::epilogue::{Domain, Fragment, Lanes, Row};
use super::lanes::{load_lanes, spans, store_lanes};
use super::product::packable;
use super::quantised::Panel;
use crate::kir::{Bf16, F32, I32, Index, Items, Operand, V};
use crate::pack::{Form, PACKED, PANEL, PackSpec, RowOrder};
use jet_ir::quant::Format;
use jet_ir::{Elem, Id};
use jetbin::{Cost, Phase};

/// Columns of an item of `ring_push`.
const RING_COLS: u32 = 64;

fn shape(name: &'static str, cost: Cost) -> Shape {
    Shape { name, scratch: Scratch::default(), cost }
}

/// Rows of the embedding table out of the panels of a product, so that a tied table is stored once.
pub(crate) fn embed<'k>(cx: &Context<'k, '_>, id: Id) -> Result<Shape, Unsupported> {
    let args = &cx.graph.node(id).args;
    let Some((rows, cols, elem)) = packable(cx.graph.ty(args[0])) else {
        let (expected, found) = (PACKED.map(Elem::name).join(", "), cx.graph.ty(args[0]));
        return Err(Unsupported::new(cx.graph, id, format!("a table must be one of {expected}, found {found}")));
    };
    let spec = PackSpec { form: Form::Panel, order: RowOrder::Linear, elem, rows, cols };
    let (begin, end) = cx.item_range(Items { fixed: 1, per_row: true });
    let (table, k) = (cx.weight::<F32>(spec, &[args[0]]), cx.k);
    k.range(begin, end, 1, (), |row, ()| {
        let token = cx.value::<I32>(args[1]).at(row).load(1).to_index();
        let panel = table.byte_offset((token / PANEL as u32) * spec.item_bytes() as u32);
        let (slot, out) = (token % PANEL as u32, cx.value::<F32>(id).at(row * cols as u32));
        if let format @ Some(_) = Format::of(elem) {
            let slots = Panel { format, base: panel.cast().at(slot), k_len: cols as u32, lanes: 1, vectors: 1 };
            return slots.walk(k, (), &|i, _, number, ()| out.at(i).store(number[0]));
        }
        let one = |i: V<'k, Index>| match elem {
            // see `PackSpec::position`
            Elem::Bf16 => {
                let pair = (i / 2u32) * PANEL as u32 + slot;
                panel.cast::<Bf16>().at(pair * 2u32 + i % 2u32).load(1).widen()
            }
            _ => panel.at(i * PANEL as u32 + slot).load(1),
        };
        k.range(0u32, cols as u32, 1, (), |i, ()| out.at(i).store(one(i)));
    });
    // a row of a panel lies in as many cache lines as it has columns
    Ok(shape("embed", Cost { act_bytes: 68 * cols as u64, ..Cost::default() }))
}

/// The first index of the largest element of each row.
pub(crate) fn argmax(cx: &Context<'_, '_>, id: Id) -> Result<Shape, Unsupported> {
    let x = cx.graph.node(id).args[0];
    let n = cx.cols(x);
    if n >= 1 << 31 || n == 0 {
        return Err(Unsupported::new(cx.graph, id, format!("a row has {n} columns, expected 1 to 2^31 - 1")));
    }
    let (n, k) = (n as u32, cx.k);
    let (begin, end) = cx.item_range(Items { fixed: 1, per_row: true });
    k.range(begin, end, 1, (), |row, ()| {
        let from = cx.value::<F32>(x).at(row * n);
        let whole = n / 16 * 16;
        let start = from.load(1);
        let wide = k.range(0u32, whole, 16, start.splat(16), |i, top| from.at(i).load(16).max(top));
        let top = k.range(whole, n, 1, wide.max_lanes(), |i, top| from.at(i).load(1).max(top));
        // from the end to the start, so that the first of equals is written last
        let found = k.range(0u32, n, 1, 0u32.on(k), |back, found| {
            let i = (n - 1).on(k) - back;
            from.at(i).load(1).equals(top).select(i, found)
        });
        cx.value::<I32>(id).at(row).store(found.to_i32());
    });
    Ok(shape("argmax", Cost { act_bytes: 8 * u64::from(n), ..Cost::default() }))
}

/// The last rows of the ring and the new values together, in place.
pub(crate) fn ring_push<'k>(cx: &Context<'k, '_>, id: Id, taps: usize) -> Result<Shape, Unsupported> {
    let (k, cols, taps) = (cx.k, cx.cols(id) as u32, taps as u32);
    cx.state_leaf(cx.graph.node(id).args[0])?;
    let blocks = cols.div_ceil(RING_COLS);
    let (begin, end) = cx.item_range(Items { fixed: blocks, per_row: cx.phase == Phase::Decode });
    k.range(begin, end, 1, (), |item, ()| {
        let (row, first) = (item / blocks, (item % blocks) * RING_COLS);
        let last = (first + RING_COLS).imin(cols);
        let shift = |col: V<'k, Index>, lanes: u16| push_ring(cx, id, row, &[Lanes { col, left: None }], lanes);
        let whole = first + (last - first) / 4u32 * 4u32;
        k.range(first, whole, 4, (), |c, ()| shift(c, 4));
        k.range(whole, last, 1, (), |c, ()| shift(c, 1));
    });
    let state_bytes = 8 * u64::from(taps * cols);
    Ok(shape("ring_push", Cost { state_bytes, act_bytes: 4 * u64::from(cols), ..Cost::default() }))
}

/// Moves the ring that `push` updates (`ring_push`, or `store_ring` of a load) at some columns: of the sequence that `row` belongs to in
/// decode; in prefill after all rows, whatever `row` is.
pub(super) fn push_ring<'k>(cx: &Context<'k, '_>, push: Id, row: V<'k, Index>, places: &[Lanes<'k>], width: u16) {
    let (Some(Pushed { ring, values, taps }), k) = (cx.pushed(push), cx.k) else {
        return cx.refuse(push, "expected values in memory: a ring holds what a kernel before has stored");
    };
    let leaf = match cx.state_leaf(ring) {
        Ok(leaf) => leaf,
        Err(e) => return cx.refuse(push, e.reason),
    };
    let (cols, ring, values) = (cx.cols(push) as u32, cx.state(leaf, row), cx.value::<F32>(values));
    for Lanes { col, left } in places.iter().copied() {
        let (ring, values) = (ring.at(col), values.at(col));
        if cx.phase == Phase::Decode {
            let old = (1..taps).map(|t| load_lanes(ring.at(t * cols), width, left));
            let rows: Vec<_> = old.chain([load_lanes(values.at(row * cols), width, left)]).collect();
            (0..).zip(rows).for_each(|(t, v): (u32, _)| store_lanes(ring.at(t * cols), v, left));
            continue;
        }
        // ascending, so that a row of the ring is read before it is overwritten
        k.range(0u32, taps, 1, (), |t, ()| {
            let from = t + cx.rows();
            let old = || load_lanes(ring.at(from * cols), width, left);
            let fresh = || load_lanes(values.at((from - taps) * cols), width, left);
            store_lanes(ring.at(t * cols), k.choose(from.lt(taps), old, fresh), left);
        });
    }
}

/// Rows copied to the cache.
pub(crate) fn kv_append(cx: &Context<'_, '_>, id: Id) -> Result<Shape, Unsupported> {
    let (rows, k, cols) = (cx.graph.node(id).args[1], cx.k, cx.cols(id));
    let (begin, end) = cx.item_range(Items { fixed: 1, per_row: true });
    k.range(begin, end, 1, (), |row, ()| {
        spans(k, cols as u32, &[16, 4, 1], |col, lanes| {
            let v = cx.value::<F32>(rows).at(row * cols as u32 + col).load(lanes);
            let place = vec![Lanes { col, left: None }];
            let domain =
                Domain { lanes: place, width: lanes, vector: PackSpec::vector(cols), first: col, step: lanes.into() };
            let leaf = |_: Id| Some(Fragment { vecs: vec![v], domain: domain.clone() });
            Row { cx, row, leaf: &leaf }.store(id);
        });
    });
    Ok(shape("kv_append", Cost { state_bytes: 4 * cols as u64, act_bytes: 4 * cols as u64, ..Cost::default() }))
}
