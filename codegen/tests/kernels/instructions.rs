//! Products use the dot products of their processor: instructions are found in the code by their encodings. On GPUs, accesses have the
//! hints that they ought to.

use crate::delta::normed;
use crate::harness::packed_for;
use crate::product::{acc, give, input};
use jet_codegen::targets::Target;
use jet_codegen::{Activations, compile, select};
use jet_ir::ops::*;
use jet_ir::{Elem, Graph, group_kernels};
use jetbin::Phase;
use std::collections::BTreeSet;

/// How often an instruction occurs in code.
type Count = fn(&[u8]) -> usize;

/// Products by their weights and activations.
type Products = &'static [(Elem, Activations)];

/// Four-byte instructions that have these bits under one of these masks: the form with a vector, and that with a lane.
fn arm(code: &[u8], forms: [(u32, u32); 2]) -> usize {
    let words = code.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w));
    words.filter(|w| forms.iter().any(|(bits, mask)| w & mask == *bits)).count()
}

const VECTOR: u32 = 0xffe0_fc00;
const LANE: u32 = 0xffc0_f400;

fn sdot(code: &[u8]) -> usize {
    arm(code, [(0x4e80_9400, VECTOR), (0x4f80_e000, LANE)])
}

fn usdot(code: &[u8]) -> usize {
    arm(code, [(0x4e80_9c00, VECTOR), (0x4f80_f000, LANE)])
}

fn bfdot(code: &[u8]) -> usize {
    arm(code, [(0x6e40_fc00, VECTOR), (0x4f40_f000, LANE)])
}

/// VEX, 256 bits, 66, 0F38, W0, 50.
fn vpdpbusd_256(code: &[u8]) -> usize {
    code.windows(4).filter(|b| b[0] == 0xc4 && b[1] & 0x1f == 2 && b[2] & 0x87 == 5 && b[3] == 0x50).count()
}

/// VEX in two or three bytes, 128 bits, 66, 0F, F5.
fn vpmaddwd_128(code: &[u8]) -> usize {
    let long = |b: &[u8]| b[0] == 0xc4 && b[1] & 0x1f == 1 && b[2] & 7 == 1 && b[3] == 0xf5;
    code.windows(4).filter(|b| (b[0] == 0xc5 && b[1] & 7 == 1 && b[2] == 0xf5) || long(b)).count()
}

/// EVEX, 512 bits, 0F38, W0, with prefix 66 (1) or F3 (2) and this opcode.
fn evex(code: &[u8], prefix: u8, opcode: u8) -> usize {
    let is = |b: &[u8]| {
        b[0] == 0x62 && b[1] & 0xf == 2 && b[2] & 0x87 == 4 | prefix && b[3] & 0x60 == 0x40 && b[4] == opcode
    };
    code.windows(5).filter(|b| is(b)).count()
}

fn vpdpbusd_512(code: &[u8]) -> usize {
    evex(code, 1, 0x50)
}

fn vdpbf16ps(code: &[u8]) -> usize {
    evex(code, 2, 0x52)
}

/// The code of a product of 32 rows by 128 columns.
fn code(target: &Target, elem: Elem, activations: Activations) -> Vec<u8> {
    let mut g = Graph::new("product");
    let x = input(&mut g, "x", 128);
    let grid = g.add(Sweep {}, &[x]).unwrap();
    let y = acc(&mut g, grid, "w", 32, elem);
    give(&mut g, "y", y);
    first(&g, target, Phase::Prefill, activations)
}

/// The code of the first kernel of a graph.
fn first(g: &Graph, target: &Target, phase: Phase, activations: Activations) -> Vec<u8> {
    let g = &packed_for(target, g);
    let groups = group_kernels(g).unwrap();
    let built = select(g, &groups[0], target, phase, (activations, &BTreeSet::new()), 64).unwrap();
    compile(&[built.kernel], target).unwrap().bytes
}

#[test]
fn products_use_the_dot_products_of_their_processor() {
    const BYTES: Products = &[(Elem::Q8, Activations::F32), (Elem::Q4, Activations::F32)];
    const PAIRS: Products = &[(Elem::Bf16, Activations::Bf16)];
    let all: [(&str, Products, Option<Count>); 9] = [
        ("neoverse-n1", BYTES, Some(sdot)),
        ("neoverse-v1", BYTES, Some(usdot)),
        ("neoverse-v1", PAIRS, Some(bfdot)),
        ("x86-64-v3", BYTES, Some(vpmaddwd_128)),
        ("x86-64-v3-vnni", BYTES, Some(vpdpbusd_256)),
        ("znver4", BYTES, Some(vpdpbusd_512)),
        ("znver4", PAIRS, Some(vdpbf16ps)),
        ("x86-64-v3-wide", BYTES, None),
        ("neoverse-n1", PAIRS, None),
    ];
    let counts: [Count; 6] = [sdot, usdot, bfdot, vpdpbusd_256, vpdpbusd_512, vdpbf16ps];
    for (name, products, expected) in all {
        let target = Target::named(name).unwrap();
        let arm = target.arch == "aarch64";
        for (elem, activations) in products.iter().filter(|_| target.backend.is_built()) {
            let code = code(target, *elem, *activations);
            match expected {
                // a turn of the largest tile has as many
                Some(count) => assert!(count(&code) >= 12, "{name}, {elem:?}: {}", count(&code)),
                None => {
                    let found =
                        counts.iter().enumerate().filter(|(i, _)| (*i < 3) == arm).map(|(_, count)| count(&code));
                    assert_eq!(found.sum::<usize>(), 0, "{name}, {elem:?}");
                }
            }
        }
    }
}

/// Lines of PTX that start like this.
fn lines<'t>(text: &'t str, start: &str) -> Vec<&'t str> {
    text.lines().map(str::trim_start).filter(|l| l.starts_with(start)).collect()
}

#[test]
fn weights_and_new_states_go_past_the_caches() {
    for target in ["sm_80", "sm_90a"].map(|name| Target::named(name).unwrap()) {
        let text = String::from_utf8(code(target, Elem::Bf16, Activations::F32)).unwrap();
        let loads = lines(&text, "ld.global.nc");
        assert!(loads.len() >= 2 && loads.iter().all(|l| l.contains(".L1::no_allocate.v4")), "{loads:?}");
        let step = first(&normed(2, 96, 256), target, Phase::Decode, Activations::F32);
        let text = String::from_utf8(step).unwrap();
        let (all, hinted) = (lines(&text, "st.global"), lines(&text, "st.global.cs.v4.f32"));
        // a column of the output for a thread, and its rows of the state
        assert_eq!((all.len(), hinted.len()), (hinted.len() + 1, 96 / 4), "{all:?}");
    }
}
