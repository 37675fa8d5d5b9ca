//! Comparison of an artifact with a reference file: what to feed, what to collect, how to judge.
//!
//! [`tensors`] reads and writes the files, [`reference`] finds the sequences in one, [`judge`] compares our values key by key.

pub mod judge;
pub mod reference;
pub mod tensors;
