//! Every e-node of every e-class of the saturated graphs computes the same numbers, so one test proves all rules; and the fused graphs compute
//! what the source graphs do.

mod support;

use egg::Id as Class;
use jet_ir::ops::*;
use jet_ir::{Bindings, Graph, Leaf, Mat, Named, OutputKind, Rows, Type, Value, eval};
use jet_passes::lang::{Classes, ENode, op_of};
use jet_passes::rules::{RULES, RuleText, When, compile, rules};
use jet_passes::saturate::saturate_with;
use jet_passes::{H100, Options, Phase, Roofline, ZEN4_2, extract, saturate};
use std::collections::{BTreeMap, HashMap};
use support::*;

const TOKENS: usize = 5;
const PAST: usize = 3;
/// Rules change the order of operations at most, in f64: far below any wrong formula, far above rounding.
const TOLERANCE: f64 = 1e-9;

/// Uniform in -1..1.
fn noise(seed: u64, i: usize) -> f64 {
    let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn leaf(name: &str, ty: Type, seed: u64) -> Mat<f64> {
    let rows = match ty.rows().expect("a leaf is a tensor") {
        Rows::Tokens => TOKENS,
        Rows::Context => PAST,
        Rows::Fixed(n) => n,
    };
    let salt = name.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    Mat::new(rows, ty.cols(), |r, c| match name {
        "token_ids" => ((seed as usize + 3 * r) % TINY.vocab) as f64,
        _ => noise(salt, r * ty.cols() + c),
    })
}

/// Largest difference relative to the largest magnitude.
fn distance(a: &Value<f64>, b: &Value<f64>) -> f64 {
    let far = |a: &Mat<f64>, b: &Mat<f64>| {
        if (a.rows, a.cols) != (b.rows, b.cols) {
            return f64::INFINITY;
        }
        let top = a.data.iter().fold(1e-9f64, |m, v| m.max(v.abs()));
        a.data.iter().zip(&b.data).fold(0.0f64, |m, (x, y)| m.max((x - y).abs())) / top
    };
    let second = match (a, b) {
        (Value::Grid { second: Some(a), .. }, Value::Grid { second: Some(b), .. }) => far(a, b),
        (Value::Grid { second: None, .. }, Value::Grid { second: None, .. }) | (Value::Mat(_), Value::Mat(_)) => 0.0,
        _ => f64::INFINITY,
    };
    far(a.mat(), b.mat()).max(second)
}

fn value(classes: &Classes, node: &ENode, values: &HashMap<Class, Value<f64>>, seed: u64) -> Option<Value<f64>> {
    match node {
        ENode::Attr(_) => None,
        ENode::Leaf(kind, name) => Some(Value::Mat(leaf(name, classes.analysis.leaves[&(*kind, name.clone())], seed))),
        ENode::Op(row, children) => {
            let op = op_of(*row, children, |id| &classes[id].data).expect("parsed before");
            let operands = children[..row.info().operands.len()].iter().map(|c| values.get(&classes.find(*c)));
            Some(op.eval(&operands.collect::<Option<Vec<_>>>()?))
        }
    }
}

/// Evaluates every class and compares all its nodes; the number of nodes compared, or the first that disagrees.
fn check(classes: &Classes, seed: u64) -> Result<usize, String> {
    let mut values: HashMap<Class, Value<f64>> = HashMap::new();
    let tensors = classes.classes().filter(|class| class.data.ty().is_some()).count();
    while values.len() < tensors {
        let before = values.len();
        for class in classes.classes() {
            if !values.contains_key(&class.id)
                && let Some(found) = class.iter().find_map(|node| value(classes, node, &values, seed))
            {
                values.insert(class.id, found);
            }
        }
        assert!(values.len() > before, "a class that nothing computes");
    }
    let mut compared = 0;
    for class in classes.classes().filter(|class| class.data.ty().is_some()) {
        for node in class.iter() {
            let own = value(classes, node, &values, seed).expect("everything below has a value");
            let far = distance(&own, &values[&class.id]);
            compared += 1;
            if far.is_nan() || far > TOLERANCE {
                return Err(format!("{node} differs by {far:e} from {}", class.nodes[0]));
            }
        }
    }
    Ok(compared)
}

/// A state that keeps the last rows of a product and that nothing reads: the only place where `ring-store` may fire.
fn recorder() -> Graph {
    let mut b = Builder::new(TINY);
    let x = b.leaf(Leaf::Input, "hidden", Type::mem(Rows::Tokens, 8));
    let ring = b.leaf(Leaf::State, "record", Type::mem(Rows::Fixed(2), 6));
    let y = b.linear(x, "w", 6);
    let pushed = b.op(RingPush { taps: 2 }, &[ring, y]);
    b.graph.output(OutputKind::Update, "record", pushed);
    b.graph
}

fn graphs() -> Vec<Graph> {
    vec![model(TINY, "jas"), layer(TINY, 'j'), head(TINY), recorder()]
}

#[test]
fn all_nodes_of_a_class_agree_and_every_rule_fires() {
    let mut fired: BTreeMap<String, usize> = BTreeMap::new();
    for graph in graphs() {
        for exact in [true, false] {
            let s = saturate(&graph, &Options { exact, ..Options::default() }).expect("saturated");
            for seed in 0..4 {
                let compared = check(&s.classes, seed).unwrap_or_else(|e| panic!("{}, exact {exact}: {e}", graph.name));
                assert!(compared > graph.nodes.len());
            }
            s.applied.into_iter().for_each(|(name, n)| *fired.entry(name).or_insert(0) += n);
        }
    }
    for rule in RULES {
        assert!(fired.get(rule.name).is_some_and(|n| *n > 0), "rule {} never fired", rule.name);
    }
}

const fn planted(name: &'static str, lhs: &'static str, rhs: &'static str) -> RuleText {
    RuleText { name, lhs, rhs, when: When::Always, exact: true }
}

#[test]
fn wrong_rules_are_caught() {
    let wrong = [
        planted("gate-without-silu", "(mul (silu ?g) ?u)", "(mul ?g ?u)"),
        planted("norm-dropped", "(sweep (rms_norm ?x ?w ?e))", "(sweep ?x)"),
        planted("norm-weight-changed", "(rms_norm ?x ?w ?e)", "(rms_norm ?x weight:layers.0.mlp_norm ?e)"),
        planted("heads-shifted", "(gated_norm ?o ?w ?z ?d ?e)", "(gated_norm ?z ?w ?o ?d ?e)"),
        planted("state-not-decayed", "(gated_delta_rule ?q ?k ?v ?a ?b ?s)", "(gated_delta_rule ?q ?k ?v ?b ?b ?s)"),
    ];
    for rule in wrong {
        let mut all = rules(true);
        all.push(compile(&rule));
        let s = saturate_with(&layer(TINY, 'j'), &all, &Options::default()).expect("saturated");
        assert!(s.applied.contains_key(rule.name), "{} did not fire", rule.name);
        assert!(check(&s.classes, 1).is_err(), "{} was not caught", rule.name);
    }
}

#[test]
fn ill_typed_rules_do_not_fire() {
    let ill = [
        planted("product-of-product", "(matmul ?x ?w)", "(matmul (matmul ?x ?w) ?w)"),
        planted("register-for-memory", "(store ?r)", "?r"),
        planted("column-for-row", "(rms_norm ?x ?w ?e)", "(row_ms ?x)"),
    ];
    for rule in ill {
        let mut all = rules(true);
        all.push(compile(&rule));
        let s = saturate_with(&head(TINY), &all, &Options::default()).expect("saturated");
        assert!(!s.applied.contains_key(rule.name), "{} fired", rule.name);
    }
}

fn run(graph: &Graph, seed: u64) -> (Named<f64>, Named<f64>, Named<f64>) {
    let named = |kind: Leaf| -> Named<f64> {
        let leaves = graph.ids().filter_map(|id| graph.leaf(id).filter(|l| l.0 == kind).map(|l| (l.1, graph.ty(id))));
        leaves.map(|(name, ty)| (name.to_string(), leaf(name, ty, seed))).collect()
    };
    let (inputs, states) = (named(Leaf::Input), named(Leaf::State));
    let weights = |name: &str, ty: Type| Ok(leaf(name, ty, seed));
    let bindings = Bindings { inputs: &inputs, states: &states, weights: &weights };
    let results = eval(graph, &bindings, TOKENS).expect("evaluated");
    (results.returns, results.probes, results.states)
}

#[test]
fn fused_graphs_compute_what_the_source_does() {
    for graph in graphs() {
        for exact in [true, false] {
            let s = saturate(&graph, &Options { exact, ..Options::default() }).expect("saturated");
            for (target, phase) in [
                (ZEN4_2, Phase::decode(1, 64)),
                (ZEN4_2, Phase::prefill(64)),
                (H100, Phase::decode(1, 64)),
                (H100, Phase::decode(64, 64)),
                (H100, Phase::prefill(512)),
            ] {
                let fused = extract(&graph, &s, &Roofline::new(target, phase), false).expect("fusible");
                let (want, found) = (run(&graph, 7), run(&fused.graph, 7));
                let pairs = [(&want.0, &found.0), (&want.1, &found.1), (&want.2, &found.2)];
                for (i, (want, found)) in pairs.into_iter().enumerate() {
                    for (name, m) in found {
                        let far = distance(&Value::Mat(want[name].clone()), &Value::Mat(m.clone()));
                        assert!(far < TOLERANCE, "{}, {}: {name} differs by {far:e}", graph.name, fused.report.name);
                    }
                    let unstored = if i == 1 { fused.report.unstored_probes.len() } else { 0 };
                    assert_eq!(found.len() + unstored, want.len());
                }
            }
        }
    }
}
