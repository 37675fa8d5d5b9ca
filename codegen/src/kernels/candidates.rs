//! The head of a CPU keeps the tokens with the largest logits as it goes, so that logits need not be stored where nobody asks for all of them.
//!
//! Each thread has a list for each row ([`CandidateList`]), sorted, of the best that it has seen. Nearly every vector of logits is below the
//! last of them, which costs one comparison; one that is not is put in its place by shifting what is smaller, whole vectors at a time. The
//! runtime merges the lists of all threads.

use super::context::Context;
use super::epilogue::Fragment;
use super::lanes::spans;
use super::product::Segment;
use crate::kir::{F32, I32, Index, Operand, Ptr, V};
use jet_ir::{Id, OutputKind};
use jetbin::CandidateList;

const LIST: CandidateList = CandidateList::USUAL;

/// The lists of one thread for the results of a `store_argmax`.
#[derive(Clone, Copy)]
pub struct Candidates<'a, 'k, 'g> {
    cx: &'a Context<'k, 'g>,
    lists: Ptr<'k, F32>,
}

impl<'a, 'k, 'g> Candidates<'a, 'k, 'g> {
    /// The lists of the kernel's one `store_argmax`, if there is one.
    pub fn of(cx: &'a Context<'k, 'g>, segments: &[Segment]) -> Option<Self> {
        let mut largest = segments.iter().flat_map(|s| &s.largest);
        let store = *largest.next()?;
        if let Some(second) = largest.next() {
            cx.refuse(*second, "one search for the largest element is possible in a kernel");
        }
        Some(Candidates { cx, lists: cx.candidates(store) })
    }

    /// Empty lists for all rows.
    pub fn clear(&self) {
        let k = self.cx.k;
        let widths = &[CandidateList::WIDTH];
        k.range(0u32, self.cx.rows(), 1, (), |row, ()| {
            let list = self.list(row);
            list.at(CandidateList::CHECKS).store(k.splat(0.0, CandidateList::WIDTH as u16));
            list.at(CandidateList::SCORES - 1).store(f32::INFINITY.on(k));
            let ids = list.cast::<I32>().at(LIST.ids());
            list.cast::<I32>().at(LIST.ids() - 1).store((-1i32).on(k));
            spans(k, LIST.len, widths, |i, lanes| {
                list.at(i + CandidateList::SCORES).store(k.splat(f32::NEG_INFINITY, lanes));
                ids.at(i).store(k.splat(-1i32, lanes));
            });
        });
    }

    fn list(&self, row: V<'k, Index>) -> Ptr<'k, F32> {
        self.lists.at(row * LIST.words())
    }

    /// Looks at logits of `row`, whose columns are above those of all calls before.
    pub fn see(&self, row: V<'k, Index>, logits: &Fragment<'k>) {
        let (k, list) = (self.cx.k, self.list(row));
        for (lanes, &v) in logits.domain.lanes.iter().zip(&logits.vecs) {
            // NaN, for good, of what is not finite
            let checks = list.at(CandidateList::CHECKS);
            checks.store(checks.load(v.lanes()) + v * 0.0f32.on(k).splat(v.lanes()));
            let v = existing(v, lanes.left);
            let last = || list.at(CandidateList::SCORES + LIST.len - 1).load(1);
            k.when(last().lt(v.max_lanes()), || {
                let seen = list.at(CandidateList::SEEN);
                seen.store(v);
                k.range(0u32, u32::from(v.lanes()), 1, (), |i, ()| {
                    let score = seen.at(i).load(1);
                    k.when(last().lt(score), || self.insert(list, score, (lanes.col + i).to_i32()));
                });
            });
        }
    }

    /// Puts a candidate behind those that are not smaller.
    fn insert(&self, list: Ptr<'k, F32>, score: V<'k, F32>, id: V<'k, I32>) {
        let k = self.cx.k;
        let width = u32::from(k.target.lanes).min(CandidateList::WIDTH);
        let lanes = width as u16;
        let (score, id, ids) = (score.splat(lanes), id.splat(lanes), list.cast::<I32>());
        // from the end on, so that what moves up a place has been read before it is overwritten
        k.range(0u32, LIST.len, width, (), |back, ()| {
            let at = (LIST.len - width).on(k) - back;
            let (here, before) = (at + CandidateList::SCORES, at + (CandidateList::SCORES - 1));
            let (old, larger) = (list.at(here).load(lanes), list.at(before).load(lanes));
            let (is_behind, is_here) = (larger.lt(score), old.lt(score));
            list.at(here).store(is_behind.select(larger, is_here.select(score, old)));
            let (here, before) = (ids.at(at + LIST.ids()), ids.at(at + (LIST.ids() - 1)));
            let (old, larger) = (here.load(lanes), before.load(lanes));
            here.store(is_behind.select(larger, is_here.select(id, old)));
        });
    }
}

/// `v`, with -inf in lanes that do not exist.
fn existing<'k>(v: V<'k, F32>, left: Option<V<'k, Index>>) -> V<'k, F32> {
    let Some(left) = left else { return v };
    let k = left.k;
    let lane = |i: u16| u32::from(i).on(k).lt(left).select(v.lane(i), f32::NEG_INFINITY);
    let some = || V::pack(&(0..v.lanes()).map(lane).collect::<Vec<_>>());
    k.choose(u32::from(v.lanes()).on(k).le(left), || v, some)
}

/// Whether `store` is stored on request only: it goes to the caller and nowhere else, and candidates of the same sums do without it.
pub fn is_on_request(cx: &Context<'_, '_>, segment: &Segment, store: Id) -> bool {
    let graph = cx.graph;
    let outputs = graph.outputs.iter().filter(|o| o.value == store);
    let returned = outputs.clone().count() > 0 && outputs.clone().all(|o| o.kind == OutputKind::Return);
    let is_read = graph.ids().any(|id| graph.node(id).args.contains(&store));
    !segment.largest.is_empty() && returned && !is_read
}
