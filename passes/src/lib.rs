//! E-graph fusion, layouts and memory plan of jetc.
//!
//! ```text
//! graph -> normalise -> saturate -> e-graph -> extract (target, phase) -> merge updates -> (split attention) -> (narrow) -> fused graph and kernels -> plan_memory -> arena
//! ```

pub mod cost;
pub mod error;
pub mod explain;
pub mod extract;
pub mod fuse;
pub mod lang;
pub mod layout;
pub mod listing;
pub mod memory;
pub mod merge;
pub mod narrow;
pub mod normalise;
pub mod roofline;
pub mod rules;
pub mod saturate;
pub mod search;
pub mod split;
pub mod traffic;

pub use cost::{CostModel, Layout, OneLayout, Phase, Price, Work};
pub use error::FuseError;
pub use explain::{Explanation, explain};
pub use fuse::{Fused, Report, extract, fuse};
pub use layout::{LayoutTable, Program, assign_layout};
pub use listing::listing;
pub use memory::{Buffer, Domain, MemoryPlan, RowLimits, plan_memory, validate};
pub use merge::plan_ps;
pub use narrow::narrow;
pub use roofline::{H100, LayoutShare, Roofline, TargetParams, ZEN4_2};
pub use saturate::{Options, Saturated, saturate};
pub use split::split_attention;
