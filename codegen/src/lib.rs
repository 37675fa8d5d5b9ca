//! Kernel IR, kernels and emitters of jetc.

mod caches;
mod compile;
pub mod emit;
pub mod kernels;
pub mod kir;
pub mod link;
pub mod pack;
mod select;
pub mod targets;
mod tiles;

pub use caches::with_cache_elem;
pub use compile::{Error, compile, legal};
pub use kernels::{Activations, Binding, Built, Scratch, Unsupported, multiplies_bytes};
pub use link::CodeBlob;
pub use pack::{Form, PackSpec, RowOrder};
pub use select::{select, supports};
pub use tiles::{TILE_ROWS, tiled_rows};
