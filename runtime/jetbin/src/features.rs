//! Features of processors by name: the vocabulary of what a target requires, and whether the machine at hand has them.

macro_rules! features {
    ($($arch:literal $is_detected:ident [$($name:tt)+])+) => {
        /// Every architecture with the features that a target of it can require, both as Rust spells them.
        pub const FEATURES: &[(&str, &[&str])] = &[$(($arch, &[$($name),+])),+];

        $(
            /// Whether this processor has `feature`; `None` if that is no name of [`FEATURES`] for its architecture.
            #[cfg(target_arch = $arch)]
            pub fn has_feature(feature: &str) -> Option<bool> {
                match feature {
                    $($name => Some(std::arch::$is_detected!($name)),)+
                    _ => None,
                }
            }
        )+
    };
}

features! {
    "x86_64" is_x86_feature_detected [
        "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b" "avx" "avx2" "avxvnni" "fma" "f16c" "bmi1" "bmi2" "lzcnt" "movbe"
        "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16" "avx512ifma" "avx512vbmi"
        "avx512vbmi2" "avx512bitalg" "avx512vpopcntdq"
    ]
    "aarch64" is_aarch64_feature_detected [
        "neon" "fp16" "dotprod" "bf16" "i8mm" "sve" "sve2" "rdm" "lse" "fhm" "rcpc" "crc"
    ]
}

/// Nothing is known of other architectures.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn has_feature(_: &str) -> Option<bool> {
    None
}
