//! What a scanning warp does for its 16 columns of the state of a delta rule by chunks, see `chunk`. The state lies transposed in
//! registers, as sums of tile products: a column of it is a row of a tile, tokens (or rows of the state) are its columns, so
//! that sums are operands of the next product as they are. Values of the next turn are on their way meanwhile.

use super::chunk::{CHUNK, COLS, Chunk, Cta, OUTPUTS, SCANNERS, STRIDE, TURN, padded};
use super::matrix::left_of_sums;
use crate::kir::{Bf16, F32, Index, Pred, Ptr, V};

/// The state of a warp, for each 8 of its rows.
pub type State<'k> = Vec<V<'k, F32>>;
/// Sums for the tokens of a chunk, for each 8 of them.
type Sums<'k> = [V<'k, F32>; 2];

/// The columns of the state of one warp.
pub struct Scanner<'a, 'k, 'g> {
    cta: &'a Cta<'a, 'k, 'g>,
    /// Number of the warp among those that scan.
    number: V<'k, Index>,
    /// Values of the turn's tokens at the warp's columns.
    values: Ptr<'k, F32>,
}

impl<'a, 'k, 'g> Scanner<'a, 'k, 'g> {
    /// Words of shared memory of a warp.
    pub const WORDS: u32 = TURN * STRIDE;

    pub fn new(cta: &'a Cta<'a, 'k, 'g>) -> Self {
        let k = cta.k();
        // other warps have no memory here, and use none
        let number = k.warp_id().imin(SCANNERS - 1);
        Scanner { cta, number, values: k.shared::<F32>(SCANNERS * Self::WORDS).at(number * Self::WORDS) }
    }

    /// The first column of this warp in the head.
    fn first_col(&self) -> V<'k, Index> {
        self.cta.first_col() + self.number * CHUNK
    }

    /// The column of this lane in the upper or lower half of a tile, and whether it exists where that is not sure.
    fn column(&self, below: u32) -> (V<'k, Index>, Option<V<'k, Pred>>) {
        let (c, dv) = (self.first_col() + self.cta.k().warp().rank / 4u32 + below, self.cta.d.dv);
        if self.is_ragged() { (c.imin(dv - 1), Some(c.lt(dv))) } else { (c, None) }
    }

    /// Whether some warps have columns that do not exist.
    fn is_ragged(&self) -> bool {
        !self.cta.d.dv.is_multiple_of(COLS)
    }

    /// The first of the two neighbours of each 8 tokens, or rows of the state, that this lane has.
    fn pair(&self) -> V<'k, Index> {
        self.cta.k().warp().rank % 4u32 * 2u32
    }

    /// Every element of the state that this lane has: address, and whether it exists where that is not sure.
    fn element(&self, eight: u32, lane: u32) -> (Ptr<'k, F32>, Option<V<'k, Pred>>) {
        let (d, k) = (self.cta.d, self.cta.k());
        let (c, column_exists) = self.column(lane / 2 * 8);
        let row = self.pair() + (8 * eight + lane % 2);
        let row_exists = (8 * (eight + 1) > d.dk).then(|| row.lt(d.dk));
        let row = if row_exists.is_some() { row.imin(d.dk - 1) } else { row };
        let at = d.cx.state::<F32>(d.state, k.index(0)).at(self.cta.head * (d.dk * d.dv)).at(c).at(row * d.dv);
        (at, [column_exists, row_exists].into_iter().flatten().reduce(|a, b| a.and(b)))
    }

    /// What a warp carries that scans nothing.
    pub fn nothing(&self) -> State<'k> {
        vec![self.cta.k().splat(0.0, 4); padded(self.cta.d.dk) as usize / 8]
    }

    /// The state before the first token, whose values are asked for.
    pub fn begin(&self) -> State<'k> {
        (0..TURN).step_by(CHUNK as usize).for_each(|token| self.ask(self.cta.k().index(0), self.cta.k().index(token)));
        self.load()
    }

    /// The state before the first token.
    fn load(&self) -> State<'k> {
        let element = |eight, lane| {
            let (at, exists) = self.element(eight, lane);
            let x = at.load(1);
            exists.map_or(x, |e| e.select(x, 0.0))
        };
        (0..padded(self.cta.d.dk) / 8).map(|e| V::pack(&[0, 1, 2, 3].map(|lane| element(e, lane)))).collect()
    }

    /// Writes the state after the last token.
    pub fn keep(&self, state: &State<'k>) {
        let k = self.cta.k();
        for (eight, sum) in (0..).zip(state) {
            for lane in 0..4 {
                let (at, exists) = self.element(eight, lane);
                let store = || at.store(sum.lane(lane as u16));
                exists.map_or_else(store, |e| k.when(e, store));
            }
        }
    }

    /// Asks for the values of the chunk at token `token` of a turn.
    fn ask(&self, turn: V<'k, Index>, token: V<'k, Index>) {
        let (cta, d, k) = (self.cta, self.cta.d, self.cta.k());
        let lane = k.warp().rank;
        let (below, four) = (lane % 8u32, lane / 8u32 * 4u32);
        let col = self.first_col() + four;
        k.when(cta.exists(turn, token), || {
            for eight in [0, 8u32] {
                let t = token + below + eight;
                let (to, from) = (self.values.at(t * STRIDE).at(four), d.operand(2, cta.row(turn, t), cta.head * d.dv));
                if self.is_ragged() {
                    let bytes = col.lt(d.dv).select(16u32, 0u32);
                    to.copy_async_some(from.aligned(16).at(col.imin(d.dv - 4)), bytes);
                } else {
                    to.copy_async(from.aligned(16).at(col));
                }
            }
        });
        k.copy_commit();
    }

    /// Outputs of a turn, and the state after it. Outputs of a chunk are handed on during the next, while its products wait for each other.
    pub fn scan(&self, turn: V<'k, Index>, state: State<'k>) -> State<'k> {
        let (cta, k) = (self.cta, self.cta.k());
        let left = (cta.d.cx.rows() - turn * TURN).imin(TURN);
        let nothing = [k.splat(0.0, 4); 2];
        let (state, last) = k.range(0u32, left, CHUNK, (state, nothing), |token, (state, outputs)| {
            let values = self.take(turn, token);
            // nothing in front of the first: that chunk's own are written over it
            self.tell((turn, (token - CHUNK).imax(0u32)), outputs);
            self.advance(cta.chunk(turn, token / CHUNK), values, state)
        });
        self.tell((turn, (left - 1u32) / CHUNK * CHUNK), last);
        state
    }

    /// The values of a chunk, and asks for those a turn later.
    fn take(&self, turn: V<'k, Index>, token: V<'k, Index>) -> Sums<'k> {
        let k = self.cta.k();
        // as many chunks as a turn has are on their way
        k.copy_wait((TURN / CHUNK - 1) as u8);
        k.warp_barrier();
        let from = self.values.at((token + self.pair()) * STRIDE).at(k.warp().rank / 4u32);
        let value = |i: u32, lane: u32| from.at((8 * i + lane % 2) * STRIDE + lane / 2 * 8).load(1);
        let values = [0, 1].map(|i| V::pack(&[0, 1, 2, 3].map(|lane| value(i, lane))));
        k.warp_barrier();
        self.ask(turn + 1u32, token);
        values
    }

    /// The state after a chunk, and its outputs.
    fn advance(&self, chunk: Chunk<'k>, values: Sums<'k>, state: State<'k>) -> (State<'k>, Sums<'k>) {
        let zero = self.cta.k().splat(0.0, 4);
        let (seen, told) = self.recall(chunk, &state);
        let [decays, betas, to_end] =
            [chunk.decays(), chunk.betas(), chunk.to_end()].map(|numbers| self.of_tokens(numbers));
        let wanted = [0, 1].map(|i| (-seen[i]).fma(decays[i], values[i]) * betas[i]);
        let left = left_of_sums(wanted[0], wanted[1]);
        let u = chunk.inverse().right_rows(0u32, 0u32).map(|right| left.mma(right, zero));
        let state = self.update(chunk, state, left_of_sums(u[0] * to_end[0], u[1] * to_end[1]));
        let left = left_of_sums(u[0], u[1]);
        let among = chunk.told().right_rows(0u32, 0u32);
        (state, [0, 1].map(|i| left.mma(among[i], told[i] * decays[i])))
    }

    /// `S^T k` and `S^T q` for the tokens of a chunk. Everything waits for `S^T k`: even and odd steps are sums of their own.
    fn recall(&self, chunk: Chunk<'k>, state: &State<'k>) -> (Sums<'k>, Sums<'k>) {
        let (zero, keys, queries) = (self.cta.k().splat(0.0, 4), chunk.keys(), chunk.queries());
        let (mut seen, mut told) = ([[zero; 2]; 2], [zero; 2]);
        for step in (0..padded(self.cta.d.dk) / 8).step_by(2) {
            let left = left_of_sums(state[step as usize], state[step as usize + 1]);
            let add = |sums: &mut Sums<'k>, right: [V<'k, Bf16>; 2]| {
                sums.iter_mut().zip(right).for_each(|(sum, right)| *sum = left.mma(right, *sum));
            };
            add(&mut seen[step as usize / 2 % 2], keys.right_rows(0u32, step));
            add(&mut told, queries.right_rows(0u32, step));
        }
        ([0, 1].map(|i| seen[0][i] + seen[1][i]), told)
    }

    /// A number for each token of a chunk, as the sums of each 8 of them lie.
    fn of_tokens(&self, numbers: Ptr<'k, F32>) -> Sums<'k> {
        [0, 8u32].map(|i| {
            let two = numbers.at(self.pair() + i).load(2);
            V::pack(&[two.lane(0), two.lane(1), two.lane(0), two.lane(1)])
        })
    }

    /// The state after a chunk.
    fn update(&self, chunk: Chunk<'k>, state: State<'k>, learned: V<'k, Bf16>) -> State<'k> {
        let decay = chunk.decays().at(CHUNK - 1).load_splat(4);
        let mut state: State<'k> = state.into_iter().map(|s| s * decay).collect();
        for two in (0..padded(self.cta.d.dk) / 8).step_by(2) {
            let both = &mut state[two as usize..two as usize + 2];
            let right = chunk.keys().right_cols(0u32, two);
            both.iter_mut().zip(right).for_each(|(sum, right)| *sum = learned.mma(right, *sum));
        }
        state
    }

    /// Hands the outputs of a chunk to those who finish, with their sums of squares over the columns of this warp. Columns that do not
    /// exist are zero.
    fn tell(&self, (turn, token): (V<'k, Index>, V<'k, Index>), outputs: Sums<'k>) {
        let (cta, k) = (self.cta, self.cta.k());
        let lane = k.warp().rank;
        let t = token + self.pair();
        let to = cta.outputs(turn).at(self.number * OUTPUTS).at(t * STRIDE).at(lane / 4u32);
        let squares = cta.squares(turn).at(t * SCANNERS).at(self.number);
        for (i, sum) in (0..).zip(outputs) {
            for next in 0..2u32 {
                let offset = 8 * i + next;
                let both = [0, 1].map(|below| sum.lane((2 * below + next) as u16));
                let square = both[0].fma(both[0], both[1] * both[1]);
                let square = [4u8, 8, 16].into_iter().fold(square, |sum, bits| sum + sum.shuffle_xor(bits));
                (0u32..).zip(both).for_each(|(below, out)| to.at(offset * STRIDE + 8 * below).store(out));
                k.when(lane.lt(4u32), || squares.at(offset * SCANNERS).store(square));
            }
        }
    }
}
