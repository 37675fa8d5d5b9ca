//! `jetc explain`: why the kernels are as they are.

use super::compile::CompileArgs;
use super::{Outcome, output};
use crate::compile::price::{cost_model, of_sequences};
use crate::compile::{CompileRequest, Limits, Model, source_graph, target_graph};
use anyhow::{Context, ensure};
use clap::ValueEnum;
use jet_codegen::targets::{TARGETS, Target};
use jet_frontend::{ModelConfig, WeightFormat};
use jet_ir::{Graph, OutputKind};
use jet_passes::{Explanation, Options, explain, fuse, listing};
use jetbin::{Phase, SectionKind};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const HELP: &str = "\
Without RESULT: every kernel of the program, and the results that can be named. With it, for the part of the model that ends
there (layer_hidden.1 is the MLP of layer 0, mixer_hidden.0 its mixer, logits the head): the kernels, the rules that made
each stored result from the model's own operations, and what every rejected alternative would cost more.

Examples:
  jetc explain model.jetbin
  jetc explain model.jetbin mixer_hidden.0 --phase prefill
  jetc explain model.toml mixer_hidden.0 --target sm_90a";

/// Show which rewrites made the kernels, and the costs of the rejected alternatives
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// An artifact, a model.toml, or a directory with config.json and weights
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The part of the model that ends in this result
    result: Option<String>,
    /// Which of the programs; decode-one is for one sequence
    #[arg(long, value_enum, default_value_t = Which::Decode)]
    phase: Which,
    /// For which target: of an artifact, one of its own (default: the first one)
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Prefill,
    Decode,
    DecodeOne,
}

/// What is explained, and for which targets it can be.
struct Subject {
    graph: Graph,
    targets: Vec<String>,
    limits: Limits,
}

/// Prints the kernels, or the explanation of a part.
///
/// # Errors
/// If the source cannot be read, there is no such target or result, or the part cannot be fused.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let subject = if crate::source::is_artifact(&args.source) { of_artifact(&args.source)? } else { of_source(&args.source)? };
    let name = args.target.as_ref().or(subject.targets.first()).context("there is no target")?;
    ensure!(subject.targets.contains(name), "--target: found {name}, expected one of {}", subject.targets.join(", "));
    let target = Target::named(name).with_context(|| format!("this build does not know the target {name}"))?;
    let (phase, cost) = match args.phase {
        Which::Prefill => (Phase::Prefill, cost_model(target, Phase::Prefill, subject.limits)),
        Which::Decode => (Phase::Decode, cost_model(target, Phase::Decode, subject.limits)),
        Which::DecodeOne => (Phase::Decode, of_sequences(target, 1, subject.limits)),
    };
    let graph = target_graph(&subject.graph, target, phase)?;
    match &args.result {
        Some(result) => {
            let explanation = explain(&graph, result, &cost, &Options::default())?;
            if args.json { output::json(&as_json(&explanation))? } else { print!("{explanation}") }
        }
        None => {
            let fused = fuse(&graph, &cost, &Options::default())?;
            let results: Vec<&str> = nameable(&graph);
            if args.json {
                let report = &fused.report;
                output::json(&json!({ "name": report.name, "kernels": report.after.kernels, "kernels_unfused": report.before.kernels,
                    "plan_us": report.plan_ps as f64 * 1e-6, "e_nodes": report.e_nodes, "results": results,
                    "listing": listing(&fused) }))?;
            } else {
                print!("{}", listing(&fused));
                println!("\nresults: {}", results.join(", "));
            }
        }
    }
    Ok(Outcome::Done)
}

fn nameable(graph: &Graph) -> Vec<&str> {
    graph.outputs.iter().filter(|o| o.kind != OutputKind::Update).map(|o| o.name.as_str()).collect()
}

fn of_source(source: &Path) -> anyhow::Result<Subject> {
    let request: CompileRequest = CompileArgs::default().request(source.to_path_buf(), PathBuf::new());
    let model = Model::open(&request)?;
    let mut targets = model.settings.targets;
    let others = TARGETS.iter().map(|t| t.name.to_string()).filter(|name| !targets.contains(name));
    targets.extend(others.collect::<Vec<_>>());
    Ok(Subject { graph: model.graph, targets, limits: model.settings.limits })
}

/// The graph is made again from the configuration and the recipe that travel in the artifact.
fn of_artifact(path: &Path) -> anyhow::Result<Subject> {
    let model = jet_runtime::Model::read(path, &jet_runtime::OpenOptions::default())?;
    let (reader, facts) = (model.reader(), model.facts());
    let config = reader.section(SectionKind::Model, 0).context("the artifact holds no configuration")?;
    let config = ModelConfig::parse(config, &format!("{}: section model", path.display()))?;
    let recipe: Value = match reader.text(SectionKind::Recipe)? {
        Some(text) => serde_json::from_str(text).context("section recipe: not valid JSON")?,
        None => Value::Null,
    };
    let weights = recipe["compile"]["weights"].as_str().and_then(WeightFormat::named).unwrap_or(WeightFormat::Bf16);
    let limits =
        Limits { max_context: facts.max_context, max_batch: facts.max_batch, prefill_chunk: facts.prefill_chunk };
    let targets = reader.targets().iter().map(|t| t.name).collect();
    Ok(Subject { graph: source_graph(&config, weights)?, targets, limits })
}

fn as_json(explanation: &Explanation) -> Value {
    let derivations: Vec<_> = explanation
        .derivations
        .iter()
        .map(|d| {
            let steps: Vec<_> = d.steps.iter().map(|s| json!({ "rule": s.rule, "term": s.term })).collect();
            json!({ "source": d.source, "steps": steps })
        })
        .collect();
    let regrets: Vec<_> = explanation
        .regrets
        .iter()
        .map(|r| json!({ "chosen": r.chosen, "rejected": r.rejected, "us": r.ps as f64 * 1e-6 }))
        .collect();
    json!({ "name": explanation.name, "plan_us": explanation.fused.report.plan_ps as f64 * 1e-6,
        "listing": listing(&explanation.fused), "derivations": derivations, "regrets": regrets })
}
