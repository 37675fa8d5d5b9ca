#!/bin/sh
# Installs `ptxas` 13.0.88, NVIDIA's assembler for PTX, from the Python package index into the target folder, which needs no GPU,
# no driver and no root. Prints the variable that the tests of the PTX backend want; so:  eval "$(scripts/install-ptxas.sh)"
# Does nothing but print it where the assembler is installed already. Needs python3 with venv.
set -eu

version=13.0.88
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${CARGO_TARGET_DIR:-$root/target}/ptxas-$version

say() { echo "install-ptxas: $*" >&2; }

found() { find "$folder" -name ptxas -type f -perm -u+x 2>/dev/null | head -n 1; }

if [ -z "$(found)" ]; then
    command -v python3 >/dev/null || { say "found no python3, expected one with venv"; exit 1; }
    say "installing nvidia-cuda-nvcc $version to $folder"
    python3 -m venv "$folder" >&2
    "$folder/bin/pip" install --quiet --disable-pip-version-check "nvidia-cuda-nvcc==$version" >&2
fi

ptxas=$(found)
[ -n "$ptxas" ] || { say "found no ptxas in $folder after installing"; exit 1; }
echo "export JETC_PTXAS=$ptxas"
