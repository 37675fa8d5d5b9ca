//! Loops, choices, and what they carry.

use crate::{Engine, cases, floats, indices, kernel};
use jet_codegen::kir::{F32, I32, V};

cases! {
    carried_values_swap,
    carried_values_exchange_places,
    a_loop_without_turns_gives_its_initial_values,
    a_step_that_does_not_divide_stops_past_the_bound,
    loops_nest_with_bounds_of_the_outer_one,
    a_choice_gives_the_values_of_its_arm,
    a_guard_skips_its_body,
    shared_operations_stay_in_their_block,
    the_first_of_equal_maxima_wins,
}

fn carried_values_swap(e: &Engine) {
    let y = floats(e, &[1.0, 1.0], 2, |k, x, y| {
        let (a, b) = k.range(0u32, 10, 1, (x.load(1), x.at(1).load(1)), |_, (a, b)| (b, a + b));
        y.store(a);
        y.at(1).store(b);
    });
    assert_eq!(y, [89.0, 144.0]);
}

/// The sum above is in a register of its own and needs no parallel move; a rotation does.
fn carried_values_exchange_places(e: &Engine) {
    let y = floats(e, &[1.0, 2.0, 3.0], 3, |k, x, y| {
        let three: Vec<_> = (0..3u32).map(|i| x.at(i).load(1)).collect();
        let turned = k.range(0u32, 4, 1, three, |_, v| vec![v[2], v[0], v[1]]);
        turned.iter().enumerate().for_each(|(i, v)| y.at(i).store(*v));
    });
    assert_eq!(y, [3.0, 1.0, 2.0]);
}

fn a_loop_without_turns_gives_its_initial_values(e: &Engine) {
    for (lo, hi) in [(5, 5), (6, 5)] {
        let k = kernel(|k| {
            let (x, y) = (k.input::<F32>("x"), k.output::<F32>("y"));
            y.store(k.range(k.count("lo"), k.count("hi"), 1, x.load(1), |_, v| v * 2.0));
        });
        assert_eq!(e.run::<f32, f32>(&[3.0], 1, &[lo, hi], k), [3.0]);
    }
}

fn a_step_that_does_not_divide_stops_past_the_bound(e: &Engine) {
    let y = indices(e, [3, 10], |k, [lo, hi]| {
        let (turns, last) = k.range(lo, hi, 3, (k.index(0), lo), |i, (n, _)| (n + 1u32, i));
        vec![turns, last]
    });
    assert_eq!(y, [3, 9]);
}

fn loops_nest_with_bounds_of_the_outer_one(e: &Engine) {
    // the sum of j * 10 + i over j < n, j <= i < n
    let y = indices(e, [5], |k, [n]| {
        let zero = k.index(0);
        vec![k.range(0u32, n, 1, zero, |j, s| k.range(j, n, 1, s, |i, s| s + j * 10u32 + i))]
    });
    let want: i32 = (0..5).flat_map(|j| (j..5).map(move |i| j * 10 + i)).sum();
    assert_eq!(y, [want]);
}

fn a_choice_gives_the_values_of_its_arm(e: &Engine) {
    let y = floats(e, &[2.0, 7.0], 2, |k, x, y| {
        let (a, b) = (x.load(1), x.at(1).load(1));
        let pick = |p| k.choose(p, || (a * 10.0, b), || (b, a));
        let ((p, q), (r, _)) = (pick(a.lt(b)), pick(b.lt(a)));
        y.store(p + q);
        y.at(1).store(r);
    });
    assert_eq!(y, [27.0, 7.0]);
}

fn a_guard_skips_its_body(e: &Engine) {
    let y = floats(e, &[2.0, 7.0], 2, |k, x, y| {
        let (a, b) = (x.load(1), x.at(1).load(1));
        k.when(a.lt(b), || y.store(a));
        k.when(b.lt(a), || y.at(1).store(a));
    });
    assert_eq!(y, [2.0, 0.0]);
}

/// Equal operations are shared within a block and its inner blocks, never with a block beside it.
fn shared_operations_stay_in_their_block(e: &Engine) {
    let y = floats(e, &[2.0, 7.0], 3, |k, x, y| {
        let (a, b) = (x.load(1), x.at(1).load(1));
        k.when(b.lt(a), || y.store(a * b));
        k.when(a.lt(b), || y.at(1).store(a * b));
        y.at(2).store(a * b);
    });
    assert_eq!(y, [0.0, 14.0, 14.0]);
}

fn the_first_of_equal_maxima_wins(e: &Engine) {
    let x = [3.0, 9.0, -1.0, 9.0, 2.0, 9.0, 0.5, 8.0];
    let k = kernel(|k| {
        let (x, y) = (k.input::<F32>("x"), k.output::<I32>("y"));
        let none = (k.splat(f32::NEG_INFINITY, 1), k.index(0));
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
    assert_eq!(e.run::<f32, i32>(&x, 2, &[], k), [1, 1]);
}
