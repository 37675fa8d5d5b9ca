//! What fusion finds: the kernels of each block, and that they differ between targets and phases where they should.

mod support;

use jet_ir::{Graph, Op};
use jet_passes::{
    Domain, Fused, H100, Layout, Options, Phase, Program, Roofline, RowLimits, TargetParams, ZEN4_2, assign_layout,
    explain, extract, fuse, plan_memory, saturate, validate,
};
use support::*;

fn fused(graph: &Graph, target: TargetParams, phase: Phase) -> Fused {
    fuse(graph, &Roofline::new(target, phase), &Options::default()).expect("fusible")
}

fn kernels(fused: &Fused) -> Vec<&'static str> {
    let head = |g: &jet_ir::Group| fused.graph.op(g.grid.unwrap_or(g.nodes[0])).map_or("leaf", |op| op.info().name);
    fused.groups.iter().map(head).collect()
}

#[test]
fn a_jet_layer_is_six_kernels_on_a_cpu() {
    for phase in [Phase::decode(1, 1024), Phase::decode(16, 1024), Phase::prefill(256)] {
        let f = fused(&layer(JET_2B, 'j'), ZEN4_2, phase);
        assert_eq!(
            kernels(&f),
            ["sweep_norm", "sweep", "delta_l2", "sweep", "sweep_norm", "sweep"],
            "{}",
            f.report.name
        );
        // q, k, v, g, a, b and w1 are one product, gate and up another
        let products =
            |g: usize| f.groups[g].nodes.iter().filter(|n| matches!(f.graph.op(**n), Some(Op::Acc(_)))).count();
        assert_eq!([0, 1, 3, 4, 5].map(products), [7, 1, 1, 2, 1]);
        // the convolution's kernel moves its ring
        assert_eq!([0, 1, 2, 3, 4, 5].map(|g| f.groups[g].stores.len()), [7, 2, 2, 1, 1, 1]);
        assert_eq!(f.groups[1].updates.len(), 1);
    }
}

#[test]
fn the_convolution_moves_into_the_delta_kernel_where_that_pays() {
    let graph = layer(JET_2B, 'j');
    let one = fused(&graph, H100, Phase::decode(1, 1024));
    assert_eq!(kernels(&one), ["sweep_norm", "delta_conv", "sweep", "sweep_norm", "sweep"]);
    for phase in [Phase::decode(64, 1024), Phase::prefill(512)] {
        let many = fused(&graph, H100, phase);
        assert_eq!(kernels(&many), ["sweep_norm", "sweep", "delta_l2", "sweep", "sweep_norm", "sweep"]);
    }
}

#[test]
fn an_attention_layer_is_five_kernels_and_reads_its_cache_after_the_append() {
    for target in [ZEN4_2, H100] {
        let f = fused(&layer(JET_2B, 'a'), target, Phase::decode(1, 1024));
        assert_eq!(kernels(&f), ["sweep_norm", "attention", "sweep", "sweep_norm", "sweep"]);
        assert_eq!(f.groups[0].updates.len(), 2);
        assert_eq!(f.groups[1].after, [0]);
    }
}

#[test]
fn the_head_returns_logits_and_the_next_token() {
    let names = |f: &Fused| f.graph.outputs.iter().map(|o| o.name.clone()).collect::<Vec<_>>();
    for target in [ZEN4_2, H100] {
        let f = fused(&head(JET_2B), target, Phase::decode(1, 1024));
        assert_eq!(kernels(&f), ["sweep_norm"]);
        assert_eq!(f.groups[0].stores.len(), 2);
        assert_eq!(names(&f), ["logits", "next"]);
    }
}

#[test]
fn a_tied_table_is_stored_once() {
    let table = |tied: bool| {
        let f = fused(&model(Dims { tied, ..JET_2B }, ""), ZEN4_2, Phase::decode(1, 1024));
        let embed = f.groups[0].nodes[0];
        f.graph.op(f.graph.node(embed).args[0]).map(|op| op.info().name)
    };
    assert_eq!((table(true), table(false)), (Some("pack_panel"), None));
}

/// The whole 2B model on both targets: every kernel count is 1 embedding, 5 or 6 per jet layer and 5 per attention layer, and the head.
#[test]
fn the_whole_model_is_planned_and_its_memory_is_valid() {
    let graph = model(JET_2B, LAYERS_2B);
    let s = saturate(&graph, &Options::default()).expect("saturated");
    let jet = LAYERS_2B.chars().filter(|c| *c == 'j').count();
    let other = LAYERS_2B.len() - jet;
    for (target, phase, rows, want) in [
        (ZEN4_2, Phase::decode(1, 1024), RowLimits { tokens: 8, head: 8 }, 1 + 6 * jet + 5 * other + 1),
        (ZEN4_2, Phase::prefill(256), RowLimits { tokens: 256, head: 32 }, 1 + 6 * jet + 5 * other + 1),
        (H100, Phase::decode(1, 1024), RowLimits { tokens: 8, head: 8 }, 1 + 5 * jet + 5 * other + 1),
        (H100, Phase::prefill(512), RowLimits { tokens: 512, head: 32 }, 1 + 6 * jet + 5 * other + 1),
    ] {
        let f = extract(&graph, &s, &Roofline::new(target, phase), false).expect("fusible");
        jet_ir::verify(&f.graph).expect("the fused graph is well formed");
        assert_eq!(f.report.after.kernels, want, "{}", f.report.name);
        assert_eq!(f.report.unstored_probes, ["last_hidden"]);
        assert!(f.report.after.activation_bytes * 2 < f.report.before.activation_bytes);
        assert_eq!(f.report.after.weight_bytes, f.report.before.weight_bytes);
        let plan = plan_memory(&f.graph, &f.groups, rows).expect("planned");
        validate(&f.graph, &f.groups, &plan).expect("valid");
        let heads = plan.domains.iter().filter(|d| **d == Domain::Head).count();
        assert_eq!(heads, 1);
        assert!(plan.arena_bytes * 5 < plan.unshared_bytes, "{} of {}", plan.arena_bytes, plan.unshared_bytes);
    }
}

#[test]
fn probes_are_stored_on_request() {
    let graph = model(TINY, "j");
    let s = saturate(&graph, &Options::default()).expect("saturated");
    let all = extract(&graph, &s, &Roofline::new(ZEN4_2, Phase::decode(1, 64)), true).expect("fusible");
    assert!(all.report.unstored_probes.is_empty());
    assert_eq!(all.graph.outputs.len(), graph.outputs.len());
}

#[test]
fn one_layout_serves_both_programs() {
    let s = saturate(&layer(JET_2B, 'j'), &Options::default()).expect("saturated");
    let best = |target: TargetParams, decode: u64, prefill: u64| {
        let models = [Phase::decode(1, 1024), Phase::prefill(512)].map(|phase| Roofline::new(target, phase));
        let programs = [Program { cost: &models[0], runs: decode }, Program { cost: &models[1], runs: prefill }];
        assign_layout(&s, &programs).expect("a layout").best
    };
    assert_eq!(best(ZEN4_2, 1, 1), Layout::Panel);
    assert_eq!((best(H100, 1000, 1), best(H100, 1, 1000)), (Layout::Frag, Layout::Tile));
}

#[test]
fn explanations_name_rules_and_what_was_rejected() {
    let graph = model(JET_2B, "ja");
    let cost = Roofline::new(H100, Phase::decode(64, 1024));
    let e = explain(&graph, "mixer_hidden.0", &cost, &Options::default()).expect("explained");
    let rules: Vec<&str> = e.derivations.iter().flat_map(|d| &d.steps).map(|s| s.rule.as_str()).collect();
    for rule in ["product", "norm-prologue", "conv-epilogue", "gated-norm-epilogue", "residual-epilogue", "delta-l2"] {
        assert!(rules.contains(&rule), "{rule}");
    }
    let inside = e.regrets.iter().find(|r| r.rejected.starts_with("delta_conv")).expect("an alternative");
    assert!(inside.ps > 0);
    let error = explain(&graph, "mixer_hidden.7", &cost, &Options::default()).expect_err("no such layer");
    assert!(error.to_string().contains("mixer_hidden.1"), "{error}");
}
