//! Each row of the table of scalar operations against its meaning in plain Rust.

use crate::bounds::assert_close;
use crate::{Engine, cases, floats, indices, kernel};
use jet_codegen::kir::{F32, I32, Scalar, V};

cases! {
    subscripts_divide_and_compare,
    every_float_operation_means_what_the_table_says,
    every_integer_operation_means_what_the_table_says,
    shifts_fill_with_zeros,
}

fn subscripts_divide_and_compare(e: &Engine) {
    let y = indices(e, [1000, 48, 7], |k, [p, capacity, w]| {
        vec![
            p % capacity,
            p / capacity,
            p / 16u32,
            p % 16u32,
            p / 1u32,
            p % k.index(1),
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

/// Each row of the table, on vectors and on scalars, against its meaning in plain Rust. The functions with a tolerance of
/// their own are in `math.rs`.
fn every_float_operation_means_what_the_table_says(e: &Engine) {
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
            Scalar::Exp | Scalar::Exp2 | Scalar::Log => continue,
            Scalar::IAdd | Scalar::ISub | Scalar::IMul | Scalar::UDiv | Scalar::URem => continue,
            Scalar::And | Scalar::Or | Scalar::Xor => continue,
        };
        let y = floats(e, &x, 9, |_, x, y| {
            let of = |lanes: u16| ir(x.load(lanes), x.at(8).load(lanes), x.at(16).load(lanes));
            y.store(of(8));
            y.at(8).store(of(1));
        });
        // the scalar is the first lane once more
        let of = |i: usize| [x[i % 8], x[8 + i % 8], x[16 + i % 8]];
        let rounded: Vec<f32> = (0..9).map(of).map(|[a, b, c]| rust(a, b, c)).collect();
        let exact = (0..9).map(|i| (of(i).map(f64::from), f64::from(rounded[i])));
        let exact: Vec<f64> = exact
            .map(|([a, b, _], rounded)| match op {
                Scalar::Div => a / b,
                Scalar::Sqrt => a.abs().sqrt(),
                Scalar::Rcp => 1.0 / a,
                Scalar::Rsqrt => 1.0 / a.abs().sqrt(),
                _ => rounded,
            })
            .collect();
        assert_close(e, *op, &y, &rounded, &exact);
    }
}

fn every_integer_operation_means_what_the_table_says(e: &Engine) {
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
        let y: Vec<i32> = e.run(&x, 9, &[], k);
        let want: Vec<i32> = (0..8).map(|i| rust(x[i], x[8 + i])).collect();
        assert_eq!(y[..8], want, "{op:?}");
        assert_eq!(y[8], want[0], "{op:?}");
    }
}

fn shifts_fill_with_zeros(e: &Engine) {
    let x = [-1, i32::MIN, -77, 0x1234_5678];
    let k = kernel(|k| {
        let (x, y) = (k.input::<I32>("x"), k.output::<I32>("y"));
        y.store(x.load(4).shift_right(5));
        y.at(4).store(x.load(4).shift_left(5));
        y.at(8).store(x.load(1).shift_right(31));
    });
    let want: Vec<i32> = x.iter().map(|x| (*x as u32 >> 5) as i32).chain(x.iter().map(|x| x << 5)).chain([1]).collect();
    assert_eq!(e.run::<i32, i32>(&x, 9, &[], k), want);
}
