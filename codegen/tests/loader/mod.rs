//! Maps compiled kernels into this process and calls them: what tests run code with.

use jet_codegen::CodeBlob;
use std::collections::BTreeMap;

/// Mapped code.
pub struct Code {
    start: *mut libc::c_void,
    bytes: usize,
    symbols: BTreeMap<String, usize>,
}

impl Code {
    /// Maps code for this machine.
    pub fn load(blob: CodeBlob) -> Code {
        let bytes = blob.bytes.len().next_multiple_of(4096);
        let (rw, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh private mapping, written within its bounds before it becomes executable.
        let start = unsafe {
            let start = libc::mmap(std::ptr::null_mut(), bytes, rw, private, -1, 0);
            assert!(start != libc::MAP_FAILED, "mmap failed");
            std::ptr::copy_nonoverlapping(blob.bytes.as_ptr(), start.cast(), blob.bytes.len());
            assert_eq!(libc::mprotect(start, bytes, libc::PROT_READ | libc::PROT_EXEC), 0);
            start
        };
        Code { start, bytes, symbols: blob.symbols }
    }

    /// Runs a kernel on its words, in the order of its parameters.
    ///
    /// # Safety
    /// The words are what the kernel expects, and its memory is alive.
    pub unsafe fn call(&self, name: &str, words: &[u64]) {
        let at = self.symbols[name];
        // SAFETY: every kernel has this one signature, and `at` is where it starts.
        unsafe {
            let f: extern "C" fn(*const u64) = std::mem::transmute(self.start.byte_add(at));
            f(words.as_ptr());
        }
    }
}

// SAFETY: after `load` the mapping is only read and executed.
unsafe impl Sync for Code {}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: mapped by `load` with this size; nothing borrows from it.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

/// 64 bytes that start at a multiple of 64, as buffers of the runtime do.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Elements at a multiple of 64 bytes.
pub struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    elem: std::marker::PhantomData<T>,
}

impl<T: Copy> Buffer<T> {
    /// A copy of `values`.
    pub fn new(values: &[T]) -> Buffer<T> {
        let lines = vec![Line([0; 64]); size_of_val(values).div_ceil(64)];
        let mut b = Buffer { lines, len: values.len(), elem: std::marker::PhantomData };
        // SAFETY: the lines hold at least as many bytes as `values`.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), b.lines.as_mut_ptr().cast(), values.len()) };
        b
    }

    /// Its address as a word of a kernel.
    pub fn word(&mut self) -> u64 {
        self.lines.as_mut_ptr() as u64
    }

    /// What it holds now.
    pub fn get(&self) -> &[T] {
        // SAFETY: `new` wrote so many elements; kernels write elements of the same type.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}
