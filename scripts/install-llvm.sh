#!/bin/sh
# Installs what the cargo feature `mlir` is built with (Debian 12 or later, Ubuntu with LLVM 22 in its package lists):
# the static libraries and headers of MLIR and LLVM 22, and libclang for the bindings. Prints the two variables that the
# build wants; so:  eval "$(scripts/install-llvm.sh)"
# Does nothing but print them where everything is installed already. Needs root to install (or sudo).
set -eu

version=22
prefix=/usr/lib/llvm-$version
packages="libmlir-$version-dev mlir-$version-tools llvm-$version-dev libclang-$version-dev libpolly-$version-dev libzstd-dev"

say() { echo "install-llvm: $*" >&2; }

installed() { dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q '^install ok installed$'; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else say "found neither root nor sudo, expected one of them to install packages"; exit 1
    fi
}

command -v dpkg-query >/dev/null || { say "found no dpkg, expected Debian or Ubuntu"; exit 1; }
missing=
for p in $packages; do installed "$p" || missing="$missing $p"; done

if [ -n "$missing" ]; then
    say "installing$missing"
    as_root apt-get update -qq >&2
    for p in $missing; do
        if [ -z "$(apt-cache madison "$p")" ]; then
            say "found no package $p in the package lists, expected LLVM $version there (on older distributions: add the LLVM project's own packages)"
            exit 1
        fi
    done
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
fi

[ -x "$prefix/bin/llvm-config" ] || { say "found no $prefix/bin/llvm-config after installing"; exit 1; }
echo "export MLIR_SYS_${version}0_PREFIX=$prefix TABLEGEN_${version}0_PREFIX=$prefix"
