//! What a warp does for its 32 columns of the state of a delta rule by chunks, see `chunk`. The state lies transposed in
//! registers, as sums of tile products: a column of it is a row of a tile, tokens (or rows of the state) are its columns, so
//! that sums are operands of the next product as they are.

use super::super::delta::Delta;
use super::chunk_head::{CHUNK, Stage, WIDE, padded};
use super::matrix::left_of_sums;
use crate::kir::{Bf16, F32, Index, Operand, Pred, Ptr, V};
use jet_ir::Id;

/// Tiles of 16 columns of a warp.
const TILES: usize = (WIDE / CHUNK) as usize;

/// The state of a warp: of each tile, of each 8 rows of the state.
pub type State<'k> = Vec<Vec<V<'k, F32>>>;
/// Sums for the tokens of a chunk: of each tile, of each 8 tokens.
type Sums<'k> = [[V<'k, F32>; 2]; TILES];

/// Elements for the sums of squares of a token of 8 warps.
const MOST_STRIDE: u32 = 12;
/// The tokens of a chunk that a lane has, beyond the first of them.
const MINE: [u32; 4] = [0, 1, 8, 9];

/// The columns of the state of one warp.
pub struct Columns<'a, 'k, 'g> {
    d: &'a Delta<'a, 'k, 'g>,
    head: V<'k, Index>,
    /// The first column of this lane; the others are 8, 16 and 24 further on.
    first: V<'k, Index>,
}

impl<'a, 'k, 'g> Columns<'a, 'k, 'g> {
    pub fn new(d: &'a Delta<'a, 'k, 'g>, head: V<'k, Index>) -> Self {
        let k = d.cx.k;
        Columns { d, head, first: k.warp_id() * WIDE + k.warp().rank / 4u32 }
    }

    /// Column `below` of tile `tile` of this lane, and whether it exists where that is not sure.
    fn column(&self, tile: usize, below: u32) -> (V<'k, Index>, Option<V<'k, Pred>>) {
        let c = self.first + (tile as u32 * CHUNK + below);
        let dv = self.d.dv;
        if dv.is_multiple_of(WIDE) { (c, None) } else { (c.imin(dv - 1), Some(c.lt(dv))) }
    }

    /// The first of the two neighbours of each 8 tokens, or rows of the state, that this lane has.
    fn pair(&self) -> V<'k, Index> {
        self.d.cx.k.warp().rank % 4u32 * 2u32
    }

    /// Every element of the state that this lane has: address, and whether it exists where that is not sure.
    fn state(&self, tile: usize, eight: u32, lane: u32) -> (Ptr<'k, F32>, Option<V<'k, Pred>>) {
        let d = self.d;
        let (c, column_exists) = self.column(tile, lane / 2 * 8);
        let row = self.pair() + (8 * eight + lane % 2);
        let row_exists = (8 * (eight + 1) > d.dk).then(|| row.lt(d.dk));
        let row = if row_exists.is_some() { row.imin(d.dk - 1) } else { row };
        let at = d.cx.state::<F32>(d.state, 0u32.on(d.cx.k)).at(self.head * (d.dk * d.dv)).at(c).at(row * d.dv);
        (at, [column_exists, row_exists].into_iter().flatten().reduce(|a, b| a.and(b)))
    }

    /// The state before the first token.
    pub fn load(&self) -> State<'k> {
        let eights = padded(self.d) / 8;
        let element = |tile, eight, lane| {
            let (at, exists) = self.state(tile, eight, lane);
            let x = at.load(1);
            exists.map_or(x, |e| e.select(x, 0.0))
        };
        let tile =
            |tile| (0..eights).map(|e| V::pack(&[0, 1, 2, 3].map(|lane| element(tile, e, lane)))).collect::<Vec<_>>();
        (0..TILES).map(tile).collect()
    }

    /// Writes the state after the last token.
    pub fn keep(&self, state: &State<'k>) {
        let k = self.d.cx.k;
        for (tile, sums) in state.iter().enumerate() {
            for (eight, sum) in (0..).zip(sums) {
                for lane in 0..4 {
                    let (at, exists) = self.state(tile, eight, lane);
                    let store = || at.store(sum.lane(lane as u16));
                    exists.map_or_else(store, |e| k.when(e, store));
                }
            }
        }
    }

    /// Outputs of the chunk that starts with token `token` of those staged, and the state after it.
    pub fn advance(&self, stage: &Stage<'_, 'k, '_>, token: V<'k, Index>, state: State<'k>) -> State<'k> {
        let s = stage.shared;
        let piece = token / 8u32;
        let (seen, told) = self.recall(stage, piece, &state);
        let wanted = self.wanted(stage, token, &seen);
        let zero = self.d.cx.k.splat(0.0, 4);
        let (inverse, among) = (s.inverse.right_rows(piece, 0u32), s.told.right_rows(piece, 0u32));
        let (decays, to_end) = (self.of_tokens(s.decays, token), self.of_tokens(s.to_end, token));
        let mut outputs = told;
        let learned: Vec<V<'k, Bf16>> = (0..TILES)
            .map(|tile| {
                let left = left_of_sums(wanted[tile][0], wanted[tile][1]);
                let u = inverse.map(|right| left.mma(right, zero));
                let left = left_of_sums(u[0], u[1]);
                for (i, right) in among.into_iter().enumerate() {
                    outputs[tile][i] = left.mma(right, outputs[tile][i] * decays[i]);
                }
                left_of_sums(u[0] * to_end[0], u[1] * to_end[1])
            })
            .collect();
        self.finish(stage, token, &outputs);
        self.update(stage, token, state, &learned)
    }

    /// `S^T k` and `S^T q` for the tokens of a chunk.
    fn recall(&self, stage: &Stage<'_, 'k, '_>, piece: V<'k, Index>, state: &State<'k>) -> (Sums<'k>, Sums<'k>) {
        let zero = self.d.cx.k.splat(0.0, 4);
        let mut sums = [[[zero; 2]; TILES]; 2];
        for step in (0..padded(self.d) / 8).step_by(2) {
            let right = [stage.shared.keys, stage.shared.queries].map(|m| m.right_rows(piece, step));
            for (tile, state) in state.iter().enumerate() {
                let left = left_of_sums(state[step as usize], state[step as usize + 1]);
                for (sums, right) in sums.iter_mut().zip(right) {
                    sums[tile].iter_mut().zip(right).for_each(|(sum, right)| *sum = left.mma(right, *sum));
                }
            }
        }
        let [seen, told] = sums;
        (seen, told)
    }

    /// A number for each token of a chunk, as the sums of each 8 of them lie.
    fn of_tokens(&self, numbers: Ptr<'k, F32>, token: V<'k, Index>) -> [V<'k, F32>; 2] {
        [0, 8u32].map(|i| {
            let two = numbers.at(token + self.pair() + i).load(2);
            V::pack(&[two.lane(0), two.lane(1), two.lane(0), two.lane(1)])
        })
    }

    /// `beta (v - P S^T k)` of a chunk.
    fn wanted(&self, stage: &Stage<'_, 'k, '_>, token: V<'k, Index>, seen: &Sums<'k>) -> Sums<'k> {
        let d = self.d;
        let (decays, betas) = (self.of_tokens(stage.shared.decays, token), self.of_tokens(stage.shared.betas, token));
        std::array::from_fn(|tile| {
            std::array::from_fn(|i| {
                let value = |lane: u32| {
                    let row = stage.row(token + self.pair() + (8 * i as u32 + lane % 2));
                    d.operand(2, row, self.head * d.dv).at(self.column(tile, lane / 2 * 8).0).load(1)
                };
                let value = V::pack(&[0, 1, 2, 3].map(value));
                (-seen[tile][i]).fma(decays[i], value) * betas[i]
            })
        })
    }

    /// The outputs of this lane: offset of the token in the chunk beyond [`Self::pair`], tile, offset of the column, output.
    fn outputs(outputs: &Sums<'k>, offset: u32) -> impl Iterator<Item = (usize, u32, V<'k, F32>)> {
        let (eight, lane) = ((offset / 8) as usize, offset % 2);
        let of_tile = move |(tile, sums): (usize, [V<'k, F32>; 2])| {
            [0, 8u32].map(|below| (tile, below, sums[eight].lane((below / 4 + lane) as u16)))
        };
        (*outputs).into_iter().enumerate().flat_map(of_tile)
    }

    /// Norms and stores the outputs of a chunk.
    fn finish(&self, stage: &Stage<'_, 'k, '_>, token: V<'k, Index>, outputs: &Sums<'k>) {
        let (d, k) = (self.d, self.d.cx.k);
        let results = d.results();
        let stores: Vec<(Id, Option<f32>)> = results.stored().map(|s| (s, results.gated_norm(s))).collect();
        let normed = stores.iter().any(|(_, eps)| eps.is_some());
        if normed {
            MINE.iter().for_each(|offset| self.square(stage, token + self.pair() + *offset, outputs, *offset));
            k.barrier();
        }
        for offset in MINE {
            let t = token + self.pair() + offset;
            let squares = normed.then(|| self.squares(stage, t));
            let row = stage.first + t;
            k.when(row.lt(d.cx.rows()), || {
                for (store, eps) in &stores {
                    let factor = eps.zip(squares).map(|(eps, squares)| (squares * (1.0 / d.dv as f32) + eps).rsqrt());
                    for (tile, below, out) in Self::outputs(outputs, offset) {
                        let (c, exists) = self.column(tile, below);
                        let write = || results.store_columns(*store, (row, self.head, c), factor, out);
                        exists.map_or_else(write, |e| k.when(e, write));
                    }
                }
            });
        }
    }

    /// Elements from the sums of squares of one token to those of the next, so that those of a warp do not meet in a bank.
    fn stride(&self) -> u32 {
        if self.d.cx.k.warps() <= 4 { 4 } else { MOST_STRIDE }
    }

    /// The sum of squares of the output of token `t` over the columns of this warp.
    fn square(&self, stage: &Stage<'_, 'k, '_>, t: V<'k, Index>, outputs: &Sums<'k>, offset: u32) {
        let k = self.d.cx.k;
        let sum = Self::outputs(outputs, offset).fold(0.0f32.on(k), |sum, (tile, below, out)| {
            let out = self.column(tile, below).1.map_or(out, |e| e.select(out, 0.0));
            out.fma(out, sum)
        });
        let sum = [4u8, 8, 16].into_iter().fold(sum, |sum, bits| sum + sum.shuffle_xor(bits));
        let to = stage.shared.work.at(t * self.stride()).at(k.warp_id());
        k.when(k.warp().rank.lt(4u32), || to.store(sum));
    }

    /// The sum of squares of the output of token `t`.
    fn squares(&self, stage: &Stage<'_, 'k, '_>, t: V<'k, Index>) -> V<'k, F32> {
        let k = self.d.cx.k;
        let from = stage.shared.work.at(t * self.stride());
        let width: u16 = if k.warps().is_multiple_of(4) { 4 } else { 1 };
        let parts = (0..k.warps()).step_by(width.into()).map(|w| from.at(w).load(width));
        parts.reduce(|a, b| a + b).expect("at least one warp").sum_lanes()
    }

    /// The state after a chunk.
    fn update(
        &self,
        stage: &Stage<'_, 'k, '_>,
        token: V<'k, Index>,
        state: State<'k>,
        learned: &[V<'k, Bf16>],
    ) -> State<'k> {
        let decay = stage.shared.decays.at(token + (CHUNK - 1)).load_splat(4);
        let mut state: State<'k> = state.into_iter().map(|t| t.into_iter().map(|s| s * decay).collect()).collect();
        for two in (0..padded(self.d) / 8).step_by(2) {
            let right = stage.shared.keys.right_cols(token / 8u32, two);
            for (state, u) in state.iter_mut().zip(learned) {
                let both = &mut state[two as usize..two as usize + 2];
                both.iter_mut().zip(right).for_each(|(sum, right)| *sum = u.mma(right, *sum));
            }
        }
        state
    }
}

const _: () = assert!(MOST_STRIDE <= CHUNK, "sums of squares lie where `A` was");
