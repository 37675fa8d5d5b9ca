//! Quantised rows: bounds of the error, special groups, refusals. The oracle reads images by the table in `quant.rs` alone.

use jet_ir::quant::{Format, GROUP, dequantise, image_bytes, quantise, round_trip};
use jet_ir::{Elem, Mat};

/// Numbers in [-1, 1), the same on every run.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Sums of several, so that large numbers are rare as in trained weights.
fn bell(seed: u64, n: usize) -> Vec<f32> {
    noise(seed, 4 * n).chunks(4).map(|c| 0.02 * c.iter().sum::<f32>()).collect()
}

fn image(format: Format, row: &[f32]) -> Vec<u8> {
    let mut image = vec![0xee; image_bytes(row.len())];
    quantise(format, row, &mut image).unwrap();
    image
}

fn restored(format: Format, row: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; row.len()];
    dequantise(format, &image(format, row), &mut out);
    out
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

const FORMATS: [Format; 2] = [Format::Q8, Format::Q4];

#[test]
fn images_mean_what_the_table_says() {
    let row = bell(1, 200);
    for format in FORMATS {
        let (image, values) = (image(format, &row), restored(format, &row));
        for (i, value) in values.iter().enumerate() {
            let group = &image[i / 64 * 68..][..68];
            let half = |at: usize| f32::from_bits(u32::from(u16::from_le_bytes([group[at], group[at + 1]])) << 16);
            let code = f64::from(group[4 + i % 64]);
            let expected = match format {
                Format::Q8 => f64::from(f32::from_le_bytes(group[..4].try_into().unwrap())) * (code - 128.0),
                Format::Q4 => f64::from(half(2)) * code + f64::from(half(0)),
            };
            assert_eq!(*value, expected as f32, "{format:?} {i}");
        }
        let most = ((1u32 << format.bits()) - 1) as u8;
        assert!(image.chunks(68).all(|g| g[4..].iter().all(|c| *c <= most)));
    }
}

#[test]
fn eight_bits_are_within_half_a_step() {
    for seed in 0..50 {
        for n in [1, 63, 64, 65, 130] {
            let row = bell(seed, n);
            for (x, y) in row.chunks(GROUP).zip(restored(Format::Q8, &row).chunks(GROUP)) {
                let step = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
                assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= step * 0.500_01), "{seed} {n}");
            }
        }
    }
}

/// The codes nearest to a scale and a minimum that span the range.
fn plain_nearest(x: &[f32]) -> Vec<f32> {
    let (low, high) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
    let d = (high - low) / 15.0;
    x.iter().map(|x| ((x - low) / d).round() * d + low).collect()
}

#[test]
fn the_search_beats_plain_rounding() {
    let (mut plain, mut searched) = (0.0, 0.0);
    for seed in 0..200 {
        let row = bell(seed, GROUP);
        let (p, s) = (squared(&row, &plain_nearest(&row)), squared(&row, &restored(Format::Q4, &row)));
        // a scale of 8 bits can cost a little where nothing is to be gained
        assert!(s <= p * 1.02, "{seed}: {s} against {p}");
        (plain, searched) = (plain + p, searched + s);
    }
    assert!(searched < 0.87 * plain, "{}", searched / plain);
}

#[test]
fn zeros_constants_and_denormals() {
    for format in FORMATS {
        assert_eq!(restored(format, &[0.0; 100]), [0.0; 100]);
        assert!(restored(format, &[1e-40, -1e-20, f32::MIN_POSITIVE]).iter().all(|x| *x == 0.0));
        let tail = restored(format, &[0.5; 3]);
        assert!(tail.iter().all(|x| (x - 0.5).abs() <= 0.002), "{format:?} {tail:?}");
        assert!(restored(format, &[0.75; 64]).iter().all(|x| (x - 0.75).abs() < 1e-6), "{format:?}");
        let large = restored(format, &[1e15, -1e15]);
        assert!(large.iter().zip([1e15, -1e15]).all(|(x, w)| (x - w).abs() < 1e14), "{format:?} {large:?}");
    }
}

#[test]
fn an_outlier_costs_its_own_group_alone() {
    for format in FORMATS {
        let row = bell(7, 3 * GROUP);
        let mut with = row.clone();
        with[GROUP + 5] = 100.0;
        let (clean, hurt) = (restored(format, &row), restored(format, &with));
        assert_eq!(clean[..GROUP], hurt[..GROUP]);
        assert_eq!(clean[2 * GROUP..], hurt[2 * GROUP..]);
        assert!((hurt[GROUP + 5] - 100.0).abs() < 1.0, "{format:?} {}", hurt[GROUP + 5]);
    }
}

#[test]
fn what_is_not_a_number_is_refused_with_its_place() {
    for format in FORMATS {
        for (column, bad) in [(0, f32::NAN), (70, f32::INFINITY), (127, f32::NEG_INFINITY), (3, 2e15)] {
            let mut row = bell(3, 128);
            row[column] = bad;
            let error = quantise(format, &row, &mut vec![0; image_bytes(128)]).unwrap_err();
            assert_eq!(error.column, column);
            assert!(error.to_string().starts_with(&format!("column {column}: found ")), "{error}");
        }
        let error = round_trip(format, Mat { rows: 2, cols: 1, data: vec![0.0, f32::NAN] }).unwrap_err();
        assert!(error.starts_with("row 1, column 0: found NaN"), "{error}");
    }
}

#[test]
fn rows_take_the_bytes_of_their_groups() {
    assert_eq!([1, 64, 65].map(|n| Elem::Q8.row_bytes(n)), [68, 68, 136]);
    assert_eq!([1, 64, 65].map(|n| Elem::Q4.row_bytes(n)), [36, 36, 72]);
    assert_eq!((Format::of(Elem::Q4), Format::of(Elem::Bf16)), (Some(Format::Q4), None));
}
