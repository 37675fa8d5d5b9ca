//! `jetc compile`: a checkpoint into one artifact.

use super::{Outcome, output};
use crate::compile::{CompileRequest, Progress, Summary, compile};
use clap::ValueEnum;
use indicatif::ProgressBar;
use jet_frontend::{CompileOptions, WeightFormat, WeightsFile};
use jetbin::Phase;
use serde_json::{Value, json};
use std::path::PathBuf;

const HELP: &str = "\
SRC is a model.toml, or a Hugging Face directory: config.json, *.safetensors or an index, and, if there, tokenizer.json,
a chat template, generation_config.json and licence texts, which travel in the artifact.

Examples:
  jetc compile checkpoint/ -o model.jetbin
  jetc compile model.toml -o model.jetbin --max-context 8192 --max-batch 4 --dump dump/";

/// Compile a checkpoint into one artifact: kernels, schedule, memory plan, packed weights, tokenizer
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// A model.toml, or a directory with config.json and weights
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The artifact to write
    #[arg(short, long)]
    output: PathBuf,
    #[command(flatten)]
    options: CompileArgs,
    /// Write the IR of every phase into this directory
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

/// What shapes an artifact; absent options are those of model.toml, then defaults.
#[derive(Clone, Default, clap::Args)]
pub struct CompileArgs {
    /// Machines to compile for, best first (default: this one and a portable one; see `jetc targets`)
    #[arg(long = "target", value_name = "NAME,..", value_delimiter = ',')]
    targets: Vec<String>,
    /// Generator of CPU code: cranelift, or mlir where it is built in (default: both, each where it is best)
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Longest context in tokens (default: the model's, at most 32768)
    #[arg(long, value_name = "N")]
    max_context: Option<usize>,
    /// Most sequences that decode at once (default: 8)
    #[arg(long, value_name = "N")]
    max_batch: Option<usize>,
    /// Most tokens of a prompt that are processed at once (default: 512)
    #[arg(long, value_name = "N")]
    prefill_chunk: Option<usize>,
    /// What products multiply the weights with: f32, or bf16, rounded where a product reads it (default: f32)
    #[arg(long, value_name = "TYPE")]
    activations: Option<String>,
    /// Stored type of matrices (default: the checkpoint's)
    #[arg(long, value_enum)]
    weights: Option<Format>,
    /// Do not assemble GPU code, although there is a `ptxas` (the variable JETC_PTXAS, else on the path): the driver translates
    /// the PTX text, which is always there, when the model is loaded
    #[arg(long)]
    no_cubin: bool,
    /// Where the packed weights go (default: embed)
    #[arg(long, value_enum)]
    weights_file: Option<Place>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    F32,
    Bf16,
    /// 8 bits, with a scale for 64 columns of a row; gates stay bf16
    Q8,
    /// 4 bits, with scale and summand for 64 columns of a row; embedding, head and convolutions in 8 bits
    Q4,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// Into the artifact
    Embed,
    /// Into a file beside it, bound to it by a hash
    External,
}

impl CompileArgs {
    /// The request that these options make.
    pub fn request(&self, source: PathBuf, output: PathBuf) -> CompileRequest {
        CompileRequest {
            source,
            output,
            options: CompileOptions {
                targets: (!self.targets.is_empty()).then(|| self.targets.clone()),
                backend: self.backend.clone(),
                max_context: self.max_context,
                max_batch: self.max_batch,
                prefill_chunk: self.prefill_chunk,
                activations: self.activations.clone(),
                weights: self.weights.map(|w| match w {
                    Format::F32 => WeightFormat::F32,
                    Format::Bf16 => WeightFormat::Bf16,
                    Format::Q8 => WeightFormat::Q8,
                    Format::Q4 => WeightFormat::Q4,
                }),
                weights_file: self.weights_file.map(|w| match w {
                    Place::Embed => WeightsFile::Embed,
                    Place::External => WeightsFile::External,
                }),
            },
            no_cubin: self.no_cubin,
            dump: None,
        }
    }
}

/// Shows the phases of a compilation on stderr.
#[derive(Default)]
pub struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn begin(&mut self, what: &str, bytes: u64) {
        self.end();
        self.0 = Some(output::progress(bytes.max(1), output::Unit::Bytes).with_message(what.to_string()));
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

impl Bar {
    /// Takes the bar away.
    pub fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// Compiles and prints what the artifact got.
///
/// # Errors
/// Everything that is wrong with the source or the options; the file system.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut request = args.options.request(args.source.clone(), args.output.clone());
    request.dump.clone_from(&args.dump);
    let mut bar = Bar::default();
    let summary = compile(&request, &mut bar);
    bar.end();
    let summary = summary?;
    summary.warnings.iter().for_each(|warning| output::warn(warning));
    if args.json {
        output::json(&as_json(args, &summary))?;
    } else {
        print_text(args, &summary);
    }
    Ok(Outcome::Done)
}

fn print_text(args: &Args, summary: &Summary) {
    println!(
        "{}: {}, of it weights {}, in {:.1} s",
        args.output.display(),
        output::bytes(summary.bytes),
        output::bytes(summary.weight_bytes),
        summary.seconds.0,
    );
    println!("identity {}", summary.identity);
    for target in &summary.targets {
        print!("{}: {} kernels, {} of code", target.name, target.kernels, output::bytes(target.code_bytes as u64));
        match &target.assembled {
            Some((bytes, version)) => println!(", {} assembled by ptxas {version}", output::bytes(*bytes as u64)),
            None => println!(),
        }
        for p in &target.programs {
            let few = p.few.map_or(String::new(), |n| format!(", for up to {n} rows"));
            println!(
                "  {:<8} {} kernel calls instead of {}, {} moved per {} instead of {}, arena {} instead of {}{few}",
                p.phase,
                p.kernels.1,
                p.kernels.0,
                output::bytes(p.bytes_per_call.1),
                if p.phase == Phase::Decode { "token" } else { "chunk" },
                output::bytes(p.bytes_per_call.0),
                output::bytes(p.arena.0),
                output::bytes(p.arena.1),
            );
        }
    }
}

fn as_json(args: &Args, summary: &Summary) -> Value {
    let targets: Vec<_> = summary
        .targets
        .iter()
        .map(|t| {
            let programs: Vec<_> = t
                .programs
                .iter()
                .map(|p| {
                    json!({ "phase": p.phase.to_string(), "few": p.few, "kernels_unfused": p.kernels.0, "kernels": p.kernels.1,
                        "bytes_per_call_unfused": p.bytes_per_call.0, "bytes_per_call": p.bytes_per_call.1,
                        "arena_bytes": p.arena.0, "arena_bytes_without_reuse": p.arena.1 })
                })
                .collect();
            json!({ "name": t.name, "kernels": t.kernels, "code_bytes": t.code_bytes,
                "cubin_bytes": t.assembled.as_ref().map(|(bytes, _)| bytes), "programs": programs })
        })
        .collect();
    json!({ "path": args.output, "bytes": summary.bytes, "weight_bytes": summary.weight_bytes, "identity": summary.identity,
        "seconds": summary.seconds.0, "packing_seconds": summary.seconds.1, "warnings": summary.warnings, "targets": targets })
}
