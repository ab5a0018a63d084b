#!/usr/bin/env python3
"""Measures migrations: a folder of an older Jan with 1,000 downloaded models of 3 GiB, and a list of 10,000.

  scripts/bench_migrate.py run [--runs 7]   measures, writes bench/results/migrate.json and the table
  scripts/bench_migrate.py check            fails when the table is not that of the results

Every run is written down. The table in docs/performance.md is made from them. The weights are sparse; the page cache is
warm. Somebody lists the models again and again meanwhile, as an app does while it starts.
"""

import argparse
import http.client
import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import threading
import time

from bench import ROOT, check_shown, commit, interval, measured_here, publish
from bench_registry import Daemon, gguf

RESULTS = ROOT / "bench/results/migrate.json"
BEGIN, END = "<!-- migrate:begin -->", "<!-- migrate:end -->"
FOLDERS, LISTED, WEIGHTS = 1_000, 10_000, 3 << 30


def prepare(folder):
    """A data folder of Jan, beside as many that were never downloaded."""
    models = folder / "jan/models"
    header = gguf("Model", 1000)
    for number in range(FOLDERS):
        place = models / f"model-{number:04}"
        place.mkdir(parents=True)
        name = f"model-{number:04}.Q4_K_M.gguf"
        (place / "model.json").write_text(json.dumps({
            "sources": [{"filename": name, "url": f"https://hub.example/a/b/resolve/main/{name}"}],
            "id": f"model-{number:04}", "object": "model", "name": f"Model {number}", "version": "1.0", "format": "gguf",
            "settings": {"ctx_len": 4096, "prompt_template": "[INST] {prompt} [/INST]", "llama_model_path": name, "ngl": 33},
            "parameters": {"temperature": 0.7, "top_p": 0.95, "max_tokens": 4096, "stop": ["</s>"], "stream": True},
            "metadata": {"author": "Maker", "tags": [], "size": WEIGHTS}, "engine": "nitro"}, indent=2))
        with open(place / name, "wb") as file:
            file.write(header)
            file.truncate(WEIGHTS)
    for number in range(40):
        (models / f"offered-{number}").mkdir()
        (models / f"offered-{number}/model.json").write_text(json.dumps({
            "sources": [{"filename": "x.gguf", "url": "https://hub.example/x.gguf"}], "id": f"offered-{number}", "engine": "nitro"}))
    (folder / "rc").write_text(f"bodyLimitBytes: {64 << 20}\n")
    return len(header)


class Lister(threading.Thread):
    """Lists the models again and again; keeps how long the slowest answer took."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.slowest, self.stop = port, 0.0, threading.Event()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop.is_set():
            began = time.perf_counter()
            connection.request("GET", "/v1/models")
            connection.getresponse().read()
            self.slowest = max(self.slowest, (time.perf_counter() - began) * 1000)
            time.sleep(0.005)

    def end(self):
        self.stop.set()
        self.join()
        return self.slowest


def field(daemon, file, key):
    text = pathlib.Path(f"/proc/{daemon.process.pid}/{file}").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(key)).split()[1])


def fresh(folder):
    # Put aside rather than deleted: ext4 takes long to make files where many were deleted a moment ago.
    if (folder / "data").exists():
        (folder / "data").rename(folder / f"data-{time.time_ns()}")
    daemon = Daemon(folder).ready()
    time.sleep(0.2)
    return daemon


def one_run(folder):
    result = {}
    daemon = fresh(folder)
    memory, read, lister = field(daemon, "status", "VmRSS"), field(daemon, "io", "rchar"), Lister(daemon.port)
    lister.start()
    began = time.perf_counter()
    report = json.loads(daemon.call("POST", "/v1/migrations", {"from": str(folder / "jan")}))
    result["folders"] = (time.perf_counter() - began) * 1000
    assert report["registered"] == FOLDERS and report["skipped"] == 40, {key: report[key] for key in ("registered", "skipped", "unresolved")}
    result["list meanwhile"] = lister.end()
    result["memory"] = (field(daemon, "status", "VmHWM") - memory) / 1024
    daemon.until_known()
    result["read"] = (field(daemon, "io", "rchar") - read) / FOLDERS
    daemon.end()
    daemon = fresh(folder)
    weights = str(folder / "jan/models/model-0000/model-0000.Q4_K_M.gguf")
    models = [{"id": f"cached-{number}", "path": weights, "settings": {"ctx_len": 4096, "temperature": 0.7}} for number in range(LISTED)]
    began = time.perf_counter()
    report = json.loads(daemon.call("POST", "/v1/migrations", {"models": models}))
    result["list of a client"] = (time.perf_counter() - began) * 1000
    assert report["registered"] == LISTED
    daemon.end()
    return result


def run(arguments):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cortex-migrate-"))
    try:
        header = prepare(folder)
        one_run(folder)
        runs = []
        for number in range(arguments.runs):
            runs.append({name: round(value, 3) for name, value in one_run(folder).items()})
            print(number + 1, runs[-1], file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {**measured_here(f"scripts/bench_migrate.py run --runs {arguments.runs}"), "cortex": commit(), "header": header, "runs": runs}
    publish(result, RESULTS, (BEGIN, END), table)


def table(result):
    rows = ["| what | measured | target | holds |", "|---|---|---|---|"]

    def line(what, name, unit, limit, digits=3):
        values = [run[name] for run in result["runs"]]
        middle, (low, high) = statistics.median(values), interval(values)
        holds = "yes" if middle <= limit * 1.02 else "no"
        rows.append(f"| {what} | {middle:,.{digits}g} ({low:,.{digits}g} to {high:,.{digits}g}) {unit} | < {limit:,} {unit} | {holds} |")
    line(f"{FOLDERS:,} folders: seen, planned, registered with their settings, answered", "folders", "ms", 1000)
    line("the slowest list meanwhile", "list meanwhile", "ms", 50)
    line("memory added at the peak", "memory", "MiB", 64)
    header, most = result["header"], result["header"] + (64 << 10)
    line(f"read for each model until all is known of it (a header has {header:,} bytes)", "read", "bytes", most, 6)
    line(f"a list of {LISTED:,} models of a client", "list of a client", "ms", 1000)
    rows += ["", f"{result['date']}, {result['machine']}; medians with 95 % intervals of {len(result['runs'])} runs. cortex {result['cortex']}. "
             f"Made by `{result['command']}`; every run is in [bench/results/migrate.json](../bench/results/migrate.json).", ""]
    return "\n".join(rows)


def check():
    check_shown(RESULTS, (BEGIN, END), table)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run")
    measuring.add_argument("--runs", type=int, default=7)
    commands.add_parser("check")
    arguments = parser.parse_args()
    run(arguments) if arguments.command == "run" else check()


if __name__ == "__main__":
    main()
