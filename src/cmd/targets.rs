//! `jetc targets`: the machines that code can be compiled for.

use super::{Outcome, output};
use jet_codegen::targets::TARGETS;
use serde::Serialize;

/// List the targets that this build compiles for, and which of them this machine runs
#[derive(clap::Args)]
#[command(after_help = "Example:\n  jetc targets --json")]
pub struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    arch: &'static str,
    backend: &'static str,
    features: &'static [&'static str],
    host: bool,
}

/// Prints the table of targets.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let built = TARGETS.iter().filter(|t| t.backend.is_built());
    let rows: Vec<_> =
        built.map(|t| Row { name: t.name, arch: t.arch, backend: t.backend.name(), features: t.requires, host: t.runs_here() }).collect();
    if args.json {
        output::json(&rows)?;
        return Ok(Outcome::Done);
    }
    let mut table = output::Table::new(["target", "architecture", "backend", "this machine"]);
    for row in &rows {
        table.row([row.name.into(), row.arch.into(), row.backend.into(), if row.host { "yes" } else { "no" }.into()]);
    }
    print!("{table}");
    Ok(Outcome::Done)
}
