//! Work in a stream: kept until somebody waits, then done in order.

use crate::abi::{ILLEGAL_ADDRESS, LAUNCH_FAILED, Result32};
use jet_ptxsim::{Device, Error, Launch, Module, TrapKind};
use std::sync::Arc;

/// Something that the GPU is to do.
#[derive(Clone)]
pub enum Work {
    /// Copies to the GPU; the bytes as they were at the call, and where in pinned memory they must still be the same.
    Upload { to: u64, bytes: Vec<u8>, pinned: Option<usize> },
    /// Copies to host memory.
    Download { from: u64, to: usize, bytes: usize },
    /// Copies within the GPU.
    Copy { to: u64, from: u64, bytes: u64 },
    /// Sets bytes.
    Fill { at: u64, value: u8, bytes: usize },
    /// Runs a kernel.
    Kernel { module: Arc<Module>, name: String, launch: Launch, words: Vec<u64>, faulty: bool },
    /// The event with this handle has passed so many records.
    Record { event: usize, count: u64 },
}

/// Why a stream stopped: the error that all later calls give, and what happened.
pub type Stop = (Result32, String);

impl Work {
    /// Whether it can be a part of a graph here.
    pub fn can_be_captured(&self) -> bool {
        matches!(self, Work::Kernel { .. } | Work::Fill { .. } | Work::Copy { .. })
    }

    /// Does it.
    pub fn run(&self, gpu: &mut Device) -> Result<(), Stop> {
        let memory = |e: Error| (ILLEGAL_ADDRESS, e.to_string());
        match self {
            Work::Upload { to, bytes, pinned } => {
                if let Some(host) = pinned {
                    // SAFETY: the range was in pinned memory at the call, which is given back only when the stream has run.
                    let now = unsafe { std::slice::from_raw_parts(*host as *const u8, bytes.len()) };
                    if now != bytes {
                        let at = now.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
                        let what = format!(
                            "pinned memory was changed at byte {at} of {} before the copy was made",
                            bytes.len()
                        );
                        return Err((LAUNCH_FAILED, what));
                    }
                }
                gpu.write(*to, bytes).map_err(memory)
            }
            Work::Download { from, to, bytes } => {
                let data = gpu.read(*from, *bytes as u64).map_err(memory)?;
                // SAFETY: the caller of the driver promised room for so many bytes until the copy is made.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), *to as *mut u8, *bytes) };
                Ok(())
            }
            Work::Copy { to, from, bytes } => {
                let data = gpu.read(*from, *bytes).map_err(memory)?;
                gpu.write(*to, &data).map_err(memory)
            }
            Work::Fill { at, value, bytes } => gpu.write(*at, &vec![*value; *bytes]).map_err(memory),
            Work::Kernel { name, faulty: true, .. } => Err((ILLEGAL_ADDRESS, format!("{name}: a planted fault"))),
            Work::Kernel { module, name, launch, words, .. } => {
                gpu.launch(module, name, launch.clone(), words).map(|_| ()).map_err(|error| match &error {
                    Error::Trap(trap) if trap.kind == TrapKind::OutOfBounds => (ILLEGAL_ADDRESS, error.to_string()),
                    _ => (LAUNCH_FAILED, error.to_string()),
                })
            }
            Work::Record { .. } => Ok(()),
        }
    }
}

/// Work that waits, and what is being captured.
#[derive(Default)]
pub struct Stream {
    pub queue: std::collections::VecDeque<Work>,
    pub capture: Option<Capture>,
}

/// A graph that is being made.
#[derive(Default)]
pub struct Capture {
    pub work: Vec<Work>,
    /// Something was called that must not be.
    pub invalid: bool,
}
