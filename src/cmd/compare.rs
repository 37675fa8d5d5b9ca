//! `jetc compare`: an artifact's values against those of a reference file.

use super::{Outcome, MachineArgs, output};
use crate::compare::tolerance::Tolerance;
use crate::compare::{feed, judge, reference, tensors};
use anyhow::Context;
use jet_runtime::Model;
use std::path::PathBuf;

const HELP: &str = "\
Keys that are compared where REFERENCE holds them, for each sequence seq0, seq1, ..: logits, decode_logits, last_hidden,
layer_hidden, greedy_ids, prefill.layers.N.* and final.layers.N.* (states), topk_values with topk_indices, full_rows;
mixer_out and layer_out of a model of one layer, which is fed the ids 0, 1, 2, ..

Examples:
  jetc compare model.jetbin reference.safetensors
  jetc compare model.jetbin reference.safetensors --together --chunks 2,3,7 --tolerance 2e-5 --json";

/// Run the token ids of a reference file and compare every value that it holds
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The artifact
    artifact: PathBuf,
    /// Token ids and expected values
    reference: PathBuf,
    /// Largest allowed relative L2 difference of a key (default: what the arithmetic of the artifact allows)
    #[arg(long, value_name = "REL_L2")]
    tolerance: Option<f64>,
    /// Write our values under the same keys, and the full logits
    #[arg(long, value_name = "OUT.safetensors")]
    save: Option<PathBuf>,
    /// Run the file's sequences as one ragged batch instead of one by one
    #[arg(long)]
    together: bool,
    /// Feed every prompt in pieces of these lengths, the last one repeated, instead of the file's
    #[arg(long, value_name = "N,N,..", value_delimiter = ',')]
    chunks: Option<Vec<usize>>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the comparison; the check fails if a key is past the tolerance.
///
/// # Errors
/// If a file cannot be used, or the sequences do not fit the artifact.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let file = tensors::read(&args.reference)?;
    let model = args.machine.open(&args.artifact)?;
    let tolerance = Tolerance::of(&model, args.tolerance)?;
    let vocab = model.facts().vocab_size as usize;
    let sequences = reference::sequences(&file, vocab, args.chunks.as_deref())
        .with_context(|| args.reference.display().to_string())?;
    check_room(&model, &sequences, args.together)?;
    let slots = if args.together { sequences.len() as u32 } else { 1 };
    let mut session = args.machine.session(&model, slots)?;
    let calls = feed::calls(&sequences, args.together) as u64;
    let bar = output::progress(calls, output::Unit::Items).with_message("calls");
    let ours = feed::collect(&mut session, &file, &sequences, args.together, &|| bar.inc(1))?;
    bar.finish_and_clear();
    if let Some(path) = &args.save {
        tensors::write(path, &ours)?;
    }
    let report = judge::judge(&file, &ours, tolerance);
    if args.json {
        output::json(&report)?;
    } else {
        print_text(&report);
    }
    Ok(if report.passed { Outcome::Done } else { Outcome::CheckFailed })
}

/// Refuses sequences that do not fit before anything runs.
fn check_room(model: &Model, sequences: &[reference::Sequence], together: bool) -> anyhow::Result<()> {
    let facts = model.facts();
    for s in sequences {
        let (found, room) = (s.len(), facts.max_context);
        anyhow::ensure!(found <= room as usize, "{}: found {found} tokens, expected at most the context of {room}", s.name);
    }
    let (found, room) = (sequences.len(), facts.max_batch);
    anyhow::ensure!(
        !together || found <= room as usize,
        "--together: found {found} sequences, expected at most the artifact's batch of {room}"
    );
    Ok(())
}

fn print_text(report: &judge::Report) {
    let mut table = output::Table::new(["key", "max abs", "rel L2", "reference max", "top-1", "verdict"]);
    for k in &report.keys {
        table.row([
            k.key.clone(),
            format!("{:.2e}", k.max_abs),
            format!("{:.2e}", k.relative_l2),
            format!("{:.3}", k.reference_max),
            k.top1.map(|share| format!("{:.2} %", share * 100.0)).unwrap_or_default(),
            match &k.problem {
                Some(problem) => problem.clone(),
                None if !k.judged => "not judged".into(),
                None if k.passed => "ok".into(),
                None => "past the tolerance".into(),
            },
        ]);
    }
    print!("{table}");
    let failed = report.keys.iter().filter(|k| !k.passed).count();
    println!(
        "\n{}: {} of {} keys within {:e}; worst relative L2 {:.2e}, worst absolute {:.2e}, worst top-1 {:.2} %",
        if report.passed { "passed" } else { "FAILED" },
        report.keys.len() - failed,
        report.keys.len(),
        report.tolerance,
        report.worst_relative_l2,
        report.worst_max_abs,
        report.worst_top1 * 100.0,
    );
}
