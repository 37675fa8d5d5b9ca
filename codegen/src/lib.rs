//! Kernel IR, kernels and emitters of jetc.

mod compile;
pub mod emit;
pub mod kernels;
pub mod kir;
pub mod link;
pub mod pack;
mod select;
pub mod targets;

pub use compile::{Error, compile, legal};
pub use kernels::{Activations, Binding, Built, Scratch, Unsupported, multiplies_bytes};
pub use link::CodeBlob;
pub use pack::{Form, PackSpec, RowOrder};
pub use select::{select, supports};
