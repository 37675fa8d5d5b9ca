//! What the executor needs of a machine: memory, code, launches.

use jetbin::{Cubin, KernelDesc, LaunchDesc, Phase};

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

/// What memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The weights of a product or an embedding, which are too large for a cache.
    Matrix,
    /// Weights of a norm, biases: a few kilobytes that every part of a kernel reads.
    Vector,
    /// States and caches of sequences.
    States,
}

/// The code of a target.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    /// Name of the target.
    pub target: &'a str,
    /// Machine code of a CPU, or PTX text.
    pub bytes: &'a [u8],
    /// For a GPU, the same assembled, if it was.
    pub cubin: Option<Cubin<'a>>,
    /// The architecture that it is for, as the artifact spells it.
    pub arch: &'a str,
    /// Its kernels.
    pub kernels: &'a [KernelDesc<&'a str>],
    /// How a GPU launches them; empty for a CPU.
    pub launches: &'a [LaunchDesc],
}

/// A use of memory, in bytes: what for, and how much.
pub type Piece = (&'static str, u64);

/// The states of all sequences, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Growing<'a> {
    /// All of them, every cache full.
    pub bytes: u64,
    /// Offset and length of what has to be memory from the start, in ascending order.
    pub at_start: &'a [(u64, u64)],
}

/// Names a list of launches with its words: the same name, the same list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListName {
    /// Which program.
    pub phase: Phase,
    /// Whether these are its steps over head rows.
    pub head: bool,
    /// Rows of the call.
    pub rows: u32,
}

/// A machine that holds memory and runs kernels. Addresses are 8-byte words, meaningful to the device alone.
pub trait Device: Send {
    /// Threads that every kernel call is shared out among.
    fn threads(&self) -> u32;

    /// Hears of the code and of all memory that will be asked for, before any of it is: `pieces` in the order of the calls of
    /// [`constant`](Self::constant) (the weights, which come first) and [`alloc`](Self::alloc) (the others), and the states.
    ///
    /// # Errors
    /// If this device cannot run such code, or has not so much memory: what was found and what is needed.
    fn reserve(&mut self, code: &Code<'_>, pieces: &[Piece], states: &Growing<'_>) -> Result<(), DeviceError> {
        let _ = (code, pieces, states);
        Ok(())
    }

    /// What a user should know about this device and this code; empty if all is as expected.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// Zeroed memory, aligned to 64 bytes at least, until the device is dropped.
    ///
    /// # Errors
    /// If there is not so much.
    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError>;

    /// Addresses for the states of all sequences. They become memory by [`commit`](Self::commit); a device that gives memory only as a
    /// whole gives all of it here, zeroed.
    ///
    /// # Errors
    /// If there is not so much.
    fn states(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        self.alloc(bytes)
    }

    /// Makes a range of the states memory, where it is not: zeros, until something is written.
    ///
    /// # Errors
    /// If there is not so much left; what was committed before stays as it is.
    fn commit(&mut self, _address: u64, _bytes: u64) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Hears that nobody needs what a range of the states holds; its memory may go elsewhere, until the range is committed again.
    ///
    /// # Errors
    /// If the device fails.
    fn release(&mut self, _address: u64, _bytes: u64) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Says what a range of memory holds, in ascending order within each allocation; for devices that count accesses.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn note(&mut self, _address: u64, _bytes: u64, _content: Content) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Makes constant data readable by kernels and gives its address: memory of the host, used in place, or a copy.
    ///
    /// # Safety
    /// `data` must stay where it is, unchanged, until the device is dropped.
    ///
    /// # Errors
    /// If there is no room for a copy.
    unsafe fn constant(&mut self, data: &[u8]) -> Result<u64, DeviceError>;

    /// Copies to memory that [`alloc`](Self::alloc) gave. `bytes` may change as soon as this returns.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from memory that [`alloc`](Self::alloc) gave, after everything that was launched.
    ///
    /// # Errors
    /// If the range is not within one allocation, or if something launched has failed.
    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Fills memory that [`alloc`](Self::alloc) gave with zeros.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn zero(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError>;

    /// Takes the code of a target; later launches name a kernel by its index in `code.kernels`.
    ///
    /// # Safety
    /// `code` must be code for this device, and the kernels must keep to their parameters.
    ///
    /// # Errors
    /// If the device refuses it.
    unsafe fn load(&mut self, code: &Code<'_>) -> Result<(), DeviceError>;

    /// Runs kernel calls in order, each after the one before has finished on all threads. A GPU may still be at it when this returns.
    ///
    /// # Safety
    /// The words must be what the kernels expect: addresses of this device with the room that the kernel uses.
    ///
    /// # Errors
    /// If the device fails.
    unsafe fn launch(&mut self, launches: &[Launch], words: &[u64]) -> Result<(), DeviceError>;

    /// [`launch`](Self::launch) of a list that may come again: a device may record it under its name and replay the record.
    ///
    /// # Safety
    /// As there; a name must not come with another list.
    ///
    /// # Errors
    /// If the device fails.
    unsafe fn launch_named(&mut self, name: ListName, launches: &[Launch], words: &[u64]) -> Result<(), DeviceError> {
        let _ = name;
        // SAFETY: the caller's promise.
        unsafe { self.launch(launches, words) }
    }

    /// Waits until everything launched has finished.
    ///
    /// # Errors
    /// If something launched has failed.
    fn sync(&mut self) -> Result<(), DeviceError>;
}
