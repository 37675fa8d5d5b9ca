//! The embedding: rows of its table, which lies in the fragments of a product, so that a tied table is stored once.

use super::super::context::{Context, Scratch, Shape, Unsupported};
use super::super::epilogue::{Domain, Fragment, Lanes, Row};
use super::{each_row, squares, threads_for};
use crate::kir::{Bf16, F32, I32, Index, Ptr, V, WARP};
use crate::pack::{FRAGMENT_BLOCK, Form, PANEL, PackSpec, RowOrder};
use jet_ir::{Elem, Id, Op, Rows, Type};
use jetbin::Cost;

/// Bytes that are read for an element: a sector.
const SECTOR: usize = 32;

/// The kernel of a lookup with its stores, or of an embedding in memory, which is its own store.
pub fn embed(cx: &Context<'_, '_>, grid: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    let args = &cx.graph.node(grid).args;
    let Type::Tensor { rows: Rows::Fixed(rows), cols, elem: elem @ Elem::Bf16, .. } = cx.graph.ty(args[0]) else {
        let reason = format!("a table must be bf16, found {}; `--weights bf16` rounds it", cx.graph.ty(args[0]));
        return Err(Unsupported::new(cx.graph, grid, reason));
    };
    let sums = squares::store_of(cx, stores);
    if let Some(store) = sums.filter(|store| !squares::of_panels(cx, *store, cols as u32)) {
        return Err(Unsupported::new(cx.graph, store, "sums of squares are those of panels of 16 columns"));
    }
    let spec = PackSpec { form: Form::Fragment, order: RowOrder::Linear, elem, rows, cols };
    let (n, k) = (cols as u32, cx.k);
    let (row, _) = each_row(cx, 1, threads_for(n, 256));
    let table = cx.weight::<F32>(spec, &[args[0]]);
    let token = cx.value::<I32>(args[1]).at(row).load(1).to_index();
    let panel = table.byte_offset((token / PANEL as u32) * spec.item_bytes() as u32).cast::<Bf16>();
    let of_row = sums.map(|store| (store, k.shared::<F32>(n.next_multiple_of(PANEL as u32))));
    k.cta().each(n, |i| {
        let value = element(panel, token % PANEL as u32, i).widen();
        let lanes = vec![Lanes { col: i, left: None }];
        let domain = Domain { lanes, width: 1, vector: PackSpec::vector(cols), first: i, step: 1 };
        let rows = |id: Id| id == grid || matches!(cx.graph.op(id), Some(Op::Out(_)));
        let leaf = |id: Id| rows(id).then(|| Fragment { vecs: vec![value], domain: domain.clone() });
        let at = Row { cx, row, leaf: &leaf };
        for store in stores {
            match of_row.filter(|(sums, _)| sums == store) {
                Some((_, squares)) => {
                    let x = at.stored(*store).vecs[0];
                    squares.at(spread(i)).store(x * x);
                }
                None => at.store(*store),
            }
        }
    });
    if let Some((store, of_row)) = of_row {
        let panel = PANEL as u32;
        k.barrier();
        k.cta().each(n.div_ceil(panel), |part| {
            squares::put(cx, store, (row, part), n, |c| of_row.at(spread(part * panel + c)));
        });
    }
    let written: u64 = stores.iter().map(|store| cx.row_bytes(*store)).sum();
    let cost = Cost { act_bytes: (SECTOR * cols) as u64 + written, ..Cost::default() };
    Ok(Shape { name: "embed", scratch: Scratch::default(), cost })
}

/// Column `i` of row `slot` of a panel: `PackSpec::fragment`, in parts that depend on the slot, on the block and step, and on the lane.
fn element<'k>(panel: Ptr<'k, Bf16>, slot: V<'k, Index>, i: V<'k, Index>) -> V<'k, Bf16> {
    let of_slot = (slot % 8u32) * 32u32 + (slot / 8u32) * 2u32;
    let of_step = (i / FRAGMENT_BLOCK as u32) * 512u32 + (i % 8u32) / 4u32 * 256u32;
    let of_lane = (i % FRAGMENT_BLOCK as u32) / 8u32 * 8u32;
    panel.at(of_slot + of_step + of_lane + (i % 4u32) / 2u32 * 4u32 + i % 2u32).load(1)
}

/// Where the square of column `i` lies, so that threads that read fours of neighbouring panels do not meet in a bank.
fn spread<'k>(i: V<'k, Index>) -> V<'k, Index> {
    i.xor(i / WARP % 4u32 * 4u32)
}
