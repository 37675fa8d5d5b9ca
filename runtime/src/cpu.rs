//! The device that every machine has: its own memory, machine code in this process, one thread per core.

use crate::device::{Code, Device, DeviceError, Launch};
use crate::mapping::Mapping;
use crate::pool::Pool;
use std::time::Instant;

/// A kernel: one word per parameter, in order.
type Kernel = extern "C" fn(*const u64);

/// Runs kernels in this process.
pub struct Cpu {
    pool: Pool,
    memory: Vec<Mapping>,
    kernels: Vec<Kernel>,
    /// Keeps the pages that `kernels` point into.
    _code: Option<Mapping>,
}

impl Cpu {
    /// A device with so many threads, the calling one included; 0 means one for each core.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(threads: u32) -> Result<Self, DeviceError> {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let threads = if threads == 0 { cores() } else { threads };
        let pool = Pool::new(threads).map_err(|e| DeviceError::new("start threads", format!("{threads}: {e}")))?;
        Ok(Self { pool, memory: Vec::new(), kernels: Vec::new(), _code: None })
    }

    /// Keeps each thread but the calling one on a processor of its own.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn pin(&self) -> Result<(), DeviceError> {
        self.pool.pin().map_err(|e| DeviceError::new("pin threads", e.to_string()))
    }

    /// Seconds that a step without work takes, the fastest of some batches: threads begin together and wait for each other.
    pub fn idle_step(&mut self) -> f64 {
        const STEPS: usize = 1000;
        let mut batch = || {
            let start = Instant::now();
            self.pool.run(STEPS, &|_, _| {});
            start.elapsed().as_secs_f64() / STEPS as f64
        };
        (0..15).map(|_| batch()).fold(f64::INFINITY, f64::min)
    }

    /// The place of an address range, if it lies within one allocation.
    fn place(&self, call: &'static str, address: u64, bytes: usize) -> Result<*mut u8, DeviceError> {
        let of = |m: &Mapping| {
            let offset = usize::try_from(address.checked_sub(m.start() as u64)?).ok()?;
            // SAFETY: the offset was just found to lie within the mapping.
            (offset.checked_add(bytes)? <= m.bytes()).then(|| unsafe { m.start().add(offset) })
        };
        let outside = || DeviceError::new(call, format!("{bytes} bytes at {address:#x} are in no allocation"));
        self.memory.iter().find_map(of).ok_or_else(outside)
    }
}

impl Device for Cpu {
    fn threads(&self) -> u32 {
        self.pool.members()
    }

    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        let refused = |e: &dyn std::fmt::Display| DeviceError::new("alloc", format!("{bytes} bytes: {e}"));
        let size = usize::try_from(bytes).map_err(|e| refused(&e))?;
        let memory = Mapping::zeroed(size).map_err(|e| refused(&e))?;
        let address = memory.start().expose_provenance() as u64;
        self.memory.push(memory);
        Ok(address)
    }

    unsafe fn constant(&mut self, data: &[u8]) -> Result<u64, DeviceError> {
        Ok(data.as_ptr().expose_provenance() as u64)
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let to = self.place("upload", address, bytes.len())?;
        // SAFETY: `place` checked the room; `&mut self` excludes kernels, and no slice of this memory is given out.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let from = self.place("download", address, bytes.len())?;
        // SAFETY: as for `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn zero(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        let size = usize::try_from(bytes).map_err(|e| DeviceError::new("zero", e.to_string()))?;
        let to = self.place("zero", address, size)?;
        // SAFETY: as for `upload`.
        unsafe { to.write_bytes(0, size) };
        Ok(())
    }

    unsafe fn load(&mut self, code: &Code<'_>) -> Result<(), DeviceError> {
        let Code { bytes: code, kernels, .. } = *code;
        let refused = |problem: String| DeviceError::new("load", problem);
        let map = Mapping::of_code(code).map_err(|e| refused(format!("{} bytes of code: {e}", code.len())))?;
        self.kernels.clear();
        for k in kernels {
            if k.offset >= code.len() as u64 {
                return Err(refused(format!("kernel {} at {} of {} bytes", k.name, k.offset, code.len())));
            }
            // SAFETY: the offset was just checked; that a kernel of this type starts there is what the caller of
            // `load` answers for.
            let kernel = unsafe { std::mem::transmute::<*mut u8, Kernel>(map.start().add(k.offset as usize)) };
            self.kernels.push(kernel);
        }
        self._code = Some(map);
        Ok(())
    }

    unsafe fn launch(&mut self, launches: &[Launch], words: &[u64]) -> Result<(), DeviceError> {
        if let Some(bad) = launches.iter().find(|l| l.kernel as usize >= self.kernels.len()) {
            let problem = format!("kernel {} of {}", bad.kernel, self.kernels.len());
            return Err(DeviceError::new("launch", problem));
        }
        let kernels = &self.kernels;
        self.pool.run(launches.len(), &|thread, step| {
            let launch = &launches[step];
            if thread < launch.active {
                // The kernel trusts its words, for which the caller of `launch` answers.
                kernels[launch.kernel as usize](launch.words_of(words, thread).as_ptr());
            }
        });
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DeviceError> {
        // `launch` returns when all threads have finished.
        Ok(())
    }
}
