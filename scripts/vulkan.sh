#!/usr/bin/env bash
# Builds the compute module for graphics processors with Vulkan and puts it beside the worker:
# dist/worker/backends/libggml-vulkan.so. Run it after `cargo xtask stage`; it takes some minutes.
# `vulkan.sh check` also lets Mesa's Vulkan driver for the processor run the small model with it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

packages="libvulkan-dev glslc spirv-headers"
if [ "${1:-}" = check ]; then
    packages="$packages mesa-vulkan-drivers"
fi
scripts/setup.sh packages $packages

# The module must come from the same source as the rest of llama.cpp: that of the pinned binding.
binding="$(cargo metadata --format-version 1 --locked |
    python3 -c 'import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "llama-cpp-sys-2"))')"
source="$(dirname "$binding")/llama.cpp"
build="$CORTEX_CACHE/vulkan/$(basename "$(dirname "$binding")")"
mkdir -p "$CORTEX_CACHE/vulkan"
# From a place that all clones share: another path would be another build.
header="$CORTEX_CACHE/vulkan/layer_settings.h"
cmp -s scripts/vulkan/layer_settings.h "$header" || cp scripts/vulkan/layer_settings.h "$header"

# Only the module, not the features of the binding: those would compile all modules for the processor again.
cmake -S "$source" -B "$build" \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON -DGGML_VULKAN=ON \
    -DGGML_CPU=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TOOLS=OFF \
    "-DCMAKE_CXX_FLAGS=-include $header" >"$build.log" 2>&1 ||
    { tail -20 "$build.log" >&2; exit 1; }
cmake --build "$build" --target ggml-vulkan -j "$(nproc)"
mkdir -p dist/worker/backends
cp "$build/bin/libggml-vulkan.so" dist/worker/backends/.libggml-vulkan.so.new
mv dist/worker/backends/.libggml-vulkan.so.new dist/worker/backends/libggml-vulkan.so
echo "dist/worker/backends/libggml-vulkan.so is ready"

if [ "${1:-}" = check ]; then
    scripts/fetch-model.sh
    # The programs that it runs with. Staging leaves modules alone that it did not make.
    cargo xtask stage
    exec python3 scripts/check_vulkan.py
fi
