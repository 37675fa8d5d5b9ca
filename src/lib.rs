//! jetc, an ahead-of-time compiler for Jet-Nemotron language models: the command line, and the composer of the crates below it.
//!
//! `ARCHITECTURE.md` is the map of the whole.

pub mod balance;
pub mod bench;
pub mod caches;
pub mod ceilings;
pub mod cmd;
pub mod compare;
pub mod compile;
#[cfg(feature = "ptxsim")]
pub mod counted;
pub mod defaults;
pub mod quality;
pub mod selftest;
pub mod source;
pub mod talk;
