//! Errors: text that is not understood, calls that cannot be made, and traps of a running kernel.

use std::fmt;

/// PTX text that the simulator does not understand.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What was found and what was expected.
    pub message: String,
}

/// What a call on a [`crate::Device`] can fail with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The call itself is wrong: an unknown kernel, too many threads, an address that was not allocated.
    #[error("{0}")]
    Call(String),
    /// The kernel did something that has no meaning.
    #[error(transparent)]
    Trap(#[from] Box<Trap>),
}

/// Why a kernel was stopped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TrapKind {
    /// A register was read before it was written.
    UninitialisedRegister,
    /// A byte of memory was read before it was written.
    UninitialisedMemory,
    /// An access outside every allocation, or outside the shared memory of the block.
    OutOfBounds,
    /// An address that is not a multiple of the size of the access.
    Misaligned,
    /// A `.aligned` instruction, or a `.sync` one with a mask of other lanes, that not all its lanes execute together.
    Divergent,
    /// Two accesses of which neither happens before the other, at least one of them a write.
    Race,
    /// The destination of an asynchronous copy was touched before it was waited for.
    InFlight,
    /// The source of an asynchronous operation changed before it was complete.
    EarlyOverwrite,
    /// `ld.global.nc` of memory that the same launch writes.
    NotConstant,
    /// An access of the asynchronous proxy to what the generic proxy wrote, without `fence.proxy.async` between.
    UnfencedProxy,
    /// A read of what a previous launch may still write, before `griddepcontrol.wait`.
    BeforeDependency,
    /// An operand or a limit that the ISA forbids: a barrier number, a count, an expired or invalid mbarrier.
    Invalid,
    /// Every warp waits.
    Deadlock,
    /// More instructions than the limit.
    Runaway,
    /// The instruction `trap`.
    Trapped,
}

/// Where and why a kernel was stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trap {
    /// The reason.
    pub kind: TrapKind,
    /// What was found and what was expected.
    pub message: String,
    /// The kernel.
    pub kernel: String,
    /// Line of the instruction in the text, from 1.
    pub line: u32,
    /// The instruction as it is written.
    pub text: String,
    /// Index of the CTA in the grid.
    pub cta: [u32; 3],
    /// Index of the warp in the CTA.
    pub warp: u32,
    /// The first lane concerned, if it is one lane's fault.
    pub lane: Option<u32>,
}

impl std::error::Error for Trap {}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.cta;
        write!(f, "{}:{}: `{}`: ", self.kernel, self.line, self.text)?;
        write!(f, "{:?}: {} (cta {x},{y},{z} warp {}", self.kind, self.message, self.warp)?;
        self.lane.map_or(Ok(()), |lane| write!(f, " lane {lane}"))?;
        f.write_str(")")
    }
}

/// A trap without its place, which the scheduler adds.
#[derive(Debug)]
pub(crate) struct Fault {
    pub kind: TrapKind,
    pub lane: Option<u32>,
    pub message: String,
}

pub(crate) type Exec<T = ()> = Result<T, Box<Fault>>;

/// A fault of a whole warp.
#[cold]
pub(crate) fn fault<T>(kind: TrapKind, message: impl Into<String>) -> Exec<T> {
    Err(Box::new(Fault { kind, lane: None, message: message.into() }))
}

/// A fault of one lane.
#[cold]
pub(crate) fn lane_fault<T>(kind: TrapKind, lane: usize, message: impl Into<String>) -> Exec<T> {
    Err(Box::new(Fault { kind, lane: Some(lane as u32), message: message.into() }))
}
