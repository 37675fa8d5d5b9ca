//! Quantised weights in products of f32: codes become numbers in registers, or a whole panel in scratch memory.
//!
//! Either way the numbers are [`Format::value`] of the codes, and sums are made in one order, so that a product has the same
//! bits whether its rows are few or many.

use super::tile::{is_wide, most_rows};
use crate::kir::{Builder, Carry, F32, I32, Index, Operand, Ptr, Tile, V, outer_product};
use crate::pack::PANEL;
use crate::pack::quantised::{SCALE_BYTES, block_bytes};
use jet_ir::quant::{Format, GROUP};

/// Rows up to which codes are not worth a panel in memory.
pub const FEW: usize = 2;

/// Columns in one turn of the loop.
const STEPS: u32 = 4;

/// Rows that one pass over a panel serves at most where registers are narrow: twelve accumulators.
const ROWS: usize = 3;

/// Some slots of a panel.
#[derive(Clone, Copy)]
pub struct Panel<'k> {
    /// How it is quantised; none after [`Panel::unpack`].
    pub format: Option<Format>,
    /// The word of the first of these slots in the first block, or its first number.
    pub base: Ptr<'k, I32>,
    /// Columns of the weight.
    pub k_len: u32,
    /// Slots in one vector.
    pub lanes: u16,
    /// Vectors of slots.
    pub vectors: u32,
}

/// Factor and summand of each vector of a block.
pub type Scales<'k> = Vec<(V<'k, F32>, V<'k, F32>)>;

/// Factors and summands of the `vectors` vectors of `lanes` slots whose scales start at `block`.
pub fn scales<'k>(format: Format, block: Ptr<'k, I32>, lanes: u16, vectors: u32) -> Scales<'k> {
    let one = |v: u32| {
        let word = block.at(v * u32::from(lanes)).load(lanes);
        match format {
            Format::Q8 => (word.as_f32(), word.as_f32() * -128.0),
            Format::Q4 => (word.and(0xffff_0000u32 as i32).as_f32(), word.shift_left(16).as_f32()),
        }
    };
    (0..vectors).map(one).collect()
}

impl<'k> Panel<'k> {
    /// All 16 slots of a panel, in registers of the target.
    pub fn whole(k: &'k Builder, format: Option<Format>, base: Ptr<'k, I32>, k_len: u32) -> Panel<'k> {
        let lanes = k.target.lanes;
        Panel { format, base, k_len, lanes, vectors: PANEL as u32 / u32::from(lanes) }
    }

    /// Calls `step` with every column in ascending order, its number in a turn of the loop, and its numbers.
    pub fn walk<C: Carry<'k>>(
        &self,
        k: &'k Builder,
        init: C,
        step: &dyn Fn(V<'k, Index>, u32, Vec<V<'k, F32>>, C) -> C,
    ) -> C {
        let Some(format) = self.format else {
            let one = |column: V<'k, Index>, u: u32, carry| step(column + u, u, self.loaded(column + u), carry);
            return turns(k, self.k_len, init, &one);
        };
        let (groups, rest) = (self.k_len / GROUP as u32, self.k_len % GROUP as u32);
        let block = |g: V<'k, Index>| (format, self.base.byte_offset(g * block_bytes(format) as u32));
        let one = |g: V<'k, Index>, columns, carry| self.group(k, block(g), (g * GROUP as u32, columns), carry, step);
        let carry = k.range(0u32, groups, 1, init, |g, carry| one(g, GROUP as u32, carry));
        if rest > 0 { one(groups.on(k), rest, carry) } else { carry }
    }

    /// The columns `first..first + columns` of one block. Codes of neighbouring columns lie at the same bits of neighbouring words.
    fn group<C: Carry<'k>>(
        &self,
        k: &'k Builder,
        (format, block): (Format, Ptr<'k, I32>),
        (first, columns): (V<'k, Index>, u32),
        mut carry: C,
        step: &dyn Fn(V<'k, Index>, u32, Vec<V<'k, F32>>, C) -> C,
    ) -> C {
        let scales = scales(format, block, self.lanes, self.vectors);
        let run = (GROUP * format.bits() / 32) as u32;
        for part in 0..columns.div_ceil(run) {
            let one = |b: V<'k, Index>, u: u32, carry| {
                let numbers = self.numbers((format, block), &scales, part, b + u);
                step(first + b + (part * run + u), u, numbers, carry)
            };
            carry = turns(k, run.min(columns - part * run), carry, &one);
        }
        carry
    }

    /// A column of an unpacked panel.
    fn loaded(&self, column: V<'k, Index>) -> Vec<V<'k, F32>> {
        let at = self.base.cast::<F32>().at(column * PANEL as u32);
        (0..self.vectors).map(|v| at.at(v * u32::from(self.lanes)).load(self.lanes)).collect()
    }

    /// What the codes at part `part` of the words `word` stand for.
    fn numbers(
        &self,
        (format, block): (Format, Ptr<'k, I32>),
        scales: &Scales<'k>,
        part: u32,
        word: V<'k, Index>,
    ) -> Vec<V<'k, F32>> {
        let (bits, words) = (format.bits() as u32, block.byte_offset(SCALE_BYTES as u32).at(word * PANEL as u32));
        let number = |(v, (d, m)): (usize, &(V<'k, F32>, V<'k, F32>))| {
            let mut code = words.at(v as u32 * u32::from(self.lanes)).load(self.lanes);
            if part > 0 {
                code = code.shift_right((bits * part) as u8);
            }
            if bits * (part + 1) < 32 {
                code = code.and((1 << bits) - 1);
            }
            code.to_f32().fma(*d, *m)
        };
        scales.iter().enumerate().map(number).collect()
    }

    /// Writes the panel as f32, `[k][16]`.
    pub fn unpack(&self, k: &'k Builder, out: Ptr<'k, F32>) {
        self.walk(k, (), &|column, _, numbers, ()| {
            let at = |v: usize| out.at(column * PANEL as u32 + v as u32 * u32::from(self.lanes));
            numbers.iter().enumerate().for_each(|(v, w)| at(v).store(*w));
        });
    }

    /// `out[r][0..16] = sum_k x[r][k] panel[k][0..16]` for rows `0..rows`: in one chain, or where registers are wide in one for
    /// even and one for odd columns.
    fn product(&self, k: &'k Builder, x: Ptr<'k, F32>, (out, stride): (Ptr<'k, F32>, u32), rows: usize) {
        let n_chains = if is_wide(&k.target) { 2 } else { 1 };
        let zeros: Vec<Tile> = vec![vec![vec![k.splat(0.0, self.lanes); self.vectors as usize]; rows]; n_chains];
        let chains = self.walk(k, zeros, &|column, u, numbers, mut chains| {
            let chain = u as usize % n_chains;
            let x = |r: usize| x.at(column + r as u32 * self.k_len).load_splat(self.lanes);
            chains[chain] = outer_product(u, x, &numbers, std::mem::take(&mut chains[chain]));
            chains
        });
        for r in 0..rows {
            for v in 0..self.vectors as usize {
                let sum = chains[1..].iter().fold(chains[0][r][v], |sum, chain| sum + chain[r][v]);
                out.at(r as u32 * stride + v as u32 * u32::from(self.lanes)).store(sum);
            }
        }
    }

    /// [`Self::product`] for as many rows as there are at run time.
    pub fn products(&self, k: &'k Builder, x: Ptr<'k, F32>, (out, stride): (Ptr<'k, F32>, u32), rows: V<'k, Index>) {
        let sizes: &[usize] = match (self.format, is_wide(&k.target)) {
            (Some(_), _) => &[FEW, 1],
            (None, true) => &[most_rows(&k.target), 2, 1],
            (None, false) => &[ROWS, 1],
        };
        in_tiles(k, rows, sizes, &|row, n| self.product(k, x.at(row * self.k_len), (out.at(row * stride), stride), n));
    }
}

/// Covers `rows` rows with tiles of `sizes`, which descend to 1; `tile` gets the first row and the size. Each size costs its own code.
pub fn in_tiles<'k>(k: &'k Builder, rows: V<'k, Index>, sizes: &[usize], tile: &dyn Fn(V<'k, Index>, usize)) {
    let mut from = 0u32.on(k);
    for &size in sizes {
        let to = from + (rows - from) / size as u32 * size as u32;
        k.range(from, to, size as u32, (), |row, ()| tile(row, size));
        from = to;
    }
}

/// `n` calls of `one`, [`STEPS`] in a turn: with the number of the turn's first call, and which of its calls it is.
fn turns<'k, C: Carry<'k>>(k: &'k Builder, n: u32, init: C, one: &dyn Fn(V<'k, Index>, u32, C) -> C) -> C {
    let whole = n / STEPS * STEPS;
    let turn = |i, carry| (0..STEPS).fold(carry, |carry, u| one(i, u, carry));
    let carry = if whole > 0 { k.range(0u32, whole, STEPS, init, turn) } else { init };
    (0..n - whole).fold(carry, |carry, u| one(whole.on(k), u, carry))
}
