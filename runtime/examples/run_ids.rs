//! The smallest program around a model: token ids in, token ids out, greedy.
//!
//!     cargo build -p jet-runtime --example run_ids --profile tiny
//!     target/tiny/examples/run_ids model.jetbin 1,2,3 -n 16 -t 2

use jet_runtime::generate::{Finish, Limits, generate};
use jet_runtime::sampling::{Sampler, Sampling};
use jet_runtime::{Model, Options, Session};
use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;

const USAGE: &str = "usage: run_ids ARTIFACT ID,ID,.. [-n NEW_TOKENS] [-t THREADS]";

struct Command {
    artifact: String,
    ids: Vec<u32>,
    max_new_tokens: u32,
    threads: u32,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, Box<dyn Error>> {
    let (artifact, ids) = args.next().zip(args.next()).ok_or(USAGE)?;
    let number = |text: &str| text.trim().parse::<u32>().map_err(|e| format!("{text:?}: {e}, expected a number"));
    let ids = ids.split(',').map(number).collect::<Result<_, _>>()?;
    let mut command = Command { artifact, ids, max_new_tokens: 16, threads: 0 };
    while let Some(flag) = args.next() {
        let value = number(&args.next().ok_or(USAGE)?)?;
        match &flag[..] {
            "-n" => command.max_new_tokens = value,
            "-t" => command.threads = value,
            _ => return Err(format!("{flag}: unknown flag; {USAGE}").into()),
        }
    }
    Ok(command)
}

fn run() -> Result<(), Box<dyn Error>> {
    let command = parse(std::env::args().skip(1))?;
    let model = Model::open(&command.artifact)?;
    let mut session = Session::new(&model, Options { threads: command.threads, ..Options::default() })?;
    let mut sampler = Sampler::new(Sampling::default(), 0)?;
    let limits = Limits { max_new_tokens: command.max_new_tokens, eos_ids: &model.facts().eos_ids };
    let mut history = command.ids;
    let mut out = std::io::stdout();
    let mut show = |id: u32| match write!(out, "{id} ").and_then(|()| out.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let finish = generate(&mut session, 0, &mut history, &mut sampler, limits, &mut show)?;
    println!();
    if finish == Finish::Context {
        eprintln!("the context of {} tokens is full", model.facts().max_context);
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("run_ids: {error}");
            ExitCode::from(2)
        }
    }
}
