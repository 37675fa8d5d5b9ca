//! Global memory, shared memory, and who knows of whose accesses.

pub(crate) mod clock;
pub(crate) mod global;
pub(crate) mod order;
pub(crate) mod shared;

/// Generic addresses of shared memory start here; all below are global.
pub(crate) const SHARED_WINDOW: u64 = 1 << 56;

/// The first shared address of a block: the first KB is the system's, as on sm_90, so that address 0 is nobody's.
pub(crate) const SHARED_BASE: u32 = 1024;

/// Bits of an address in `.shared::cluster` below the rank of the block plus one; addresses without a rank are the own block's.
pub(crate) const CLUSTER_SHIFT: u32 = 24;

/// Up to 16 bytes; what is shorter than a word is in the low bits of the first.
pub(crate) type Words = [u32; 4];

/// The bytes of a word that an access of `bytes` bytes at `at` touches, one bit each.
pub(crate) fn byte_mask(at: u64, bytes: u32) -> u8 {
    if bytes >= 4 { 0xf } else { ((1 << bytes) - 1) << (at % 4) }
}
