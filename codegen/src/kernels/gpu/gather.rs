//! Kernels that move rows: states that are appended to, and the search for the largest logit.

use super::super::context::{Context, Scratch, Shape, Unsupported};
use super::super::epilogue::{Domain, Fragment, Lanes, Row};
use super::super::gather::push_ring;
use super::{each_row, threads_for};
use crate::kir::{F32, I32, Index, Items, Launch, Operand, V, WARP};
use crate::pack::PackSpec;
use jet_ir::Id;
use jetbin::{Cost, Phase};

/// Columns of an item of `ring_push`.
const RING_COLS: u32 = 128;

fn shape(name: &'static str, cost: Cost) -> Shape {
    Shape { name, scratch: Scratch::default(), cost }
}

/// The largest element so far, and its index.
pub type Best<'k> = (V<'k, F32>, V<'k, Index>);

/// The larger of two; of equals, the one with the smaller index.
pub fn better<'k>(a: Best<'k>, b: Best<'k>) -> Best<'k> {
    let second = a.0.lt(b.0).or(a.0.equals(b.0).and(b.1.lt(a.1)));
    (second.select(b.0, a.0), second.select(b.1, a.1))
}

/// The first index of the largest element of each row.
pub fn argmax<'k>(cx: &Context<'k, '_>, id: Id) -> Result<Shape, Unsupported> {
    let x = cx.graph.node(id).args[0];
    let n = cx.cols(x);
    if n >= 1 << 31 || n == 0 {
        return Err(Unsupported::new(cx.graph, id, format!("a row has {n} columns, expected 1 to 2^31 - 1")));
    }
    let (n, k) = (n as u32, cx.k);
    let (row, _) = each_row(cx, 1, threads_for(n, 1024));
    let from = cx.value::<F32>(x).at(row * n);
    let best = k.cta().fold(n, (from.load(1), 0u32.on(k)), |i, best| better(best, (from.at(i).load(1), i)));
    let other = |b: Best<'k>, bits: u8| better(b, (b.0.shuffle_xor(bits), b.1.shuffle_xor(bits)));
    let (value, index) = [16, 8, 4, 2, 1].into_iter().fold(best, other);
    let (values, indices) = (k.shared::<F32>(WARP), k.shared::<I32>(WARP));
    k.warp().leader(|| {
        values.at(k.warp_id()).store(value);
        indices.at(k.warp_id()).store(index.to_i32());
    });
    k.barrier();
    k.cta().leader(|| {
        let at = |w: u32| (values.at(w).load(1), indices.at(w).load(1).to_index());
        let (_, index) = (1..k.warps()).fold(at(0), |best, w| better(best, at(w)));
        cx.value::<I32>(id).at(row).store(index.to_i32());
    });
    Ok(shape("argmax", Cost { act_bytes: 4 * u64::from(n), ..Cost::default() }))
}

/// The last rows of the ring and the new values together, in place; a thread has a column.
pub fn ring_push(cx: &Context<'_, '_>, id: Id, taps: usize) -> Result<Shape, Unsupported> {
    let (k, cols, taps) = (cx.k, cx.cols(id) as u32, taps as u32);
    cx.state_leaf(cx.graph.node(id).args[0])?;
    let blocks = cols.div_ceil(RING_COLS);
    let items = Items { fixed: blocks, per_row: cx.phase == Phase::Decode };
    let item = k.launch(items, Launch { threads: RING_COLS, ctas: 1, rows: 1 });
    let (row, col) = (item / blocks, item % blocks * RING_COLS + k.thread());
    k.when(col.lt(cols), || push_ring(cx, id, row, &[Lanes { col, left: None }], 1));
    let state_bytes = 8 * u64::from(taps * cols);
    Ok(shape("ring_push", Cost { state_bytes, act_bytes: 4 * u64::from(cols), ..Cost::default() }))
}

/// Rows copied to the cache.
pub fn kv_append(cx: &Context<'_, '_>, id: Id) -> Result<Shape, Unsupported> {
    let (rows, cols) = (cx.graph.node(id).args[1], cx.cols(id));
    let (row, _) = each_row(cx, 1, threads_for(cols as u32, 256));
    cx.k.cta().each(cols as u32, |col| {
        let v = cx.value::<F32>(rows).at(row * cols as u32 + col).load(1);
        let lanes = vec![Lanes { col, left: None }];
        let domain = Domain { lanes, width: 1, vector: PackSpec::vector(cols), first: col, step: 1 };
        let leaf = |_: Id| Some(Fragment { vecs: vec![v], domain: domain.clone() });
        Row { cx, row, leaf: &leaf }.store(id);
    });
    let state_bytes = cx.graph.ty(id).elem().map_or(0, |e| e.row_bytes(cols)) as u64;
    Ok(shape("kv_append", Cost { state_bytes, act_bytes: 4 * cols as u64, ..Cost::default() }))
}
