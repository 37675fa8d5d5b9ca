//! `jetc verify`: whether an artifact is what it says, and computes what its model means.

use super::{Outcome, MachineArgs, output};
use crate::compare::evaluated::Evaluated;
use crate::compare::judge::Report;
use crate::compare::tolerance::{self, Tolerance};
use crate::selftest;
use anyhow::Context;
use jet_frontend::{ModelSpec, WeightFormat};
use jet_frontend::graph::model_graph;
use serde::Serialize;
use std::path::{Path, PathBuf};

const HELP: &str = "\
Checks the hashes of header, tables, code and packed weights; then the artifact's code computes on the device: the prompt
program against the decode program, and with --source both against the reference evaluation of the source's graph, part by part.
The latter takes about a minute for each billion weights. Mixers, MLPs and head are compared one by one, each column on its own, from
the artifact's own input. Where a CPU rounds the rows of products (bf16 activations, bytes), the reference rounds them too; of a GPU
it counts the roundings in each part.

Examples:
  jetc verify model.jetbin
  jetc verify model.jetbin --source checkpoint/ --json";

/// Check an artifact: hashes, recipe, and a self-test of its code on this machine
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The artifact
    artifact: PathBuf,
    /// The model.toml or directory that it was compiled from: compare with the reference evaluation
    #[arg(long, value_name = "SRC")]
    source: Option<PathBuf>,
    /// Largest allowed relative L2 difference of a value (default: what the arithmetic of the artifact allows)
    #[arg(long, value_name = "REL_L2")]
    tolerance: Option<f64>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Verdict {
    identity: String,
    /// Why the packed weights are not those that were written; absent if they are.
    weights_problem: Option<String>,
    /// Why the source is another one; absent if it is the artifact's, or none was named.
    source_problem: Option<String>,
    /// Prompt program against decode program.
    prefill_against_decode: Report,
    /// Both against the reference evaluation of the source.
    against_reference: Option<Report>,
    passed: bool,
}

/// Runs the checks.
///
/// # Errors
/// If the artifact or the source cannot be used at all.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let model = args.machine.open(&args.artifact)?;
    let recipe = tolerance::recipe(&model)?;
    let weights_problem = model.verify_weights().err().map(|e| e.to_string());
    let tolerance = Tolerance::of_two_sides(&model, args.tolerance)?;
    let mut session = args.machine.session(&model, 1)?;
    let bar = output::progress(2 * selftest::steps(&session)? as u64, output::Unit::Items).with_message("self-test");
    let prefill_against_decode = selftest::against_itself(&mut session, tolerance, &|| bar.inc(1))?;
    let (mut source_problem, mut against_reference) = (None, None);
    if let Some(source) = &args.source {
        let spec = ModelSpec::open(source)?;
        source_problem = other_source(&recipe, &spec.config)?;
        if source_problem.is_none() {
            let config = spec.read_config()?;
            let stored = recipe["compile"]["weights"].as_str().and_then(WeightFormat::named);
            let stored = stored.context("section recipe: names no known format of weights")?;
            let (weights, graph) = (spec.open_weights(&config)?, model_graph(&config, stored)?);
            let mut reference = Evaluated::new(&config, &graph, weights.as_ref(), 1);
            let tolerance = Tolerance::of_reference(&model, args.tolerance)?;
            let rounding = tolerance::rounding(&model)?;
            let report = selftest::against(&mut session, &mut reference, tolerance, rounding, &|| bar.inc(1))?;
            against_reference = Some(report);
        }
    }
    bar.finish_and_clear();
    let passed = weights_problem.is_none()
        && source_problem.is_none()
        && prefill_against_decode.passed
        && against_reference.as_ref().is_none_or(|r| r.passed);
    let identity = jetbin::hex(&model.reader().identity());
    let verdict =
        Verdict { identity, weights_problem, source_problem, prefill_against_decode, against_reference, passed };
    if args.json { output::json(&verdict)? } else { print_text(&verdict) }
    Ok(if passed { Outcome::Done } else { Outcome::CheckFailed })
}

/// Why a configuration is not the one that the recipe names.
fn other_source(recipe: &serde_json::Value, config: &Path) -> anyhow::Result<Option<String>> {
    let bytes = std::fs::read(config).with_context(|| format!("{}: cannot read", config.display()))?;
    let found = blake3::hash(&bytes).to_hex().to_string();
    let expected = recipe["source"]["config_blake3"].as_str().unwrap_or("none");
    Ok((found != expected)
        .then(|| format!("{}: found hash {found}, expected the recipe's {expected}", config.display())))
}

fn print_text(verdict: &Verdict) {
    println!("identity           {}", verdict.identity);
    println!("header, tables     ok");
    println!("weights            {}", verdict.weights_problem.as_deref().unwrap_or("ok"));
    if let Some(problem) = &verdict.source_problem {
        println!("source             {problem}");
    }
    let reports = [("prefill = decode", Some(&verdict.prefill_against_decode)), ("reference", verdict.against_reference.as_ref())];
    for (name, report) in reports {
        let Some(report) = report else { continue };
        let failed: Vec<_> = report.keys.iter().filter(|k| !k.passed).collect();
        let worst = report.nearest();
        let worst = worst.map(|k| format!("{:.1e}, allowed {:.1e} ({})", k.relative_l2, k.tolerance, k.key));
        println!(
            "{name:<18} {}: {} values, at worst a relative L2 of {}",
            if report.passed { "ok" } else { "FAILED" },
            report.keys.len(),
            worst.unwrap_or_else(|| "none".into()),
        );
        for key in failed {
            let past = || format!("{:.1e}, allowed {:.1e}", key.relative_l2, key.tolerance);
            println!("  {}: {}", key.key, key.problem.clone().unwrap_or_else(past));
        }
    }
}
