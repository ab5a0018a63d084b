#!/usr/bin/env python3
"""Measures the registry of models with 1,000, 10,000 and 100,000 models in it.

  scripts/bench_registry.py run [--runs 7]   measures, writes bench/results/registry.json and the table
  scripts/bench_registry.py check            fails when the table is not that of the results

Every run is written down. The table in docs/performance.md is made from them. Each start is one of a whole
process, each request is one over HTTP as a client sends it; the page cache is warm, as after any use.
"""

import argparse
import http.client
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import struct
import subprocess
import tempfile
import time

from bench import ROOT, Server, check_shown, free_port, interval, publish

RESULTS = ROOT / "bench/results/registry.json"
BEGIN, END = "<!-- registry:begin -->", "<!-- registry:end -->"
SIZES = (1_000, 10_000, 100_000)
# The targets are for this many.
MEANT = 10_000
VOCABULARY = 150_000


def text(value):
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def gguf(name, vocabulary=4):
    """A small GGUF file with a vocabulary of this size; its tensors are zeros."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"token{number}" for number in range(vocabulary - 3)]
    values = [("general.architecture", 8, text("llama")), ("general.name", 8, text(name)),
              ("llama.block_count", 4, struct.pack("<I", 1)), ("llama.context_length", 4, struct.pack("<I", 2048)),
              ("llama.embedding_length", 4, struct.pack("<I", 1)),
              ("tokenizer.ggml.model", 8, text("llama")),
              ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, vocabulary) + b"".join(map(text, tokens))),
              ("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, vocabulary) + bytes(4 * vocabulary)),
              ("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, vocabulary) + bytes(4 * vocabulary)),
              ("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2))]
    if vocabulary > 1000:
        merges = [f"token{number} token{number + 1}" for number in range(vocabulary)]
        values.append(("tokenizer.ggml.merges", 9, struct.pack("<IQ", 8, vocabulary) + b"".join(map(text, merges))))
    tensors = [("token_embd.weight", [1, vocabulary]), ("blk.0.attn_q.weight", [1, 1])]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    header += b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in values)
    offset = 0
    for tensor, dimensions in tensors:
        header += text(tensor) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, 0, offset)
        offset = (offset + 4 * dimensions[-1] + 31) // 32 * 32
    return header + bytes(-len(header) % 32 + offset)


class Daemon(Server):
    """The daemon on a data folder."""

    def __init__(self, folder):
        port = free_port()
        self.began = time.perf_counter()
        super().__init__(port, subprocess.Popen(
            [ROOT / "dist/cortex-server", "--config_file_path", f"{folder}/rc", "--data_folder_path",
             f"{folder}/data", "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def ready(self):
        self.wait_for("/healthz")
        return self

    def list(self):
        return self.call("GET", "/v1/models")

    def until_known(self):
        """Waits until nothing is pending; seconds from the start of the process."""
        while self.call("GET", "/v1/models/health").find(b'"pending":0') < 0:
            time.sleep(0.02)
        return time.perf_counter() - self.began

    def end(self):
        """As a user stops it: what is known is kept for the next start."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Connection:
    """One connection on which the same request is timed again and again."""

    def __init__(self, server):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.buffer = bytearray(1 << 20)

    def timed(self, headers=None):
        """Milliseconds from the request to the last byte, the status, and the tag."""
        began = time.perf_counter()
        self.connection.request("GET", "/v1/models", headers=headers or {})
        answer = self.connection.getresponse()
        while answer.readinto(self.buffer):
            pass
        return (time.perf_counter() - began) * 1000, answer.status, answer.headers["etag"]


def prepare(folder, size):
    weights = folder / "weights"
    weights.mkdir()
    batch = []
    for number in range(size):
        path = weights / f"{number % 1000}" / f"model-{number:06}.Q4_K_M.gguf"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gguf(f"Model {number}"))
        batch.append({"model": f"author:repo-{number:06}:model.Q4_K_M.gguf", "modelPath": str(path)})
    (folder / "rc").write_text(f"bodyLimitBytes: {64 << 20}\n")
    return batch


def measure(size, runs):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cortex-bench-"))
    values = {}

    def note(name, value):
        values.setdefault(name, []).append(round(value, 4))

    try:
        batch = prepare(folder, size)
        for _ in range(runs):
            shutil.rmtree(folder / "data", ignore_errors=True)
            daemon = Daemon(folder).ready()
            time.sleep(0.2)
            empty = daemon.resident()
            began = time.perf_counter()
            answer = json.loads(daemon.call("POST", "/v1/models/import", {"models": batch}))
            note("batch", (time.perf_counter() - began) * 1000)
            assert answer["imported"] == size, answer["failed"]
            daemon.stop()
        # The models of the last run stay.
        daemon = Daemon(folder).ready()
        note("known", daemon.until_known() * 1000)
        # What is known is written down two seconds later; that of 100,000 takes longer than an end may take.
        time.sleep(2 + size / 20_000)
        daemon.end()
        for run in range(runs):
            daemon = Daemon(folder)
            daemon.wait_for("/healthz")
            body = daemon.list()
            note("start", (time.perf_counter() - daemon.began) * 1000)
            assert body.count(b'"object":"model"') == size and b"pending" not in body
            if run + 1 < runs:
                daemon.end()
        daemon.end()
        cache = folder / "data/cache/models.cache"
        for run in range(runs):
            cache.unlink(missing_ok=True)
            daemon = Daemon(folder)
            daemon.wait_for("/healthz")
            body = daemon.list()
            note("start without cache", (time.perf_counter() - daemon.began) * 1000)
            assert body.count(b'"object":"model"') == size
            if run < 3:
                note("known without cache", daemon.until_known() * 1000)
            daemon.end()
        daemon = Daemon(folder).ready()
        daemon.until_known()
        time.sleep(0.5)
        for run in range(runs):
            connection = Connection(daemon)
            _, _, tag = connection.timed()
            note("list", statistics.median(connection.timed()[0] for _ in range(20)))
            times, statuses = [], set()
            for _ in range(200):
                took, status, _ = connection.timed({"If-None-Match": tag})
                times.append(took)
                statuses.add(status)
            assert statuses == {304}, statuses
            note("unchanged", statistics.median(times))
        note("memory", daemon.resident() - empty)
        for run in range(runs * 3):
            path = folder / "weights" / f"new-{run}.gguf"
            path.write_bytes(gguf(f"New {run}"))
            began = time.perf_counter()
            daemon.call("POST", "/v1/models/import", {"model": f"new-{run}", "modelPath": str(path)})
            note("import", (time.perf_counter() - began) * 1000)
        daemon.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return values


def header(runs):
    """Milliseconds to answer for a model whose yaml is gone: read its header, make the yaml, write it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cortex-bench-"))
    try:
        path = folder / "large.gguf"
        path.write_bytes(gguf("Large", VOCABULARY))
        (folder / "rc").touch()
        daemon = Daemon(folder).ready()
        daemon.call("POST", "/v1/models/import", {"model": "large", "modelPath": str(path)})
        times = []
        for _ in range(runs * 3):
            (folder / "data/models/imported/large.yaml").unlink()
            began = time.perf_counter()
            body = json.loads(daemon.call("GET", "/v1/models/large"))
            times.append(round((time.perf_counter() - began) * 1000, 4))
            assert body["state"] == "ready" and body["stop"] == ["</s>"], body
        daemon.stop()
        return times
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# What is measured, in which unit, and its target with 10,000 models.
LINES = {
    "start": ("start of the process to a complete list, cache warm", "ms", 150),
    "start without cache": ("start of the process to all entries, cache deleted", "ms", 150),
    "known without cache": ("… to all details, from the yaml files", "ms", None),
    "known": ("… to all details, from the headers, yaml files made", "ms", None),
    "list": ("the list again, p50 of 20, whole body", "ms", 10),
    "unchanged": ("the list again, p50 of 200, 304", "ms", 1),
    "import": ("one import", "ms", 20),
    "batch": ("batch import of all, to the answer", "ms", 1000),
    "memory": ("memory added", "MiB", 20),
}


def run(arguments):
    sizes = {str(size): measure(size, arguments.runs if size <= MEANT else 3) for size in SIZES}
    cpu = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    result = {
        "command": f"scripts/bench_registry.py run --runs {arguments.runs}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "cortex": commit.strip(),
        "sizes": sizes,
        "header": header(arguments.runs),
    }
    publish(result, RESULTS, (BEGIN, END), table)


def cell(values):
    low, high = interval(values)
    middle = statistics.median(values)
    shown = [f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in (middle, low, high)]
    return shown[0] if len(values) < 3 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def verdict(values, target):
    if target is None:
        return "–"
    return "yes" if statistics.median(values) <= target * 1.02 else "no"


def table(result):
    sizes = result["sizes"]
    titles = " | ".join(f"{size:,} models" for size in SIZES)
    rows = [f"| what | unit | {titles} | target for {MEANT:,} | holds |", "|---|---|" + "---|" * (len(SIZES) + 2)]
    for name, (what, unit, target) in LINES.items():
        cells = " | ".join(cell(sizes[str(size)][name]) for size in SIZES)
        rows.append(f"| {what} | {unit} | {cells} | {'–' if target is None else f'< {target:,} {unit}'} "
                    f"| {verdict(sizes[str(MEANT)][name], target)} |")
    header = result["header"]
    rows.append(f"| header with a vocabulary of {VOCABULARY:,}: read, yaml made and written, answered | ms "
                f"| {cell(header)} | | | < 15 ms | {verdict(header, 15)} |")
    rows += ["", f"{result['date']}, {result['machine']}; medians with 95 % intervals. cortex {result['cortex']}. Made by "
             f"`{result['command']}`; every run is in [bench/results/registry.json](../bench/results/registry.json).", ""]
    return "\n".join(rows)


def check():
    check_shown(RESULTS, (BEGIN, END), table)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("--runs", type=int, default=7)
    commands.add_parser("check")
    arguments = parser.parse_args()
    run(arguments) if arguments.command == "run" else check()


if __name__ == "__main__":
    main()
