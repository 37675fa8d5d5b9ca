//! Products of bytes, for targets with dot products of four: quantised weights times activations that are quantised on the fly.
//!
//! A row of activations is cut into the groups of the weights. In each, `x = s y` with integers `|y| <= 127`, `s = max |x| / 127`;
//! the word `b` of a group holds `y` of the columns `b`, `b + 16`, `b + 32`, `b + 48`, as the blocks of weights do. A code `c` of a
//! weight stands for `d c + m`, so that a group adds `s (d sum(c y) + m sum(y))` to a product, where both sums are exact; in 8 bits
//! `m = -128 d`, and a sum starts at `-128 sum(y)` instead of zero, which is free. The bits of a row depend neither on the rows and
//! panels beside it nor on the phase.
//!
//! Where the instruction takes bytes with sign only, codes of 8 bits become such by one exclusive or, and sums start at zero: the same
//! numbers.
//!
//! Where there are products of halves of a word only, codes and rows have 16 bits when they meet: rows in memory, codes in registers, the even
//! bytes of a word and the odd ones. The same numbers again.
//!
//! With registers of 512 bits a tile is six rows by two panels: exact and rounded sums take 24 of 32 registers, and 12 dot products wait
//! for 8 loads. (12 rows by one panel wait for 13, and a processor that starts two dot products in a cycle loads no more than two
//! registers.) With 256 bits it is three rows by one panel, with 128 bits four.

use super::ahead::{self, Ahead};
use super::context::Context;
use super::quantised::{in_tiles, scales};
use super::tile::{Tiling, spread};
use crate::kir::{Builder, Cap, F32, I32, Index, Operand, Ptr, V};
use crate::pack::quantised::{SCALE_BYTES, STRIDE, block_bytes};
use crate::pack::{PANEL, quantised};
use crate::targets::Target;
use jet_ir::quant::{Format, GROUP};

/// Words of a quantised group of activations.
const WORDS: u32 = STRIDE as u32;
/// Numbers beside them: `s`; `sum(y)` in f32; `-128 sum(y)`, an integer.
const EXTRA: u32 = 3;
/// Words of weights that meet rows in one turn of the loop; LLVM needs more registers than there are for more of them.
const STEPS: u32 = 4;
/// Lines of the next panels that every turn asks for: enough where some 100 rows take turns.
const LINES: u32 = 2;
/// Words of a group as one vector, which may be several registers.
const LANES: u16 = WORDS as u16;
/// The least that counts as the largest number of a group, so that `127 / max |x|` is finite. (A comparison instead would go through a
/// general register, whose lowest byte it sets: one group would wait for the one before.)
const TINY: f32 = 1e-30;
/// Added to a small number, this leaves the nearest integer in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// What an instruction multiplies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Bytes without sign and bytes with sign.
    Bytes,
    /// Bytes with sign.
    SignedBytes,
    /// Halves of a word.
    Halves,
}

impl Way {
    fn of(target: &Target) -> Option<Way> {
        let ways = [(Cap::Int8Dot, Way::Bytes), (Cap::SignedInt8Dot, Way::SignedBytes), (Cap::Int16Dot, Way::Halves)];
        ways.into_iter().find(|(cap, _)| target.has(*cap)).map(|(_, way)| way)
    }

    /// Words of a group of a row.
    fn words(self) -> u32 {
        if self == Way::Halves { 2 * WORDS } else { WORDS }
    }

    /// What the codes of a word are multiplied as: shifted right and masked, and from which word of the row's group on.
    fn parts(self, format: Format) -> Vec<(u8, Option<u32>, u32)> {
        match (self, format) {
            (Way::Bytes | Way::SignedBytes, Format::Q8) => vec![(0, None, 0)],
            (Way::Bytes | Way::SignedBytes, Format::Q4) => {
                [(0, 0), (4, WORDS / 2)].map(|(s, w)| (s, Some(0x0f0f_0f0f), w)).into()
            }
            (Way::Halves, Format::Q8) => [(0, 0), (8, WORDS)].map(|(s, w)| (s, Some(0x00ff_00ff), w)).into(),
            (Way::Halves, Format::Q4) => {
                let parts = [(0, 0), (8, WORDS), (4, WORDS / 2), (12, WORDS + WORDS / 2)];
                parts.map(|(s, w)| (s, Some(0x000f_000f), w)).into()
            }
        }
    }
}

/// Whether products with quantised weights are products of bytes.
pub fn is_for(target: &Target) -> bool {
    Way::of(target).is_some()
}

/// Rows and panels of the largest tile; each sum is an exact and a rounded one.
pub fn tiling(target: &Target) -> Tiling {
    Tiling::new(target, 2)
}

/// Bytes of one row of quantised activations; none for a target without products of bytes.
pub fn row_bytes(target: &Target, k_len: usize) -> u64 {
    let words = Way::of(target).map_or(0, |way| way.words() + EXTRA);
    k_len.div_ceil(GROUP) as u64 * 4 * u64::from(words)
}

/// Quantised rows in memory: first the words of all, then the numbers of all.
#[derive(Clone, Copy)]
pub struct Rows<'k> {
    words: Ptr<'k, I32>,
    extra: Ptr<'k, F32>,
    groups: u32,
    way: Way,
}

impl<'k> Rows<'k> {
    /// So many rows of `k_len` columns at `at`; nothing for a target without products of bytes.
    pub fn at(target: &Target, at: Ptr<'k, F32>, rows: V<'k, Index>, k_len: u32) -> Option<Rows<'k>> {
        let (groups, way) = (k_len.div_ceil(GROUP as u32), Way::of(target)?);
        Some(Rows { words: at.cast(), extra: at.at(rows * (groups * way.words())), groups, way })
    }

    /// The rows from `row` on.
    fn from(self, row: V<'k, Index>) -> Rows<'k> {
        let words = self.words.at(row * (self.groups * self.way.words()));
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
        let top = TINY.on(k).max(top);
        let (scale, inverse) = (top * (1.0 / 127.0), 127.0f32.on(k).div(top));
        let (mut integers, mut sum) = (vec![], k.splat::<F32>(0.0, LANES));
        for part in parts {
            let shifted = part.fma(inverse.splat(LANES), MAGIC);
            integers.push(shifted.as_i32());
            sum = sum + (shifted - MAGIC);
        }
        let words = self.words.at(g * self.way.words());
        let field = |j: usize, bits: u32, to: u8| integers[j].and((1 << bits) - 1).shift_left(to);
        if self.way == Way::Halves {
            // columns whose codes are the even bytes of a word, then those of the odd ones
            words.store(field(0, 16, 0).or(field(2, 16, 16)));
            words.at(WORDS).store(field(1, 16, 0).or(field(3, 16, 16)));
        } else {
            words.store((1..4).fold(field(0, 8, 0), |word, j| word.or(field(j, 8, 8 * j as u8))));
        }
        let (extra, sum) = (self.extra.at(g * EXTRA), sum.sum_lanes());
        extra.store(scale);
        extra.at(1u32).store(sum);
        // exact: a product of small integers, read from the low bits of a float
        let offset = sum.fma(-128.0, MAGIC).as_i32().isub(MAGIC.to_bits() as i32);
        extra.cast::<I32>().at(2u32).store(offset);
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

/// Operands of a product of quantised rows with some panels.
#[derive(Clone, Copy)]
pub struct Product<'k> {
    /// How the panels are quantised.
    pub format: Format,
    /// The first panel.
    pub panel: Ptr<'k, I32>,
    /// Bytes from one panel to the next.
    pub panel_bytes: u32,
    /// All rows.
    pub x: Rows<'k>,
    /// What several rows ask for ahead.
    pub ahead: Option<Ahead<'k>>,
    /// The sums, those of the next panel right after those of the first.
    pub out: Ptr<'k, F32>,
    /// Elements from one row of sums to the next.
    pub stride: u32,
}

/// Sums of rows and panels.
type Sums<'k, E> = Vec<Vec<V<'k, E>>>;

impl<'k> Product<'k> {
    /// `out[r][0..16 panels] = sum_k x[row + r][k] panels[k]` for rows `0..rows`, some panels at a time. One row takes all panels in one
    /// loop: it waits for memory, and a processor that learns strides by the address of a load has to see every panel from the same one.
    pub fn emit(&self, k: &'k Builder, (row, rows): (V<'k, Index>, V<'k, Index>), panels: V<'k, Index>) {
        let alone = Product { x: self.x.from(row), ..*self };
        k.when(rows.equals(1u32), || k.range(0u32, panels, 1, (), |p, ()| alone.panel(p).tile(k, (1, 1), None)));
        k.when(1u32.on(k).lt(rows), || self.pairs(k, (row, rows), panels));
    }

    fn pairs(&self, k: &'k Builder, (row, rows): (V<'k, Index>, V<'k, Index>), panels: V<'k, Index>) {
        let Tiling { rows: most, panels: side } = tiling(&k.target);
        let some = |first: V<'k, Index>, together: usize| {
            let first_panel = self.panel(first);
            in_tiles(k, rows, &[most, 2, 1], &|r, n| {
                let number = (row + r) / most as u32 * (panels / side as u32) + first / side as u32;
                let ahead = self.ahead.map(|ahead| (ahead, number));
                let (x, out) = (self.x.from(row + r), first_panel.out.at(r * self.stride));
                Product { x, out, ..first_panel }.tile(k, (n, together), ahead);
            });
        };
        let odd = panels % side as u32;
        k.range(0u32, panels - odd, side as u32, (), |p, ()| some(p, side));
        if side > 1 {
            k.when(odd.equals(1u32), || some(panels - 1u32, 1));
        }
    }

    /// The same for the panels from `p` on.
    fn panel(self, p: V<'k, Index>) -> Product<'k> {
        let panel = self.panel.byte_offset(p * self.panel_bytes);
        Product { panel, out: self.out.at(p * PANEL as u32), ..self }
    }

    /// The sums of `rows` rows and `panels` panels, and what to ask for, with the number of this tile among those that ask for the same.
    fn tile(&self, k: &'k Builder, (rows, panels): (usize, usize), ahead: Option<(Ahead<'k>, V<'k, Index>)>) {
        let lanes = k.target.lanes;
        let vectors = panels * PANEL / usize::from(lanes);
        let zeros: Sums<F32> = vec![vec![k.splat(0.0, lanes); vectors]; rows];
        let sums = k.range(0u32, self.x.groups, 1, zeros, |g, mut sums| {
            if let Some((ahead, number)) = ahead {
                let (turns, panel, panel_bytes) = (self.x.groups, self.panel.cast(), self.panel_bytes);
                let (panels, turn_bytes) = (panels as u32, block_bytes(self.format) as u32);
                ahead.ask(ahead::Tile { number, turns, panel, panel_bytes, panels, turn_bytes }, g, LINES);
            }
            let blocks: Vec<_> = (0..vectors as u32).map(|v| self.block(v * u32::from(lanes), g)).collect();
            let dots = self.dots(k, &blocks, g, rows);
            let scales: Vec<_> = blocks.iter().map(|b| scales(self.format, *b, lanes, 1)[0]).collect();
            for (r, (row, dots)) in (0..).zip(sums.iter_mut().zip(dots)) {
                let extra = self.extra(g, r);
                let scale = extra.load_splat(lanes);
                for ((sum, dot), (d, m)) in row.iter_mut().zip(dots).zip(&scales) {
                    let here = match self.format {
                        Format::Q8 => dot.to_f32() * *d,
                        Format::Q4 => dot.to_f32().fma(*d, *m * extra.at(1u32).load_splat(lanes)),
                    };
                    *sum = here.fma(scale, *sum);
                }
            }
            sums
        });
        for (r, row) in sums.iter().enumerate() {
            let out = self.out.at(r as u32 * self.stride);
            row.iter().enumerate().for_each(|(v, sum)| out.at(v * usize::from(lanes)).store(*sum));
        }
    }

    /// Block `g` of the panel that slot `slot` is in, from that slot on.
    fn block(&self, slot: u32, g: V<'k, Index>) -> Ptr<'k, I32> {
        let panel = self.panel.byte_offset(slot / PANEL as u32 * self.panel_bytes);
        panel.byte_offset(g * block_bytes(self.format) as u32).at(slot % PANEL as u32)
    }

    /// The numbers beside group `g` of row `r`.
    fn extra(&self, g: V<'k, Index>, r: u32) -> Ptr<'k, F32> {
        self.x.extra.at(g * EXTRA + r * (self.x.groups * EXTRA))
    }

    /// `sum(c y)` over the columns of group `g`, in 8 bits `sum((c - 128) y)`, for each row and block.
    fn dots(&self, k: &'k Builder, blocks: &[Ptr<'k, I32>], g: V<'k, Index>, rows: usize) -> Sums<'k, I32> {
        let (lanes, way) = (k.target.lanes, self.x.way);
        let n_words = (quantised::block_bytes(self.format) - SCALE_BYTES) as u32 / (4 * WORDS);
        let start = |r: u32| match self.format {
            Format::Q8 if way != Way::SignedBytes => self.extra(g, r).cast::<I32>().at(2u32).load_splat(lanes),
            _ => k.splat::<I32>(0, lanes),
        };
        let start: Sums<I32> = (0..rows as u32).map(|r| vec![start(r); blocks.len()]).collect();
        // a word of 4 bits is two; one row leaves registers enough
        let two = self.format == Format::Q4 && rows > 1;
        let steps = if two { STEPS / 2 } else { STEPS };
        let add = |mut sums: Sums<'k, I32>, codes: &[V<'k, I32>], b: V<'k, Index>, u: u32| -> Sums<'k, I32> {
            for (r, row) in (0..).zip(&mut sums) {
                let words = self.x.words.at(g * way.words() + r * (self.x.groups * way.words())).at(b);
                let x = if way == Way::Halves { words.at(u).load_splat(lanes) } else { spread(words, u, lanes, steps) };
                row.iter_mut().zip(codes).for_each(|(sum, codes)| {
                    *sum = match way {
                        Way::Bytes => sum.dot_bytes(*codes, x),
                        Way::SignedBytes => sum.dot_signed_bytes(*codes, x),
                        Way::Halves => sum.dot_halves(*codes, x),
                    }
                });
            }
            sums
        };
        k.range(0u32, n_words, steps, start, |b, sums| {
            (0..steps).fold(sums, |sums, u| {
                let at = SCALE_BYTES as u32 / 4 + u * WORDS;
                let word = |block: &Ptr<'k, I32>| block.at(b * WORDS + at).load(lanes);
                let codes: Vec<_> = blocks.iter().map(word).collect();
                way.parts(self.format).into_iter().fold(sums, |sums, (shift, mask, from)| {
                    let part = |c: &V<'k, I32>| {
                        let shifted = if shift > 0 { c.shift_right(shift) } else { *c };
                        match (mask, way) {
                            (Some(mask), _) => shifted.and(mask as i32),
                            (None, Way::SignedBytes) => shifted.xor(0x8080_8080u32 as i32),
                            (None, _) => shifted,
                        }
                    };
                    add(sums, &codes.iter().map(part).collect::<Vec<_>>(), b + from, u)
                })
            })
        })
    }
}
