//! The choice itself: optimal where a proof is possible, the same on every run, and never a plan that cannot be launched.

mod support;

use jet_ir::{Graph, OutputKind};
use jet_passes::extract::{Choice, Problem};
use jet_passes::rules::{RULES, RuleText, When, compile, rules};
use jet_passes::saturate::saturate_with;
use jet_passes::{CostModel, Fused, H100, Options, Phase, Roofline, ZEN4_2, extract, fuse, saturate};
use std::collections::BTreeMap;
use support::*;

fn models() -> Vec<Roofline> {
    let phases = || [Phase::decode(1, 1024), Phase::decode(64, 1024), Phase::prefill(512)];
    [ZEN4_2, H100].into_iter().flat_map(|t| phases().map(|p| Roofline::new(t, p))).collect()
}

fn blocks() -> Vec<Graph> {
    vec![layer(JET_2B, 'j'), layer(JET_2B, 'a'), head(JET_2B)]
}

/// The exact optimum of the sum of prices as an integer program: one candidate for each class in use; the e-graph has no cycles, so nothing
/// else is needed.
fn optimum(problem: &Problem) -> Choice {
    use microlp::{ComparisonOp::*, LinearExpr, OptimizationDirection, Problem as Lp, SolutionStatus};
    let mut lp = Lp::new(OptimizationDirection::Minimize);
    lp.set_time_limit(std::time::Duration::from_secs(60));
    let price = |ps: u64| ps as f64 * 1e-6 + 1e-6;
    let vars: Vec<Vec<_>> = problem
        .classes
        .iter()
        .map(|cs| cs.iter().map(|c| lp.add_binary_var(price(c.price.alone_ps))).collect())
        .collect();
    for (c, candidates) in problem.classes.iter().enumerate() {
        let mut sum = LinearExpr::empty();
        vars[c].iter().for_each(|v| sum.add(*v, 1.0));
        let goal = problem.goals.iter().any(|g| g.class == c);
        lp.add_constraint(sum, if goal { Eq } else { Le }, 1.0);
        let mut needs: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, candidate) in candidates.iter().enumerate() {
            candidate.kids.iter().for_each(|&k| needs.entry(k).or_default().push(i));
        }
        for (kid, users) in needs {
            let mut row = LinearExpr::empty();
            users.into_iter().for_each(|i| row.add(vars[c][i], 1.0));
            vars[kid].iter().for_each(|v| row.add(*v, -1.0));
            lp.add_constraint(row, Le, 0.0);
        }
    }
    let solution = lp.solve().expect("feasible").into_solution().expect("solved");
    assert_eq!(solution.status(), SolutionStatus::Optimal);
    vars.iter().map(|vs| vs.iter().position(|v| solution.var_value(*v) > 0.5).unwrap_or(0)).collect()
}

#[test]
fn greedy_is_optimal_for_sums() {
    for graph in blocks() {
        let s = saturate(&graph, &Options { exact: false, ..Options::default() }).expect("saturated");
        for cost in models() {
            let problem = Problem::new(&s, &cost, false).expect("supported");
            let (found, exact) = (problem.alone_ps(&problem.greedy()), problem.alone_ps(&optimum(&problem)));
            let close = found.abs_diff(exact) as f64 <= 1e-6 * exact as f64;
            assert!(close, "{}, {}: greedy {found} ps, optimum {exact} ps", graph.name, cost.name());
        }
    }
}

#[test]
fn local_search_ends_where_forced_choices_do_not_help() {
    for graph in blocks() {
        let s = saturate(&graph, &Options::default()).expect("saturated");
        for cost in models() {
            let problem = Problem::new(&s, &cost, false).expect("supported");
            let value = |choice: &Choice| problem.value(&cost, choice);
            assert!(value(&problem.best(&cost)) <= value(&problem.greedy()));
            assert_eq!(value(&problem.best(&cost)), value(&problem.best_forced(&cost)), "{}", cost.name());
        }
    }
}

#[test]
fn regrets_are_not_negative() {
    let s = saturate(&layer(JET_2B, 'j'), &Options::default()).expect("saturated");
    let cost = Roofline::new(H100, Phase::decode(1, 1024));
    let problem = Problem::new(&s, &cost, false).expect("supported");
    let regrets = problem.regrets(&cost, &problem.best(&cost));
    assert!(regrets.len() > 20 && regrets.iter().all(|r| r.2 >= 0), "{regrets:?}");
}

/// The same plan whatever ran before in the process, in any order of the rules, with and without explanations.
#[test]
fn deterministic() {
    let graph = model(TINY, "jas");
    let mut first: Option<Vec<Graph>> = None;
    for round in 0..12 {
        for i in 0..round * 50 {
            let _ = egg::Symbol::from(format!("noise {round} {i}"));
        }
        let mut all = rules(true);
        let n = all.len();
        all.rotate_left(round * 7 % n);
        if round % 2 == 1 {
            all.reverse();
        }
        let options = Options { explain: round % 4 == 3, ..Options::default() };
        let s = saturate_with(&graph, &all, &options).expect("saturated");
        let plans: Vec<Graph> =
            models().iter().map(|c| extract(&graph, &s, c, false).expect("fusible").graph).collect();
        match &first {
            None => first = Some(plans),
            Some(first) => assert!(*first == plans, "round {round} differs"),
        }
    }
}

#[test]
fn the_whole_model_saturates_small() {
    let graph = model(JET_2B, LAYERS_2B);
    for exact in [true, false] {
        let s = saturate(&graph, &Options { exact, ..Options::default() }).expect("saturated");
        assert!(s.iterations <= 10, "{} rounds", s.iterations);
        let nodes = s.classes.total_number_of_nodes();
        assert!(nodes < 4 * graph.nodes.len(), "{nodes} e-nodes of {} nodes", graph.nodes.len());
    }
}

/// A tied embedding must not be folded: it would be stored twice.
#[test]
fn tied_weights_are_not_folded() {
    let options = Options { exact: false, ..Options::default() };
    let folds = |tied| {
        let graph = model(Dims { tied, ..TINY }, "");
        saturate(&graph, &options).expect("saturated").applied.contains_key("norm-fold-ms")
    };
    assert!(!folds(true) && folds(false));
}

#[test]
fn exact_plans_fold_nothing() {
    let s = saturate(&model(TINY, "jas"), &Options::default()).expect("saturated");
    assert!(s.applied.keys().all(|name| RULES.iter().any(|r| r.name == name && r.exact)));
}

/// Kernels that overwrite a ring, and convolve over it before.
fn pushes(fused: &Fused) -> usize {
    let reads =
        |id: &jet_ir::Id| matches!(fused.graph.op(*id), Some(jet_ir::Op::DynamicConv(_) | jet_ir::Op::DeltaConv(_)));
    let pushes = |id: &jet_ir::Id| matches!(fused.graph.op(*id), Some(jet_ir::Op::StoreRing(_)));
    fused.groups.iter().filter(|g| g.nodes.iter().any(reads) && g.nodes.iter().any(pushes)).count()
}

/// A rule that overwrites the ring in the kernel of the projections, before the convolution reads it: local search avoids it in every layer,
/// because a plan that cannot be launched is dearer than any other.
#[test]
fn a_state_is_never_overwritten_before_its_last_reader() {
    let eager = RuleText {
        name: "eager-ring-store",
        lhs: "(ring_push ?old (store ?r) ?n)",
        rhs: "(store_ring ?old ?r ?n)",
        when: When::Always,
        exact: true,
    };
    let mut all = rules(true);
    all.push(compile(&eager));
    let graph = model(JET_2B, "jjajj");
    let s = saturate_with(&graph, &all, &Options::default()).expect("saturated");
    assert_eq!(s.applied["eager-ring-store"], 4);
    for cost in models() {
        let problem = Problem::new(&s, &cost, false).expect("supported");
        assert!(problem.value(&cost, &problem.greedy()).stuck > 0, "the fault must tempt the greedy choice");
        let fused = extract(&graph, &s, &cost, false).expect("a plan that can be launched");
        assert_eq!(pushes(&fused), 4, "{}", cost.name());
    }
}

#[test]
fn a_product_that_needs_another_of_its_grid_waits_for_it() {
    use jet_ir::ops::*;
    use jet_ir::{Leaf, Rows, Type};
    let mut b = Builder::new(TINY);
    let x = b.leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 8));
    let (first, second) = (b.linear(x, "a", 6), b.linear(x, "b", 8));
    let third = b.op(Silu {}, &[second]);
    let third = b.linear(third, "c", 6);
    let sums = [b.op(Add {}, &[first, third]), b.op(Mul {}, &[third, first])];
    for (i, sum) in sums.into_iter().enumerate() {
        b.graph.output(OutputKind::Return, format!("sum{i}"), sum);
    }
    for cost in models() {
        let fused = fuse(&b.graph, &cost, &Options::default()).expect("a plan that can be launched");
        let products = fused.groups.iter().filter(|g| g.grid.is_some()).count();
        assert_eq!(products, 2, "{}", cost.name());
    }
}

#[test]
fn a_target_without_a_kernel_is_told_which() {
    struct NoAttention(Roofline);
    impl CostModel for NoAttention {
        fn name(&self) -> String {
            self.0.name()
        }
        fn phase(&self) -> &Phase {
            self.0.phase()
        }
        fn price(&self, work: &jet_passes::Work) -> Option<jet_passes::Price> {
            if matches!(work.op, jet_ir::Op::Attention(_)) { None } else { self.0.price(work) }
        }
        fn kernel_ps(&self, sum: &jet_passes::Price) -> u64 {
            self.0.kernel_ps(sum)
        }
    }
    let cost = NoAttention(Roofline::new(ZEN4_2, Phase::decode(1, 64)));
    let error = fuse(&layer(TINY, 'a'), &cost, &Options::default()).expect_err("no kernel for attention");
    assert!(error.to_string().contains("attention"), "{error}");
}
