//! The emitters. Each takes legal kernels and knows nothing of tensors.

pub mod cranelift;
#[cfg(feature = "mlir")]
pub mod mlir;
pub mod ptx;

/// Why an emitter refuses a kernel or a target.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {message}")]
pub struct EmitError {
    /// The kernel or target.
    pub subject: String,
    /// What the code generator says.
    pub message: String,
}
