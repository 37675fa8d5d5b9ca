//! A file that appears under its name only when complete, written in aligned and hashed sections.

use crate::error::WriteError;
#[cfg(target_os = "linux")]
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that are hashed and written at once.
const BLOCK_BYTES: usize = 1 << 20;

/// A file under construction. On Linux it has no name until it is complete, so that not even a killed process leaves anything behind;
/// elsewhere, and on file systems that cannot do this, it lies beside its destination under a temporary name, removed when dropped
/// unfinished.
pub(crate) struct NewFile {
    file: File,
    /// Not yet written, and not yet hashed: hashing is fast in large blocks only.
    block: Vec<u8>,
    temporary: PathBuf,
    /// Whether the file lies under `temporary` already.
    named: bool,
    destination: PathBuf,
    position: u64,
    hasher: Option<blake3::Hasher>,
    finished: bool,
}

impl NewFile {
    /// Creates the file and leaves `head_bytes` zeros for what is known only at the end.
    pub fn create(destination: &Path, head_bytes: u64) -> Result<Self, WriteError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = destination
            .file_name()
            .ok_or_else(|| WriteError::Misuse(format!("{}: expected the name of a file", destination.display())))?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let hidden = format!(".{}.{}.{number}.tmp", name.to_string_lossy(), std::process::id());
        let temporary = destination.with_file_name(hidden);
        let (file, named) = match unnamed(destination) {
            Some(file) => (file, false),
            None => {
                let created = OpenOptions::new().write(true).create_new(true).open(&temporary);
                (created.map_err(|e| io(destination, e))?, true)
            }
        };
        let mut new = Self {
            file,
            block: Vec::with_capacity(BLOCK_BYTES),
            temporary,
            named,
            destination: destination.to_path_buf(),
            position: 0,
            hasher: None,
            finished: false,
        };
        new.zeros(head_bytes)?;
        Ok(new)
    }

    /// Bytes written so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Starts to hash what follows.
    pub fn start_hash(&mut self) -> Result<(), WriteError> {
        self.write_block().map_err(|e| io(&self.destination, e))?;
        self.hasher = Some(blake3::Hasher::new());
        Ok(())
    }

    /// The hash of everything since [`start_hash`](Self::start_hash).
    pub fn end_hash(&mut self) -> Result<[u8; 32], WriteError> {
        self.write_block().map_err(|e| io(&self.destination, e))?;
        Ok(self.hasher.take().map_or([0; 32], |h| *h.finalize().as_bytes()))
    }

    fn write_block(&mut self) -> std::io::Result<()> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.block);
        }
        self.file.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    /// Writes zeros up to the next multiple of `align`.
    pub fn align(&mut self, align: u64) -> Result<(), WriteError> {
        self.zeros(self.position.next_multiple_of(align) - self.position)
    }

    /// Appends bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.write_all(bytes).map_err(|e| io(&self.destination, e))
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), WriteError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let n = count.min(ZEROS.len() as u64);
            self.append(&ZEROS[..n as usize])?;
            count -= n;
        }
        Ok(())
    }

    /// Puts `head` at the start, optionally waits for the disk, and moves the file to its destination.
    pub fn finish(mut self, head: &[u8], sync: bool) -> Result<(), WriteError> {
        let mut close = || {
            self.write_block()?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(head)?;
            if sync {
                self.file.sync_all()?;
            }
            if !self.named {
                name(&self.file, &self.temporary)?;
                self.named = true;
            }
            std::fs::rename(&self.temporary, &self.destination)
        };
        close().map_err(|e| io(&self.destination, e))?;
        self.finished = true;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        self.position += taken as u64;
        if self.block.len() == BLOCK_BYTES {
            self.write_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.write_block()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished && self.named {
            // Nothing can be reported from here, and a leftover temporary file is harmless.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// A file without a name in the folder of `destination`, where the system and the file system can do this.
#[cfg(target_os = "linux")]
fn unnamed(destination: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = destination.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder).ok()
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_: &Path) -> Option<File> {
    None
}

/// Gives a file without a name its name.
#[cfg(target_os = "linux")]
fn name(file: &File, path: &Path) -> std::io::Result<()> {
    use std::os::{fd::AsRawFd, unix::ffi::OsStrExt};
    let own = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let here = libc::AT_FDCWD;
    // SAFETY: both are strings that end with a zero byte and live through the call.
    let failed = unsafe { libc::linkat(here, own.as_ptr(), here, path.as_ptr(), libc::AT_SYMLINK_FOLLOW) } != 0;
    if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(not(target_os = "linux"))]
fn name(_: &File, path: &Path) -> std::io::Result<()> {
    Err(std::io::Error::other(format!("{}: files without a name are a matter of Linux", path.display())))
}

/// An input/output error with its file.
pub(crate) fn io(path: &Path, source: std::io::Error) -> WriteError {
    WriteError::Io { path: path.to_path_buf(), source }
}
