//! `jetc targets`: the machines that code can be compiled for, and what runs it here.

use super::{Outcome, output};
use crate::compile::target_desc;
use jet_codegen::targets::{TARGETS, Target};
use jet_runtime::{DeviceChoice, judge};
use serde::Serialize;

const HELP: &str = "\
Code is made for every target of the table on any machine. `runs on` are devices (--device of run, compare, verify, quality and bench) that take
it here; ptxsim is a simulator, which says nothing of speed.

Example:
  jetc targets --json";

/// List the targets that this build compiles for, and what runs their code on this machine
#[derive(clap::Args)]
#[command(after_help = HELP)]
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
    /// Whether the processor of this machine runs it.
    host: bool,
    /// The devices of this build that run it here.
    devices: Vec<&'static str>,
    /// Why the hardware that it is for does not, if that is so.
    missing: Option<String>,
}

/// What the loader would say of code for `target` on every device of this build.
fn row(target: &'static Target) -> Row {
    let (mut devices, mut missing) = (vec![], None);
    for (name, device) in DeviceChoice::ALL {
        let desc = target_desc(target);
        let judged = device.machine().map(|machine| (machine.device, judge([desc.clone()], &machine)));
        let rejected = match judged {
            // another kind of device is not asked for an opinion
            Ok((kind, _)) if kind != desc.device => continue,
            Ok((_, candidates)) => candidates.into_iter().find_map(|c| c.rejected),
            Err(_) if !target.is_gpu() => continue,
            Err(error) => Some(error.problem),
        };
        match rejected {
            None => devices.push(*name),
            Some(why) => missing = Some(why),
        }
    }
    if target.is_gpu() && !DeviceChoice::ALL.iter().any(|(name, _)| *name == "cuda") {
        missing = Some("this build has no device cuda".into());
    }
    let Target { name, arch, requires: features, .. } = *target;
    Row { name, arch, backend: target.backend.name(), features, host: target.runs_here(), devices, missing }
}

/// Prints the table of targets.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let rows: Vec<_> = TARGETS.iter().filter(|t| t.backend.is_built()).map(row).collect();
    if args.json {
        output::json(&rows)?;
        return Ok(Outcome::Done);
    }
    let mut table = output::Table::new(["target", "architecture", "backend", "runs on", "not on hardware, because"]);
    for row in &rows {
        let devices = if row.devices.is_empty() { "-".to_string() } else { row.devices.join(", ") };
        // a table has one line for a target: the rest of the story is in the JSON
        let why = row.missing.as_deref().unwrap_or("").split(": ").next().unwrap_or("").to_string();
        table.row([row.name.into(), row.arch.into(), row.backend.into(), devices, why]);
    }
    print!("{table}");
    Ok(Outcome::Done)
}
