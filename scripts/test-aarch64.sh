#!/usr/bin/env bash
# Runs the code for 64-bit Arm on an emulated processor: kernels against the reference, then on every target for aarch64 that this
# build of jetc makes (with LLVM installed, the neoverse ones too) the tiny golden models in f32, one of them with bf16 activations
# and with quantised weights, and the quality of the example model with quantised weights.
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
if [ "${#features[@]}" -gt 0 ]; then
    cargo test --quiet --locked -p jet-codegen "${features[@]}" --test conformance neoverse
    EMULATE=1 cargo test --quiet --locked -p jet-codegen "${features[@]}" --test kernels -- plain_products segments quantised
fi
cargo build --quiet --locked -p jetc ${features[@]+"${features[@]}"}
cargo build --quiet --locked --target "$triple" -p jetc

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
artifact=$folder/model.jetbin

# compiled SOURCE TARGET OPTION...: makes the artifact.
compiled() {
    "$target/debug/jetc" compile "$1" -o "$artifact" --target "$2" --max-batch 8 --prefill-chunk 64 "${@:3}" \
        >/dev/null 2>"$folder/said" || { cat "$folder/said" >&2; return 1; }
}

# emulated COMMAND...: jetc for Arm.
emulated() {
    $emulator "$target/$triple/debug/jetc" "$@"
}

# number KEY FILE: the first value of a key.
number() {
    sed -n "s/.*\"$1\": *\([0-9.e-]*\).*/\1/p" "$2" | head -1
}

for case in tests/golden/tiny-*; do
    for name in "${targets[@]}"; do
        compiled "$case" "$name" --max-context 256
        printf '%s, %s: ' "$(basename "$case")" "$name"
        emulated compare "$artifact" "$case/io.safetensors" --tolerance "$(number f32_rel_l2_per_key "$case/meta.json")" | tail -1
    done
done

case=tests/golden/tiny-c-mix
for name in "${targets[@]}"; do
    compiled "$case" "$name" --max-context 256 --activations bf16
    printf '%s, %s, bf16: ' "$(basename "$case")" "$name"
    emulated compare "$artifact" "$case/io.safetensors" --tolerance "$(number bf16_rel_l2_outputs "$case/meta.json")" | tail -1
    for weights in q8 q4; do
        compiled "$case" "$name" --max-context 256 --weights "$weights"
        printf '%s, %s, %s: ' "$(basename "$case")" "$name" "$weights"
        emulated verify "$artifact" --source "$case" | tail -1
    done
done

# against the same model in f32 on Cranelift's target: within 0.3 % of its perplexity in 8 bits, within 4 % in 4
head -c 2000 examples/austen-jet/heldout.txt >"$folder/text"
compiled examples/austen-jet aarch64 --max-context 1024
mv "$artifact" "$folder/plain.jetbin"
for name in "${targets[@]}"; do
    for weights in q8:0.003 q4:0.04; do
        compiled examples/austen-jet "$name" --max-context 1024 --weights "${weights%:*}"
        emulated quality "$artifact" --against "$folder/plain.jetbin" --text "$folder/text" >"$folder/quality"
        printf 'austen-jet, %s, %s: ' "$name" "${weights%:*}"
        awk -v most="${weights#*:}" '
            /^perplexity/ { found = $2 } /^the other/ { other = $3 } /^KL/ { kl = $3; sub(",", "", kl) }
            END {
                ratio = found / other - 1
                printf "perplexity %s instead of %s, mean KL %s\n", found, other, kl
                exit !(ratio < most && ratio > -most)
            }' "$folder/quality"
    done
done
