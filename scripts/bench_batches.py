#!/usr/bin/env python3
"""Measures a prompt of 1,400 tokens that comes amid four running streams, against llama-server with several sizes of batches.

  scripts/bench_batches.py run --peer PATH/llama-server [--pairs 7]   measures, writes bench/results/batches.json and the table
  scripts/bench_batches.py check                                      fails when the table is not that of the results
"""

import os
import pathlib
import statistics

from bench import CONTEXT, ROOT, Cortex, Peer, check_shown, command_line, described, interval, line, long_prompt, publish

RESULTS = ROOT / "bench/results/batches.json"
BEGIN, END = "<!-- batches:begin -->", "<!-- batches:end -->"
SIZES = [(2048, 512), (512, 512), (256, 256), (128, 128)]
GAP, FIRST = "worst gap", "its first text"


def run(arguments):
    threads, model = arguments.threads, pathlib.Path(os.environ["CORTEX_TEST_MODEL"])
    lines = []
    ours = Cortex(model, 5, threads).ready()
    peers = {size: Peer(arguments.peer, model, 5, threads, ["-b", str(size[0]), "-ub", str(size[1])]).ready() for size in SIZES}
    found = {size: [line(f"-b {size[0]} -ub {size[1]}, {name}", "s", "", "lower", 0) for name in (GAP, FIRST)] for size in SIZES}
    for index in range(arguments.pairs):
        own = long_prompt(ours, index)
        for size, peer in peers.items():
            other = long_prompt(peer, index)
            for entry, mine, theirs in zip(found[size], own, other):
                entry["ours"].append(round(mine, 5))
                entry["peer"].append(round(theirs, 5))
            print(size, index, own, other, flush=True)
    for server in [ours, *peers.values()]:
        server.stop()
    for entries in found.values():
        lines.extend(entries)
    result = described(f"scripts/bench_batches.py run --peer PATH/llama-server --pairs {arguments.pairs} --threads {threads}", model,
                       arguments.peer, {"cortex": f"threads={threads}, parallel=5, contextLength={CONTEXT}",
                                        "llama-server": f"-t {threads} -np 5 -c {CONTEXT * 5}"}, lines)
    publish(result, RESULTS, (BEGIN, END), table)


def ratios(entry):
    return [ours / peer for ours, peer in zip(entry["ours"], entry["peer"])]


def table(result):
    rows = ["| llama-server with | worst gap: cortex | llama-server | ratio of pairs (95 %) | first text: cortex | llama-server | ratio of pairs (95 %) | beats ours on both |",
            "|---|---|---|---|---|---|---|---|"]
    for gap, first in zip(result["lines"][::2], result["lines"][1::2]):
        cells = [gap["name"].removesuffix(f", {GAP}")]
        for entry in (gap, first):
            low, high = interval(ratios(entry))
            cells += [f"{statistics.median(entry['ours']):.3g} s", f"{statistics.median(entry['peer']):.3g} s",
                      f"{statistics.median(ratios(entry)):.3f} ({low:.3f} to {high:.3f})"]
        beaten = all(statistics.median(ratios(entry)) > 1.02 for entry in (gap, first))
        rows.append(f"| {' | '.join(cells)} | {'yes' if beaten else 'no'} |")
    versions, flags = result["versions"], result["flags"]
    rows += ["", f"{result['date']}, {result['machine']}, {result['model']}; medians of {len(result['lines'][0]['ours'])} rounds, all in turn. "
             f"cortex {versions['cortex']} ({flags['cortex']}); {versions['llama-server']} ({flags['llama-server']}). Made by "
             f"`{result['command']}`; every run is in [bench/results/batches.json](../bench/results/batches.json).", ""]
    return "\n".join(rows)


if __name__ == "__main__":
    command_line(__doc__, run, lambda: check_shown(RESULTS, (BEGIN, END), table))
