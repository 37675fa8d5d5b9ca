//! End-to-end tests through the command line: what a user types, and what comes out.

#[path = "../support/mod.rs"]
mod support;

mod golden;
mod tidy;
