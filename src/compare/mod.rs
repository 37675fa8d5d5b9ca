//! Comparison of an artifact with a reference file: what to feed, what to collect, how to judge.
//!
//! [`tensors`] reads and writes the files, [`reference`] finds the sequences in one, [`feed`] runs them and
//! collects our values under the same keys, [`judge`] compares key by key.

pub mod feed;
pub mod judge;
pub mod reference;
mod session;
pub mod tensors;
