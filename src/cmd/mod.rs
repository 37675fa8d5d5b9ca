//! The table of commands, their exit codes and the way in which they speak.
//!
//! A command is a file of this folder, `Args` (clap) with a function `run`, and one line in the table below.

pub mod output;

use clap::{Parser, Subcommand};
use jet_runtime::{DeviceChoice, Model, OpenOptions, Options, Session};
use std::path::Path;
use std::process::ExitCode;

/// What a command that did its work has to say with its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or every check passed.
    Done,
    /// A comparison or a check failed; the report says which.
    CheckFailed,
}

/// The machine cannot do what was asked, although the request is in order.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeviceCannot(pub String);

macro_rules! commands {
    ($($module:ident $variant:ident,)*) => {
        $(pub mod $module;)*

        #[derive(Subcommand)]
        enum Command {
            $($variant($module::Args),)*
        }

        impl Command {
            fn run(&self) -> anyhow::Result<Outcome> {
                match self {
                    $(Command::$variant(args) => $module::run(args),)*
                }
            }
        }
    };
}

commands! {
    compile Compile,
    run Run,
    compare Compare,
    inspect Inspect,
    explain Explain,
    bench Bench,
    quality Quality,
    verify Verify,
    synth Synth,
    targets Targets,
    doctor Doctor,
}

/// Compiles a Jet-Nemotron checkpoint into one file of kernels, schedule and weights, and runs it.
#[derive(Parser)]
#[command(
    name = "jetc",
    version,
    max_term_width = 120,
    after_help = "Exit codes: 0 done, 1 a comparison or check failed, 2 bad usage or bad input, 3 this machine cannot do it."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Parses the arguments, runs the command and reports an error on stderr.
///
/// Exit code: 0 done, 1 a check failed, 2 bad usage or bad input, 3 the machine cannot do it.
pub fn main() -> ExitCode {
    output::die_quietly_on_closed_pipes();
    // clap itself exits with 2 on bad usage, and with 0 after help.
    let cli = Cli::parse();
    match cli.command.run() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            output::report(&error);
            ExitCode::from(code_of(&error))
        }
    }
}

/// What runs a model.
#[derive(clap::Args)]
pub struct MachineArgs {
    /// What runs the kernels: cpu, cuda (cuda:N for the GPU with number N), or ptxsim, the simulator of GPU code
    #[arg(long, value_name = "NAME", default_value = "cpu", value_parser = DeviceChoice::named)]
    device: DeviceChoice,
    /// Run this target of the artifact, and not the best that the device can
    #[arg(long, value_name = "TARGET")]
    use_target: Option<String>,
    /// Threads; 0 means one for each core
    #[arg(short, long, default_value_t = 0)]
    threads: u32,
    /// Keep each thread on a processor of its own; which ones, `taskset` can say
    #[arg(long)]
    pin: bool,
}

impl MachineArgs {
    /// Opens an artifact to run it.
    ///
    /// # Errors
    /// If the file is not an artifact, or a damaged one, if it holds no code for the device, or if there is no such device.
    pub fn open(&self, path: &Path) -> anyhow::Result<Model> {
        let options = OpenOptions { device: self.device, target: self.use_target.clone(), ..OpenOptions::default() };
        Model::open_with(path, &options).map_err(|error| match error {
            jet_runtime::Error::NoTarget(_) => DeviceCannot(format!("{}: {error}", path.display())).into(),
            other => other.into(),
        })
    }

    /// A session for so many sequences; what the device has to say goes to stderr.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn session(&self, model: &Model, sequences: u32) -> anyhow::Result<Session> {
        let session = Session::new(model, Options { threads: self.threads, sequences, pin: self.pin })?;
        session.notes().iter().for_each(|note| output::warn(note));
        Ok(session)
    }
}

/// 3 for what the machine cannot do, or failed to do; else the request is at fault.
fn code_of(error: &anyhow::Error) -> u8 {
    let of_machine = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<DeviceCannot>() || matches!(cause.downcast_ref(), Some(jet_runtime::Error::Device(_)))
    };
    if error.chain().any(of_machine) { 3 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_and_a_description() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(
                command.get_about().is_some_and(|about| !about.to_string().is_empty()),
                "{name} has no description"
            );
            let help = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            assert!(
                help.contains(&format!("jetc {name} ")) || help.contains(&format!("jetc {name}\n")),
                "{name}: {help}"
            );
        }
    }

    #[test]
    fn a_machine_that_cannot_do_it_has_its_own_code() {
        let error = anyhow::Error::new(DeviceCannot("no AVX2".into())).context("loading");
        assert_eq!(code_of(&error), 3);
        let failed = jet_runtime::Error::from(jet_runtime::DeviceError::new("alloc", "no memory"));
        assert_eq!(code_of(&anyhow::Error::new(failed).context("loading")), 3);
        assert_eq!(code_of(&anyhow::anyhow!("bad input")), 2);
    }
}
