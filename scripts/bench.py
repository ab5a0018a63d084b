#!/usr/bin/env python3
"""Measures cortex against llama-server on the same machine, in turn: A B A B.

  scripts/bench.py run --peer PATH/llama-server [--pairs 7]   measures, writes bench/results/latest.json and the table
  scripts/bench.py check                                      fails when the table is not that of the results

Every run is written down. The table in docs/performance.md is made from them.
"""

import argparse
import http.client
import json
import os
import pathlib
import platform
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results/latest.json"
DOCUMENT = ROOT / "docs/performance.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
MODEL_ID = "bench"
CONTEXT = 2048
# A piece of an answer that is not empty: the first event of a stream may be.
TEXT = re.compile(rb'"content":"[^"]')


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server under measurement."""

    def __init__(self, port, process):
        self.port, self.process = port, process

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return connection.getresponse()

    def call(self, method, path, body=None):
        answer = self.request(method, path, body)
        text = answer.read()
        assert answer.status == 200, (answer.status, text)
        return text

    def wait_for(self, path):
        while True:
            try:
                if self.request("GET", path).status == 200:
                    return
            except OSError:
                pass
            assert self.process.poll() is None, "the server died"
            time.sleep(0.0005)

    def resident(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def stream(self, prompt, tokens):
        """Moments of the pieces of an answer, in seconds from the request; the first is the first text."""
        body = {"model": MODEL_ID, "stream": True, "temperature": 0, "max_tokens": tokens, "ignore_eos": True,
                "messages": [{"role": "user", "content": prompt}]}
        began = time.perf_counter()
        answer = self.request("POST", "/v1/chat/completions", body)
        assert answer.status == 200, answer.read()
        moments = []
        while line := answer.readline():
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:]).get("choices")
            if choices and choices[0]["delta"].get("content"):
                moments.append(time.perf_counter() - began)
        return moments

    def stop(self):
        self.process.kill()
        self.process.wait()


class Cortex(Server):
    def __init__(self, model, streams, threads, fake_worker=False, context=CONTEXT):
        self.folder = tempfile.mkdtemp(prefix="cortex-bench-")
        port = free_port()
        pathlib.Path(self.folder, "rc").write_text(
            f"threads: {threads}\nparallel: {streams}\ncontextLength: {context}\n")
        environment = dict(os.environ)
        if fake_worker:
            program = pathlib.Path(self.folder, "fake/cortex-llamacpp")
            program.parent.joinpath("backends").mkdir(parents=True)
            shutil.copy(ROOT / "dist/test/fake-worker", program)
            program.parent.joinpath("backends/libggml-cpu-fake.so").touch()
            environment["CORTEX_WORKER"] = str(program)
        self.environment = environment
        super().__init__(port, self.process_of(port))
        self.model = model

    def process_of(self, port):
        return subprocess.Popen(
            [ROOT / "dist/cortex-server", "--config_file_path", f"{self.folder}/rc", "--data_folder_path",
             f"{self.folder}/data", "--host", "127.0.0.1", "--port", str(port)], env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def restart(self):
        """Ends the daemon as a user does, starts another one and has it load the model."""
        self.process.terminate()
        assert self.process.wait() == 0
        self.process = self.process_of(self.port)
        self.wait_for("/healthz")
        self.stream("Hello", 2)

    def ready(self):
        self.wait_for("/healthz")
        self.call("POST", "/v1/models/import", {"model": MODEL_ID, "modelPath": str(self.model)})
        self.stream("Hello", 2)
        return self

    def stop(self):
        super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Peer(Server):
    def __init__(self, program, model, streams, threads, flags=()):
        port = free_port()
        arguments = ["--host", "127.0.0.1", "--port", str(port), *flags]
        if model:
            arguments += ["-m", str(model), "-t", str(threads), "-np", str(streams), "-c", str(CONTEXT * streams)]
        super().__init__(port, subprocess.Popen(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def ready(self):
        self.wait_for("/health")
        self.stream("Hello", 2)
        return self


def chat(server, prompt, tokens, **more):
    """The bytes of a streamed chat request of exactly so many tokens."""
    body = json.dumps({"model": MODEL_ID, "stream": True, "temperature": 0, "max_tokens": tokens, "ignore_eos": True,
                       "messages": [{"role": "user", "content": prompt}], **more})
    return (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


def read_together(server, requests, seen=lambda stamps: None):
    """Moments at which text came in, for each request. One thread reads all: the client must not take the
    processor from those who compute. `seen` is called after each read and may return one more request."""
    selector, stamps = selectors.DefaultSelector(), []

    def send(request):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(request)
        selector.register(connection, selectors.EVENT_READ, len(stamps))
        stamps.append([])

    for request in requests:
        send(request)
    while selector.get_map():
        for key, _ in selector.select():
            text = key.fileobj.recv(65536)
            if not text:
                selector.unregister(key.fileobj)
                key.fileobj.close()
            elif TEXT.search(text):
                # Guesses that were right come together.
                stamps[key.data].extend([time.perf_counter()] * len(TEXT.findall(text)))
        if more := seen(stamps):
            send(more)
    return stamps


def decode(server, streams, salt, tokens=96, **more):
    """Tokens per second of all streams together, from the first text to the last."""
    stamps = read_together(server, [chat(server, f"Story {salt}-{number}: tell me about a ship.", tokens, **more)
                                    for number in range(streams)])
    together = sorted(moment for own in stamps for moment in own)
    return streams * (tokens - 1) / (together[-1] - together[0])


def together(server, prompts, tokens, **more):
    """Tokens per second of answers to these prompts together, from the first text to the last. The prompts are computed before: some servers
    have answered the first ones by the time they come to the last. Tokens and not pieces of text are counted: not every token is one."""
    read_together(server, [chat(server, prompt, 1, **more) for prompt in prompts])
    stamps = read_together(server, [chat(server, prompt, tokens, **more) for prompt in prompts])
    moments = sorted(moment for own in stamps for moment in own)
    return len(prompts) * (tokens - 1) / (moments[-1] - moments[0])


def stories(streams, salt):
    return [f"Story {salt}-{number}: tell me about a ship." for number in range(streams)]


def long_prompt(server, salt):
    """Worst gap of four running streams while a long prompt arrives, and that prompt's first text; seconds."""
    words = " ".join(f"word{(index * 7919 + salt) % 9973}" for index in range(296))
    late, began = chat(server, words, 2), []

    def when_all_run(stamps):
        if not began and all(len(own) >= 8 for own in stamps):
            began.append(time.perf_counter())
            return late
        return None

    stamps = read_together(server, [chat(server, f"Story {salt}-{number}: a ship.", 220) for number in range(4)],
                           when_all_run)
    ended = stamps[4][0]
    gaps = [later - earlier for own in stamps[:4] for earlier, later in zip(own, own[1:])
            if later > began[0] and earlier < ended]
    return max(gaps), ended - began[0]


def gateway_share(server, requests=2000):
    """p50 and p99, in milliseconds, from a streamed request to its first text when the worker answers at once."""
    body = json.dumps({"model": MODEL_ID, "stream": True, "max_tokens": 1,
                       "messages": [{"role": "user", "content": "Say something about a ship."}]})
    request = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
               f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()
    times = []
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(requests):
            began, first, seen = time.perf_counter(), None, b""
            connection.sendall(request)
            # The last chunk of the body ends the answer.
            while not seen.endswith(b"0\r\n\r\n"):
                seen += connection.recv(65536)
                if first is None and b"word " in seen:
                    first = time.perf_counter() - began
            times.append(first * 1000)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


def batched_bench(program, model, threads, tokens=96):
    """Tokens per second of 8 sequences, as llama.cpp's own bench computes them without a server."""
    output = subprocess.run([program, "-m", str(model), "-c", str(CONTEXT * 8), "-npp", "24", "-ntg", str(tokens), "-npl", "8",
                             "-t", str(threads), "--output-format", "jsonl"], capture_output=True, text=True).stdout
    return next(json.loads(text)["speed_tg"] for text in output.splitlines() if text.startswith("{"))


def own_bench(peer, model, threads, tokens=96):
    """Tokens per second of one sequence, as llama.cpp's other bench computes them without a server."""
    program = pathlib.Path(peer).with_name("llama-bench")
    output = subprocess.run([program, "-m", str(model), "-p", "0", "-n", str(tokens), "-r", "1", "-t", str(threads), "-o", "jsonl"],
                            capture_output=True, text=True).stdout
    return next(json.loads(text)["avg_ts"] for text in output.splitlines() if text.startswith("{"))


def read_anew(program):
    """Has a file in the system's cache as a program has that was installed: what was just written lies there in larger pieces than what was
    read, and more of it then counts as the memory of who runs it."""
    if not program.is_file():
        return
    with open(program, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read()


def line(name, unit, target, better, bound):
    return {"name": name, "unit": unit, "target": target, "better": better, "bound": bound, "ours": [], "peer": []}


def run(arguments):
    threads, model = arguments.threads, pathlib.Path(os.environ["CORTEX_TEST_MODEL"])
    lines = []

    def pairs(new, measure):
        lines.extend(new)
        for index in range(arguments.pairs):
            for side in ("ours", "peer"):
                values = measure(side, index)
                for entry, value in zip(new, values):
                    entry[side].append(round(value, 5))
            print(new[0]["name"], index, [(entry["ours"][-1:], entry["peer"][-1:]) for entry in new], flush=True)

    for streams in (1, 8):
        servers = {"ours": Cortex(model, streams, threads).ready(),
                   "peer": Peer(arguments.peer, model, streams, threads).ready()}
        for server in servers.values():
            decode(server, streams, 999)
        name = "decode, one stream" if streams == 1 else "decode, 8 streams together"
        pairs([line(name, "tokens/s", "≥ 1.0 ×", "higher", 1.0)],
              lambda side, index: [together(servers[side], stories(streams, index), 96)])
        if streams == 1:
            def anew(index):
                # As llama-bench does: where its memory lies decides on a few percent, for as long as a model stays loaded.
                servers["ours"].restart()
                return decode(servers["ours"], 1, 500 + index)

            pairs([line("one stream, against llama-bench", "tokens/s", "≥ 0.97 ×", "higher", 0.97)],
                  lambda side, index: [anew(index) if side == "ours" else own_bench(arguments.peer, model, threads)])
            prompt = "Tell me more about this: " + "the quick brown fox jumps over the lazy dog. " * 20
            for server in servers.values():
                server.stream(prompt, 2)
            pairs([line("cached prompt, first text", "s", "≤ 1.0 ×", "lower", 1.0)],
                  lambda side, index: [min(servers[side].stream(prompt, 1)[0] for _ in range(3))])
        if streams == 8:
            servers["peer"].stop()
            bench = pathlib.Path(arguments.peer).with_name("llama-batched-bench")
            pairs([line("8 streams, against llama-batched-bench", "tokens/s", "≥ 0.95 ×", "higher", 0.95)],
                  lambda side, index: [together(servers[side], stories(streams, 500 + index), 96) if side == "ours"
                                       else batched_bench(bench, model, threads)])
        for server in servers.values():
            server.stop()

    servers = {"ours": Cortex(model, 5, threads).ready(), "peer": Peer(arguments.peer, model, 5, threads).ready()}
    pairs([line("1,400-token prompt amid 4 streams, worst gap", "s", "≤ 0.1 ×", "lower", 0.1),
           line("1,400-token prompt amid 4 streams, its first text", "s", "≤ 1.2 ×", "lower", 1.2)],
          lambda side, index: long_prompt(servers[side], index))
    for server in servers.values():
        server.stop()

    fake = Cortex(model, 4, threads, fake_worker=True).ready()
    alone = [line("gateway's own share, p50 of 2,000 requests", "ms", "< 0.5 ms", "lower", 0.5),
             line("gateway's own share, p99 of 2,000 requests", "ms", "< 2 ms", "lower", 2.0)]
    pairs(alone, lambda side, _: gateway_share(fake) if side == "ours" else [])
    fake.stop()

    for program in [ROOT / "dist/cortex-server", *pathlib.Path(arguments.peer).parent.glob("*")]:
        read_anew(program)

    def idle(side, _):
        began = time.perf_counter()
        server = Cortex(model, 1, threads) if side == "ours" else Peer(arguments.peer, None, 1, threads)
        server.wait_for("/healthz" if side == "ours" else "/health")
        took = time.perf_counter() - began
        time.sleep(0.3)
        resident = server.resident()
        server.stop()
        return took, resident

    pairs([line("start to first 200", "s", "≤ 1.0 ×", "lower", 1.0), line("idle memory", "MiB", "≤ 1.0 ×", "lower", 1.0)],
          idle)

    ours = Cortex(model, 1, threads).ready()

    def load(side, index):
        if side == "ours":
            ours.call("POST", "/v1/models/stop", {"model": MODEL_ID})
            return [ours.stream(f"Load {index}", 1)[0]]
        began = time.perf_counter()
        server = Peer(arguments.peer, model, 1, threads)
        server.wait_for("/health")
        server.stream(f"Load {index}", 1)
        took = time.perf_counter() - began
        server.stop()
        return [took]

    pairs([line("model not loaded, first text", "s", "≤ 1.0 ×", "lower", 1.0)], load)
    ours.stop()

    result = described(f"scripts/bench.py run --peer PATH/llama-server --pairs {arguments.pairs} --threads {threads}", model,
                       arguments.peer, {"cortex": f"threads={threads}, parallel=streams, contextLength={CONTEXT}",
                                        "llama-server": f"-t {threads} -np STREAMS -c {CONTEXT}*STREAMS"}, lines)
    publish(result, RESULTS, (BEGIN, END), table)


def measured_here(command):
    """When and on which machine something is measured."""
    cpu = next((text.split(":")[1].strip() for text in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if text.startswith("model name")), platform.machine())
    return {"command": command, "date": time.strftime("%Y-%m-%d"),
            "machine": f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"}


def commit():
    """The commit that is measured."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def described(command, model, peer, flags, lines):
    """What was measured, with all that it was measured with."""
    version = subprocess.run([peer, "--version"], capture_output=True, text=True).stderr.strip()
    return {
        **measured_here(command),
        "model": model.name,
        "versions": {"cortex": commit(), "llama-server": " ".join(version.split())},
        "flags": flags,
        "lines": lines,
    }


def interval(values):
    """A 95 % interval of the median by order statistics (binomial); the whole range for fewer than 6 values."""
    ordered, count = sorted(values), len(values)
    low, tail, choose = 0, 0.0, 1
    for rank in range(count // 2):
        tail += choose / 2**count
        if 2 * tail > 0.05:
            break
        low = rank
        choose = choose * (count - rank) // (rank + 1)
    return ordered[low], ordered[count - 1 - low]


def table(result, file="latest.json"):
    rows = ["| what | unit | cortex | llama-server | ratio of pairs (95 %) | target | holds |",
            "|---|---|---|---|---|---|---|"]
    for entry in result["lines"]:
        if not entry["peer"]:
            # Ours alone: the target is a number of its own.
            middle, (low, high) = statistics.median(entry["ours"]), interval(entry["ours"])
            rows.append(f"| {entry['name']} | {entry['unit']} | {middle:.3g} ({low:.3g} to {high:.3g}) | – | – "
                        f"| {entry['target']} | {'yes' if middle <= entry['bound'] * 1.02 else 'no'} |")
            continue
        ratios = [ours / peer for ours, peer in zip(entry["ours"], entry["peer"])]
        middle, (low, high) = statistics.median(ratios), interval(ratios)
        bound = entry["bound"]
        holds = middle >= bound * 0.98 if entry["better"] == "higher" else middle <= bound * 1.02
        rows.append(f"| {entry['name']} | {entry['unit']} | {statistics.median(entry['ours']):.3g} "
                    f"| {statistics.median(entry['peer']):.3g} | {middle:.3f} ({low:.3f} to {high:.3f}) "
                    f"| {entry['target']} | {'yes' if holds else 'no'} |")
    versions, flags = result["versions"], result["flags"]
    # Lines need not all be of the same commit.
    commits = {}
    for number, entry in enumerate(result["lines"], 1):
        commits.setdefault((entry.get("date", result["date"]), entry.get("commit", versions["cortex"])), []).append(str(number))
    if len(commits) == 1:
        (date, shown), = commits
    else:
        date = result["date"]
        shown = ", ".join(f"{commit} of {day} (line{'s' if len(numbers) > 1 else ''} {', '.join(numbers)})"
                          for (day, commit), numbers in commits.items())
    rows += ["", f"{date}, {result['machine']}, {result['model']}; medians of {len(result['lines'][-1]['ours'])} "
             f"pairs run in turn. cortex {shown} ({flags['cortex']}); {versions['llama-server']} "
             f"({flags['llama-server']}). Made by `{result['command']}`; every run is in "
             f"[bench/results/{file}](../bench/results/{file}).", ""]
    return "\n".join(rows)


def publish(result, results, marks, make_table):
    """Writes every run down, and the table that is made of them into the document. Lines that were left out this time stay as they
    were measured before."""
    results.parent.mkdir(parents=True, exist_ok=True)
    for entry in result.get("lines", []):
        entry["commit"], entry["date"] = result["versions"]["cortex"], result["date"]
    if "lines" in result and results.exists():
        before = json.loads(results.read_text())
        measured = {entry["name"]: entry for entry in result["lines"]}
        kept = []
        for entry in before["lines"]:
            entry.setdefault("commit", before["versions"]["cortex"])
            entry.setdefault("date", before["date"])
            kept.append(measured.pop(entry["name"], entry))
        result["lines"] = kept + list(measured.values())
    results.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    head, rest = DOCUMENT.read_text().split(marks[0])
    DOCUMENT.write_text(head + marks[0] + "\n" + make_table(result) + marks[1] + rest.split(marks[1])[1])


def check_shown(results, marks, make_table):
    """Fails when the document shows another table than that of the results."""
    if not results.exists():
        return
    shown = DOCUMENT.read_text().split(marks[0])[1].split(marks[1])[0].strip()
    if shown != make_table(json.loads(results.read_text())).strip():
        sys.exit(f"docs/performance.md does not show bench/results/{results.name}; run {sys.argv[0]} again")


def command_line(described_by, run, check, options=lambda measured: None):
    """The command line of a bench: `run`, which measures, and `check`, which fails when the document shows something else."""
    parser = argparse.ArgumentParser(description=described_by, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("run")
    measured.add_argument("--peer", required=True)
    measured.add_argument("--pairs", type=int, default=7)
    measured.add_argument("--threads", type=int, default=os.cpu_count())
    options(measured)
    commands.add_parser("check")
    arguments = parser.parse_args()
    run(arguments) if arguments.command == "run" else check()


if __name__ == "__main__":
    command_line(__doc__, run, lambda: check_shown(RESULTS, (BEGIN, END), table))
