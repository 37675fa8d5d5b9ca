//! Attention over caches that wrap around, with and without a window.

use crate::harness::{Case, compile};
use crate::product::{input, state};
use crate::tolerance::ATTENTION;
use jet_ir::ops::*;
use jet_ir::{Graph, OutputKind, Rows};
use jetbin::Phase;

fn graph(kv_heads: usize, group: usize, head_dim: usize, window: usize) -> Graph {
    graph_in(kv_heads, group, head_dim, window, None)
}

/// With as many parts, and blocks of so many keys.
fn graph_in(kv_heads: usize, group: usize, head_dim: usize, window: usize, split: Option<(usize, usize)>) -> Graph {
    let mut g = Graph::new("attention");
    let cols = kv_heads * head_dim;
    let [k, v] = ["k", "v"].map(|n| input(&mut g, n, cols));
    let q = input(&mut g, "q", cols * group);
    let caches = [("keys", k), ("values", v)].map(|(name, rows)| {
        let cache = state(&mut g, name, Rows::Context, cols);
        let appended = g.add(KvAppend {}, &[cache, rows]).unwrap();
        g.output(OutputKind::Update, name, appended);
        appended
    });
    let a = match split {
        None => g.add(Attention { head_dim, window }, &[q, caches[0], caches[1]]).unwrap(),
        Some((parts, block)) => {
            let op = AttentionParts { head_dim, window, parts, block };
            let of_parts = g.add(op, &[q, caches[0], caches[1]]).unwrap();
            g.add(AttentionMerge { head_dim, parts }, &[of_parts]).unwrap()
        }
    };
    let o = g.add(Get0 {}, &[a]).unwrap();
    g.output(OutputKind::Return, "o", o);
    g
}

/// Decode in parts: contexts of less than a block, that end in the middle of one, and that go round several times; windows that start
/// inside of a block, in rings that wrap around there.
#[test]
fn in_parts() {
    for (group, head_dim, window, split) in
        [(1, 2, 0, (2, 8)), (3, 20, 0, (4, 32)), (2, 8, 40, (2, 8)), (6, 128, 0, (32, 128)), (2, 12, 70, (4, 16))]
    {
        let g = graph_in(2, group, head_dim, window, Some(split));
        let case = Case {
            graph: &g,
            phase: Phase::Decode,
            past: vec![0, 7, 8, 31, 69, 150, 199],
            slots: vec![3, 0, 5, 2, 6, 1, 4],
            tokens: 1,
            capacity: if window == 0 { 200 } else { window },
            rounded: false,
            tolerance: ATTENTION,
            tolerance_of_bytes: ATTENTION,
        };
        case.check(&compile(&g, Phase::Decode));
    }
}

#[test]
fn over_everything() {
    for (kv_heads, group, head_dim) in [(1, 1, 2), (2, 3, 6), (1, 2, 20), (2, 1, 64)] {
        let g = graph(kv_heads, group, head_dim, 0);
        let (prefill, decode) = (compile(&g, Phase::Prefill), compile(&g, Phase::Decode));
        let case = |phase, past: Vec<usize>, tokens| {
            let slots = (0..past.len()).rev().collect();
            Case {
                graph: &g,
                phase,
                past,
                slots,
                tokens,
                capacity: 200,
                rounded: false,
                tolerance: ATTENTION,
                tolerance_of_bytes: ATTENTION,
            }
        };
        case(Phase::Decode, vec![0, 1, 5, 31, 32, 33, 100, 199], 1).check(&decode);
        for (past, tokens) in [(0, 1), (0, 2), (3, 5), (0, 64), (70, 130), (31, 33)] {
            case(Phase::Prefill, vec![past], tokens).check(&prefill);
        }
    }
}

#[test]
fn over_a_window_in_a_ring() {
    for window in [1, 5, 16, 64] {
        let g = graph(2, 2, 8, window);
        let (prefill, decode) = (compile(&g, Phase::Prefill), compile(&g, Phase::Decode));
        for (past, tokens) in [(0, 1), (0, 3), (0, 40), (63, 2), (100, 40), (77, 1), (250, 33)] {
            // as small as a chunk allows, so that the ring wraps around
            let capacity = window + tokens - 1;
            let case = |phase, past, slots, tokens| Case {
                graph: &g,
                phase,
                past,
                slots,
                tokens,
                capacity,
                rounded: false,
                tolerance: ATTENTION,
                tolerance_of_bytes: ATTENTION,
            };
            case(Phase::Prefill, vec![past], vec![1], tokens).check(&prefill);
            case(Phase::Decode, vec![past, past + 3, past * 2, 0], vec![3, 0, 5, 2], 1).check(&decode);
        }
    }
}

/// Contexts of one split, of a few, of as many as there are, and of several for each CTA; more query heads than a tile has rows.
#[test]
fn split_over_the_context() {
    let shapes: [(_, _, _, _, &[usize]); 4] = [
        (2, 6, 128, 0, &[0, 255, 256, 700, 1500]),
        (1, 20, 16, 0, &[40, 600, 257, 1023, 3, 512, 300, 90, 800]),
        (2, 3, 24, 300, &[1000, 299, 250, 650]),
        (40, 1, 8, 0, &[1100, 5]),
    ];
    for (kv_heads, group, head_dim, window, past) in shapes {
        let g = graph(kv_heads, group, head_dim, window);
        let case = Case {
            graph: &g,
            phase: Phase::Decode,
            past: past.to_vec(),
            slots: (0..past.len()).rev().collect(),
            tokens: 1,
            capacity: if window == 0 { 1600 } else { window + 15 },
            rounded: false,
            tolerance: ATTENTION,
            tolerance_of_bytes: ATTENTION,
        };
        case.check(&compile(&g, Phase::Decode));
    }
}

/// The heads of the 2B and the 4B model; caches in the middle of a ring, and blocks that every row of a tile sees.
#[test]
fn heads_of_the_models() {
    for (group, window, past, tokens) in [(6, 0, 0, 130), (6, 0, 150, 75), (6, 1152, 1300, 33), (8, 2048, 100, 66)] {
        let g = graph(2, group, 128, window);
        let case = Case {
            graph: &g,
            phase: Phase::Prefill,
            past: vec![past],
            slots: vec![1],
            tokens,
            capacity: if window == 0 { 300 } else { window + tokens - 1 },
            rounded: false,
            tolerance: ATTENTION,
            tolerance_of_bytes: ATTENTION,
        };
        case.check(&compile(&g, Phase::Prefill));
    }
}
