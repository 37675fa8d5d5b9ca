//! `jetc synth`: writes a deterministic synthetic checkpoint of any configuration.

use super::{Outcome, output};
use anyhow::{Context, ensure};
use jet_frontend::ModelConfig;
use jet_frontend::tensor_writer::write_checkpoint;
use std::path::PathBuf;

/// Write a synthetic checkpoint: random weights that depend on a seed and the tensors' names alone
#[derive(clap::Args)]
#[command(after_help = "Example:\n  jetc synth config.json --seed 1 -o checkpoint/")]
pub struct Args {
    /// A config.json, or a directory that holds one
    config: PathBuf,
    /// Every seed gives other weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory to write config.json and model.safetensors into; created if need be
    #[arg(short, long)]
    output: PathBuf,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

/// Writes the checkpoint.
///
/// # Errors
/// If the configuration is not valid, if the directory holds weights already, or if the disk fails.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let source = if args.config.is_dir() { args.config.join("config.json") } else { args.config.clone() };
    let parameters = ModelConfig::read(&source)?.parameter_count();
    let weights = args.output.join("model.safetensors");
    ensure!(!weights.exists(), "{}: exists already; expected a directory without weights", weights.display());
    // nearly all tensors are bf16
    let bar = output::progress(2 * parameters, output::Unit::Bytes).with_message("writing weights");
    write_checkpoint(&args.output, &source, args.seed, None, &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    let bytes = std::fs::metadata(&weights).with_context(|| format!("{}: cannot read", weights.display()))?.len();
    if args.json {
        output::json(&serde_json::json!({ "path": weights, "seed": args.seed, "parameters": parameters, "bytes": bytes }))?;
    } else {
        println!("{}: {parameters} parameters, {}", weights.display(), output::bytes(bytes));
    }
    Ok(Outcome::Done)
}
