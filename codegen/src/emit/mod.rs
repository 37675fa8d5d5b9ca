//! The emitters. Each takes legal kernels and knows nothing of tensors.

pub mod cranelift;
