//! The reference evaluation of the model's graph, before and after fusion, against data of the official implementation: every key of every
//! tiny case, in the file's chunks and in others.

use jet_frontend::graph::model_graph;
use jet_frontend::{Checkpoint, ModelConfig, WeightFormat};
use jet_ir::{Graph, read, verify};
use jet_passes::{Options, Phase, Roofline, ZEN4_2, extract, saturate};
use jetc::compare::evaluated::Evaluated;
use jetc::compare::feed::collect;
use jetc::compare::judge::judge;
use jetc::compare::reference::sequences;
use jetc::compare::tensors;
use std::path::{Path, PathBuf};

struct Golden {
    case: &'static str,
    config: ModelConfig,
    checkpoint: Checkpoint,
    graph: Graph,
}

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

impl Golden {
    fn open(case: &'static str) -> Golden {
        let config = ModelConfig::read(&folder(case).join("config.json")).unwrap();
        let checkpoint = Checkpoint::open(&folder(case), &config).unwrap();
        let graph = model_graph(&config, WeightFormat::Bf16).unwrap();
        Golden { case, config, checkpoint, graph }
    }

    /// What the case itself allows for f32: six times the noise of its data.
    fn tolerance(&self) -> f64 {
        let meta = std::fs::read(folder(self.case).join("meta.json")).unwrap();
        let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
        meta["tolerance"]["f32_rel_l2_per_key"].as_f64().unwrap()
    }

    /// Compares every key; ids and greedy choices must be equal.
    fn compare(&self, graph: &Graph, chunks: Option<&[usize]>) {
        let reference = tensors::read(&folder(self.case).join("io.safetensors")).unwrap();
        let sequences = sequences(&reference, self.config.vocab, chunks).unwrap();
        let mut runner = Evaluated::new(&self.config, graph, &self.checkpoint, 1);
        let ours = collect(&mut runner, &reference, &sequences, false, &|| ()).unwrap();
        let report = judge(&reference, &ours, self.tolerance());
        let failed: Vec<_> = report.keys.iter().filter(|key| !key.passed).collect();
        assert!(failed.is_empty(), "{} {} {chunks:?}: {failed:#?}", self.case, graph.name);
        // logits, hidden rows, greedy ids of a sequence, and two states of a layer after the prompt and at the end
        assert_eq!(report.keys.len(), sequences.len() * (5 + 4 * self.config.layers.len()), "{}", self.case);
    }

    /// Whole, token by token, and in pieces shorter and longer than the four taps of the convolution.
    fn every_way(&self) {
        self.compare(&self.graph, None);
        for chunks in [&[1][..], &[2], &[3], &[7], &[2, 3, 7]] {
            self.compare(&self.graph, Some(chunks));
        }
    }

    fn fused(&self, phase: Phase) -> Graph {
        let saturated = saturate(&self.graph, &Options::default()).unwrap();
        extract(&self.graph, &saturated, &Roofline::new(ZEN4_2, phase), true).unwrap().graph
    }

    /// The programs of both phases mean the same, can be read back, and carry their states from one to the other.
    fn every_program(&self) {
        for phase in [Phase::decode(1, 128), Phase::prefill(64)] {
            let graph = self.fused(phase);
            verify(&graph).unwrap();
            assert_eq!(read("fused.jir", &graph.to_string()).unwrap(), graph);
            self.compare(&graph, None);
            self.compare(&graph, Some(&[2, 3, 7]));
        }
    }
}

macro_rules! cases {
    ($($case:ident = $name:literal;)*) => { $(
        mod $case {
            #[test]
            fn source_graph() {
                super::Golden::open($name).every_way();
            }

            #[test]
            fn fused_graphs() {
                super::Golden::open($name).every_program();
            }
        }
    )* };
}

cases! {
    tiny_a = "tiny-a";
    tiny_b = "tiny-b";
    tiny_c_jet = "tiny-c-jet";
    tiny_c_attn = "tiny-c-attn";
    tiny_c_mix = "tiny-c-mix";
    tiny_d_eps = "tiny-d-eps";
}

/// The text form carries a whole model, the large ones included.
#[test]
fn whole_models_are_printed_and_read_back() {
    for case in ["tiny-b", "full-2b", "full-4b"] {
        let config = ModelConfig::read(&folder(case).join("config.json")).unwrap();
        let graph = model_graph(&config, WeightFormat::Bf16).unwrap();
        assert_eq!(read(case, &graph.to_string()).unwrap(), graph);
    }
}
