//! The C interface (cargo feature `capi`); `include/jet_runtime.h` is its documentation.

use crate::error::{Error, Result};
use crate::{Model, Options, Session};
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a C caller holds.
pub struct CSession {
    session: Session,
    error: CString,
    batch: Vec<(u32, u32)>,
}

/// Text for C: a zero inside would end it early.
fn c_text(error: impl std::fmt::Display) -> CString {
    let bytes: Vec<u8> = error.to_string().into_bytes().into_iter().filter(|&b| b != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// Runs a call and keeps the reason of its failure; a panic must not cross into C.
///
/// # Safety
/// `session` comes from [`jet_open`] and is used by nobody else during the call.
unsafe fn call(session: *mut CSession, body: impl FnOnce(&mut CSession) -> Result<()>) -> c_int {
    // SAFETY: the caller's promise.
    let Some(session) = (unsafe { session.as_mut() }) else { return -1 };
    session.error = match catch_unwind(AssertUnwindSafe(|| body(session))) {
        Ok(Ok(())) => {
            session.error = CString::default();
            return 0;
        }
        Ok(Err(error)) => c_text(error),
        Err(_) => c_text("internal error: the runtime panicked"),
    };
    -1
}

/// Numbers that C gives; none if there are none.
///
/// # Safety
/// `start` points to `n` numbers, or `n` is 0.
unsafe fn slice<'a>(start: *const u32, n: usize) -> &'a [u32] {
    if n == 0 || start.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, n) }
}

/// Flag of [`jet_open`]: each thread but the calling one stays on a processor of its own.
pub const JET_PIN_THREADS: u32 = 1;

/// Opens an artifact.
///
/// # Safety
/// `path` is a C string; `error` has room for `error_bytes`, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_open(
    path: *const c_char,
    threads: u32,
    sequences: u32,
    flags: u32,
    error: *mut c_char,
    error_bytes: usize,
) -> *mut CSession {
    let open = || {
        if path.is_null() {
            return Err(Error::request("the path is null"));
        }
        // SAFETY: the caller's promise.
        let path = unsafe { CStr::from_ptr(path) }.to_str().map_err(|e| Error::request(format!("path: {e}")))?;
        let pin = match flags {
            0 => false,
            JET_PIN_THREADS => true,
            _ => return Err(Error::request(format!("flags {flags:#x}, expected 0 or JET_PIN_THREADS (1)"))),
        };
        let session = Session::new(&Model::open(path)?, Options { threads, sequences, pin })?;
        Ok(CSession { session, error: CString::default(), batch: Vec::new() })
    };
    let reason = match catch_unwind(open) {
        Ok(Ok(session)) => return Box::into_raw(Box::new(session)),
        Ok(Err(error)) => c_text(error),
        Err(_) => c_text("internal error: the runtime panicked"),
    };
    if !error.is_null() && error_bytes > 0 {
        let n = reason.count_bytes().min(error_bytes - 1);
        // SAFETY: `n + 1` bytes fit into the room that the caller promised.
        unsafe {
            std::ptr::copy_nonoverlapping(reason.as_ptr(), error, n);
            *error.add(n) = 0;
        }
    }
    std::ptr::null_mut()
}

/// Frees a session.
///
/// # Safety
/// `session` comes from [`jet_open`] and is not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_close(session: *mut CSession) {
    if !session.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(session) });
    }
}

/// Why the last call failed.
///
/// # Safety
/// `session` comes from [`jet_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_error(session: *const CSession) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { session.as_ref() }.map_or(c"the session is null".as_ptr(), |s| s.error.as_ptr())
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = |$session:ident| $value:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// `session` comes from [`jet_open`].
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(session: *const CSession) -> u32 {
            // SAFETY: the caller's promise.
            unsafe { session.as_ref() }.map_or(0, |$session| $value)
        }
    )*};
}

numbers! {
    /// Size of the vocabulary.
    jet_vocab_size = |s| s.session.model().facts().vocab_size;
    /// Most tokens in a sequence.
    jet_max_context = |s| s.session.model().facts().max_context;
    /// Most sequences in a batch.
    jet_max_batch = |s| s.session.model().facts().max_batch;
    /// Rows of the last call.
    jet_rows = |s| s.session.rows();
}

/// Ids that end a text.
///
/// # Safety
/// `session` comes from [`jet_open`]; `ids` has room for `n` numbers, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_eos_ids(session: *const CSession, ids: *mut u32, n: usize) -> usize {
    // SAFETY: the caller's promise.
    let Some(session) = (unsafe { session.as_ref() }) else { return 0 };
    let eos = &session.session.model().facts().eos_ids;
    if !ids.is_null() {
        for (i, &id) in eos.iter().take(n).enumerate() {
            // SAFETY: `i < n`, for which the caller promised room.
            unsafe { *ids.add(i) = id };
        }
    }
    eos.len()
}

/// Appends tokens to a sequence.
///
/// # Safety
/// `session` comes from [`jet_open`]; `ids` points to `n` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_prefill(session: *mut CSession, sequence: u32, ids: *const u32, n: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { call(session, |s| s.session.prefill(sequence, slice(ids, n))) }
}

/// Appends a token to each of several sequences.
///
/// # Safety
/// `session` comes from [`jet_open`]; `sequences` and `ids` point to `n` numbers each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_decode(session: *mut CSession, sequences: *const u32, ids: *const u32, n: usize) -> c_int {
    // SAFETY: the caller's promise.
    let (sequences, ids) = unsafe { (slice(sequences, n), slice(ids, n)) };
    let decode = |s: &mut CSession| {
        s.batch.clear();
        s.batch.extend(sequences.iter().copied().zip(ids.iter().copied()));
        s.session.decode(&s.batch)
    };
    // SAFETY: the caller's promise.
    unsafe { call(session, decode) }
}

/// The most likely token of a row.
///
/// # Safety
/// `session` comes from [`jet_open`]; `id` has room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_argmax(session: *mut CSession, row: u32, id: *mut u32) -> c_int {
    // SAFETY: the caller's promise, twice.
    unsafe { call(session, |s| store(id, s.session.argmax(row)?)) }
}

/// The logits of a row.
///
/// # Safety
/// `session` comes from [`jet_open`]; `logits` has room for `n` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_logits(session: *mut CSession, row: u32, logits: *mut f32, n: usize) -> c_int {
    let copy = |s: &mut CSession| {
        let found = s.session.logits(row)?;
        if logits.is_null() || n != found.len() {
            return Err(Error::request(format!("room for {n} logits, expected {}", found.len())));
        }
        // SAFETY: the sizes were just compared; C's memory is not the session's.
        unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), logits, n) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { call(session, copy) }
}

/// Tokens in a sequence.
///
/// # Safety
/// `session` comes from [`jet_open`]; `length` has room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_length(session: *mut CSession, sequence: u32, length: *mut u32) -> c_int {
    // SAFETY: the caller's promise, twice.
    unsafe { call(session, |s| store(length, s.session.length(sequence)?)) }
}

/// Starts a sequence anew.
///
/// # Safety
/// `session` comes from [`jet_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jet_reset(session: *mut CSession, sequence: u32) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { call(session, |s| s.session.reset(sequence)) }
}

/// # Safety
/// `place` has room for a number, or is null.
unsafe fn store(place: *mut u32, value: u32) -> Result<()> {
    if place.is_null() {
        return Err(Error::request("the place for the result is null"));
    }
    // SAFETY: the caller's promise.
    unsafe { *place = value };
    Ok(())
}
