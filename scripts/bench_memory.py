#!/usr/bin/env python3
"""Measures what concerns memory: swaps of models against llama-server's router, a trace that makes models thrash, the
prediction against what a worker takes, and how fast the questions about the machine are answered.

  scripts/bench_memory.py run --peer PATH/llama-server [--pairs 7]   measures, writes bench/results/memory.json and the table
  scripts/bench_memory.py check                                      fails when the table is not that of the results
"""

import http.client
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

from bench import ROOT, Server, check_shown, command_line, described, free_port, line, publish, table

RESULTS = ROOT / "bench/results/memory.json"
BEGIN, END = "<!-- memory:begin -->", "<!-- memory:end -->"
CONTEXT = 2048
# 60 requests for three models in turn with room for two, strictly in their order, in the best case: each needs a load of 1 s
# and an answer of 0.1 s, and two go on at a time.
IN_ORDER = 60 * 1.1 / 2
PATIENCE, LOAD = 5.0, 1.0


class Daemon(Server):
    def __init__(self, models, settings, fake=False):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cortex-bench-"))
        (self.folder / "rc").write_text(settings)
        environment = dict(os.environ)
        if fake:
            program = self.folder / "fake/cortex-llamacpp"
            (program.parent / "backends").mkdir(parents=True)
            shutil.copy(ROOT / "dist/test/fake-worker", program)
            (program.parent / "backends/libggml-cpu-fake.so").touch()
            environment["CORTEX_WORKER"] = str(program)
        port = free_port()
        super().__init__(port, subprocess.Popen(
            [ROOT / "dist/cortex-server", "--config_file_path", self.folder / "rc", "--data_folder_path", self.folder / "data",
             "--host", "127.0.0.1", "--port", str(port)], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        self.wait_for("/healthz")
        for name, path in models.items():
            self.call("POST", "/v1/models/import", {"model": name, "modelPath": str(path)})

    def stop(self):
        super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Router(Server):
    def __init__(self, program, folder, threads):
        port = free_port()
        super().__init__(port, subprocess.Popen(
            [program, "--host", "127.0.0.1", "--port", str(port), "--models-dir", folder, "--models-max", "1",
             "-t", str(threads), "-np", "1", "-c", str(CONTEXT)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        self.wait_for("/health")


def ask(server, model, text="Hello", tokens=1):
    """The seconds until the whole answer is there."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0})
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return time.perf_counter() - began


def swaps(arguments, model, folder, lines):
    """Two models in turn with room for one."""
    names = ["one", "two"]
    for name in names:
        os.link(model, folder / f"{name}.gguf") if model.stat().st_dev == folder.stat().st_dev else shutil.copy(model, folder / f"{name}.gguf")
    settings = f"threads: {arguments.threads}\nparallel: 1\ncontextLength: {CONTEXT}\nmaxLoadedModels: 1\n"
    servers = {"ours": Daemon({name: folder / f"{name}.gguf" for name in names}, settings),
               "peer": Router(arguments.peer, folder, arguments.threads)}
    entry = line("two models in turn, room for one: a request to its answer", "s", "≤ 0.5 ×", "lower", 0.5)
    lines.append(entry)
    for server in servers.values():
        for name in names:
            ask(server, name)
    for _ in range(arguments.pairs):
        for side, server in servers.items():
            entry[side].append(round(statistics.mean(ask(server, name) for name in names), 5))
        print(entry["name"], entry["ours"][-1], entry["peer"][-1], flush=True)
    for server in servers.values():
        server.stop()


def thrash(arguments, model, folder, lines):
    """60 requests for A, B and C in turn, one every 50 ms."""
    total = line(f"60 requests ABCABC…, room for two; in their order it is {IN_ORDER:.0f} s at best", "s", "≤ 16.5 s", "lower", IN_ORDER / 2)
    longest = line("the longest wait among them", "s", "≤ 6 s", "lower", PATIENCE + LOAD)
    lines += [total, longest]
    for name in "abc":
        shutil.copy(model, folder / f"{name}[slow].gguf")
    for _ in range(arguments.pairs):
        server = Daemon({name: folder / f"{name}[slow].gguf" for name in "abc"}, "maxLoadedModels: 2\nparallel: 1\n", fake=True)
        times, threads = [], []
        began = time.perf_counter()
        for number in range(60):
            time.sleep(max(0.0, began + 0.05 * number - time.perf_counter()))
            thread = threading.Thread(target=lambda name="abc"[number % 3]: times.append(ask(server, name)))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        total["ours"].append(round(time.perf_counter() - began, 3))
        # Of the time, an answer and those before it in its worker are not waiting for a model; this counts them too.
        longest["ours"].append(round(max(times), 3))
        server.stop()
        print(total["name"], total["ours"][-1], longest["ours"][-1], flush=True)


def predictions(arguments, model, lines):
    """What is predicted against what the worker has in memory once every slot has computed a full micro-batch."""
    entry = line("predicted against resident memory, all slots filled: worst of 512, 2k, 8k × 1, 8, f16 and q8_0", "%", "≤ 5 %", "lower", 5.0)
    lines.append(entry)
    server = Daemon({"one": model}, f"threads: {arguments.threads}\n")
    long = "lorem ipsum dolor sit amet " * 90
    # No time is measured: three rounds show that it is the same each time.
    for _ in range(min(arguments.pairs, 3)):
        worst = 0.0
        runs = [(context, parallel, "f16") for parallel in (1, 8) for context in (512, 2048, 8192)]
        for context, parallel, cache_type in runs + [(2048, 1, "q8_0"), (8192, 8, "q8_0")]:
            order = {"model": "one", "ctx_len": context, "n_parallel": parallel, "cache_type": cache_type, "exact": True}
            needed = json.loads(server.call("POST", "/v1/models/fit", order))["needed"]
            server.call("POST", "/v1/models/start", order)
            text = long if context > 600 else "lorem ipsum " * 75
            threads = [threading.Thread(target=ask, args=(server, "one", f"{number} {text}")) for number in range(parallel)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            resident = json.loads(server.call("GET", "/inferences/server/models"))["data"][0]["ram"]
            off = (needed / resident - 1) * 100
            print(f"{context} × {parallel} {cache_type}: {needed / 2**20:.1f} MiB predicted, {resident / 2**20:.1f} resident, {off:+.1f} %", flush=True)
            worst = max(worst, abs(off))
            server.call("POST", "/v1/models/stop", {"model": "one"})
        entry["ours"].append(round(worst, 3))
    server.stop()


def questions(arguments, model, lines):
    """How fast the machine and the fit are told: the first call of a daemon, and of a model."""
    hardware = line("GET /v1/hardware, the first call of a daemon", "ms", "< 5 ms", "lower", 5.0)
    fit = line("POST /v1/models/fit of a file, the first call", "ms", "< 20 ms", "lower", 20.0)
    lines += [hardware, fit]
    for _ in range(arguments.pairs):
        server = Daemon({"one": model}, "")
        for entry, method, path, body in ((hardware, "GET", "/v1/hardware", None), (fit, "POST", "/v1/models/fit", {"model": "one"})):
            began = time.perf_counter()
            server.call(method, path, body)
            entry["ours"].append(round((time.perf_counter() - began) * 1000, 3))
        server.stop()
    print(hardware, fit, flush=True)


def speeds(arguments, model, lines):
    """The speed that is told of a model, and that of an answer. Each time of a daemon that knows nothing."""
    estimated = line("expected against real tokens/s of an answer, before any", "%", "≤ 20 %", "lower", 20.0)
    corrected = line("the same, after one answer", "%", "≤ 20 %", "lower", 20.0)
    lines += [estimated, corrected]
    body = {"model": "one", "prompt": "lorem ipsum dolor sit amet " * 64, "max_tokens": 64, "ignore_eos": True, "temperature": 0}
    for _ in range(arguments.pairs):
        server = Daemon({"one": model}, f"threads: {arguments.threads}\nparallel: 1\n")

        def told():
            while True:
                fit = json.loads(server.call("POST", "/v1/models/fit", {"model": "one"}))
                if fit["speed"]:
                    return fit["speed"]["predicted_per_second"]
                time.sleep(0.2)

        for entry in (estimated, corrected):
            expected = told()
            server.call("POST", "/v1/models/start", {"model": "one"})
            real = json.loads(server.call("POST", "/v1/completions", body))["timings"]["predicted_per_second"]
            entry["ours"].append(round(abs(expected / real - 1) * 100, 3))
            print(entry["name"], f"{expected:.1f} {real:.1f}", flush=True)
        server.stop()


def run(arguments):
    model = pathlib.Path(os.environ["CORTEX_TEST_MODEL"])
    lines = []
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cortex-memory-"))
    try:
        swaps(arguments, model, folder, lines)
        thrash(arguments, model, folder, lines)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    predictions(arguments, model, lines)
    speeds(arguments, model, lines)
    questions(arguments, model, lines)
    threads = arguments.threads
    result = described(f"scripts/bench_memory.py run --peer PATH/llama-server --pairs {arguments.pairs} --threads {threads}", model,
                       arguments.peer, {"cortex": f"threads={threads}, parallel=1, contextLength={CONTEXT}, maxLoadedModels=1",
                                        "llama-server": f"--models-max 1 -t {threads} -np 1 -c {CONTEXT}"}, lines)
    publish(result, RESULTS, (BEGIN, END), shown)


def shown(result):
    return table(result, "memory.json")


if __name__ == "__main__":
    command_line(__doc__, run, lambda: check_shown(RESULTS, (BEGIN, END), shown))
