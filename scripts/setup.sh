#!/usr/bin/env bash
# Installs what is missing to build (`setup.sh run`) and to test (`setup.sh test`), or the packages that are named
# (`setup.sh packages NAME…`). Quick when nothing is.
set -euo pipefail
packages="build-essential cmake libclang-dev ccache pkg-config"
if [ "${1:-run}" = test ]; then
    packages="$packages nodejs npm chromium systemd"
elif [ "${1:-run}" = packages ]; then
    packages="$packages ${*:2}"
fi
missing=""
for package in $packages; do
    if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed'; then
        # A machine may have Node.js from somewhere else.
        case "$package" in
        nodejs) command -v node >/dev/null && continue ;;
        npm) command -v npm >/dev/null && continue ;;
        esac
        missing="$missing $package"
    fi
done
if [ -n "$missing" ]; then
    echo "installing:$missing"
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "error: these packages are missing, and there is no sudo to install them:$missing" >&2
            exit 1
        fi
        as_root=sudo
    fi
    $as_root apt-get update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y --no-install-recommends $missing
fi
if ! command -v cargo >/dev/null; then
    echo "error: cargo is missing; install the Rust toolchain with rustup" >&2
    exit 1
fi
if ! rustc --version >/dev/null 2>&1; then
    echo "error: the toolchain of rust-toolchain.toml is missing; run: rustup toolchain install" >&2
    exit 1
fi
if [ "${1:-run}" = test ] && ! { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1; then
    rustup component add rustfmt clippy
fi
