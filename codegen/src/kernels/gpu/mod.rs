//! GPU kernels. One item of work is one CTA; what passes between CTAs (parts of attention, sums of squares in a cluster, the largest
//! logits) is put together in a fixed order, no value is added to atomically, so that results are the same every time.
//!
//! Products go through `mma` with bf16 operands and sums in f32; everything else is f32. Epilogues are those of the CPU
//! kernels with one column for each thread. Memory between the threads of a CTA is `shared`; scratch memory, a thread's own on a
//! CPU, is that of all CTAs here.

mod attention;
mod cache;
mod chunk;
mod chunk_columns;
mod chunk_finish;
mod chunk_head;
mod chunk_scan;
mod chunk_stage;
mod delta;
mod delta_conv;
mod delta_step;
mod flash;
mod gather;
mod gemm;
mod largest;
mod matrix;
mod operand;
mod product;
mod rowwise;
mod softmax;
mod split;
mod staged;

use super::context::{Context, Shape, Unsupported};
use crate::kir::{I32, Index, Items, Launch, V};
use crate::targets::Target;
use jet_ir::ops::Sort;
use jet_ir::{Id, Op, Type};
use jetbin::Phase;

/// The kernel of a group whose grid or first op is `head`.
pub(crate) fn gpu(cx: &Context<'_, '_>, head: Id, stores: &[Id]) -> Result<Shape, Unsupported> {
    let refuse = |reason: &str| Err(Unsupported::new(cx.graph, head, reason));
    match cx.graph.op(head) {
        Some(Op::Sweep(_) | Op::SweepNorm(_) | Op::SweepFold(_) | Op::SweepFoldMs(_) | Op::SweepScaled(_)) => {
            product::product(cx, head, stores)
        }
        Some(Op::Matmul(_)) => product::product(cx, head, &[head]),
        Some(Op::DeltaConv(_)) => delta_conv::delta_conv(cx, head, stores),
        Some(Op::GatedDeltaRule(_) | Op::DeltaL2(_)) => {
            let step = if cx.phase == Phase::Decode { delta_step::delta_step(cx, head, stores)? } else { None };
            step.map_or_else(|| delta::delta(cx, head, stores), Ok)
        }
        Some(Op::Attention(_)) => attention::attention(cx, head, stores),
        Some(Op::AttentionParts(_) | Op::AttentionMerge(_)) => refuse("attention in parts is for CPUs"),
        Some(Op::Embed(_)) => gather::embed(cx, head),
        Some(Op::Argmax(_)) => gather::argmax(cx, head),
        Some(Op::RingPush(op)) => gather::ring_push(cx, head, op.taps),
        Some(Op::KvAppend(_)) => gather::kv_append(cx, head),
        Some(Op::RmsNorm(op)) => Ok(rowwise::rms_norm(cx, head, op.eps.get())),
        Some(Op::RowMs(_)) => Ok(rowwise::row_ms(cx, head)),
        Some(Op::L2Norm(op)) => Ok(rowwise::l2_norm(cx, head, op.head_dim, op.eps.get())),
        Some(Op::GatedNorm(op)) => rowwise::gated_norm(cx, head, op.head_dim),
        Some(Op::Rope(op)) => Ok(rowwise::rope(cx, head, op.head_dim)),
        Some(op) if op.sort() == Sort::Map => rowwise::map(cx, head),
        _ => refuse("neither a grid nor an op in memory"),
    }
}

/// Whether a GPU has a kernel for an op that only some machines and shapes have one for.
pub(crate) fn supports(target: &Target, op: &Op, args: &[Type], result: Type) -> bool {
    match op {
        Op::DeltaConv(op) => delta_conv::supports(target, op, args, result),
        _ => true,
    }
}

/// A CTA of `threads` for each of `parts` pieces of each row: the row, and the piece.
fn each_row<'k>(cx: &Context<'k, '_>, parts: u32, threads: u32) -> (V<'k, Index>, V<'k, Index>) {
    let item = cx.k.launch(Items { fixed: parts, per_row: true }, Launch { threads, ctas: 1, rows: 1 });
    (item / parts, item % parts)
}

/// Counts this CTA's arrival at counter `number`; `body` runs in the one that comes after `last` others, which knows of all that they wrote.
fn last_to_arrive<'k>(cx: &Context<'k, '_>, number: V<'k, Index>, last: V<'k, Index>, body: impl FnOnce()) {
    let k = cx.k;
    let before = k.shared::<I32>(1);
    k.barrier();
    k.cta().leader(|| before.store(cx.arrivals().at(number).arrive(last).to_i32()));
    k.barrier();
    k.when(before.load(1).to_index().equals(last), body);
}

/// Threads for `n` independent elements: whole warps, at most `most`.
fn threads_for(n: u32, most: u32) -> u32 {
    n.next_multiple_of(crate::kir::WARP).min(most)
}
