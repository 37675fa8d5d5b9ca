#!/usr/bin/env bash
# The checks that need full-size models: 2B and 4B artifacts with synthetic weights against golden values of the official
# code, limits of compile time, size, memory and loading, and a benchmark. Needs about 12 GB of disk and 8 GB of page cache; what it
# writes under the target folder is deleted again, the figures stay in target/heavy/report.txt.
set -eu -o pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
mkdir -p "$target/heavy"
# with LLVM at hand, every target that this machine runs
features=()
if [ -n "${MLIR_SYS_220_PREFIX:-}" ]; then
    features=(--features mlir)
fi
cargo test --quiet --locked --release --package jetc ${features[@]+"${features[@]}"} --test e2e -- heavy --ignored --nocapture --test-threads=1 |
    tee "$target/heavy/report.txt"
