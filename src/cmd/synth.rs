//! `jetc synth`: writes a deterministic synthetic checkpoint of any configuration.

use super::{Outcome, output};
use crate::tensor_writer::{Planned, TensorWriter};
use anyhow::{Context, ensure};
use jet_frontend::ModelConfig;
use jet_frontend::synth::Generator;
use std::path::{Path, PathBuf};

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

/// Bytes made at a time.
const BLOCK: usize = 16 << 20;

/// Writes the checkpoint.
///
/// # Errors
/// If the configuration is not valid, if the directory holds weights already, or if the disk fails.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let source = if args.config.is_dir() { args.config.join("config.json") } else { args.config.clone() };
    let config = ModelConfig::read(&source)?;
    let weights = args.output.join("model.safetensors");
    ensure!(!weights.exists(), "{}: exists already; expected a directory without weights", weights.display());
    std::fs::create_dir_all(&args.output).with_context(|| format!("{}: cannot create", args.output.display()))?;
    let copy = args.output.join("config.json");
    if std::fs::canonicalize(&source).ok() != std::fs::canonicalize(&copy).ok() {
        std::fs::copy(&source, &copy).with_context(|| format!("{}: cannot write", copy.display()))?;
    }
    let bytes = write_weights(&config, args.seed, &weights).with_context(|| format!("{}: cannot write", weights.display()))?;
    let parameters = config.parameter_count();
    if args.json {
        output::json(&serde_json::json!({ "path": weights, "seed": args.seed, "parameters": parameters, "bytes": bytes }))?;
    } else {
        println!("{}: {parameters} parameters, {}", weights.display(), output::bytes(bytes));
    }
    Ok(Outcome::Done)
}

/// Writes every tensor of the configuration; returns their size in bytes.
fn write_weights(config: &ModelConfig, seed: u64, path: &Path) -> std::io::Result<u64> {
    let specs = config.tensors();
    let generators: Vec<_> = specs.iter().map(|spec| Generator::for_tensor(spec, seed)).collect();
    let planned: Vec<_> = specs
        .into_iter()
        .zip(&generators)
        .map(|(spec, g)| Planned { name: spec.name, element: g.dtype().element_type(), shape: spec.shape })
        .collect();
    let total = planned.iter().map(Planned::bytes).sum();
    let bar = output::progress(total, output::Unit::Bytes).with_message("weights");
    let mut writer = TensorWriter::create(path, &planned)?;
    let mut block = vec![0; BLOCK];
    for (tensor, generator) in planned.iter().zip(&generators) {
        let (mut start, mut rest) = (0, tensor.bytes());
        while rest > 0 {
            let part = &mut block[..rest.min(BLOCK as u64) as usize];
            generator.fill_bytes_parallel(start, part);
            writer.append(part)?;
            start += (part.len() / generator.dtype().bytes()) as u64;
            rest -= part.len() as u64;
            bar.inc(part.len() as u64);
        }
    }
    writer.finish()?;
    bar.finish_and_clear();
    Ok(total)
}
