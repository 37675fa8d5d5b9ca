//! What a GPU's memory can do: the rate of copying, which decides how fast tokens can be made.

use super::api::{Context, Gpu, Memory, Stream, call};
use crate::device::DeviceError;
use std::time::Instant;

/// Bytes of a copy: more than any cache holds, but never more than a part of the memory that is free.
const COPY_BYTES: u64 = 256 << 20;
const FREE_PART: u64 = 16;
/// Copies of a measurement, one after the other.
const COPIES: u32 = 8;

/// Measures the rate of copying within a GPU whenever it is asked.
pub struct CopyMeter {
    from: Memory,
    to: Memory,
    bytes: u64,
    stream: Stream,
    context: Context,
}

impl CopyMeter {
    /// Takes twice 256 MB of the GPU's memory, or an eighth of what is free where that is less.
    ///
    /// # Errors
    /// If there is no such GPU, or not so much memory.
    pub fn new(ordinal: u32) -> Result<Self, DeviceError> {
        let context = Context::new(&Gpu::open(ordinal)?)?;
        let (mut free, mut total) = (0, 0);
        call!(cuMemGetInfo_v2(&mut free, &mut total))?;
        let bytes = COPY_BYTES.min(free as u64 / FREE_PART).max(1 << 10);
        let (from, to, stream) = (Memory::new(bytes)?, Memory::new(bytes)?, Stream::new()?);
        call!(cuMemsetD8Async(from.0, 1, bytes as usize, stream.0))?;
        let meter = Self { from, to, bytes, stream, context };
        // The first copy is slower than the others.
        meter.gbps()?;
        Ok(meter)
    }

    /// Bytes read and written in a second, in 1e9.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn gbps(&self) -> Result<f64, DeviceError> {
        self.context.enter()?;
        self.stream.wait()?;
        let start = Instant::now();
        for _ in 0..COPIES {
            call!(cuMemcpyDtoDAsync_v2(self.to.0, self.from.0, self.bytes as usize, self.stream.0))?;
        }
        self.stream.wait()?;
        Ok((2 * self.bytes * u64::from(COPIES)) as f64 / start.elapsed().as_secs_f64() / 1e9)
    }
}
