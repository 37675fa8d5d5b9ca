//! Copies between host and GPU through pinned memory: a ring of slots on the way there, one slot on the way back.

use super::api::{Event, Stream, call};
use crate::device::DeviceError;
use std::ffi::c_void;

/// Bytes of a slot: large enough for the inputs of a step, and for full speed with weights.
const SLOT_BYTES: usize = 4 << 20;
/// Slots on the way to the GPU. Each holds the data of a copy until it has been made.
const SLOTS: usize = 4;

/// Host memory that the GPU reads and writes by itself.
struct Pinned {
    start: *mut u8,
}

// SAFETY: plain memory without ties to a thread; the fields that hold it are private and used through `&mut`.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(bytes: usize) -> Result<Self, DeviceError> {
        let mut start: *mut c_void = std::ptr::null_mut();
        call!(cuMemHostAlloc(&mut start, bytes, 0))?;
        Ok(Self { start: start.cast() })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = call!(cuMemFreeHost(self.start.cast()));
    }
}

struct Slot {
    memory: Pinned,
    /// Recorded behind the last copy out of it.
    copied: Event,
}

/// The copies of one stream.
pub(super) struct Transfer {
    to: Vec<Slot>,
    next: usize,
    from: Pinned,
}

impl Transfer {
    pub fn new() -> Result<Self, DeviceError> {
        let slot = |_| Ok(Slot { memory: Pinned::new(SLOT_BYTES)?, copied: Event::new()? });
        let to = (0..SLOTS).map(slot).collect::<Result<_, DeviceError>>()?;
        Ok(Self { to, next: 0, from: Pinned::new(SLOT_BYTES)? })
    }

    /// Copies `bytes` behind everything in the stream; they may change when this returns.
    pub fn upload(&mut self, stream: &Stream, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        for (address, part) in (address..).step_by(SLOT_BYTES).zip(bytes.chunks(SLOT_BYTES)) {
            let slot = &self.to[self.next];
            self.next = (self.next + 1) % SLOTS;
            // The copy that used the slot before must have been made; an event that was never recorded counts as passed.
            call!(cuEventSynchronize(slot.copied.0))?;
            // SAFETY: a part is at most as long as a slot, and no copy reads from the slot any more.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), slot.memory.start, part.len()) };
            call!(cuMemcpyHtoDAsync_v2(address, slot.memory.start.cast(), part.len(), stream.0))?;
            call!(cuEventRecord(slot.copied.0, stream.0))?;
        }
        Ok(())
    }

    /// Copies from the GPU after everything in the stream.
    pub fn download(&mut self, stream: &Stream, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        for (address, part) in (address..).step_by(SLOT_BYTES).zip(bytes.chunks_mut(SLOT_BYTES)) {
            call!(cuMemcpyDtoHAsync_v2(self.from.start.cast(), address, part.len(), stream.0))?;
            stream.wait()?;
            // SAFETY: a part is at most as long as a slot, and the copy into it has been made.
            unsafe { std::ptr::copy_nonoverlapping(self.from.start, part.as_mut_ptr(), part.len()) };
        }
        Ok(())
    }
}
