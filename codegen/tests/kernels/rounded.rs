//! Rows of products in bf16 in memory: rounded by their producer, behind a norm or not.

use crate::harness::{Case, compile_for_gpus};
use crate::product::{acc, give, input, vector};
use crate::tolerance::BF16_OPERANDS;
use jet_ir::ops::*;
use jet_ir::{Elem, Graph, Id};
use jetbin::Phase;

/// A gated product and one that reads it, with its rows rounded in memory or not.
fn chain(k: usize, n: usize, rounded: bool) -> Graph {
    let mut g = Graph::new("chain");
    let x = input(&mut g, "x", k);
    let grid = g.add(Sweep {}, &[x]).unwrap();
    let (gate, up) = (acc(&mut g, grid, "gate", n, Elem::Bf16), acc(&mut g, grid, "up", n, Elem::Bf16));
    let gate = g.add(Silu {}, &[gate]).unwrap();
    let mut h = g.add(Mul {}, &[gate, up]).unwrap();
    if rounded {
        h = g.add(RoundBf16 {}, &[h]).unwrap();
    }
    let h = g.add(Store {}, &[h]).unwrap();
    let grid = g.add(Sweep {}, &[h]).unwrap();
    let y = acc(&mut g, grid, "down", 24, Elem::Bf16);
    give(&mut g, "y", y);
    g
}

fn case(graph: &Graph, phase: Phase, rows: usize) -> Case<'_> {
    Case {
        graph,
        phase,
        past: vec![0; rows],
        slots: (0..rows).collect(),
        tokens: rows,
        capacity: 1,
        rounded: true,
        tolerance: BF16_OPERANDS,
        tolerance_of_bytes: BF16_OPERANDS,
    }
}

#[test]
fn rounding_by_the_producer_changes_no_bit() {
    for (k, n) in [(20, 8), (24, 40), (32, 128), (32, 200), (16, 264), (8, 96), (8, 320)] {
        let (plain, rounded) = (chain(k, n, false), chain(k, n, true));
        for phase in [Phase::Prefill, Phase::Decode] {
            let (of_plain, of_rounded) = (compile_for_gpus(&plain, phase), compile_for_gpus(&rounded, phase));
            for rows in [1, 5, 33, 130] {
                let case = case(&rounded, phase, rows);
                case.same_as(&of_rounded, (&plain, &of_plain));
                case.check(&of_rounded);
            }
        }
    }
}

/// A product of rows of `k` columns, which lie in tiles, with `n` columns.
fn of_tiles(k: usize, n: usize) -> Graph {
    let mut g = Graph::new("wide");
    let x = input(&mut g, "x", 8);
    let grid = g.add(Sweep {}, &[x]).unwrap();
    let h = acc(&mut g, grid, "up", k, Elem::Bf16);
    let h = g.add(RoundBf16 {}, &[h]).unwrap();
    let h = g.add(Store {}, &[h]).unwrap();
    let grid = g.add(Sweep {}, &[h]).unwrap();
    let y = acc(&mut g, grid, "down", n, Elem::Bf16);
    give(&mut g, "y", y);
    g
}

/// Columns for which large tiles are the fastest, on an H100 in clusters.
#[test]
fn large_tiles_agree_with_the_reference() {
    let g = of_tiles(96, 128 * 132);
    let compiled = compile_for_gpus(&g, Phase::Prefill);
    assert_eq!(compiled.rows_of_last(), [("sm_80", 128), ("sm_90a", 256)]);
    case(&g, Phase::Prefill, 130).check(&compiled);
}

/// CTAs of a cluster read rows once for all of them; the last cluster may have more CTAs than are left of the columns.
#[test]
fn clusters_share_what_they_read_of_rows() {
    let (k, rows) = (96, 300);
    for (n, columns, ctas, cluster) in [(24, 64, 2, 2), (200, 64, 4, 2), (128 * 33, 64, 66, 2), (17920, 192, 96, 4)] {
        let g = of_tiles(k, n);
        let (compiled, case) = (compile_for_gpus(&g, Phase::Prefill), case(&g, Phase::Prefill, rows));
        let kernel = compiled.last_on("sm_90a");
        assert_eq!((kernel.items.fixed, kernel.cluster), (ctas, cluster), "{n} columns");
        let tile = u64::from(kernel.launch.expect("launch data").rows);
        let of_cta = 2 * k as u64 * (columns + tile / u64::from(cluster));
        let read = case.counted_on(&compiled, "sm_90a").global_bytes_read;
        assert_eq!(read, u64::from(ctas) * (rows as u64).div_ceil(tile) * of_cta, "{n} columns");
        if n <= 200 {
            case.check(&compiled);
        }
    }
}

/// A residual whose producer leaves what a norm and the products behind it need.
fn normed(k: usize, n: usize, width: usize) -> Graph {
    let mut g = Graph::new("normed");
    let (x, residual) = (input(&mut g, "x", k), input(&mut g, "residual", n));
    let grid = g.add(Sweep {}, &[x]).unwrap();
    let down = acc(&mut g, grid, "down", n, Elem::Bf16);
    let hidden = g.add(Add {}, &[down, residual]).unwrap();
    give(&mut g, "hidden", hidden);
    let grid = scaled(&mut g, hidden, "gain", width);
    for (name, columns) in [("q", 24), ("k", 8), ("v", 40)] {
        let y = acc(&mut g, grid, name, columns, Elem::Bf16);
        let y = g.add(Silu {}, &[y]).unwrap();
        give(&mut g, name, y);
    }
    g
}

fn scaled(g: &mut Graph, hidden: Id, gain: &str, width: usize) -> Id {
    let gain = vector(g, gain, g.ty(hidden).cols());
    let x = g.add(ScaleCols {}, &[hidden, gain]).unwrap();
    let x = g.add(RoundBf16 {}, &[x]).unwrap();
    let x = g.add(Store {}, &[x]).unwrap();
    let squares = g.add(StoreSquares { width }, &[hidden]).unwrap();
    g.add(SweepScaled { eps: 1e-6.into() }, &[x, squares]).unwrap()
}

#[test]
fn products_behind_a_norm_take_its_factor_from_the_producer() {
    for (k, n) in [(20, 8), (32, 16), (24, 40), (32, 136), (64, 264), (8, 32), (8, 448)] {
        let g = normed(k, n, 16);
        for phase in [Phase::Prefill, Phase::Decode] {
            let compiled = compile_for_gpus(&g, phase);
            [1, 2, 9, 33, 130].into_iter().for_each(|rows| case(&g, phase, rows).check(&compiled));
        }
    }
}
