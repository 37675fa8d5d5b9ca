//! `jetc run`: generates text, or token ids, or chats.

use super::compile::{Bar, CompileArgs};
use super::{Outcome, MachineArgs, output};
use crate::defaults::{Generation, GenerationArgs};
use crate::source;
use crate::talk::{self, Chat, Speaker};
use anyhow::{Context, ensure};
use jet_runtime::text::AddedTokens;
use jet_runtime::Model;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::time::Instant;

const HELP: &str = "\
SRC is an artifact; or a model.toml or directory, which is compiled first and kept in the cache directory ($XDG_CACHE_HOME/jetc).
The model's text goes to stdout and nothing else does.

Examples:
  jetc run model.jetbin -p \"It is a truth universally acknowledged\" -n 64
  jetc run checkpoint/ -p \"Once\" --temp 0.7 --top-p 0.9 --seed 1 --stop \"\\n\"
  jetc run model.jetbin --ids 1492,365,259 -n 8
  jetc run model.jetbin -i";

/// Generate text with a model
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// An artifact, a model.toml, or a directory with config.json and weights
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The text to continue; with -i, the first message
    #[arg(short, long, value_name = "TEXT", conflicts_with = "ids")]
    prompt: Option<String>,
    /// Token ids to continue instead of a text; ids are printed, too
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', conflicts_with = "interactive")]
    ids: Option<Vec<u32>>,
    /// Chat: messages from stdin, one a line, in the model's chat template
    #[arg(short, long)]
    interactive: bool,
    /// What the system message of a chat says
    #[arg(long, value_name = "TEXT", requires = "interactive")]
    system: Option<String>,
    /// Most tokens of the sequence, prompt included (default: the artifact's context)
    #[arg(short, long = "ctx-size", value_name = "N")]
    ctx_size: Option<u32>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Print times, rates, memory and the seed on stderr afterwards
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten, next_help_heading = "Options of the compilation, where SRC is not an artifact")]
    compile: CompileArgs,
}

/// Generates.
///
/// # Errors
/// If the source cannot be used, the prompt does not fit, or the model fails.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    ensure!(args.prompt.is_some() || args.ids.is_some() || args.interactive, "nothing to continue: expected -p, --ids or -i");
    let mut bar = Bar::default();
    let artifact = source::artifact(&args.source, &args.compile, &mut bar);
    bar.end();
    let start = Instant::now();
    let model = args.machine.open(&artifact?)?;
    let generation = args.generation.settle(&talk::generation_defaults(&model)?)?;
    let session = args.machine.session(&model, 1)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let mut speaker = Speaker::new(session, &generation, context(args, &model)?)?;
    if let Some(ids) = &args.ids {
        speaker.continue_ids(ids)?;
    } else if args.interactive {
        chat(args, &model, &mut speaker)?;
    } else if let Some(prompt) = &args.prompt {
        let mut tokenizer = talk::tokenizer(&model)?;
        let ids = tokenizer.encode(prompt, AddedTokens::Parse)?;
        ensure!(!ids.is_empty(), "-p: found an empty prompt, expected one token at least");
        speaker.continue_text(ids, &tokenizer)?;
    }
    if args.stats {
        print_stats(&speaker, &generation, load_seconds);
    }
    Ok(Outcome::Done)
}

/// The limit of a sequence.
fn context(args: &Args, model: &Model) -> anyhow::Result<u32> {
    let room = model.facts().max_context;
    let context = args.ctx_size.unwrap_or(room);
    ensure!((1..=room).contains(&context), "-c: found {context}, expected 1 to the artifact's context of {room}");
    Ok(context)
}

/// Reads a message a line until the input ends.
fn chat(args: &Args, model: &Model, speaker: &mut Speaker) -> anyhow::Result<()> {
    let mut tokenizer = talk::tokenizer(model)?;
    let mut chat = Chat::new(talk::chat_template(model)?, args.system.as_deref());
    if let Some(prompt) = &args.prompt {
        chat.say(prompt, speaker, &mut tokenizer)?;
    }
    let stdin = std::io::stdin();
    let prompting = stdin.is_terminal();
    loop {
        if prompting {
            eprint!("> ");
        }
        let mut line = String::new();
        if stdin.lock().read_line(&mut line).context("reading stdin")? == 0 {
            return Ok(());
        }
        if !line.trim().is_empty() {
            chat.say(line.trim_end_matches(['\n', '\r']), speaker, &mut tokenizer)?;
        }
    }
}

fn print_stats(speaker: &Speaker, generation: &Generation, load_seconds: f64) {
    let (stats, memory) = (speaker.stats(), speaker.memory());
    let rate = |tokens: usize, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
    eprintln!("load      {:.1} ms", load_seconds * 1e3);
    eprintln!(
        "prompt    {} tokens, {:.1} ms, {:.1} tok/s",
        stats.prompt_tokens,
        stats.prompt_seconds * 1e3,
        rate(stats.prompt_tokens, stats.prompt_seconds)
    );
    eprintln!(
        "generated {} tokens, {:.1} ms, {:.1} tok/s; ended by {}",
        stats.new_tokens,
        stats.new_seconds * 1e3,
        rate(stats.new_tokens.saturating_sub(1), stats.new_seconds),
        stats.finish,
    );
    if generation.sampling.random {
        eprintln!("seed      {}", generation.seed);
    }
    eprintln!(
        "memory    states {}, arena {}, scratch {}, weights {} mapped",
        output::bytes(memory.states),
        output::bytes(memory.arena),
        output::bytes(memory.scratch + memory.arrivals),
        output::bytes(memory.weights),
    );
}
