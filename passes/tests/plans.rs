//! What fusion finds: the kernels of each block, and that they differ between targets and phases where they should.

mod support;

use jet_ir::{Graph, Op};
use jet_passes::{Fused, H100, Options, Phase, Roofline, TargetParams, ZEN4_2, fuse};
use support::*;

fn fused(graph: &Graph, target: TargetParams, phase: Phase) -> Fused {
    fuse(graph, &Roofline::new(target, phase), &Options::default()).expect("fusible")
}

fn kernels(fused: &Fused) -> Vec<&'static str> {
    let head = |g: &jet_ir::Group| fused.graph.op(g.grid.unwrap_or(g.nodes[0])).map_or("leaf", |op| op.info().name);
    fused.groups.iter().map(head).collect()
}

#[test]
fn a_jet_layer_is_seven_kernels_on_a_cpu() {
    for phase in [Phase::decode(1, 1024), Phase::decode(16, 1024), Phase::prefill(256)] {
        let f = fused(&layer(JET_2B, 'j'), ZEN4_2, phase);
        assert_eq!(
            kernels(&f),
            ["sweep_norm", "sweep", "ring_push", "delta_l2", "sweep", "sweep_norm", "sweep"],
            "{}",
            f.report.name
        );
        // q, k, v, g, a, b and w1 are one product, gate and up another
        let products =
            |g: usize| f.groups[g].nodes.iter().filter(|n| matches!(f.graph.op(**n), Some(Op::Acc(_)))).count();
        assert_eq!([0, 1, 4, 5, 6].map(products), [7, 1, 1, 2, 1]);
        assert_eq!([0, 1, 3, 4, 5, 6].map(|g| f.groups[g].stores.len()), [7, 1, 2, 1, 1, 1]);
    }
}

#[test]
fn the_convolution_moves_into_the_delta_kernel_where_that_pays() {
    let graph = layer(JET_2B, 'j');
    let one = fused(&graph, H100, Phase::decode(1, 1024));
    assert_eq!(kernels(&one), ["sweep_norm", "delta_conv", "ring_push", "sweep", "sweep_norm", "sweep"]);
    for phase in [Phase::decode(64, 1024), Phase::prefill(512)] {
        let many = fused(&graph, H100, phase);
        assert_eq!(kernels(&many), ["sweep_norm", "sweep", "ring_push", "delta_l2", "sweep", "sweep_norm", "sweep"]);
    }
}
