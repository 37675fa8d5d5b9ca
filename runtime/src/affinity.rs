//! Keeps the threads of a team on processors of their own.
//!
//! The calling thread is left alone, for it is not ours: others may start threads from it, which would inherit its one
//! processor. The first processor is kept free for it.

use std::io::{Error, Result};
use std::thread::JoinHandle;

/// Binds `workers` to the processors that the calling thread may use, one each, from the second on; where there are not
/// enough it starts again with the first.
///
/// # Errors
/// If the system refuses, or is none that knows how.
#[cfg(target_os = "linux")]
pub(crate) fn pin(workers: &[JoinHandle<()>]) -> Result<()> {
    use std::os::unix::thread::JoinHandleExt;
    let processors = allowed()?;
    for (worker, processor) in workers.iter().zip(processors.iter().cycle().skip(1)) {
        // SAFETY: a set of all zeros is an empty one.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the index comes from a set of this size.
        unsafe { libc::CPU_SET(*processor, &mut set) };
        // SAFETY: the thread has not been joined, so its handle is valid.
        match unsafe { libc::pthread_setaffinity_np(worker.as_pthread_t(), size_of_val(&set), &set) } {
            0 => {}
            code => return Err(Error::from_raw_os_error(code)),
        }
    }
    Ok(())
}

/// The processors that the calling thread may use.
#[cfg(target_os = "linux")]
fn allowed() -> Result<Vec<usize>> {
    // SAFETY: a set of all zeros is an empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is writable and as large as said; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0 {
        return Err(Error::last_os_error());
    }
    let all = 0..8 * size_of_val(&set);
    // SAFETY: the indices are those of the set.
    Ok(all.filter(|i| unsafe { libc::CPU_ISSET(*i, &set) }).collect())
}

/// Binds no thread: this system has no call for it that we know.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_: &[JoinHandle<()>]) -> Result<()> {
    Err(Error::new(std::io::ErrorKind::Unsupported, "this system has no way to keep a thread on a processor"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn each_worker_gets_one_processor_and_the_caller_keeps_all() {
        let before = allowed().unwrap();
        let (tell, hear) = channel();
        let (go, workers): (Vec<_>, Vec<_>) = (0..2)
            .map(|_| {
                let (go, wait) = channel::<()>();
                let tell = tell.clone();
                let work = move || {
                    wait.recv().unwrap();
                    tell.send(allowed().unwrap()).unwrap();
                };
                (go, std::thread::spawn(work))
            })
            .unzip();
        pin(&workers).unwrap();
        for (i, go) in go.iter().enumerate() {
            go.send(()).unwrap();
            assert_eq!(hear.recv().unwrap(), [before[(i + 1) % before.len()]]);
        }
        assert_eq!(allowed().unwrap(), before);
        workers.into_iter().for_each(|w| w.join().unwrap());
    }
}
