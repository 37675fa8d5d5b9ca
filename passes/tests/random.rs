//! Graphs that nobody designed: whatever is built, there is a plan that can be launched, and it computes the same.

mod support;

use jet_ir::ops::*;
use jet_ir::{Bindings, F32, Graph, Id, Leaf, Mat, Named, OutputKind, Rows, Type, eval};
use jet_passes::{H100, Options, Phase, Roofline, ZEN4_2, extract, fuse, plan_memory, saturate, validate};
use jet_passes::{RowLimits, TargetParams};
use support::*;

/// A generator of numbers, the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.0 >> 33) % n as u64) as usize
    }
}

const TOKENS: usize = 3;
const WIDTHS: [usize; 2] = [4, 6];

/// Products, epilogues and sums over values of two widths, wired at random, with a state that is read and pushed.
fn graph(seed: u64) -> Graph {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut b = Builder::new(TINY);
    let table = b.leaf(Leaf::Input, "rope", Type::mem(Rows::Tokens, 2));
    let ring = b.leaf(Leaf::State, "ring", Type::mem(Rows::Fixed(2), WIDTHS[0]));
    let mut values: Vec<Id> = WIDTHS.map(|n| b.leaf(Leaf::Input, &format!("x{n}"), Type::mem(Rows::Tokens, n))).into();
    for i in 0..6 + random.below(14) {
        let x = values[random.below(values.len())];
        let cols = b.graph.ty(x).cols();
        let alike: Vec<Id> = values.iter().copied().filter(|v| b.graph.ty(*v).cols() == cols).collect();
        let other = alike[random.below(alike.len())];
        let made = match random.below(11) {
            0..=3 => {
                let rows = WIDTHS[random.below(2)];
                b.linear(x, &format!("w{}.{rows}.{cols}", random.below(4)), rows)
            }
            4 => b.op(Silu {}, &[x]),
            5 => b.op(Add {}, &[x, other]),
            6 => b.op(Mul {}, &[x, other]),
            7 => b.norm(x, &format!("norm.{cols}")),
            8 => b.op(Rope { head_dim: 2 }, &[x, table]),
            9 => b.op(Scale { c: F32::from(0.5) }, &[x]),
            _ if cols == WIDTHS[0] => {
                let kernels = b.linear(x, &format!("kernels{i}"), 2 * cols);
                b.op(DynamicConv { taps: 2 }, &[kernels, other, ring])
            }
            _ => b.op(Sigmoid {}, &[x]),
        };
        values.push(made);
    }
    let narrow = values.iter().rev().find(|v| b.graph.ty(**v).cols() == WIDTHS[0]).copied().expect("an input is");
    let pushed = b.op(RingPush { taps: 2 }, &[ring, narrow]);
    b.graph.output(OutputKind::Update, "ring", pushed);
    for (i, value) in values.iter().rev().take(3).enumerate() {
        b.graph.output(OutputKind::Return, format!("y{i}"), *value);
    }
    b.graph
}

fn run(graph: &Graph) -> (Named<f64>, Named<f64>) {
    let mat = |name: &str, ty: Type| {
        let rows = if let Some(Rows::Fixed(n)) = ty.rows() { n } else { TOKENS };
        let mut random = Random(name.bytes().fold(1, |h, b| h.wrapping_mul(131).wrapping_add(u64::from(b))));
        Mat::new(rows, ty.cols(), |_, _| random.below(2001) as f64 * 1e-3 - 1.0)
    };
    let leaves = |kind: Leaf| -> Named<f64> {
        let of = graph.ids().filter_map(|id| graph.leaf(id).filter(|l| l.0 == kind).map(|l| (l.1, graph.ty(id))));
        of.map(|(name, ty)| (name.to_string(), mat(name, ty))).collect()
    };
    let (inputs, states) = (leaves(Leaf::Input), leaves(Leaf::State));
    let bindings = Bindings { inputs: &inputs, states: &states, weights: &|name, ty| Ok(mat(name, ty)) };
    let results = eval(graph, &bindings, TOKENS).expect("evaluated");
    (results.returns, results.states)
}

fn models() -> Vec<Roofline> {
    // every kernel may be launched for nothing, or nothing but launches counts: the temptations differ
    let cheap = TargetParams { launch_us: 0.0, ..H100 };
    let dear = TargetParams { launch_us: 1e3, ..ZEN4_2 };
    [ZEN4_2, H100, cheap, dear].map(|target| Roofline::new(target, Phase::decode(4, 64))).into()
}

#[test]
fn random_graphs_have_a_plan_that_computes_the_same() {
    for seed in 0..400 {
        let graph = graph(seed);
        jet_ir::verify(&graph).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let s = saturate(&graph, &Options { exact: seed % 2 == 0, ..Options::default() }).expect("saturated");
        let want = run(&graph);
        for cost in models() {
            let what = format!("seed {seed}, {}", cost.target.name);
            let fused = extract(&graph, &s, &cost, false).unwrap_or_else(|e| panic!("{what}: {e}\n{graph}"));
            jet_ir::verify(&fused.graph).unwrap_or_else(|e| panic!("{what}: {e}"));
            let plan = plan_memory(&fused.graph, &fused.groups, RowLimits { tokens: 8, head: 4 }).expect("planned");
            validate(&fused.graph, &fused.groups, &plan).unwrap_or_else(|e| panic!("{what}: {e:?}\n{}", fused.graph));
            let found = run(&fused.graph);
            for (want, found) in [(&want.0, &found.0), (&want.1, &found.1)] {
                assert_eq!(want.len(), found.len(), "{what}");
                for (name, m) in want {
                    let top = m.data.iter().fold(1e-9f64, |top, v| top.max(v.abs()));
                    let far = m.data.iter().zip(&found[name].data).fold(0.0f64, |far, (a, b)| far.max((a - b).abs()));
                    assert!(far <= 1e-9 * top, "{what}: {name} differs by {far:e}\n{graph}\n{}", fused.graph);
                }
            }
        }
    }
}

/// Every graph that the file tests hold, fused ones included.
#[test]
fn every_readable_graph_is_fused_or_refused() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/jir/good");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).expect("file tests").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("text");
        let graph = text.find("// RUN").and_then(|end| jet_ir::read("file", &text[..end]).ok());
        let Some(graph) = graph else { continue };
        read += 1;
        for cost in models() {
            match fuse(&graph, &cost, &Options::default()) {
                Ok(fused) => jet_ir::verify(&fused.graph).unwrap_or_else(|e| panic!("{}: {e}", graph.name)),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    assert!(read > 5, "{read} graphs");
}
