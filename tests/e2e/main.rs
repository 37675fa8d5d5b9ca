//! End-to-end tests through the command line: what a user types, and what comes out.

mod austen;
mod command_line;
mod cuda;
mod golden;
mod heavy;
mod help;
mod launches;
mod oracle;
mod ptxsim;
mod quantised;
mod reproducible;
mod support;
mod tidy;
