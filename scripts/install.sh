#!/usr/bin/env bash
# Copies what was laid out (`install.sh TREE PREFIX [DESTDIR]`) to its place, as the administrator where that is needed.
set -euo pipefail
tree=$1 prefix=$2 destination=${3:-}
target="$destination$prefix"
parent=$target
while [ ! -e "$parent" ]; do parent=$(dirname "$parent"); done
as_root=""
if [ ! -w "$parent" ]; then
    if ! command -v sudo >/dev/null; then
        echo "error: $target is not yours to write, and there is no sudo; choose another with PREFIX=" >&2
        exit 1
    fi
    as_root=sudo
fi
$as_root mkdir -p "$target"
# A program that runs keeps the file that it has.
$as_root cp -a --no-preserve=ownership --remove-destination "$tree$prefix/." "$target/"
rm -rf "$tree"
echo "installed below $target; \`systemctl --user enable --now cortex\` starts the daemon with your session"
