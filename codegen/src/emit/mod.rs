//! The emitters. Each takes legal kernels and knows nothing of tensors.

pub mod cranelift;
#[cfg(feature = "mlir")]
pub mod mlir;
pub mod ptx;

use crate::kir::Kernel;
use std::num::NonZero;

/// `f(state, kernel)` of every kernel, in their order, on all processors; each thread makes its own state. The result does not
/// depend on the number of threads.
///
/// # Errors
/// The first that a thread meets.
fn on_all_processors<S, T: Send>(
    kernels: &[Kernel],
    state: impl Fn() -> Result<S, EmitError> + Sync,
    f: impl Fn(&mut S, &Kernel) -> Result<T, EmitError> + Sync,
) -> Result<Vec<T>, EmitError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(kernels.len()).max(1);
    let share = |first: usize| {
        let mut state = state()?;
        let mine = kernels.iter().enumerate().skip(first).step_by(threads);
        mine.map(|(i, k)| Ok((i, f(&mut state, k)?))).collect::<Result<Vec<_>, EmitError>>()
    };
    let mut done = std::thread::scope(|s| {
        let workers: Vec<_> = (1..threads).map(|first| s.spawn(move || share(first))).collect();
        let mut done = share(0)?;
        for w in workers {
            done.extend(w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, EmitError>(done)
    })?;
    done.sort_by_key(|(i, _)| *i);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

/// Why an emitter refuses a kernel or a target.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {message}")]
pub struct EmitError {
    /// The kernel or target.
    pub subject: String,
    /// What the code generator says.
    pub message: String,
}
