//! `jetc explain`: why the kernels are as they are.

use super::compile::CompileArgs;
use super::{Outcome, output};
use crate::compile::price::{Prices, cost_model, of_sequences};
use crate::compile::{CompileRequest, Limits, Model, Selected, in_parts, narrowed, select_plan, source_graph, target_graph};
use anyhow::{Context, ensure};
use clap::ValueEnum;
use jet_codegen::targets::{TARGETS, Target};
use jet_frontend::{ModelConfig, WeightFormat};
use jet_ir::{Graph, OutputKind};
use jet_passes::traffic::{Traffic, traffic};
use jet_passes::{CostModel, Explanation, Fused, Options, explain, fuse, listing, plan_ps};
use jetbin::{Phase, SectionKind};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const HELP: &str = "\
Without RESULT: every kernel of the program, and the results that can be named; for a GPU, the tile of every product. With it, for the part of the model that ends
there (layer_hidden.1 is the MLP of layer 0, mixer_hidden.0 its mixer, logits the head): the kernels, the rules that made
each stored result from the model's own operations, and what every rejected alternative would cost more. Prices and bytes are for the
context that the first line names.

Examples:
  jetc explain model.jetbin
  jetc explain model.jetbin mixer_hidden.0 --phase prefill
  jetc explain model.toml mixer_hidden.0 --target sm_90a
  jetc explain model.jetbin --context 65536";

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
    /// Tokens that a sequence holds, the new ones included (default: in decode max_context, in prefill one chunk of a prompt)
    #[arg(long, value_name = "N")]
    context: Option<u32>,
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
    let limits = subject.limits;
    let (phase, cost, rows) = match args.phase {
        Which::Prefill => (Phase::Prefill, cost_model(target, Phase::Prefill, limits), limits.prefill_chunk),
        Which::Decode => (Phase::Decode, cost_model(target, Phase::Decode, limits), limits.max_batch),
        Which::DecodeOne => (Phase::Decode, of_sequences(target, 1, limits), 1),
    };
    let context = context(args, &cost, limits)?;
    let graph = target_graph(&subject.graph, target, phase)?;
    let asked = cost.clone().in_context(context as usize);
    match &args.result {
        Some(result) => {
            let mut explanation = explain(&graph, result, &asked, &Options::default())?;
            let fused = in_parts(explanation.fused, target, (phase, limits), &asked)?;
            explanation.fused = narrowed(fused, target, &asked)?;
            if args.json { output::json(&as_json(&explanation, context))? } else { print!("{explanation}") }
        }
        None => {
            // the plan that is compiled, at the price of the context that was asked for
            let fused = fuse(&graph, &cost, &Options::default())?;
            let ps = plan_ps(&fused.graph, &fused.groups, &asked).context("the plan has a kernel without a price")?;
            let fused = in_parts(fused, target, (phase, limits), &asked)?;
            let tiles = match target.is_gpu() {
                true => tiles(&select_plan(fused.clone(), target, phase, &cost, rows)?),
                false => vec![],
            };
            let whole = Whole { fused: narrowed(fused, target, &asked)?, tiles, context, ps };
            print_whole(&whole, &asked, &nameable(&graph), args.json)?;
        }
    }
    Ok(Outcome::Done)
}

/// Tokens of a sequence in the call that is explained.
fn context(args: &Args, cost: &Prices, limits: Limits) -> anyhow::Result<u32> {
    let (new, most) = (cost.phase().tokens as u32, limits.max_context);
    let context = args.context.unwrap_or(if new > 1 { new } else { most });
    ensure!((new..=most).contains(&context), "--context: found {context}, expected {new} to {most}, the artifact's max_context");
    Ok(context)
}

/// A whole program, and the picoseconds of a call in a context.
struct Whole {
    fused: Fused,
    tiles: Vec<Tile>,
    context: u32,
    ps: u64,
}

/// How a GPU cuts a product: what a CTA works on.
#[derive(Serialize)]
struct Tile {
    /// Of the listing.
    group: u32,
    kernel: String,
    columns: u32,
    rows: u32,
    /// For each tile of rows.
    ctas: u32,
    threads: u32,
    shared_bytes: u32,
    /// It runs in calls of more rows than this.
    beyond: Option<u32>,
}

/// The tiles of all products of a plan, in the order of launch.
fn tiles(selected: &Selected) -> Vec<Tile> {
    let mut tiles = vec![];
    for (group, built) in selected.groups.iter().zip(&selected.built) {
        let mut beyond = None;
        for b in built.chain() {
            if let (Some(columns), Some(launch)) = (b.columns, b.kernel.launch) {
                let (group, kernel, shared_bytes) = (group.id as u32, b.name.clone(), b.kernel.shared_bytes());
                let (rows, threads, ctas) = (launch.rows, launch.threads, b.items.fixed);
                tiles.push(Tile { group, kernel, columns, rows, ctas, threads, shared_bytes, beyond });
            }
            beyond = b.wider.as_ref().map(|(n, _)| *n);
        }
    }
    tiles
}

/// The kernels of a program, and what a call of it moves.
fn print_whole(whole: &Whole, cost: &Prices, results: &[&str], as_json: bool) -> anyhow::Result<()> {
    let Whole { fused, tiles, context, ps } = whole;
    let moved = traffic(&fused.graph, &fused.groups, cost.phase());
    let Traffic { kernels, weight_bytes, activation_bytes, state_bytes } = moved;
    let (name, us) = (cost.name(), *ps as f64 * 1e-6);
    if as_json {
        let report = &fused.report;
        return output::json(&json!({ "name": name, "context": context, "kernels": kernels, "kernels_unfused": report.before.kernels,
            "plan_us": us, "weight_bytes": weight_bytes, "activation_bytes": activation_bytes, "state_bytes": state_bytes,
            "e_nodes": report.e_nodes, "results": results, "listing": listing(fused), "tiles": tiles }));
    }
    let [weights, activations, states] = [weight_bytes, activation_bytes, state_bytes].map(output::bytes);
    println!("{name}: {us:.2} us, {kernels} kernels; {weights} of weights, {states} of states and caches, {activations} of activations");
    print!("{}", listing(fused));
    if !tiles.is_empty() {
        println!("\ntiles of products, columns by rows");
    }
    for t in tiles {
        let beyond = t.beyond.map(|n| format!("beyond {n} rows: ")).unwrap_or_default();
        let (size, ctas) = (format!("{} by {}", t.columns, t.rows), format!("{} CTAs of {} threads", t.ctas, t.threads));
        println!("k{:<3} {beyond}{size}, {ctas} for each tile of rows, {} of shared memory, {}", t.group, output::bytes(t.shared_bytes.into()), t.kernel);
    }
    println!("\nresults: {}", results.join(", "));
    Ok(())
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

fn as_json(explanation: &Explanation, context: u32) -> Value {
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
    json!({ "name": explanation.name, "context": context, "plan_us": explanation.fused.report.plan_ps as f64 * 1e-6,
        "listing": listing(&explanation.fused), "derivations": derivations, "regrets": regrets })
}
