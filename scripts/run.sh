#!/usr/bin/env bash
# Starts the daemon, takes the small model in, and asks it something.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
id=smollm2:135m
# A daemon that was started from an older build is replaced.
pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "${XDG_DATA_HOME:-$HOME/.local/share}/cortexcpp/daemon.json" 2>/dev/null || true)
if [ -n "$pid" ] && [ -e "/proc/$pid/exe" ] && ! [ "/proc/$pid/exe" -ef dist/cortex-server ]; then
    case "$(readlink "/proc/$pid/exe")" in
    */cortex-server*) dist/cortex stop ;;
    esac
fi
dist/cortex start
dist/cortex --quiet import "$MODEL" --id "$id"
dist/cortex --quiet models start "$id" >/dev/null
question="What is the capital of France? Describe the city in one short sentence."
echo
echo "> $question"
dist/cortex run "$id" "$question" --temperature 0
cat <<TEXT

What next:
  dist/cortex run $id          chat
  dist/cortex import FILE.gguf          take in a model of your own
  dist/cortex ps | list | doctor | logs | stop
  Any OpenAI client: base URL $(dist/cortex doctor | sed -n 's/.*answers at \(.*\)/\1/p')/v1, model $id
TEXT
