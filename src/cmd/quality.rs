//! `jetc quality`: perplexity of a text, and the distance of two artifacts' predictions.

use super::{Outcome, MachineArgs, output};
use crate::quality::{Quality, Tally};
use crate::talk;
use anyhow::{Context, ensure};
use jet_runtime::text::AddedTokens;
use jet_runtime::{Model, Session};
use std::path::PathBuf;

const HELP: &str = "\
The text is cut into windows of --window tokens, each fed to an empty sequence; every token but the first is predicted from
those before it in its window.

Examples:
  jetc quality model.jetbin --text heldout.txt
  jetc quality model-f32.jetbin --against model.jetbin --text heldout.txt --json";

/// Measure the perplexity of a text, and how far another artifact's predictions are
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The artifact
    artifact: PathBuf,
    /// A text file, UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// A second artifact of the same vocabulary: mean and 99.9 % of KL(second || first), agreement of the best tokens
    #[arg(long, value_name = "ARTIFACT")]
    against: Option<PathBuf>,
    /// Tokens of a window
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    window: u32,
    #[command(flatten)]
    machine: MachineArgs,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Scores the text and prints the result.
///
/// # Errors
/// If a file cannot be used, or the models do not fit each other.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let model = args.machine.open(&args.artifact)?;
    let text = std::fs::read_to_string(&args.text).with_context(|| format!("{}: cannot read", args.text.display()))?;
    let ids = talk::tokenizer(&model)?.encode(&text, AddedTokens::Parse)?;
    ensure!(ids.len() > 1, "{}: found {} tokens, expected 2 at least", args.text.display(), ids.len());
    let mut session = session(&model, args)?;
    let mut other = args.against.as_ref().map(|path| session_against(path, &model, args)).transpose()?;
    let bar = output::progress(ids.len() as u64, output::Unit::Items).with_message("tokens");
    let mut tally = Tally::default();
    for start in (0..ids.len() - 1).step_by(args.window as usize) {
        let end = (start + args.window as usize + 1).min(ids.len());
        score(&mut session, other.as_mut(), &ids[start..end], &mut tally)?;
        bar.set_position(end as u64);
    }
    bar.finish_and_clear();
    let quality = tally.finish();
    if args.json { output::json(&quality)? } else { print_text(&quality) }
    Ok(Outcome::Done)
}

fn session(model: &Model, args: &Args) -> anyhow::Result<Session> {
    let room = model.facts().max_context;
    ensure!(args.window <= room, "--window: found {}, expected at most the artifact's context of {room}", args.window);
    args.machine.session(model, 1)
}

fn session_against(path: &std::path::Path, model: &Model, args: &Args) -> anyhow::Result<Session> {
    let other = args.machine.open(path)?;
    let (found, expected) = (other.facts().vocab_size, model.facts().vocab_size);
    ensure!(found == expected, "{}: found a vocabulary of {found}, expected {expected}", path.display());
    session(&other, args)
}

/// Feeds all but the last token of `ids` to empty sequences and scores the predictions of all but the first.
fn score(session: &mut Session, mut other: Option<&mut Session>, ids: &[u32], tally: &mut Tally) -> anyhow::Result<()> {
    session.reset(0)?;
    other.as_mut().map_or(Ok(()), |o| o.reset(0))?;
    let chunk = |s: &Session| s.model().facts().prefill_chunk as usize;
    let step = other.as_ref().map_or(usize::MAX, |o| chunk(o)).min(chunk(session));
    let mut targets = ids[1..].iter();
    for fed in ids[..ids.len() - 1].chunks(step) {
        session.prefill(0, fed)?;
        other.as_mut().map_or(Ok(()), |o| o.prefill(0, fed))?;
        for (row, &target) in (0..fed.len() as u32).zip(&mut targets) {
            let reference = other.as_mut().map(|o| o.logits(row)).transpose()?;
            tally.add(session.logits(row)?, reference, target as usize);
        }
    }
    Ok(())
}

fn print_text(quality: &Quality) {
    println!("perplexity {:.4} (mean of {:.6} nats over {} tokens)", quality.perplexity, quality.mean_nll, quality.scored);
    if let Some(against) = &quality.against {
        println!("the other  {:.4}", against.perplexity);
        println!("KL         mean {:.3e}, 99.9 % {:.3e} nats", against.mean_kl, against.kl_999);
        println!("top-1      {:.3} % equal", against.top1_agreement * 100.0);
    }
}
