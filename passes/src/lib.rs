//! E-graph fusion, layouts, schedule and memory plan of jetc.
//!
//! ```text
//! graph --normalise--> --saturate--> e-graph --extract (target, phase)--> fused graph --group--> kernels --schedule--> steps, buffers, arena
//! ```
//!
//! [`fuse::fuse`] turns a graph into a fused graph and its kernels, [`schedule::schedule`] turns those into a [`schedule::Schedule`].

pub mod cost;
pub mod error;
pub mod extract;
pub mod fuse;
pub mod lang;
pub mod normalise;
pub mod roofline;
pub mod rules;
pub mod saturate;
pub mod search;
pub mod traffic;
