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
cargo clippy --release --workspace --all-targets --quiet -- -D warnings
cargo xtask tidy

# The tools of the other languages, kept by what their lock files say.
python_tools() { echo "$CORTEX_CACHE/tools/python-$(sha256sum "tests/$1/requirements.txt" | cut -c1-16)"; }
for suite in openai downloads; do
    tools=$(python_tools "$suite")
    if [ ! -f "$tools/.complete" ]; then
        rm -rf "$tools"
        python3 -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --target "$tools" --requirement "tests/$suite/requirements.txt"
        touch "$tools/.complete"
    fi
done
node_tools="$CORTEX_CACHE/tools/node-$(sha256sum tests/browser/package-lock.json | cut -c1-16)"
if [ ! -f "$node_tools/.complete" ]; then
    rm -rf "$node_tools"
    mkdir -p "$node_tools"
    cp tests/browser/package.json tests/browser/package-lock.json "$node_tools"
    npm ci --prefix "$node_tools" --ignore-scripts --no-audit --no-fund --silent
    touch "$node_tools/.complete"
fi

passed=0 failed=0 skipped=0 broken=0
count() { passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3)); }

echo "== cargo test"
cargo test --release --workspace --no-fail-fast 2>&1 | tee "$reports/cargo" || broken=1
while read -r ok bad ignored; do
    count "$ok" "$bad" "$ignored"
done < <(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored.*/\1 \2 \3/p' "$reports/cargo")

for suite in openai downloads; do
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

echo "== tests/browser"
cp tests/browser/origin.test.mjs "$node_tools"
CORTEX_TEST_DIST="$PWD/dist" node --test "$node_tools/origin.test.mjs" 2>&1 | tee "$reports/browser" || broken=1
number() { sed -n "s/^[^a-z]* *$1 \([0-9]*\)$/\1/p" "$reports/browser" | tail -n 1; }
count "$(number pass)" "$(number fail)" "$(number skipped)"

echo "test: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$skipped" = 0 ] && [ "$broken" = 0 ]
