#!/usr/bin/env bash
# Runs the code for 64-bit Arm on an emulated processor: kernels against the reference, then the tiny golden models on every target
# for aarch64 that this build of jetc makes (with LLVM installed, the neoverse ones too).
#
#   apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross && rustup target add aarch64-unknown-linux-gnu
#   scripts/test-aarch64.sh
set -eu -o pipefail
cd "$(dirname "$0")/.."
for tool in qemu-aarch64 aarch64-linux-gnu-gcc; do
    command -v "$tool" >/dev/null || { echo "$tool: not found; the head of $0 says how to install it" >&2; exit 3; }
done
triple=aarch64-unknown-linux-gnu
emulator="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$emulator"
target="${CARGO_TARGET_DIR:-$PWD/target}"
features=()
targets=(aarch64)
if [ -n "${MLIR_SYS_220_PREFIX:-}" ]; then
    features=(--features mlir)
    targets+=(neoverse-n1 neoverse-v1)
fi

cargo test --quiet --locked --target "$triple" -p jet-codegen --test conformance --test kernels
cargo build --quiet --locked -p jetc ${features[@]+"${features[@]}"}
cargo build --quiet --locked --target "$triple" -p jetc

artifact=$(mktemp -d)/model.jetbin
trap 'rm -rf "$(dirname "$artifact")"' EXIT
for case in tests/golden/tiny-*; do
    tolerance=$(sed -n 's/.*"f32_rel_l2_per_key": *\([0-9.e-]*\).*/\1/p' "$case/meta.json")
    for name in "${targets[@]}"; do
        "$target/debug/jetc" compile "$case" -o "$artifact" --target "$name" --max-context 256 --max-batch 8 --prefill-chunk 64 >/dev/null 2>&1
        printf '%s, %s: ' "$(basename "$case")" "$name"
        $emulator "$target/$triple/debug/jetc" compare "$artifact" "$case/io.safetensors" --tolerance "$tolerance" | tail -1
    done
done
