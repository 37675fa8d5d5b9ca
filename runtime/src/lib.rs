//! Maps a jetbin artifact and runs its schedule.
//!
//! ```no_run
//! use jet_runtime::{Model, Options, Session};
//!
//! let model = Model::open("model.jetbin")?;
//! let mut session = Session::new(&model, Options::default())?;
//! session.prefill(0, &[1, 2, 3])?;
//! let mut token = session.argmax(session.rows() - 1)?;
//! for _ in 0..16 {
//!     session.decode(&[(0, token)])?;
//!     token = session.argmax(0)?;
//! }
//! # Ok::<(), jet_runtime::Error>(())
//! ```
//!
//! A call allocates nothing: the words of every step and thread are laid out when the session is made.

mod affinity;
mod candidates;
#[cfg(feature = "capi")]
pub mod capi;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod error;
mod export;
pub mod generate;
#[cfg(any(feature = "cuda", feature = "ptxsim"))]
mod gpu;
mod head;
mod machine;
mod mapping;
mod model;
mod observe;
mod plan;
mod pool;
#[cfg(feature = "ptxsim")]
mod ptxsim;
pub mod sampling;
mod saved;
mod session;
mod states;
pub mod stop;
#[cfg(feature = "text")]
pub mod text;
pub mod utf8;

pub use candidates::Best;
pub use cpu::Cpu;
pub use device::{Code, Content, Device, DeviceError, Growing, Launch, ListName, Piece};
pub use error::{Error, Result};
pub use export::StateTensor;
#[cfg(feature = "ptxsim")]
pub use jet_ptxsim::Counters;
pub use machine::{Candidate, DeviceChoice, Machine, judge, this_machine};
pub use model::{Model, OpenOptions};
pub use observe::{Observation, Observer};
#[cfg(feature = "ptxsim")]
pub use ptxsim::{Counts, PtxSim, SharedCounts};
pub use saved::Saved;
pub use session::{Memory, Options, Session};

pub use jetbin;
