//! Every CPU kernel against the reference evaluation: ragged shapes, several slots and threads, poisoned memory.
//!
//! With `EMULATE=1` in the environment the targets are those for 64-bit Arm that need LLVM, under `qemu-aarch64`.

mod attention;
mod candidates;
mod delta;
#[path = "../emulator/mod.rs"]
mod emulator;
mod harness;
mod instructions;
#[path = "../loader/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod loader;
mod machine;
mod product;
mod quantised;
mod rounded;
mod rowwise;
mod selection;

/// Largest relative L2 errors against f64, and why they are what they are.
mod tolerance {
    /// One chain of up to a few hundred fused multiply-adds of random signs in f32.
    pub const PRODUCT: f64 = 1e-6;
    /// Chains of up to 5504, half of the widest `k`: sums and their rounding errors grow like random walks, so that the relative error
    /// of a step that rounds a partial sum adds up as the root of the length: `sqrt(5504 / 300) = 4.3` times that.
    pub const DEEP: f64 = 4.3e-6;
    /// The same behind functions with errors of a few units in the last place, and a norm.
    pub const FUSED: f64 = 3e-6;
    /// Operands rounded to bf16: 2^-8 at most of each, and so of sums that do not cancel.
    pub const ROUNDED: f64 = 1.0 / 256.0;
    /// A recurrence over up to 130 tokens; each reads what the others left.
    pub const DELTA: f64 = 3e-6;
    /// A head of one column is normalised by its own size, which multiplies an error by up to `eps^-0.5 = 316`.
    pub const HEAD_OF_ONE: f64 = 1e-4;
    /// Softmax weights have the error of the scores' exponentials.
    pub const ATTENTION: f64 = 2e-6;
    /// Activations, of root mean square 0.58, in steps of 1/127: `0.29 / 127 / 0.58 = 4e-3` on average over many outputs, and up
    /// to three times that in the handful that some cases have.
    pub const BYTES: f64 = 1.2e-2;
    /// The same behind functions whose relative error near zero is larger than that of their argument.
    pub const BYTES_FUSED: f64 = 2e-2;
    /// A normalised row is rounded to bf16 before a GPU multiplies it: each element by at most 2^-9 of itself, 2^-9.8 in the
    /// mean, which the functions behind the product may double.
    pub const BF16_OPERANDS: f64 = 4e-3;
    /// Softmax weights rounded to bf16 before they multiply the values: each by at most 2^-9 of itself, their sum not.
    pub const BF16_WEIGHTS: f64 = 1.0 / 512.0;
    /// Keys and values rounded to bf16 where they are stored: each by at most 2^-8 of itself.
    pub const BF16_STORED: f64 = 1.0 / 256.0;
    /// The delta rule by chunks: keys, queries, state and what was learned are rounded to bf16 before they multiply, each element
    /// by 2^-9.8 in the mean; several roundings add up, and again from token to token.
    pub const BF16_CHUNKS: f64 = 5e-3;
    /// The same over a few tokens, whose products of keys and queries may happen to cancel.
    pub const BF16_TOKENS: f64 = 1e-2;
    /// Elementary functions of a GPU are right to two units in the last place, in several places.
    pub const GPU: f64 = 5e-6;
    /// Bits are moved.
    pub const EXACT: f64 = 0.0;
}
