//! A functional simulator of PTX text: it runs what a GPU kernel means, and traps where the PTX ISA leaves the meaning open.
//!
//! The oracle of the PTX emitter and of every GPU kernel, on machines without a GPU. It therefore shares nothing with the compiler: grammar and
//! semantics are taken from NVIDIA's *Parallel Thread Execution ISA*, and whatever it does not know is an error, never skipped.
//!
//! ```
//! use jet_ptxsim::{Device, DeviceConfig, Launch, Module};
//! let text = "
//!     .version 7.8
//!     .target sm_80
//!     .address_size 64
//!     .visible .entry double(.param .u64 x) {
//!         .reg .b32 %r<3>;
//!         .reg .b64 %rd<3>;
//!         ld.param.u64 %rd0, [x];
//!         cvta.to.global.u64 %rd0, %rd0;
//!         mov.u32 %r0, %tid.x;
//!         mul.wide.u32 %rd1, %r0, 4;
//!         add.u64 %rd2, %rd0, %rd1;
//!         ld.global.u32 %r1, [%rd2];
//!         add.u32 %r2, %r1, %r1;
//!         st.global.u32 [%rd2], %r2;
//!         ret;
//!     }";
//! let module = Module::parse(text)?;
//! let mut gpu = Device::new(DeviceConfig::default());
//! let x = gpu.alloc(8)?;
//! gpu.write(x, &[1, 0, 0, 0, 2, 0, 0, 0])?;
//! let counters = gpu.launch(&module, "double", Launch::new(1, 2), &[x])?;
//! assert_eq!(gpu.read(x, 8)?, [2, 0, 0, 0, 4, 0, 0, 0]);
//! assert_eq!(counters.global_bytes_read, 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A warp is executed 32 lanes at a time, always the lanes with the lowest program counter; CTAs are shared out over the cores of the host.
//! `docs/notes/ptxsim.md` says what is modelled, what is not, and how fast it is.

mod counters;
mod device;
mod error;
mod exec;
mod inst;
mod launch;
mod lex;
mod memory;
mod module;
mod parse;
mod types;

pub use counters::Counters;
pub use device::{Device, DeviceConfig, Launch};
pub use error::{Error, ParseError, Trap, TrapKind};
pub use module::{Limits, Module};
