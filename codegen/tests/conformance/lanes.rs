//! Vectors of all widths, conversions, comparisons and selections.

use crate::{Engine, cases, floats, kernel};
use jet_codegen::kir::{Bf16, F32, I32, Kernel, V, parse};

cases! {
    lanes_keep_their_places,
    widths_that_fill_no_register_work_too,
    bf16_rounds_to_nearest_even_and_is_stored,
    low_halves_of_words_become_bf16,
    bf16_widens_in_order_and_in_pairs,
    pairs_of_bf16_are_multiplied_and_summed,
    bytes_are_multiplied_and_summed_in_fours,
    integers_become_floats,
    nothing_compares_with_nan,
    a_scalar_predicate_chooses_between_vectors,
    the_largest_lane_is_found_anywhere,
}

fn lanes_keep_their_places(e: &Engine) {
    let x: Vec<f32> = (0..16).map(|i| i as f32 - 7.5).collect();
    let want: Vec<f32> = x.iter().map(|v| v.clamp(-3.0, 3.0)).collect();
    let y = floats(e, &x, 21, |_, x, y| {
        let v = x.load(16);
        y.store(v.max(-3.0).min(3.0));
        y.at(20).store(v.lane(2).abs() + v.lane(13).abs());
        let some: Vec<_> = [3, 8, 15, 0].iter().map(|i| v.lane(*i)).collect();
        y.at(16).store(V::pack(&some));
    });
    assert_eq!(y[..16], want);
    assert_eq!(y[16..], [x[3], x[8], x[15], x[0], 11.0]);
}

fn widths_that_fill_no_register_work_too(e: &Engine) {
    for lanes in [1u16, 2, 3, 5, 6, 7, 12] {
        let n = usize::from(lanes);
        let x: Vec<f32> = (0..n).map(|i| i as f32 * 1.5 - 2.0).collect();
        let y = floats(e, &x, 2 * n + 1, |k, x, y| {
            let (v, y) = (x.load(lanes), y.aligned(4));
            let positive = k.splat(0.0, lanes).lt(v);
            y.store(positive.select(v * 2.0, -v));
            y.at(n).store(v.round_bf16().widen());
            y.at(2 * n).store(v.sum_lanes());
        });
        let want: Vec<f32> = x.iter().map(|v| if *v > 0.0 { v * 2.0 } else { -v }).collect();
        assert_eq!(y[..n], want, "{lanes}");
        assert_eq!(y[n..2 * n], x, "{lanes}");
        assert_eq!(y[2 * n], x.iter().sum::<f32>(), "{lanes}");
    }
}

fn bf16_bits(x: f32) -> u16 {
    ((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) >> 16) as u16
}

/// A tie to even in both directions, a carry into the exponent, both signs, and the extremes.
const HARD_TO_ROUND: [f32; 8] =
    [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.999, -0.3, 1e-20, -3e20, 0.0, f32::NEG_INFINITY];

fn bf16_rounds_to_nearest_even_and_is_stored(e: &Engine) {
    let k = kernel(|k| k.output::<Bf16>("y").store(k.input::<F32>("x").load(8).round_bf16()));
    // parameters are declared in the order of the text: `y` first
    let k = Kernel { params: k.params.into_iter().rev().collect(), ..k };
    assert_eq!(e.run::<f32, u16>(&HARD_TO_ROUND, 8, &[], k), HARD_TO_ROUND.map(bf16_bits));
}

/// Targets that round in one instruction get this operation from no builder: it is written down.
fn low_halves_of_words_become_bf16(e: &Engine) {
    let x = [0x1234_5678u32, 0xffff_0001, 0x8000_ffff, 7, 0x00ff_ff00].map(|x| x as i32);
    let text = "kernel case(%0 x: ptr.global, %1 y: ptr.global) items 0 {
  %2: i32x5 = load 0 align 4 %0
  %3: bf16x5 = bf16_bits %2
  store 0 align 2 %3, %1
  %4: i32 = load 0 align 4 %0
  %5: bf16 = bf16_bits %4
  store 10 align 2 %5, %1
}
";
    let (k, _) = parse(text).unwrap_or_else(|e| panic!("{e}"));
    let low = x.map(|x| x as u16);
    assert_eq!(e.run::<i32, u16>(&x, 6, &[], k), [&low[..], &low[..1]].concat());
}

fn bf16_widens_in_order_and_in_pairs(e: &Engine) {
    for lanes in [4u16, 8, 16, 20] {
        let n = usize::from(lanes);
        let x: Vec<u16> = (0..n).map(|i| bf16_bits(i as f32 * if i % 3 == 0 { -1.5 } else { 2.0 })).collect();
        let k = kernel(|k| {
            let (x, y) = (k.input::<Bf16>("x"), k.output::<F32>("y").aligned(4));
            let v = x.load(lanes);
            let (even, odd) = v.widen_pairs();
            y.store(v.widen());
            y.at(n).store(even);
            y.at(n + n / 2).store(odd);
        });
        let y: Vec<f32> = e.run(&x, 2 * n, &[], k);
        let wide: Vec<f32> = x.iter().map(|b| f32::from_bits(u32::from(*b) << 16)).collect();
        assert_eq!(y[..n], wide, "{lanes}");
        assert!(y[n..n + n / 2].iter().eq(wide.iter().step_by(2)), "{lanes}");
        assert!(y[n + n / 2..].iter().eq(wide.iter().skip(1).step_by(2)), "{lanes}");
    }
}

/// Small whole numbers, whose sums of products are exact in any order; each sum has its own.
fn pairs_of_bf16_are_multiplied_and_summed(e: &Engine) {
    for n in [4u16, 8, 16] {
        let lanes = usize::from(n);
        let whole = |i: usize| ((i * 37 + 5) % 31) as f32 - 15.0;
        // the first vector, the second one, and a pair of which every sum gets a copy
        let x: Vec<u16> = (0..4 * lanes + 2).map(|i| bf16_bits(whole(i))).collect();
        let k = kernel(|k| {
            let (x, y) = (k.input::<Bf16>("x"), k.output::<F32>("y"));
            let (a, b) = (x.load(2 * n), x.at(2 * lanes).load(2 * n));
            let start = k.splat(0.5, n);
            y.store(a.dot_pairs(b, start));
            let pair = x.cast::<I32>().at(2 * lanes).load_splat(n).as_bf16_pairs();
            y.at(lanes).store(pair.dot_pairs(b, start));
        });
        let y: Vec<f32> = e.run(&x, 2 * lanes, &[], k);
        let want = |a: [usize; 2], b: usize| 0.5 + whole(a[0]) * whole(b) + whole(a[1]) * whole(b + 1);
        for i in 0..lanes {
            assert_eq!(y[i], want([2 * i, 2 * i + 1], 2 * lanes + 2 * i), "{n} lanes, sum {i}");
            assert_eq!(
                y[lanes + i],
                want([4 * lanes, 4 * lanes + 1], 2 * lanes + 2 * i),
                "{n} lanes, sum {i} of a copy"
            );
        }
    }
}

fn bytes_are_multiplied_and_summed_in_fours(e: &Engine) {
    for lanes in [4usize, 8, 16] {
        // every pair of extremes: 0 and 255 without sign, -128 and 127 with sign
        let words = |seed: u32| (0..lanes as u32).map(move |i| (i + seed).wrapping_mul(0x9e37_79b9) as i32);
        let (mut a, mut b): (Vec<i32>, Vec<i32>) = (words(1).collect(), words(77).collect());
        (a[0], b[0]) = (-1, 0x7f80_7f80);
        (a[1], b[1]) = (0x00ff_00ff, -1);
        (a[2], b[2]) = (0x7f80_8080u32 as i32, 0x7f80_7f80);
        let sums: Vec<i32> = (0..lanes as i32).map(|i| i32::MAX - 40_000 + 1000 * i).collect();
        let k = kernel(|k| {
            let (x, y) = (k.input::<I32>("x"), k.output::<I32>("y"));
            let of = |i: usize| x.at(i * lanes).load(lanes as u16);
            y.store(of(0).dot_bytes(of(1), of(2)));
            y.at(lanes).store(of(0).dot_signed_bytes(of(1), of(2)));
            y.at(2 * lanes).store(of(0).dot_halves(of(1), of(2)));
        });
        let y: Vec<i32> = e.run(&[&sums[..], &a[..], &b[..]].concat(), 3 * lanes, &[], k);
        let want = |first: fn(u8) -> i32| -> Vec<i32> {
            let dot = |a: i32, b: i32| {
                let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
                products.map(|(a, b)| first(a) * i32::from(b as i8)).sum::<i32>()
            };
            (0..lanes).map(|i| sums[i].wrapping_add(dot(a[i], b[i]))).collect()
        };
        assert_eq!(y[..lanes], want(i32::from), "{lanes}");
        assert_eq!(y[lanes..2 * lanes], want(|byte| i32::from(byte as i8)), "{lanes}, both with sign");
        let half = |x: i32, by: u32| i32::from((x >> by) as i16);
        let dot = |i: usize| {
            [0, 16].map(|by| half(a[i], by) * half(b[i], by)).iter().fold(sums[i], |s, p| s.wrapping_add(*p))
        };
        assert_eq!(y[2 * lanes..], (0..lanes).map(dot).collect::<Vec<_>>(), "{lanes}, halves");
    }
}

fn integers_become_floats(e: &Engine) {
    // the last three lie between two floats: ties to even, and beyond a tie
    let x = [0, -1, 255, i32::MIN, i32::MAX, 0x0100_0001, 0x0100_0003, -0x0200_0003];
    let k = kernel(|k| {
        let (x, y) = (k.input::<I32>("x"), k.output::<F32>("y"));
        y.store(x.load(8).to_f32());
        y.at(8).store(x.at(6).load(1).to_f32());
    });
    let y: Vec<f32> = e.run(&x, 9, &[], k);
    assert_eq!(y[..8], x.map(|x| x as f32));
    assert_eq!(y[8], 0x0100_0003 as f32);
}

fn nothing_compares_with_nan(e: &Engine) {
    let y = floats(e, &[f32::NAN, 1.0, 2.0], 5, |k, x, y| {
        let [nan, one, two] = [0, 1, 2u32].map(|i| x.at(i).load(1));
        let (yes, no) = (k.splat(1.0, 1), k.splat(0.0, 1));
        [one.lt(nan), nan.le(nan), nan.equals(nan), one.le(one), one.lt(two).and(two.lt(one))]
            .iter()
            .enumerate()
            .for_each(|(i, p)| y.at(i).store(p.select(yes, no)));
    });
    assert_eq!(y, [0.0, 0.0, 0.0, 1.0, 0.0]);
}

fn a_scalar_predicate_chooses_between_vectors(e: &Engine) {
    let y = floats(e, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 16, |_, x, y| {
        let v = x.load(8);
        y.store(v.lane(0).lt(v.lane(1)).select(v, -v));
        y.at(8).store(v.lane(7).lt(v.lane(1)).select(v, -v));
    });
    assert_eq!(y[..8], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(y[8..], [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]);
}

fn the_largest_lane_is_found_anywhere(e: &Engine) {
    for lanes in [1usize, 3, 4, 7, 8] {
        // row `r` has its largest number, a negative one, at lane `r`
        let x: Vec<f32> =
            (0..lanes * lanes).map(|i| if i / lanes == i % lanes { -0.5 } else { -1.0 - i as f32 }).collect();
        let y = floats(e, &x, lanes, |_, x, y| {
            (0..lanes).for_each(|r| y.at(r).store(x.aligned(4).at(r * lanes).load(lanes as u16).max_lanes()));
        });
        assert_eq!(y, vec![-0.5; lanes]);
    }
}
