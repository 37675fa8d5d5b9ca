//! Small kernels that pin what each operation means, on compiled code, against plain Rust.

mod loader;

use jet_codegen::kir::{Bf16, Builder, F32, I32, Index, Kernel, Ptr, Scalar, V};
use jet_codegen::targets;
use loader::{Buffer, Code};
use std::fmt::Debug;

fn kernel(body: impl for<'k> FnOnce(&'k Builder)) -> Kernel {
    Builder::build("case", targets::host().unwrap(), body)
}

/// Runs a kernel with parameters `x`, `y` and then `counts`, on every engine; the `n` elements of `y` that all of them give
/// come back.
fn run<T: Copy, U: Copy + Default + Debug>(x: &[T], n: usize, counts: &[u64], kernel: Kernel) -> Vec<U> {
    let mut first = None;
    for (target, code) in Code::of_every_target(&[kernel]) {
        let (mut px, mut py) = (Buffer::new(x), Buffer::new(&vec![U::default(); n]));
        let words = [&[px.word(), py.word()], counts].concat();
        // SAFETY: each test's kernel stays within `x` and the `n` elements of `y`.
        unsafe { code.call("case", &words) };
        let y = py.get().to_vec();
        let expected = first.get_or_insert_with(|| y.clone());
        assert_eq!(format!("{expected:?}"), format!("{y:?}"), "{}", target.name);
    }
    first.expect("at least one target runs here")
}

/// f32 in, f32 out.
fn floats(x: &[f32], n: usize, body: impl for<'k> FnOnce(&'k Builder, Ptr<'k, F32>, Ptr<'k, F32>)) -> Vec<f32> {
    run(x, n, &[], kernel(|k| body(k, k.input("x"), k.output("y"))))
}

/// Counts in, the low 32 bits of subscripts out.
fn indices<const N: usize>(
    counts: [u64; N],
    body: impl for<'k> FnOnce(&'k Builder, [V<'k, Index>; N]) -> Vec<V<'k, Index>>,
) -> Vec<i32> {
    let mut results = 0;
    let k = kernel(|k| {
        let (_, y) = (k.input::<F32>("x"), k.output::<I32>("y"));
        let out = body(k, std::array::from_fn(|i| k.count(&format!("n{i}"))));
        results = out.len();
        out.iter().enumerate().for_each(|(i, v)| y.at(i).store(v.to_i32()));
    });
    run(&[0f32], results, &counts, k)
}

#[test]
fn carried_values_swap() {
    let y = floats(&[1.0, 1.0], 2, |k, x, y| {
        let (a, b) = k.range(0u32, 10, 1, (x.load(1), x.at(1).load(1)), |_, (a, b)| (b, a + b));
        y.store(a);
        y.at(1).store(b);
    });
    assert_eq!(y, [89.0, 144.0]);
}

/// The sum above is in a register of its own and needs no parallel move; a rotation does.
#[test]
fn carried_values_exchange_places() {
    let y = floats(&[1.0, 2.0, 3.0], 3, |k, x, y| {
        let three: Vec<_> = (0..3u32).map(|i| x.at(i).load(1)).collect();
        let turned = k.range(0u32, 4, 1, three, |_, v| vec![v[2], v[0], v[1]]);
        turned.iter().enumerate().for_each(|(i, v)| y.at(i).store(*v));
    });
    assert_eq!(y, [3.0, 1.0, 2.0]);
}

#[test]
fn a_loop_without_turns_gives_its_initial_values() {
    for (lo, hi) in [(5, 5), (6, 5)] {
        let k = kernel(|k| {
            let (x, y) = (k.input::<F32>("x"), k.output::<F32>("y"));
            y.store(k.range(k.count("lo"), k.count("hi"), 1, x.load(1), |_, v| v * 2.0));
        });
        assert_eq!(run::<f32, f32>(&[3.0], 1, &[lo, hi], k), [3.0]);
    }
}

#[test]
fn a_step_that_does_not_divide_stops_past_the_bound() {
    let y = indices([3, 10], |k, [lo, hi]| {
        let (turns, last) = k.range(lo, hi, 3, (0u32.into_index(k), lo), |i, (n, _)| (n + 1u32, i));
        vec![turns, last]
    });
    assert_eq!(y, [3, 9]);
}

#[test]
fn loops_nest_with_bounds_of_the_outer_one() {
    // the sum of j * 10 + i over j < n, j <= i < n
    let y = indices([5], |k, [n]| {
        let zero = 0u32.into_index(k);
        vec![k.range(0u32, n, 1, zero, |j, s| k.range(j, n, 1, s, |i, s| s + j * 10u32 + i))]
    });
    let want: i32 = (0..5).flat_map(|j| (j..5).map(move |i| j * 10 + i)).sum();
    assert_eq!(y, [want]);
}

#[test]
fn a_choice_gives_the_values_of_its_arm() {
    let y = floats(&[2.0, 7.0], 2, |k, x, y| {
        let (a, b) = (x.load(1), x.at(1).load(1));
        let pick = |p| k.choose(p, || (a * 10.0, b), || (b, a));
        let ((p, q), (r, _)) = (pick(a.lt(b)), pick(b.lt(a)));
        y.store(p + q);
        y.at(1).store(r);
    });
    assert_eq!(y, [27.0, 7.0]);
}

#[test]
fn a_guard_skips_its_body() {
    let y = floats(&[2.0, 7.0], 2, |k, x, y| {
        let (a, b) = (x.load(1), x.at(1).load(1));
        k.when(a.lt(b), || y.store(a));
        k.when(b.lt(a), || y.at(1).store(a));
    });
    assert_eq!(y, [2.0, 0.0]);
}

/// Equal operations are shared within a block and its inner blocks, never with a block beside it.
#[test]
fn shared_operations_stay_in_their_block() {
    let y = floats(&[2.0, 7.0], 3, |k, x, y| {
        let (a, b) = (x.load(1), x.at(1).load(1));
        k.when(b.lt(a), || y.store(a * b));
        k.when(a.lt(b), || y.at(1).store(a * b));
        y.at(2).store(a * b);
    });
    assert_eq!(y, [0.0, 14.0, 14.0]);
}

#[test]
fn a_load_after_a_store_sees_it() {
    let y = floats(&[2.0], 2, |k, x, y| {
        y.store(x.load(1));
        let before = y.load(1);
        y.store(before * 3.0);
        y.at(1).store(before + y.load(1));
        let _ = k;
    });
    assert_eq!(y, [6.0, 8.0]);
}

#[test]
fn lanes_keep_their_places() {
    let x: Vec<f32> = (0..16).map(|i| i as f32 - 7.5).collect();
    let want: Vec<f32> = x.iter().map(|v| v.clamp(-3.0, 3.0)).collect();
    let y = floats(&x, 21, |_, x, y| {
        let v = x.load(16);
        y.store(v.max(-3.0).min(3.0));
        y.at(20).store(v.lane(2).abs() + v.lane(13).abs());
        let some: Vec<_> = [3, 8, 15, 0].iter().map(|i| v.lane(*i)).collect();
        y.at(16).store(V::pack(&some));
    });
    assert_eq!(y[..16], want);
    assert_eq!(y[16..], [x[3], x[8], x[15], x[0], 11.0]);
}

#[test]
fn widths_that_fill_no_register_work_too() {
    for lanes in [1u16, 2, 3, 5, 6, 7, 12] {
        let n = usize::from(lanes);
        let x: Vec<f32> = (0..n).map(|i| i as f32 * 1.5 - 2.0).collect();
        let y = floats(&x, 2 * n + 1, |k, x, y| {
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

#[test]
fn a_part_of_a_vector_is_stored() {
    let y = floats(&[1.0, 2.0, 3.0, 4.0], 5, |_, x, y| y.at(1).store_first(x.load(4) * 2.0, 3));
    assert_eq!(y, [0.0, 2.0, 4.0, 6.0, 0.0]);
}

fn bf16_bits(x: f32) -> u16 {
    ((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) >> 16) as u16
}

/// A tie to even in both directions, a carry into the exponent, both signs, and the extremes.
const HARD_TO_ROUND: [f32; 8] =
    [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.999, -0.3, 1e-20, -3e20, 0.0, f32::NEG_INFINITY];

#[test]
fn bf16_rounds_to_nearest_even_and_is_stored() {
    let k = kernel(|k| k.output::<Bf16>("y").store(k.input::<F32>("x").load(8).round_bf16()));
    // parameters are declared in the order of the text: `y` first
    let k = Kernel { params: k.params.into_iter().rev().collect(), ..k };
    assert_eq!(run::<f32, u16>(&HARD_TO_ROUND, 8, &[], k), HARD_TO_ROUND.map(bf16_bits));
}

#[test]
fn bf16_widens_in_order_and_in_pairs() {
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
        let y: Vec<f32> = run(&x, 2 * n, &[], k);
        let wide: Vec<f32> = x.iter().map(|b| f32::from_bits(u32::from(*b) << 16)).collect();
        assert_eq!(y[..n], wide, "{lanes}");
        assert!(y[n..n + n / 2].iter().eq(wide.iter().step_by(2)), "{lanes}");
        assert!(y[n + n / 2..].iter().eq(wide.iter().skip(1).step_by(2)), "{lanes}");
    }
}

#[test]
fn subscripts_divide_and_compare() {
    let y = indices([1000, 48, 7], |k, [p, capacity, w]| {
        let _ = k;
        vec![
            p % capacity,
            p / capacity,
            p / 16u32,
            p % 16u32,
            p / 1u32,
            p % 1u32,
            w.imin(p),
            w.imax(p),
            p - 1u32,
            p - w,
            p * capacity + w,
            p.shift_left(2),
            p.shift_right(3),
            p.and(24),
            p.or(7),
            p.xor(p),
        ]
    });
    assert_eq!(y, [40, 20, 62, 8, 1000, 0, 7, 1000, 999, 993, 48007, 4000, 125, 1000 & 24, 1000 | 7, 0]);
}

#[test]
fn subscripts_come_from_memory_with_their_sign() {
    let k = kernel(|k| {
        let (ids, y) = (k.input::<I32>("x"), k.output::<I32>("y"));
        let value = |i: u32| ids.at(ids.at(i).load(1).to_index()).load(1);
        y.store(value(0));
        y.at(1).store(ids.at(3).at(ids.at(2).load(1).to_index()).load(1));
    });
    assert_eq!(run::<i32, i32>(&[3, 0, -2, 77], 2, &[], k), [77, 0]);
}

#[test]
fn addresses_fold_constants_and_take_strides() {
    let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let k = kernel(|k| {
        let (x, y, i, stride) = (k.input::<F32>("x"), k.output::<F32>("y"), k.count("i"), k.count("stride"));
        let elems = [
            x.at(i + 3u32).at(2).at(i * 2u32),
            x.at(i).at(5u32).at(-4i32),
            x.byte_offset(i * stride).at(1),
            x.at(3u32.into_index(k) - 1u32),
            // too far for an offset of 32 bits: there and back
            x.at(i + 0x4000_0000u32).at(i - 0x4000_0000u32),
        ];
        elems.iter().enumerate().for_each(|(n, e)| y.at(n).store(e.load(1)));
    });
    let y: Vec<f32> = run(&x, 5, &[4, 40], k);
    assert_eq!(y, [17.0, 5.0, 41.0, 2.0, 8.0]);
}

#[test]
fn carried_pointers_keep_their_constant_part() {
    let x: Vec<f32> = (0..32).map(|i| i as f32).collect();
    let y = floats(&x, 2, |k, x, y| {
        let (sum, end) = k.range(0u32, 5, 1, (k.splat(0.0, 1), x.at(1)), |_, (s, p)| (s + p.load(1), p.at(3)));
        y.store(sum);
        y.at(1).store(end.load(1));
    });
    assert_eq!(y, [(1 + 4 + 7 + 10 + 13) as f32, 16.0]);
}

#[test]
fn the_first_of_equal_maxima_wins() {
    let x = [3.0, 9.0, -1.0, 9.0, 2.0, 9.0, 0.5, 8.0];
    let k = kernel(|k| {
        let (x, y) = (k.input::<F32>("x"), k.output::<I32>("y"));
        let none = (k.splat(f32::NEG_INFINITY, 1), 0u32.into_index(k));
        let (_, at) = k.range(0u32, 8, 1, none, |i, (best, at)| {
            let v = x.at(i).load(1);
            let better = best.lt(v);
            (better.select(v, best), better.select(i, at))
        });
        y.store(at.to_i32());
        // the same by lanes, which are joined in order
        let start = (k.splat(f32::NEG_INFINITY, 4), k.splat::<I32>(0, 4));
        let lane = V::pack(&[0, 1, 2, 3].map(|i| k.splat::<I32>(i, 1)));
        let (best, at) = k.range(0u32, 8, 4, start, |i, (best, at)| {
            let v = x.at(i).load(4);
            let better = best.lt(v);
            (better.select(v, best), better.select(lane.iadd(i.to_i32()), at))
        });
        let (_, at) = (1..4).fold((best.lane(0), at.lane(0)), |(v, i), l| {
            let (w, j) = (best.lane(l), at.lane(l));
            let better = v.lt(w).or(v.equals(w).and(j.lt(i)));
            (better.select(w, v), better.select(j, i))
        });
        y.at(1).store(at);
    });
    assert_eq!(run::<f32, i32>(&x, 2, &[], k), [1, 1]);
}

#[test]
fn nothing_compares_with_nan() {
    let y = floats(&[f32::NAN, 1.0, 2.0], 5, |k, x, y| {
        let [nan, one, two] = [0, 1, 2u32].map(|i| x.at(i).load(1));
        let (yes, no) = (k.splat(1.0, 1), k.splat(0.0, 1));
        [one.lt(nan), nan.le(nan), nan.equals(nan), one.le(one), one.lt(two).and(two.lt(one))]
            .iter()
            .enumerate()
            .for_each(|(i, p)| y.at(i).store(p.select(yes, no)));
    });
    assert_eq!(y, [0.0, 0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn a_scalar_predicate_chooses_between_vectors() {
    let y = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 16, |_, x, y| {
        let v = x.load(8);
        y.store(v.lane(0).lt(v.lane(1)).select(v, -v));
        y.at(8).store(v.lane(7).lt(v.lane(1)).select(v, -v));
    });
    assert_eq!(y[..8], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(y[8..], [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]);
}

/// A subscript from a literal.
trait IntoIndex {
    fn into_index(self, k: &Builder) -> V<'_, Index>;
}

impl IntoIndex for u32 {
    fn into_index(self, k: &Builder) -> V<'_, Index> {
        k.splat(self, 1)
    }
}

/// Each row of the table, on vectors and on scalars, against its meaning in plain Rust. The functions with a tolerance of
/// their own are in `tests/math.rs`.
#[test]
fn every_float_operation_means_what_the_table_says() {
    let x: Vec<f32> = (0..24).map(|i| ((i * 37 + 11) % 29) as f32 * 0.37 - 3.3).collect();
    for op in Scalar::ALL {
        type Rust = fn(f32, f32, f32) -> f32;
        type Ir = for<'k> fn(V<'k, F32>, V<'k, F32>, V<'k, F32>) -> V<'k, F32>;
        let (ir, rust): (Ir, Rust) = match op {
            Scalar::Add => (|a, b, _| a.add(b), |a, b, _| a + b),
            Scalar::Sub => (|a, b, _| a.sub(b), |a, b, _| a - b),
            Scalar::Mul => (|a, b, _| a.mul(b), |a, b, _| a * b),
            Scalar::Div => (|a, b, _| a.div(b), |a, b, _| a / b),
            Scalar::Min => (|a, b, _| a.min(b), |a, b, _| if a < b { a } else { b }),
            Scalar::Max => (|a, b, _| a.max(b), |a, b, _| if b < a { a } else { b }),
            Scalar::Neg => (|a, _, _| a.neg(), |a, _, _| -a),
            Scalar::Abs => (|a, _, _| a.abs(), |a, _, _| a.abs()),
            Scalar::Fma => (|a, b, c| a.fma(b, c), |a, b, c| a.mul_add(b, c)),
            Scalar::Sqrt => (|a, _, _| a.abs().sqrt(), |a, _, _| a.abs().sqrt()),
            Scalar::Rcp => (|a, _, _| a.rcp(), |a, _, _| 1.0 / a),
            Scalar::Rsqrt => (|a, _, _| a.abs().rsqrt(), |a, _, _| 1.0 / a.abs().sqrt()),
            Scalar::Exp | Scalar::Log => continue,
            Scalar::IAdd | Scalar::ISub | Scalar::IMul | Scalar::UDiv | Scalar::URem => continue,
            Scalar::And | Scalar::Or | Scalar::Xor => continue,
        };
        let y = floats(&x, 9, |_, x, y| {
            let of = |lanes: u16| ir(x.load(lanes), x.at(8).load(lanes), x.at(16).load(lanes));
            y.store(of(8));
            y.at(8).store(of(1));
        });
        let want: Vec<f32> = (0..8).map(|i| rust(x[i], x[8 + i], x[16 + i])).collect();
        assert_eq!(y[..8], want, "{op:?}");
        assert_eq!(y[8], want[0], "{op:?}");
    }
}

#[test]
fn every_integer_operation_means_what_the_table_says() {
    let x: Vec<i32> = (0..16).map(|i: i32| (i - 5).wrapping_mul(0x1234_5677)).collect();
    for op in Scalar::ALL {
        type Ir = for<'k> fn(V<'k, I32>, V<'k, I32>) -> V<'k, I32>;
        let (ir, rust): (Ir, fn(i32, i32) -> i32) = match op {
            Scalar::IAdd => (|a, b| a.iadd(b), i32::wrapping_add),
            Scalar::ISub => (|a, b| a.isub(b), i32::wrapping_sub),
            Scalar::IMul => (|a, b| a.imul(b), i32::wrapping_mul),
            Scalar::And => (|a, b| a.and(b), |a, b| a & b),
            Scalar::Or => (|a, b| a.or(b), |a, b| a | b),
            Scalar::Xor => (|a, b| a.xor(b), |a, b| a ^ b),
            _ => continue,
        };
        let k = kernel(|k| {
            let (x, y) = (k.input::<I32>("x"), k.output::<I32>("y"));
            let of = |lanes: u16| ir(x.load(lanes), x.at(8).load(lanes));
            y.store(of(8));
            y.at(8).store(of(1));
        });
        let y: Vec<i32> = run(&x, 9, &[], k);
        let want: Vec<i32> = (0..8).map(|i| rust(x[i], x[8 + i])).collect();
        assert_eq!(y[..8], want, "{op:?}");
        assert_eq!(y[8], want[0], "{op:?}");
    }
}
