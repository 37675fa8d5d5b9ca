//! How many kernels a decode step launches: of the real 2B and 4B configurations, for each GPU target and for few sequences and many.

use jet_codegen::Activations;
use jet_codegen::targets::Target;
use jet_frontend::{ModelConfig, WeightFormat};
use jetbin::Phase;
use jetc::compile::{Limits, Selected, select_few, select_phase, source_graph};
use std::path::Path;

/// The decode programs of a golden configuration: for many sequences, and for few if there is one.
fn programs(case: &str, target: &str) -> (Selected, Option<Selected>) {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case).join("config.json");
    let config = ModelConfig::read(&config).expect("a configuration");
    let graph = source_graph(&config, WeightFormat::Bf16).expect("a graph");
    let (target, limits) =
        (Target::named(target).expect("a target"), Limits { max_context: 4096, max_batch: 64, prefill_chunk: 512 });
    let many = select_phase(&graph, limits, target, (Phase::Decode, Activations::F32)).expect("kernels");
    let few = select_few(&graph, limits, target, &many).expect("kernels");
    (many, few)
}

/// 5 for a layer: projections; the delta step with its convolution, or attention; its output; gate and up; down. And the embedding, and
/// the logits with the last norm and the largest of them.
#[test]
fn a_decode_step_of_one_sequence_is_142_kernels_for_the_2b() {
    let (many, few) = programs("full-2b", "sm_90a");
    let few = few.expect("clusters pay for one sequence");
    assert_eq!((few.built.len(), few.few()), (5 * 28 + 2, Some(1)));
    // the convolution is a kernel of its own in the 24 layers that have one
    assert_eq!(many.built.len(), 6 * 24 + 5 * 4 + 2);
}

#[test]
fn a_machine_without_clusters_has_one_program() {
    let (many, few) = programs("full-2b", "sm_80");
    assert!(few.is_none());
    assert_eq!(many.built.len(), 6 * 24 + 5 * 4 + 2);
}

#[test]
fn a_decode_step_of_one_sequence_is_5_kernels_a_layer_for_the_4b() {
    let (_, few) = programs("full-4b", "sm_90a");
    assert_eq!(few.expect("clusters pay for one sequence").built.len(), 5 * 36 + 2);
}
