//! Kernel IR, kernels and emitters of jetc.

mod compile;
pub mod emit;
pub mod kir;
pub mod link;
pub mod targets;

pub use compile::{Error, compile, legal};
pub use link::CodeBlob;
