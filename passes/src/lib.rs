//! E-graph fusion, layouts, schedule and memory plan of jetc.

pub mod memory;

pub use memory::{Buffer, Domain, MemoryPlan, RowLimits, plan_memory, validate};
