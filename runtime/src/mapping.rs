//! Memory from the operating system: files, zeroed pages, code that is never writable and executable at once.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

/// A range of pages, returned when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: a mapping is plain memory without ties to a thread; who may access it is settled by its users.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` only gives out shared slices of memory that nobody writes, or raw pointers.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn map(bytes: usize, protection: i32, flags: i32, fd: i32) -> Result<Self> {
        if bytes == 0 {
            return Ok(Self { start: std::ptr::without_provenance_mut(64), bytes });
        }
        // SAFETY: a fresh private mapping at an address of the system's choice touches no existing memory.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(Self { start: start.cast(), bytes }) }
    }

    /// The whole of a file, read-only. The file must not be shortened while it is mapped.
    pub fn of_file(file: &File) -> Result<Self> {
        let bytes = usize::try_from(file.metadata()?.len()).map_err(Error::other)?;
        Self::map(bytes, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd())
    }

    /// Zeroed pages, which take memory when first touched.
    pub fn zeroed(bytes: usize) -> Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Self::map(bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
    }

    /// A copy of machine code: written first, then executable and no longer writable.
    pub fn of_code(code: &[u8]) -> Result<Self> {
        let map = Self::zeroed(code.len())?;
        if code.is_empty() {
            return Ok(map);
        }
        // SAFETY: the fresh mapping has exactly this many writable bytes, and nobody else knows it yet.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), map.start, code.len()) };
        // SAFETY: the range is the mapping itself.
        if unsafe { libc::mprotect(map.start.cast(), map.bytes, libc::PROT_READ | libc::PROT_EXEC) } != 0 {
            return Err(Error::last_os_error());
        }
        #[cfg(target_arch = "aarch64")]
        {
            unsafe extern "C" {
                fn __clear_cache(start: *mut libc::c_void, end: *mut libc::c_void);
            }
            // SAFETY: the range is the mapping itself; instruction caches there are not coherent with data.
            unsafe { __clear_cache(map.start.cast(), map.start.add(map.bytes).cast()) };
        }
        Ok(map)
    }

    /// Asks the system to read the pages ahead.
    pub fn will_need(&self) {
        if self.bytes > 0 {
            // SAFETY: advice about the mapping itself; a refusal has no effect on meaning, so it is not looked at.
            unsafe { libc::madvise(self.start.cast(), self.bytes, libc::MADV_WILLNEED) };
        }
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes, for mappings that nobody writes to.
    ///
    /// # Safety
    /// While the slice lives, nobody may write to the mapping.
    pub unsafe fn slice(&self) -> &[u8] {
        // SAFETY: the range is mapped and readable; the caller answers for the absence of writers.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: the range is exactly what `map` got.
            unsafe { libc::munmap(self.start.cast(), self.bytes) };
        }
    }
}
