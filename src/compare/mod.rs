//! Comparison of an artifact with a reference file: what to feed, what to collect, how to judge.
//!
//! [`tensors`] reads and writes the files, [`mod@reference`] finds the sequences in one, [`feed`] runs them and
//! collects our values under the same keys, [`evaluated`] is the reference evaluation as a runner, [`guided`] the same half layer by half layer, [`judge`] compares key by key, [`tolerance`] says how near is near enough.

pub mod evaluated;
pub mod feed;
pub mod guided;
pub mod judge;
pub mod reference;
mod session;
pub mod tensors;
pub mod tolerance;
