//! Weights in the layout of the CPU kernels: panels of 16 output columns, zero where no row is.
//!
//! A product's epilogue decides which rows meet in one panel ([`RowOrder`]), so that a register holds what the epilogue
//! needs together. The same layout serves decode and prefill. A panel of f32 is `[k][16]`. One of bf16 is `[k / 2][16][2]`:
//! a column holds two steps side by side, as instructions for dot products take them; where there are none, widening
//! costs one shift or one mask and the columns stay in order. Quantised panels have blocks instead, see [`quantised`]. A
//! vector (bias, scale, norm weight) is a matrix of one column.
//!
//! GPU kernels have the same items of the same rows, but a panel is stored as fragments of `mma.m16n8k16`, see [`Form`].

pub mod quantised;

use jet_ir::Elem;
use jet_ir::quant::{Format, image_bytes};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Output columns of a panel.
pub const PANEL: usize = 16;
/// Columns of the weight that two steps of fragments cover.
pub const FRAGMENT_BLOCK: usize = 32;
/// Elements of the fragments of one step.
const FRAGMENT: usize = PANEL * FRAGMENT_BLOCK / 2;

/// Element types that panels can hold.
pub const PACKED: [Elem; 4] = [Elem::F32, Elem::Bf16, Elem::Q8, Elem::Q4];

/// Which rows of the weight share a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowOrder {
    /// Slot `s` of panel `p` is row `16 p + s`.
    Linear,
    /// Two weights: 8 rows of the first, then the same 8 rows of the second.
    Gate,
    /// 8 rows of the low half of a head, then the 8 rows `head_dim / 2` further on.
    Rope {
        /// Rows of a head, even.
        head_dim: usize,
    },
    /// Row `d * taps + t` belongs to tap `t` of channel `d`: a group of neighbouring channels for each tap, on a CPU 16, a
    /// panel.
    Taps {
        /// Taps of a channel.
        taps: usize,
    },
}

/// How the elements of a panel are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// `[k][16]`: for CPUs.
    Panel,
    /// For GPUs: `[k / 16][lane][8]`, bf16, `k` filled up with zeros to whole blocks of 32. The 16 bytes of a lane are its part
    /// of a tile product's first operand, of slots by `k`. Lane `4 g + t` has slots `g` and `g + 8`; of the two steps of a
    /// block of 32 it has `k = 8 t .. 8 t + 8`, so that a row of activations in plain order gives the second operand.
    Fragment,
}

/// How one or two weights of `rows` by `cols` are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackSpec {
    /// How a panel is stored.
    pub form: Form,
    /// Which rows share a panel.
    pub order: RowOrder,
    /// bf16, f32 or quantised.
    pub elem: Elem,
    /// Rows of each source: output columns of the product.
    pub rows: usize,
    /// Columns of each source: the summed dimension, 1 for a vector.
    pub cols: usize,
}

impl PackSpec {
    /// A vector of `n` f32, padded to whole panels.
    pub fn vector(n: usize) -> PackSpec {
        PackSpec { form: Form::Panel, order: RowOrder::Linear, elem: Elem::F32, rows: n, cols: 1 }
    }

    /// Weights that are packed together.
    pub fn sources(&self) -> usize {
        if self.order == RowOrder::Gate { 2 } else { 1 }
    }

    /// Output columns (channels for taps, columns of one weight for a gate, of one half for rope) in an item.
    pub fn lanes(&self) -> usize {
        match self.order {
            RowOrder::Linear => PANEL,
            RowOrder::Gate | RowOrder::Rope { .. } => PANEL / 2,
            RowOrder::Taps { .. } if self.form == Form::Panel => PANEL,
            RowOrder::Taps { taps } => (PANEL / taps.max(1) / 4 * 4).max(4),
        }
    }

    /// Panels that one item of work needs together: more than one only for taps.
    pub fn item_panels(&self) -> usize {
        match self.order {
            RowOrder::Taps { taps } => (taps * self.lanes()).div_ceil(PANEL),
            _ => 1,
        }
    }

    /// Items of work.
    pub fn items(&self) -> usize {
        match self.order {
            RowOrder::Linear | RowOrder::Gate => self.rows.div_ceil(self.lanes()),
            RowOrder::Rope { head_dim } => self.rows / head_dim * (head_dim / 2).div_ceil(self.lanes()),
            RowOrder::Taps { taps } => (self.rows / taps).div_ceil(self.lanes()),
        }
    }

    /// Slots of one item: 16 for each panel.
    pub fn item_slots(&self) -> usize {
        self.item_panels() * PANEL
    }

    /// Columns as they are stored: a last step of bf16 without a partner has zeros for one.
    pub fn stored_cols(&self) -> usize {
        match (self.form, self.elem) {
            (Form::Panel, Elem::Bf16) => self.cols.next_multiple_of(2),
            (Form::Panel, _) => self.cols,
            (Form::Fragment, _) => self.cols.next_multiple_of(FRAGMENT_BLOCK),
        }
    }

    /// Bytes of one item.
    pub fn item_bytes(&self) -> usize {
        self.item_panels() * self.panel_bytes()
    }

    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        PANEL * self.elem.row_bytes(self.stored_cols())
    }

    /// Bytes of one row as [`Self::pack`] asks for it.
    pub fn source_row_bytes(&self) -> usize {
        match Format::of(self.elem) {
            Some(_) => image_bytes(self.cols),
            None => self.elem.row_bytes(self.cols),
        }
    }

    /// Bytes of everything.
    pub fn bytes(&self) -> usize {
        self.items() * self.item_bytes()
    }

    /// Source and row that lie in slot `slot` of item `item`; none in padding.
    pub fn row(&self, item: usize, slot: usize) -> Option<(usize, usize)> {
        let lanes = self.lanes();
        let (source, row, exists) = match self.order {
            RowOrder::Linear => (0, item * PANEL + slot, true),
            RowOrder::Gate => (slot / lanes, item * lanes + slot % lanes, true),
            RowOrder::Rope { head_dim } => {
                let blocks = (head_dim / 2).div_ceil(lanes);
                let i = item % blocks * lanes + slot % lanes;
                (0, item / blocks * head_dim + slot / lanes * (head_dim / 2) + i, i < head_dim / 2)
            }
            RowOrder::Taps { taps } => (0, (item * lanes + slot % lanes) * taps + slot / lanes, slot / lanes < taps),
        };
        (exists && row < self.rows).then_some((source, row))
    }

    /// Where step `k` of slot `slot` is stored, in elements of its panel.
    pub fn position(&self, slot: usize, k: usize) -> usize {
        match self.elem {
            Elem::Bf16 => place::<2>(slot, k),
            _ => place::<1>(slot, k),
        }
    }

    /// Where column `k` of slot `slot` of a panel in fragments is stored, in elements from the start of the panel.
    pub fn fragment(slot: usize, k: usize) -> usize {
        let (block, t, step, rest) = (k / FRAGMENT_BLOCK, k % FRAGMENT_BLOCK / 8, k % 8 / 4, k % 4);
        let lane = slot % 8 * 4 + t;
        (2 * block + step) * FRAGMENT + 8 * lane + rest / 2 * 4 + slot / 8 * 2 + rest % 2
    }

    /// Writes the panels of a range of items to `out`, which has room for exactly these. `fill` gets a source, a row
    /// and room for the `cols` elements of that row, little-endian and in the element type of the spec, or for the image of
    /// a quantised row.
    ///
    /// # Errors
    /// Whatever `fill` returns.
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn pack<E>(
        &self,
        items: Range<usize>,
        out: &mut [u8],
        mut fill: impl FnMut(usize, usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        assert_eq!(out.len(), items.len() * self.item_bytes(), "room for {items:?} of {self}");
        let row_bytes = self.source_row_bytes();
        let mut rows = vec![0u8; PANEL * row_bytes];
        for (n, panel) in out.chunks_exact_mut(self.panel_bytes().max(1)).enumerate() {
            let (item, first) = (items.start + n / self.item_panels(), n % self.item_panels() * PANEL);
            for (slot, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
                match self.row(item, first + slot) {
                    Some((source, index)) => fill(source, index, row)?,
                    None => row.fill(0),
                }
            }
            match (Format::of(self.elem), self.elem) {
                (Some(format), _) => quantised::interleave(format, &rows, panel),
                (None, Elem::Bf16) if self.form == Form::Fragment => self.scatter(&rows, panel),
                (None, Elem::Bf16) => self.transpose::<2, 2>(&rows, panel),
                (None, Elem::F16) => self.transpose::<2, 1>(&rows, panel),
                (None, _) => self.transpose::<4, 1>(&rows, panel),
            }
        }
        Ok(())
    }

    /// `[16][cols]` to fragments; what is beyond the last column is zero.
    fn scatter(&self, rows: &[u8], panel: &mut [u8]) {
        panel.fill(0);
        let (rows, panel) = (rows.as_chunks::<2>().0, panel.as_chunks_mut::<2>().0);
        for (slot, row) in rows.chunks_exact(self.cols).enumerate() {
            row.iter().enumerate().for_each(|(k, x)| panel[PackSpec::fragment(slot, k)] = *x);
        }
    }

    /// `[16][cols]` to the order of a panel.
    fn transpose<const SIZE: usize, const STEPS: usize>(&self, rows: &[u8], panel: &mut [u8]) {
        let (rows, panel) = (rows.as_chunks::<SIZE>().0, panel.as_chunks_mut::<SIZE>().0);
        // the partners of a last step that has none
        let whole = PANEL * (self.cols / STEPS * STEPS);
        panel[whole..].fill([0; SIZE]);
        for (slot, row) in rows.chunks_exact(self.cols).enumerate() {
            for (k, x) in row.iter().enumerate() {
                panel[place::<STEPS>(slot, k)] = *x;
            }
        }
    }
}

/// The place of step `k` of a slot where `STEPS` steps lie side by side.
fn place<const STEPS: usize>(slot: usize, k: usize) -> usize {
    (k / STEPS * PANEL + slot) * STEPS + k % STEPS
}

impl fmt::Display for PackSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.form == Form::Fragment {
            f.write_str("fragment ")?;
        }
        match self.order {
            RowOrder::Linear => f.write_str("linear")?,
            RowOrder::Gate => f.write_str("gate")?,
            RowOrder::Rope { head_dim } => write!(f, "rope({head_dim})")?,
            RowOrder::Taps { taps } => write!(f, "taps({taps})")?,
        }
        write!(f, " {} {}x{}", self.elem.name(), self.rows, self.cols)
    }
}

impl FromStr for PackSpec {
    type Err = String;

    /// The inverse of the printed form, `rope(128) bf16 1536x1536`; refuses a spec that no weight can have.
    fn from_str(text: &str) -> Result<PackSpec, String> {
        let bad = || format!("expected a layout such as `rope(128) bf16 1536x1536`, found `{text}`");
        let (form, rest) = match text.strip_prefix("fragment ") {
            Some(rest) => (Form::Fragment, rest),
            None => (Form::Panel, text),
        };
        let mut words = rest.split(' ');
        let (Some(order), Some(elem), Some(shape), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad());
        };
        let argument =
            |name: &str| order.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?.parse::<usize>().ok();
        let order = match order {
            "linear" => RowOrder::Linear,
            "gate" => RowOrder::Gate,
            _ => match (argument("rope"), argument("taps")) {
                (Some(head_dim), _) => RowOrder::Rope { head_dim },
                (_, Some(taps)) => RowOrder::Taps { taps },
                _ => return Err(bad()),
            },
        };
        let elem = PACKED.into_iter().find(|e| e.name() == elem).ok_or_else(bad)?;
        let (rows, cols) = shape.split_once('x').ok_or_else(bad)?;
        let (rows, cols) = (rows.parse().map_err(|_| bad())?, cols.parse().map_err(|_| bad())?);
        let spec = PackSpec { form, order, elem, rows, cols };
        let stored = form == Form::Panel || elem == Elem::Bf16;
        let divides = match order {
            RowOrder::Rope { head_dim } => head_dim > 0 && head_dim % 2 == 0 && rows % head_dim == 0,
            RowOrder::Taps { taps } => taps > 0 && rows % taps == 0,
            _ => true,
        };
        let fits = rows.checked_mul(cols).is_some_and(|n| n < 1 << 48) && rows < 1 << 40;
        if divides && fits && stored && cols > 0 { Ok(spec) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn specs() -> Vec<PackSpec> {
        let mut all = vec![];
        for (form, elem) in [(Form::Panel, Elem::Bf16), (Form::Panel, Elem::F32), (Form::Fragment, Elem::Bf16)] {
            for cols in [1, 2, 17] {
                for rows in [1, 7, 8, 16, 33, 300] {
                    all.push(PackSpec { form, order: RowOrder::Linear, elem, rows, cols });
                    all.push(PackSpec { form, order: RowOrder::Gate, elem, rows, cols });
                    for taps in 1..=6 {
                        all.push(PackSpec { form, order: RowOrder::Taps { taps }, elem, rows: rows * taps, cols });
                    }
                }
                for (heads, head_dim) in [(1, 2), (3, 6), (2, 16), (5, 20), (2, 128)] {
                    all.push(PackSpec { form, order: RowOrder::Rope { head_dim }, elem, rows: heads * head_dim, cols });
                }
            }
        }
        all
    }

    /// A distinct number for every element of every source.
    fn element(spec: &PackSpec, source: usize, row: usize, k: usize) -> u32 {
        1 + ((source * spec.rows + row) * spec.cols + k) as u32
    }

    fn pack(spec: &PackSpec, items: Range<usize>) -> Vec<u8> {
        let mut out = vec![0xee; items.len() * spec.item_bytes()];
        let size = spec.elem.row_bytes(1);
        let fill = |source: usize, row: usize, to: &mut [u8]| {
            for (k, bytes) in to.chunks_exact_mut(size).enumerate() {
                bytes.copy_from_slice(&element(spec, source, row, k).to_le_bytes()[..size]);
            }
            Ok::<_, std::convert::Infallible>(())
        };
        let Ok(()) = spec.pack(items, &mut out, fill);
        out
    }

    /// Every element lies exactly once where slots and positions say, everything else is zero.
    #[test]
    fn unpacking_finds_every_element_once() {
        for spec in specs() {
            let bytes = pack(&spec, 0..spec.items());
            assert_eq!(bytes.len(), spec.bytes());
            let size = spec.elem.row_bytes(1);
            let mut found = BTreeMap::new();
            for item in 0..spec.items() {
                for slot in 0..spec.item_slots() {
                    for k in 0..spec.cols {
                        let panel = item * spec.item_panels() + slot / PANEL;
                        let inside = match spec.form {
                            Form::Panel => spec.position(slot % PANEL, k),
                            Form::Fragment => PackSpec::fragment(slot % PANEL, k),
                        };
                        let at = panel * spec.panel_bytes() + inside * size;
                        let mut word = [0; 4];
                        word[..size].copy_from_slice(&bytes[at..at + size]);
                        let expected = spec.row(item, slot).map_or(0, |(s, row)| element(&spec, s, row, k));
                        let mask = if size == 2 { 0xffff } else { u32::MAX };
                        assert_eq!(u32::from_le_bytes(word), expected & mask, "{spec} item {item} slot {slot} k {k}");
                        if let Some((s, row)) = spec.row(item, slot) {
                            *found.entry((s, row, k)).or_insert(0) += 1;
                        }
                    }
                }
            }
            assert_eq!(found.len(), spec.sources() * spec.rows * spec.cols, "{spec}");
            assert!(found.values().all(|n| *n == 1), "{spec}");
            let mask = |w: &[u8]| w.iter().any(|b| *b != 0);
            let full = bytes.chunks_exact(size).filter(|w| mask(w)).count();
            let elements = found.keys().filter(|(s, row, k)| {
                let low = element(&spec, *s, *row, *k);
                if size == 2 { low & 0xffff != 0 } else { low != 0 }
            });
            assert_eq!(full, elements.count(), "{spec}: padding is zero");
        }
    }

    #[test]
    fn parts_are_packed_like_the_whole() {
        for spec in specs() {
            let middle = spec.items() / 2;
            let parts = [pack(&spec, 0..middle), pack(&spec, middle..spec.items())].concat();
            assert_eq!(parts, pack(&spec, 0..spec.items()), "{spec}");
        }
    }

    #[test]
    fn text_round_trips_and_nonsense_is_refused() {
        for spec in specs() {
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
        for bad in [
            "",
            "linear bf16",
            "linear i32 1x1",
            "rope(3) bf16 3x1",
            "taps(0) f32 1x1",
            "rope(4) bf16 6x1",
            "linear f32 1x0",
            "fragment linear f32 1x1",
        ] {
            assert!(bad.parse::<PackSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bf16_columns_hold_two_steps_side_by_side_and_zero_where_there_is_none() {
        let spec = PackSpec { form: Form::Panel, order: RowOrder::Linear, elem: Elem::Bf16, rows: 16, cols: 3 };
        assert_eq!([(0, 0), (0, 1), (1, 0), (15, 1), (0, 2)].map(|(s, k)| spec.position(s, k)), [0, 1, 2, 31, 32]);
        let bytes = pack(&spec, 0..1);
        assert_eq!(bytes.len(), 16 * 4 * 2);
        assert!(bytes[64..].as_chunks::<4>().0.iter().all(|pair| pair[2..] == [0, 0]));
    }
}
