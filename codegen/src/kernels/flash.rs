//! Causal attention of a tile of consecutive rows of one sequence: keys and values of a block are laid out as panels
//! once, and scores and weighted sums of all rows and query heads of the tile are products in the inner loop of the
//! others.
//!
//! A key that a row does not see gets weight zero, so that a row has the same bits whatever rows share its tile.

use super::attention::{Attention, BLOCK, LOWEST};
use super::context::{Scratch, Shape};
use super::heads::Heads;
use super::lanes::{load_lanes, spans};
use super::tile::Product;
use crate::kir::{F32, Index, Items, Operand, Ptr, V};
use crate::pack::PANEL;
use jet_ir::Elem;

/// Rows of a tile times query heads of a key-value head: what shares the work of laying out a block.
const TILE_HEADS: u32 = 48;
/// Columns of a panel.
const WIDE: u32 = PANEL as u32;

/// Where the work of one item lies in scratch memory. `row` counts the query heads of a row of the tile one after the
/// other.
#[derive(Clone, Copy)]
struct Work<'k> {
    /// `[row][head_dim]`: queries, scaled.
    queries: Ptr<'k, F32>,
    /// `[BLOCK / 16][head_dim][16]`: keys, columns of a panel.
    keys: Ptr<'k, F32>,
    /// `[head_dim / 16][BLOCK][16]`: values; zero rows and columns where there are none.
    values: Ptr<'k, F32>,
    /// `[row][BLOCK]`: scores, then weights.
    scores: Ptr<'k, F32>,
    /// `[row][head_dim up to a panel]`: sums of weighted values.
    sums: Ptr<'k, F32>,
    /// `[row][16]`: what a block adds to a panel of the sums.
    added: Ptr<'k, F32>,
    /// `[row]`: largest score so far.
    largest: Ptr<'k, F32>,
    /// `[row]`: sums of weights.
    totals: Ptr<'k, F32>,
    /// `[row]`: what earlier sums are scaled with.
    scales: Ptr<'k, F32>,
}

struct Tile<'a, 'k, 'g> {
    a: &'a Attention<'a, 'k, 'g>,
    work: Work<'k>,
    /// First row.
    row: V<'k, Index>,
    /// Number of rows.
    n: V<'k, Index>,
    kv_head: V<'k, Index>,
}

/// Elements of the parts of [`Work`], in their order.
fn sizes(a: &Attention<'_, '_, '_>) -> [u32; 9] {
    let (rows, padded) = (tile_rows(a) * a.group, padded(a));
    [rows * a.head_dim, BLOCK * a.head_dim, BLOCK * padded, rows * BLOCK, rows * padded, rows * WIDE, rows, rows, rows]
}

/// Rows of a tile.
fn tile_rows(a: &Attention<'_, '_, '_>) -> u32 {
    (TILE_HEADS / a.group).max(1)
}

/// Columns of a head, up to whole panels.
fn padded(a: &Attention<'_, '_, '_>) -> u32 {
    a.head_dim.next_multiple_of(WIDE)
}

/// The kernel for consecutive rows of one sequence; items are tiles of rows of a key-value head, of which those beyond
/// the last row are empty.
pub(super) fn tiled<'k>(a: &Attention<'_, 'k, '_>, heads: &Heads<'_, 'k, '_>) -> Shape {
    let (cx, k) = (a.cx, a.cx.k);
    let (begin, end) = cx.item_range(Items { fixed: a.kv_heads, per_row: true });
    let mut next = cx.scratch();
    let [queries, keys, values, scores, sums, added, largest, totals, scales] = sizes(a).map(|n| {
        let here = next;
        next = next.at(n);
        here
    });
    let work = Work { queries, keys, values, scores, sums, added, largest, totals, scales };
    // the item of the first row of a tile does the work of all: threads get equal shares of rows
    k.range(begin, end, 1, (), |item, ()| {
        let (row, kv_head) = (item / a.kv_heads, item % a.kv_heads);
        let tile = tile_rows(a);
        k.when((row % tile).equals(0u32), || {
            let n = (cx.rows() - row).imin(tile);
            Tile { a, work, row, n, kv_head }.emit(heads);
        });
    });
    let fixed = 4 * sizes(a).iter().map(|n| u64::from(*n)).sum::<u64>();
    Shape { name: "attention_tiled", scratch: Scratch { fixed, per_row: 0 }, cost: a.cost() }
}

impl<'k> Tile<'_, 'k, '_> {
    fn emit(&self, heads: &Heads<'_, 'k, '_>) {
        let (a, w, k) = (self.a, self.work, self.a.cx.k);
        self.start();
        let last = a.cx.position(self.row + self.n - 1u32);
        let first = a.first_key(a.cx.position(self.row));
        k.range(first, last + 1u32, BLOCK, (), |from, ()| self.block(from, (last + 1u32 - from).imin(BLOCK)));
        k.range(0u32, self.n * a.group, 1, (), |r, ()| {
            let (total, sums) = (w.totals.at(r).load(1), w.sums.at(r * padded(a)));
            let out = |c: V<'k, Index>, lanes: u16| sums.at(c).load(lanes) / total.splat(lanes);
            heads.finish(self.row + r / a.group, self.kv_head * a.group + r % a.group, &out);
        });
    }

    /// Scaled queries, and sums of nothing.
    fn start(&self) {
        let (a, w, k) = (self.a, self.work, self.a.cx.k);
        let scale = f64::from(a.head_dim).powf(-0.5) as f32;
        let group_cols = a.group * a.head_dim;
        k.range(0u32, self.n, 1, (), |t, ()| {
            let from =
                a.cx.value::<F32>(a.query).at((self.row + t) * (a.kv_heads * group_cols) + self.kv_head * group_cols);
            spans(k, group_cols, &[8, 1], |c, lanes| {
                w.queries.at(t * group_cols + c).store(from.at(c).load(lanes) * scale);
            });
        });
        k.range(0u32, self.n * a.group, 1, (), |r, ()| {
            w.largest.at(r).store(LOWEST);
            w.totals.at(r).store(0.0);
            spans(k, padded(a), &[16], |c, _| w.sums.at(r * padded(a) + c).store(k.splat(0.0, 16)));
        });
    }

    /// Adds the keys from position `from` on.
    fn block(&self, from: V<'k, Index>, count: V<'k, Index>) {
        let (a, w, k) = (self.a, self.work, self.a.cx.k);
        self.lay_out(from, count);
        let rows = self.n * a.group;
        k.range(0u32, BLOCK / WIDE, 1, (), |p, ()| {
            let (panel, out) = (w.keys.at(p * (WIDE * a.head_dim)), w.scores.at(p * WIDE));
            Product { elem: Elem::F32, panel, x: w.queries, k_len: a.head_dim, out, stride: BLOCK }.emit_rows(k, rows);
        });
        k.range(0u32, rows, 1, (), |r, ()| {
            let position = a.cx.position(self.row + r / a.group);
            self.hide(w.scores.at(r * BLOCK), from, position);
            w.scales.at(r).store(a.weigh(w.scores.at(r * BLOCK), w.largest.at(r), w.totals.at(r)));
        });
        k.range(0u32, padded(a), WIDE, (), |c, ()| {
            let panel = w.values.at(c * BLOCK);
            Product { elem: Elem::F32, panel, x: w.scores, k_len: BLOCK, out: w.added, stride: WIDE }
                .emit_rows(k, rows);
            k.range(0u32, rows, 1, (), |r, ()| {
                let sums = w.sums.at(r * padded(a) + c);
                let scale = w.scales.at(r).load_splat(16);
                sums.store(sums.load(16).fma(scale, w.added.at(r * WIDE).load(16)));
            });
        });
    }

    /// Copies keys and values of a block into panels. Keys that do not exist are zero: their scores are hidden later.
    fn lay_out(&self, from: V<'k, Index>, count: V<'k, Index>) {
        let (a, w, k) = (self.a, self.work, self.a.cx.k);
        let capacity = a.cx.state_rows(a.keys);
        let cols = a.kv_heads * a.head_dim;
        k.range(0u32, count, 1, (), |j, ()| {
            let at = (from + j) % capacity * cols + self.kv_head * a.head_dim;
            let (keys, values) = (a.cx.state(a.keys, self.row).at(at), a.cx.state(a.values, self.row).at(at));
            let to = w.keys.at(j / WIDE * (WIDE * a.head_dim) + j % WIDE);
            k.range(0u32, a.head_dim, 1, (), |i, ()| to.at(i * WIDE).store(keys.at(i).load(1)));
            k.range(0u32, padded(a), WIDE, (), |c, ()| {
                (0..WIDE).step_by(4).for_each(|v| {
                    let left = (!a.head_dim.is_multiple_of(WIDE)).then(|| a.head_dim.on(k) - c - v);
                    w.values.at(c * BLOCK + j * WIDE + v).store(load_lanes(values.at(c + v), 4, left));
                });
            });
        });
        k.range(count, BLOCK, 1, (), |j, ()| {
            let to = w.keys.at(j / WIDE * (WIDE * a.head_dim) + j % WIDE);
            k.range(0u32, a.head_dim, 1, (), |i, ()| to.at(i * WIDE).store(0.0));
            k.range(0u32, padded(a), WIDE, (), |c, ()| w.values.at(c * BLOCK + j * WIDE).store(k.splat(0.0, 16)));
        });
    }

    /// Hides the keys of a block that the row at `position` does not see.
    fn hide(&self, scores: Ptr<'k, F32>, from: V<'k, Index>, position: V<'k, Index>) {
        let k = self.a.cx.k;
        let hidden = |j: V<'k, Index>| scores.at(j).store(LOWEST);
        let before = (self.a.first_key(position) - from).imax(0u32).imin(BLOCK);
        k.range(0u32, before, 1, (), |j, ()| hidden(j));
        let after = (position + 1u32 - from).imax(0u32);
        k.range(after, BLOCK, 1, (), |j, ()| hidden(j));
    }
}
