//! Addresses, loads and stores.

use crate::{Engine, cases, floats, kernel};
use jet_codegen::kir::{F32, I32, Operand};

cases! {
    a_load_after_a_store_sees_it,
    subscripts_come_from_memory_with_their_sign,
    addresses_fold_constants_and_take_strides,
    carried_pointers_keep_their_constant_part,
    hints_touch_nothing_wherever_they_point,
}

fn hints_touch_nothing_wherever_they_point(e: &Engine) {
    let y = floats(e, &[2.0], 1, |k, x, y| {
        for at in [0u32.on(k), 1000u32.on(k), k.index(0) - 0x4000_0000u32] {
            x.at(at).prefetch(1);
            y.at(at).prefetch(2);
        }
        y.store(x.load(1));
    });
    assert_eq!(y, [2.0]);
}

fn a_load_after_a_store_sees_it(e: &Engine) {
    let y = floats(e, &[2.0], 2, |_, x, y| {
        y.store(x.load(1));
        let before = y.load(1);
        y.store(before * 3.0);
        y.at(1).store(before + y.load(1));
    });
    assert_eq!(y, [6.0, 8.0]);
}

fn subscripts_come_from_memory_with_their_sign(e: &Engine) {
    let k = kernel(|k| {
        let (ids, y) = (k.input::<I32>("x"), k.output::<I32>("y"));
        let value = |i: u32| ids.at(ids.at(i).load(1).to_index()).load(1);
        y.store(value(0));
        y.at(1).store(ids.at(3).at(ids.at(2).load(1).to_index()).load(1));
    });
    assert_eq!(e.run::<i32, i32>(&[3, 0, -2, 77], 2, &[], k), [77, 0]);
}

fn addresses_fold_constants_and_take_strides(e: &Engine) {
    let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let k = kernel(|k| {
        let (x, y, i, stride) = (k.input::<F32>("x"), k.output::<F32>("y"), k.count("i"), k.count("stride"));
        let elems = [
            x.at(i + 3u32).at(2).at(i * 2u32),
            x.at(i).at(5u32).at(-4i32),
            x.byte_offset(i * stride).at(1),
            x.at(k.index(3) - 1u32),
            // too far for an offset of 32 bits: there and back
            x.at(i + 0x4000_0000u32).at(i - 0x4000_0000u32),
        ];
        elems.iter().enumerate().for_each(|(n, e)| y.at(n).store(e.load(1)));
    });
    let y: Vec<f32> = e.run(&x, 5, &[4, 40], k);
    assert_eq!(y, [17.0, 5.0, 41.0, 2.0, 8.0]);
}

fn carried_pointers_keep_their_constant_part(e: &Engine) {
    let x: Vec<f32> = (0..32).map(|i| i as f32).collect();
    let y = floats(e, &x, 2, |k, x, y| {
        let (sum, end) = k.range(0u32, 5, 1, (k.splat(0.0, 1), x.at(1)), |_, (s, p)| (s + p.load(1), p.at(3)));
        y.store(sum);
        y.at(1).store(end.load(1));
    });
    assert_eq!(y, [(1 + 4 + 7 + 10 + 13) as f32, 16.0]);
}
