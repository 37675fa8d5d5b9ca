//! Panels of quantised weights: images of rows to the order in which kernels read them, and back.
//!
//! A panel is one block after the other for the groups of its rows. A block starts with the scales, `[16]` words of 32 bits. Then come
//! words whose bytes belong to columns 16 apart: byte `j` of word `b` is the code of column `16 j + b` of the group, in 8 bits
//! `[b in 0..16][16 rows]`. In 4 bits, `[b in 0..8][16 rows]`, its high half is the code of column `16 j + b + 8`. So one register of 16
//! words meets four columns of 16 rows, which is what a dot product of bytes wants, and 16 neighbouring columns of an activation
//! become a register of such words without any shuffle.

use super::PANEL;
use jet_ir::quant::{Format, GROUP, GROUP_IMAGE};

/// Columns between the bytes of a word.
pub const STRIDE: usize = 16;

/// Bytes of the scales of a block.
pub const SCALE_BYTES: usize = 4 * PANEL;

/// Bytes of a block: a group of 16 rows.
pub fn block_bytes(format: Format) -> usize {
    PANEL * format.group_bytes()
}

/// Where the code of column `k` of a group lies: its word, the byte in it, and whether it is the high half of that byte.
pub fn place(format: Format, k: usize) -> (usize, usize, bool) {
    match format {
        Format::Q8 => (k % STRIDE, k / STRIDE, false),
        Format::Q4 => (k % (STRIDE / 2), k / STRIDE, k % STRIDE >= STRIDE / 2),
    }
}

/// Images of 16 rows, one after the other, to a panel.
pub fn interleave(format: Format, images: &[u8], panel: &mut [u8]) {
    let groups = panel.len() / block_bytes(format);
    let places: [_; GROUP] = std::array::from_fn(|k| place(format, k));
    for (g, block) in panel.chunks_exact_mut(block_bytes(format)).enumerate() {
        block.fill(0);
        let (scales, words) = block.split_at_mut(SCALE_BYTES);
        for (slot, image) in images.chunks_exact(groups * GROUP_IMAGE).enumerate() {
            let (scale, codes) = image[g * GROUP_IMAGE..][..GROUP_IMAGE].split_at(4);
            scales[4 * slot..][..4].copy_from_slice(scale);
            for (code, (word, byte, high)) in codes.iter().zip(places) {
                words[4 * (word * PANEL + slot) + byte] |= if high { code << 4 } else { *code };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Form, PackSpec, RowOrder};
    use super::*;
    use jet_ir::Elem;
    use jet_ir::quant::image_bytes;

    /// A code for every element of a matrix, and a scale for every group.
    fn code(format: Format, row: usize, k: usize) -> u8 {
        ((row * 7 + k * 3 + k / 16) % (1 << format.bits())) as u8
    }

    fn scale(row: usize, group: usize) -> u32 {
        (row * 1000 + group + 1) as u32
    }

    #[test]
    fn every_code_and_scale_lies_where_the_format_says() {
        for (elem, format) in [(Elem::Q8, Format::Q8), (Elem::Q4, Format::Q4)] {
            for (rows, cols) in [(16, 64), (5, 1), (33, 130), (17, 64)] {
                let spec = PackSpec { form: Form::Panel, order: RowOrder::Linear, elem, rows, cols };
                let groups = cols.div_ceil(64);
                let mut packed = vec![0xee; spec.bytes()];
                let fill = |_: usize, row: usize, image: &mut [u8]| {
                    assert_eq!(image.len(), image_bytes(cols));
                    for (g, image) in image.chunks_exact_mut(68).enumerate() {
                        image[..4].copy_from_slice(&scale(row, g).to_le_bytes());
                        (0..64).for_each(|k| image[4 + k] = code(format, row, g * 64 + k));
                    }
                    Ok::<_, std::convert::Infallible>(())
                };
                let Ok(()) = spec.pack(0..spec.items(), &mut packed, fill);
                let bytes_of_block = 64 + 1024 * format.bits() / 8;
                assert_eq!(packed.len(), rows.div_ceil(16) * groups * bytes_of_block);
                for row in 0..rows {
                    for k in 0..groups * 64 {
                        let block = &packed[(row / 16 * groups + k / 64) * bytes_of_block..];
                        let found = u32::from_le_bytes(block[4 * (row % 16)..][..4].try_into().unwrap());
                        assert_eq!(found, scale(row, k / 64));
                        let (b, j) = (k % 16, k % 64 / 16);
                        let found = match format {
                            Format::Q8 => block[64 + 64 * b + 4 * (row % 16) + j],
                            Format::Q4 => block[64 + 64 * (b % 8) + 4 * (row % 16) + j] >> (b / 8 * 4) & 15,
                        };
                        assert_eq!(found, code(format, row, k), "{spec} row {row} column {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn padding_stands_for_zero() {
        for (elem, format) in [(Elem::Q8, Format::Q8), (Elem::Q4, Format::Q4)] {
            let spec = PackSpec { form: Form::Panel, order: RowOrder::Linear, elem, rows: 1, cols: 64 };
            let mut packed = vec![0xee; spec.bytes()];
            let Ok(()) = spec.pack(0..1, &mut packed, |_, _, image| {
                image.fill(1);
                Ok::<_, std::convert::Infallible>(())
            });
            for slot in 1..16 {
                let scale = u32::from_le_bytes(packed[4 * slot..][..4].try_into().unwrap());
                let code = packed[64 + 4 * slot];
                assert_eq!(format.value(scale, code), 0.0);
            }
        }
    }
}
