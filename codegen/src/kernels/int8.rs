//! Products of bytes, for targets with dot products of four: quantised weights times activations that are quantised on the fly.
//!
//! A row of activations is cut into the groups of the weights. In each, `x = s y` with integers `|y| <= 127`, `s = max |x| / 127`;
//! the word `b` of a group holds `y` of the columns `b`, `b + 16`, `b + 32`, `b + 48`, as the blocks of weights do. A code `c` of a
//! weight stands for `d c + m`, so that a group adds `d s sum(c y) + m s sum(y)` to a product, whose first sum is exact. The bits of
//! a row depend neither on the rows beside it nor on the phase.

use super::context::Context;
use super::quantised::{in_tiles, scales};
use crate::kir::{Builder, Cap, F32, I32, Index, Operand, Ptr, V};
use crate::pack::quantised::{SCALE_BYTES, STRIDE, block_bytes};
use crate::pack::{PANEL, quantised};
use crate::targets::Target;
use jet_ir::quant::{Format, GROUP};

/// Words of a quantised group of activations.
const WORDS: u32 = STRIDE as u32;
/// Numbers beside them: `s`, and `s sum(y)`.
const EXTRA: u32 = 2;
/// Words of weights in one turn of the loop.
const STEPS: u32 = 4;
/// Rows that share a panel: with the most, sums and dot products take 24 of 32 registers.
const TILES: [usize; 4] = [12, 4, 2, 1];
/// Lanes of the registers.
const LANES: u16 = PANEL as u16;
/// Groups whose numbers are all smaller than this count as zero, so that `127 / max |x|` is finite.
const TINY: f32 = 1e-30;
/// Added to a small number, this leaves the nearest integer in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// Whether products with quantised weights are products of bytes.
pub fn is_for(target: &Target) -> bool {
    target.has(Cap::Int8Dot) && target.lanes == LANES
}

/// Bytes of one row of quantised activations.
pub fn row_bytes(k_len: usize) -> u64 {
    k_len.div_ceil(GROUP) as u64 * 4 * u64::from(WORDS + EXTRA)
}

/// Quantised rows in memory: first the words of all, then the numbers of all.
#[derive(Clone, Copy)]
pub struct Rows<'k> {
    words: Ptr<'k, I32>,
    extra: Ptr<'k, F32>,
    groups: u32,
}

impl<'k> Rows<'k> {
    /// So many rows of `k_len` columns at `at`.
    pub fn at(at: Ptr<'k, F32>, rows: V<'k, Index>, k_len: u32) -> Rows<'k> {
        let groups = k_len.div_ceil(GROUP as u32);
        Rows { words: at.cast(), extra: at.at(rows * (groups * WORDS)), groups }
    }

    /// The rows from `row` on.
    fn from(self, row: V<'k, Index>) -> Rows<'k> {
        let words = self.words.at(row * (self.groups * WORDS));
        Rows { words, extra: self.extra.at(row * (self.groups * EXTRA)), ..self }
    }

    /// Quantises `rows` rows of `k_len` columns.
    pub fn fill(self, cx: &Context<'k, '_>, x: Ptr<'k, F32>, rows: V<'k, Index>, k_len: u32) {
        let (whole, rest) = (k_len / GROUP as u32, k_len % GROUP as u32);
        cx.k.range(0u32, rows, 1, (), |r, ()| {
            let (x, to) = (x.at(r * k_len), self.from(r));
            cx.k.range(0u32, whole, 1, (), |g, ()| to.group(cx.k, x.at(g * GROUP as u32), g, GROUP as u32));
            if rest > 0 {
                to.group(cx.k, x.at(whole * GROUP as u32), whole.on(cx.k), rest);
            }
        });
    }

    /// Quantises the `columns` columns at `x` to group `g` of the first row.
    fn group(self, k: &'k Builder, x: Ptr<'k, F32>, g: V<'k, Index>, columns: u32) {
        let part = |j: u32| load(k, x.at(j * WORDS), columns.saturating_sub(j * WORDS).min(WORDS));
        let parts = [0, 1, 2, 3].map(part);
        let top = parts[1..].iter().fold(parts[0].abs(), |top, p| top.max(p.abs())).max_lanes();
        let none = top.lt(TINY);
        let (scale, inverse) = (none.select(0.0, top * (1.0 / 127.0)), none.select(0.0, 127.0f32.on(k).div(top)));
        let (mut word, mut sum) = (k.splat::<I32>(0, LANES), k.splat::<F32>(0.0, LANES));
        for (j, part) in (0..).zip(parts) {
            let shifted = part.fma(inverse.splat(LANES), MAGIC);
            word = word.or(shifted.as_i32().and(0xff).shift_left(8 * j));
            sum = sum + (shifted - MAGIC);
        }
        self.words.at(g * WORDS).store(word);
        let extra = self.extra.at(g * EXTRA);
        extra.store(scale);
        extra.at(1u32).store(scale * sum.sum_lanes());
    }
}

/// The first `n` of 16 elements, then zeros.
fn load<'k>(k: &'k Builder, x: Ptr<'k, F32>, n: u32) -> V<'k, F32> {
    match n {
        WORDS => x.load(LANES),
        0 => k.splat(0.0, LANES),
        _ => {
            let lane = |i: u32| if i < n { x.at(i).load(1) } else { 0.0.on(k) };
            V::pack(&(0..WORDS).map(lane).collect::<Vec<_>>())
        }
    }
}

/// Operands of a product of quantised rows with one panel.
#[derive(Clone, Copy)]
pub struct Product<'k> {
    /// How the panel is quantised.
    pub format: Format,
    /// The panel.
    pub panel: Ptr<'k, I32>,
    /// The rows.
    pub x: Rows<'k>,
    /// The sums, rows `stride` apart.
    pub out: Ptr<'k, F32>,
    /// Elements from one row of sums to the next.
    pub stride: u32,
}

impl<'k> Product<'k> {
    /// The same for the rows from `row` on.
    pub fn from(self, row: V<'k, Index>) -> Product<'k> {
        Product { x: self.x.from(row), ..self }
    }

    /// [`Self::emit`] for as many rows as there are at run time.
    pub fn emit_rows(&self, k: &'k Builder, rows: V<'k, Index>) {
        in_tiles(k, rows, &TILES, &|row, n| {
            let tile = Product { out: self.out.at(row * self.stride), ..self.from(row) };
            tile.emit(k, n);
        });
    }

    /// `out[r][0..16] = sum_k x[r][k] panel[k][0..16]` for rows `0..rows`.
    fn emit(&self, k: &'k Builder, rows: usize) {
        let zeros = vec![k.splat::<F32>(0.0, LANES); rows];
        let sums = k.range(0u32, self.x.groups, 1, zeros, |g, sums| {
            let block = self.panel.byte_offset(g * block_bytes(self.format) as u32);
            let (d, m) = scales(self.format, block, LANES, 1)[0];
            let dots = self.dots(k, block, g, rows);
            let one = |(r, (sum, dot)): (usize, (V<'k, F32>, V<'k, I32>))| {
                let extra = self.x.extra.at(g * EXTRA + r as u32 * (self.x.groups * EXTRA));
                let (scale, scaled_sum) = (extra.load_splat(LANES), extra.at(1u32).load_splat(LANES));
                (dot.to_f32() * scale).fma(d, m.fma(scaled_sum, sum))
            };
            sums.into_iter().zip(dots).enumerate().map(one).collect::<Vec<_>>()
        });
        sums.iter().enumerate().for_each(|(r, sum)| self.out.at(r as u32 * self.stride).store(*sum));
    }

    /// `sum(c y)` over the columns of group `g`, for each row.
    fn dots(&self, k: &'k Builder, block: Ptr<'k, I32>, g: V<'k, Index>, rows: usize) -> Vec<V<'k, I32>> {
        let weights = block.byte_offset(SCALE_BYTES as u32);
        let n_words = (quantised::block_bytes(self.format) - SCALE_BYTES) as u32 / (4 * u32::from(LANES));
        let x = |r: usize, word: V<'k, Index>| {
            let row = self.x.words.at(g * WORDS + r as u32 * (self.x.groups * WORDS));
            row.at(word).load_splat(LANES)
        };
        let add = |sums: Vec<V<'k, I32>>, codes: V<'k, I32>, word: V<'k, Index>| -> Vec<V<'k, I32>> {
            sums.into_iter().enumerate().map(|(r, sum)| sum.dot_bytes(codes, x(r, word))).collect()
        };
        k.range(0u32, n_words, STEPS, vec![k.splat::<I32>(0, LANES); rows], |b, sums| {
            (0..STEPS).fold(sums, |sums, u| {
                let codes = weights.at((b + u) * u32::from(LANES)).load(LANES);
                match self.format {
                    Format::Q8 => add(sums, codes, b + u),
                    Format::Q4 => {
                        let low = add(sums, codes.and(0x0f0f_0f0f), b + u);
                        add(low, codes.shift_right(4).and(0x0f0f_0f0f), b + (u + n_words))
                    }
                }
            })
        })
    }
}
