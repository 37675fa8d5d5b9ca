//! What the finishing warps of a delta rule by chunks do, see `chunk`: the gated norm and the stores of a turn's outputs, for which the
//! sum of squares of a head is put together from those of all CTAs of the cluster, in their order.

use super::super::epilogue::Fragment;
use super::chunk::{CHUNK, COLS, Cta, FINISHERS, OUTPUTS, SCANNERS, STRIDE, TURN};
use crate::kir::{F32, Index, Pred, V, WARP};
use jet_ir::Id;

/// Columns of a lane.
const FOUR: u32 = 4;
/// Tokens of a warp, and of its lanes at a time.
const TOKENS: u32 = TURN / FINISHERS;
const AT_ONCE: u32 = WARP / (COLS / FOUR);

/// The threads that finish.
pub struct Finisher<'a, 'k, 'g> {
    cta: &'a Cta<'a, 'k, 'g>,
    /// The first token of this warp in each turn.
    first: V<'k, Index>,
    /// What is stored, with the epsilon of a norm inside.
    stores: Vec<(Id, Option<f32>)>,
}

/// What is to be stored for a token: its row, whether it exists, and a value for each store.
type Finished<'k> = (V<'k, Index>, V<'k, Pred>, Vec<Fragment<'k>>);

impl<'a, 'k, 'g> Finisher<'a, 'k, 'g> {
    /// Finishing warp `number` of a CTA.
    pub fn new(cta: &'a Cta<'a, 'k, 'g>, number: V<'k, Index>) -> Self {
        let results = cta.d.results();
        let stores = results.stored().map(|s| (s, results.gated_norm(s))).collect();
        Finisher { cta, first: number * TOKENS, stores }
    }

    /// Norms and stores the outputs of a turn.
    pub fn finish(&self, turn: V<'k, Index>) {
        let (k, results) = (self.cta.k(), self.cta.d.results());
        let factors: Vec<_> = self.stores.iter().map(|(_, eps)| eps.map(|eps| self.factor(turn, eps))).collect();
        // all operands are asked for before anything is written
        let all: Vec<_> = (0..TOKENS).step_by(AT_ONCE as usize).map(|t| self.token(turn, t, &factors)).collect();
        for (row, exists, values) in all {
            k.when(exists, || {
                self.stores.iter().zip(values).for_each(|((store, _), value)| results.put(*store, row, value));
            });
        }
    }

    /// A token of a turn: of those beyond the last, that one.
    fn existing(&self, turn: V<'k, Index>, t: V<'k, Index>) -> V<'k, Index> {
        self.cta.row(turn, t) - turn * TURN
    }

    /// What this lane's columns become at token `t` of the warp, or one of the next.
    fn token(&self, turn: V<'k, Index>, t: u32, factors: &[Option<V<'k, F32>>]) -> Finished<'k> {
        let (cta, d, lane) = (self.cta, self.cta.d, self.cta.k().warp().rank);
        let (of_warp, four) = (lane / (COLS / FOUR) + t, lane % (COLS / FOUR));
        let t = self.first + of_warp;
        let (row, c) = (cta.row(turn, t), cta.first_col() + four * FOUR);
        let ragged = !d.dv.is_multiple_of(COLS);
        let exists = if ragged { cta.exists(turn, t).and(c.lt(d.dv)) } else { cta.exists(turn, t) };
        let c = if ragged { c.imin(d.dv - FOUR) } else { c };
        let from = cta.outputs(turn).at(four / (CHUNK / FOUR) * OUTPUTS).at(four % (CHUNK / FOUR) * FOUR);
        let out = from.at(self.existing(turn, t) * STRIDE).load(FOUR as u16);
        let value = |((store, _), factor): (&(Id, _), &Option<V<'k, F32>>)| {
            d.results().columns(*store, (row, cta.head, c), factor.map(|f| f.shuffle(of_warp)), out)
        };
        (row, exists, self.stores.iter().zip(factors).map(value).collect())
    }

    /// `1 / sqrt(mean(o^2) + eps)` of the warp's tokens, each in the lane of its number.
    fn factor(&self, turn: V<'k, Index>, eps: f32) -> V<'k, F32> {
        let cta = self.cta;
        let t = self.existing(turn, self.first + cta.k().warp().rank % TOKENS);
        let mine = cta.squares(turn).at(t * SCANNERS);
        let part = |rank: u32| if cta.plan.ctas == 1 { mine } else { mine.peer(rank) };
        let sums = (0..cta.plan.ctas).map(|rank| part(rank).load(SCANNERS as u16).sum_lanes());
        let sum = sums.reduce(|a, b| a + b).expect("at least one CTA");
        (sum * (1.0 / cta.d.dv as f32) + eps).rsqrt()
    }
}
