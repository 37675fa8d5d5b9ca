//! End-to-end tests through the command line: what a user types, and what comes out.

mod support;
mod tidy;
