# Sourced by every script: one place for the folders and the environment of a build.
# Cargo compiles llama.cpp again when these change, which takes a quarter of an hour.
export CORTEX_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/cortex"
export CARGO_TARGET_DIR="$CORTEX_CACHE/target"
export CCACHE_DIR="$CORTEX_CACHE/ccache" CCACHE_BASEDIR="$HOME" CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=2G
export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
MODEL="$CORTEX_CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf"
export CORTEX_TEST_MODEL="$MODEL"
mkdir -p "$CARGO_TARGET_DIR"

# Clones share the target folder, and cargo judges by the time of a file alone: what another clone
# built later than this one was written would pass for built from this one. So when the clone
# changes, all sources of this one count as new; the libraries and llama.cpp stay built.
CORTEX_CLONE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
if [ "$(cat "$CARGO_TARGET_DIR/.clone" 2>/dev/null)" != "$CORTEX_CLONE" ]; then
    find "$CORTEX_CLONE/crates" "$CORTEX_CLONE/xtask" \( -name '*.rs' -o -name Cargo.toml \) -exec touch {} +
    printf '%s\n' "$CORTEX_CLONE" >"$CARGO_TARGET_DIR/.clone"
fi

# What the binding links into the target folder may dangle, and then its next build stops there.
clear_dangling_links() {
    if [ -d "$CARGO_TARGET_DIR/release" ]; then
        find "$CARGO_TARGET_DIR/release" -maxdepth 2 -xtype l -name '*.so*' -delete
    fi
}
