//! Kernel IR, kernels and emitters of jetc.
