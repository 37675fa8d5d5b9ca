//! The command line: see `jetc --help`. All of it is in the library, where tests can reach it.

fn main() -> std::process::ExitCode {
    jetc::cmd::main()
}
