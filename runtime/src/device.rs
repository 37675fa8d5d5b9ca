//! What the executor needs of a machine: memory, code, launches.

use jetbin::KernelDesc;

/// Why a device call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device: {call}: {problem}")]
pub struct DeviceError {
    /// Name of the call.
    pub call: &'static str,
    /// What was found, what was expected.
    pub problem: String,
}

impl DeviceError {
    /// A failure of `call`.
    pub fn new(call: &'static str, problem: impl Into<String>) -> Self {
        Self { call, problem: problem.into() }
    }
}

/// A kernel call: `active` threads, each with `n_words` words of its own; on a GPU, `active` CTAs with one set of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Index into the kernels that were loaded.
    pub kernel: u32,
    /// The first threads have items, this many of them; on a GPU, CTAs.
    pub active: u32,
    /// Threads of a CTA on a GPU, else 0.
    pub cta_threads: u32,
    /// Shared memory that a CTA asks for, in bytes.
    pub shared_bytes: u32,
    /// May start on a GPU before the launch before it has finished: the kernel waits for that itself.
    pub overlaps: bool,
    /// Where the words of thread 0 start; those of thread `t` start `t * n_words` later.
    pub first_word: u32,
    /// Words of a thread.
    pub n_words: u32,
}

impl Launch {
    /// The words of a thread.
    pub fn words_of<'w>(&self, words: &'w [u64], thread: u32) -> &'w [u64] {
        let start = self.first_word as usize + thread as usize * self.n_words as usize;
        &words[start..start + self.n_words as usize]
    }
}

/// A machine that holds memory and runs kernels. Addresses are 8-byte words, meaningful to the device alone.
pub trait Device: Send {
    /// Threads that every kernel call is shared out among.
    fn threads(&self) -> u32;

    /// Zeroed memory, aligned to 64 bytes at least, until the device is dropped.
    ///
    /// # Errors
    /// If there is not so much.
    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError>;

    /// Makes constant data readable by kernels and gives its address: memory of the host, used in place, or a copy.
    ///
    /// # Safety
    /// `data` must stay where it is, unchanged, until the device is dropped.
    ///
    /// # Errors
    /// If there is no room for a copy.
    unsafe fn constant(&mut self, data: &[u8]) -> Result<u64, DeviceError>;

    /// Copies to memory that [`alloc`](Self::alloc) gave.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from memory that [`alloc`](Self::alloc) gave.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Fills memory that [`alloc`](Self::alloc) gave with zeros.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn zero(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError>;

    /// Takes the code of a target; later launches name a kernel by its index in `kernels`.
    ///
    /// # Safety
    /// `code` must be code for this device, and the kernels must keep to their parameters.
    ///
    /// # Errors
    /// If the device refuses it.
    unsafe fn load(&mut self, code: &[u8], kernels: &[KernelDesc<&str>]) -> Result<(), DeviceError>;

    /// Runs kernel calls in order, each after the one before has finished on all threads.
    ///
    /// # Safety
    /// The words must be what the kernels expect: addresses of this device with the room that the kernel uses.
    ///
    /// # Errors
    /// If the device fails.
    unsafe fn launch(&mut self, launches: &[Launch], words: &[u64]) -> Result<(), DeviceError>;

    /// Waits until everything launched has finished.
    ///
    /// # Errors
    /// If something launched has failed.
    fn sync(&mut self) -> Result<(), DeviceError>;
}
