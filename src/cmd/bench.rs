//! `jetc bench`: how fast an artifact is on this machine, and how near to the machine's limits.

use super::{Outcome, MachineArgs, output};
use crate::bench::{Depth, Load, Row, Test, load, measure};
use crate::ceilings::{Arithmetic, Ceilings, MemoryMeter};
use anyhow::ensure;
use clap::ValueEnum;
use jet_runtime::Model;
use serde::Serialize;
use std::path::PathBuf;

#[cfg(feature = "ptxsim")]
mod simulated;

const HELP: &str = "\
Shares are of limits measured in the same run: reading memory (on a GPU, copying), sampled between the calls, and multiply-adds
of several widths and types (on a CPU). Bytes and operations are those that the artifact states for its steps: weights once a call, states once
a sequence, operations once a row, attention with the keys that it sees.

With --device ptxsim nothing is timed. The simulator counts what one call does on a GPU: a prompt, or a single step of generation whatever -n
says; beside it stands the time that this takes at the speeds that the target states, kernel by kernel.

Examples:
  jetc bench model.jetbin
  jetc bench model.jetbin -p 128,512 -n 64 -d 0,4096 -b 1,4 -o json
  jetc bench model.jetbin --device cuda -b 1,8,64
  jetc bench model.jetbin --device ptxsim -p 64 -b 1,8";

/// Measure tokens per second for prompts and generation, and the share of the machine's measured limits
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The artifact
    artifact: PathBuf,
    /// Tokens of a prompt; 0 leaves these tests out
    #[arg(short = 'p', long = "n-prompt", value_name = "N,..", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<u32>,
    /// Tokens to generate; 0 leaves these tests out
    #[arg(short = 'n', long = "n-gen", value_name = "N,..", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<u32>,
    /// Tokens that each sequence holds before
    #[arg(short = 'd', long = "n-depth", value_name = "N,..", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<u32>,
    /// Sequences that generate at once
    #[arg(short = 'b', long = "n-batch", value_name = "N,..", value_delimiter = ',', default_value = "1")]
    n_batch: Vec<u32>,
    /// Repetitions, after one that does not count
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    #[command(flatten)]
    machine: MachineArgs,
    /// Let the simulator count what takes it more than two minutes
    #[cfg(feature = "ptxsim")]
    #[arg(long)]
    long: bool,
    /// Form of the report
    #[arg(short, long, value_enum, default_value_t = Form::Md)]
    output: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A Markdown table
    Md,
    /// Comma-separated values
    Csv,
    /// One JSON object with everything
    Json,
    /// One JSON object per line and test
    Jsonl,
}

#[derive(Serialize)]
struct Report {
    model: String,
    target: String,
    weight_bytes: u64,
    ceilings: Ceilings,
    /// What the memory's rate is one of: reading, or copying within a GPU.
    memory: &'static str,
    load: Load,
    rows: Vec<Row>,
}

/// Runs the tests and prints the report.
///
/// # Errors
/// If the artifact cannot be used, or the tests do not fit it.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let model = args.machine.open(&args.artifact)?;
    let tests = tests(args);
    #[cfg(feature = "ptxsim")]
    if args.machine.device == jet_runtime::DeviceChoice::PtxSim {
        return simulated::run(args, &model, tests);
    }
    fit(&tests, &model)?;
    let facts = model.facts();
    let bar = output::progress(tests.len() as u64 + 2, output::Unit::Items);
    bar.set_message("ceilings");
    let sequences = tests.iter().map(|t| t.n_batch).max().unwrap_or(1);
    let mut session = args.machine.session(&model, sequences)?;
    let (meter, ceilings) = MemoryMeter::of(&session)?;
    bar.inc(1);
    bar.set_message("loading");
    let load = load(|| args.machine.session(&args.machine.open(&args.artifact)?, 1))?;
    let (mut rows, mut depth) = (Vec::new(), Depth::default());
    for test in tests {
        bar.inc(1);
        bar.set_message(test.name());
        rows.push(measure(&mut session, test, args.repetitions, &mut depth, (&meter, &ceilings.arithmetic))?);
    }
    bar.finish_and_clear();
    let target = model.candidates().first().map(|c| c.name.clone()).unwrap_or_default();
    let weight_bytes = model.weight_data().len() as u64;
    let report = Report { model: facts.name.clone(), target, weight_bytes, ceilings, memory: meter.what(), load, rows };
    print(&report, args.output)?;
    Ok(Outcome::Done)
}

/// Whether the artifact has room for all tests.
fn fit(tests: &[Test], model: &Model) -> anyhow::Result<()> {
    ensure!(!tests.is_empty(), "nothing to measure: -p and -n are both 0");
    let facts = model.facts();
    for test in tests {
        let tokens = [test.n_depth, test.n_prompt, test.n_gen].map(u64::from).iter().sum::<u64>();
        ensure!(tokens <= facts.max_context.into(), "{}: {tokens} tokens, the artifact's context is {}", test.name(), facts.max_context);
        let batch = test.n_batch;
        ensure!((1..=facts.max_batch).contains(&batch), "-b: found {batch}, expected 1 to {}", facts.max_batch);
    }
    Ok(())
}

/// Prompts first, then generation, each at every depth; batches concern generation.
fn tests(args: &Args) -> Vec<Test> {
    let mut tests = Vec::new();
    for &n_depth in &args.n_depth {
        for &n_prompt in args.n_prompt.iter().filter(|&&n| n > 0) {
            tests.push(Test { n_prompt, n_gen: 0, n_depth, n_batch: 1 });
        }
        for &n_batch in &args.n_batch {
            for &n_gen in args.n_gen.iter().filter(|&&n| n > 0) {
                tests.push(Test { n_prompt: 0, n_gen, n_depth, n_batch });
            }
        }
    }
    tests
}

fn print(report: &Report, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json => output::json(report)?,
        Form::Jsonl => output::json_lines(&report.rows)?,
        Form::Csv => {
            print!("test,n_prompt,n_gen,n_depth,n_batch,n_threads,avg_ts,stddev_ts,gbps,read_gbps,read_share,gflops");
            println!(",f32_128_share,f32_wide_share,bf16_dot_share,int8_dot_share");
            for r in &report.rows {
                let Row { n_prompt, n_gen, n_depth, n_batch, n_threads, avg_ts, stddev_ts, .. } = r;
                print!("{},{n_prompt},{n_gen},{n_depth},{n_batch},{n_threads},{avg_ts},{stddev_ts}", r.test);
                print!(",{},{},{},{}", r.gbps, r.read_gbps, r.read_share, r.gflops);
                let Arithmetic { f32_128, f32_wide, bf16_dot, int8_dot } = r.shares;
                println!(",{f32_128},{f32_wide},{bf16_dot},{int8_dot}");
            }
        }
        Form::Md => print_table(report),
    }
    Ok(())
}

fn print_table(report: &Report) {
    let Ceilings { threads, arithmetic, .. } = report.ceilings;
    let limits: Vec<_> = arithmetic.named().collect();
    print!("| model | target | threads | test | tok/s | GB/s | of {} |", report.memory);
    limits.iter().for_each(|(name, gflops)| print!(" of {gflops:.0} {name} |"));
    println!("\n| --- | --- | ---: | --- | ---: | ---: | ---: |{}", " ---: |".repeat(limits.len()));
    for row in &report.rows {
        let (model, weights) = (&report.model, output::bytes(report.weight_bytes));
        print!("| {model} {weights} | {} | {threads} | {} |", report.target, row.test);
        print!(" {:.2} ± {:.2} | {:.1} |", row.avg_ts, row.stddev_ts, row.gbps);
        print!(" {:.0} % of {:.1} |", row.read_share * 100.0, row.read_gbps);
        row.shares.named().for_each(|(_, share)| print!(" {:.0} % |", share * 100.0));
        println!();
    }
    print!("\nload {:.1} ms, first token after {:.1} ms", report.load.load_ms, report.load.first_token_ms);
    match report.ceilings.step_us {
        0.0 => println!(),
        step => println!(", a step without work {step:.2} us"),
    }
}
