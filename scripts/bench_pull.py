#!/usr/bin/env python3
"""Measures downloads of cortex against curl, aria2c and the Python client of the hub, in turn: A B A B.

  scripts/bench_pull.py run [--rounds 7] [--mebibytes 2048]   measures, writes bench/results/pull.json and the table
  scripts/bench_pull.py check                                 fails when the table is not that of the results

Every run is written down. The table in docs/performance.md is made from them. nginx serves the file from the page
cache, with the answers of the hub beside it; the fake hub of the tests serves it slowly. All write to the same disk.
Needs nginx and aria2 (apt) and the package huggingface_hub (pip).
"""

import argparse
import hashlib
import http.client
import json
import os
import pathlib
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from bench import ROOT, Server, check_shown, commit, free_port, interval, measured_here, publish

RESULTS = ROOT / "bench/results/pull.json"
BEGIN, END = "<!-- pull:begin -->", "<!-- pull:end -->"
COMMIT = "1" * 40
NAME = "bench-Q4_K_M.gguf"
ID = f"maker:bench:{NAME}"
# Of the slow server: pause before each answer, and bytes a second of each connection.
PAUSE_MS, RATE = 50, 20_000_000


def write_model(path, size):
    """A GGUF of this size whose one tensor is noise."""
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    def entry(key, kind, value):
        return text(key) + struct.pack("<I", kind) + value
    metadata = [
        entry("general.architecture", 8, text("llama")),
        entry("general.alignment", 4, struct.pack("<I", 32)),
        entry("llama.context_length", 4, struct.pack("<I", 128)),
        entry("llama.embedding_length", 4, struct.pack("<I", 32)),
        entry("llama.block_count", 4, struct.pack("<I", 1)),
        entry("llama.attention.head_count", 4, struct.pack("<I", 1)),
        entry("tokenizer.ggml.model", 8, text("llama")),
        entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
    ]
    rows = (size - 4096) // (32 * 4)
    tensor = text("padding") + struct.pack("<IQQIQ", 2, 32, rows, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(metadata)) + b"".join(metadata) + tensor
    head += bytes(-len(head) % 32)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        left = rows * 32 * 4
        file.write(head)
        digest.update(head)
        while left:
            piece = os.urandom(min(left, 1 << 22))
            file.write(piece)
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


class Nginx:
    """Serves the file, and says of it what the hub says."""

    def __init__(self, folder, model, digest):
        self.port = free_port()
        size = model.stat().st_size
        root = folder / "www"
        api = root / "api/models/maker/bench/revision"
        api.mkdir(parents=True)
        answer = {"id": "maker/bench", "modelId": "maker/bench", "sha": COMMIT, "private": False, "gated": False,
                  "siblings": [{"rfilename": NAME, "size": size, "blobId": "1" * 40,
                                "lfs": {"sha256": digest, "size": size, "pointerSize": 134}}], "tags": []}
        for revision in ("main", COMMIT):
            (api / revision).write_text(json.dumps(answer))
        for revision in ("main", COMMIT):
            place = root / "maker/bench/resolve" / revision
            place.mkdir(parents=True)
            (place / NAME).symlink_to(model)
        configuration = folder / "nginx.conf"
        configuration.write_text(f"""
            worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; user root;
            events {{ worker_connections 256; }}
            http {{ access_log off; sendfile on; tcp_nopush on; root {root}; client_body_temp_path {folder}/t1;
              proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
              server {{ listen 127.0.0.1:{self.port}; etag off;
                location /api/ {{ default_type application/json; }}
                location /maker/ {{ default_type application/octet-stream; add_header ETag '"{digest}"' always;
                  add_header X-Repo-Commit {COMMIT} always; add_header X-Linked-Etag '"{digest}"' always;
                  add_header X-Linked-Size {size} always; }} }} }}""")
        self.process = subprocess.Popen(["nginx", "-c", str(configuration)], stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self.port}"
        self.file_url = f"{self.url}/maker/bench/resolve/main/{NAME}"
        wait_for(self.port, "/api/models/maker/bench/revision/main")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def wait_for(port, path):
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.01)


class Cortex(Server):
    """A daemon with an empty data folder, whose hub is the given one."""

    def __init__(self, folder, endpoint, allowed=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cortex-", dir=folder))
        port = free_port()
        (self.folder / "rc").write_text(f"allowedDownloadHosts: {json.dumps(list(allowed))}\n")
        environment = dict(os.environ, HF_ENDPOINT=endpoint)
        super().__init__(port, subprocess.Popen(
            [ROOT / "dist/cortex-server", "--config_file_path", self.folder / "rc", "--data_folder_path",
             self.folder / "data", "--host", "127.0.0.1", "--port", str(port)], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        self.wait_for("/healthz")

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024

    def pull(self):
        """Seconds until the model is listed, and from the last byte until then; of processor; MiB added."""
        memory, cpu = self.resident(), self.cpu()
        began = time.perf_counter()
        self.call("POST", "/v1/models/pull", {"model": ID})
        answer = self.request("GET", f"/v1/models/pulls/{ID.replace(':', '%3A')}/events")
        last_byte = None
        while line := answer.readline():
            if not line.startswith(b"data: "):
                continue
            pull = json.loads(line[6:])
            if pull["state"] == "verifying" and last_byte is None:
                last_byte = time.perf_counter()
            if pull["state"] in ("succeeded", "failed"):
                break
        ended = time.perf_counter()
        assert pull["state"] == "succeeded", pull
        return {"seconds": ended - began, "after the last byte": ended - (last_byte or ended),
                "processor": self.cpu() - cpu, "memory": self.peak() - memory}

    def stop(self):
        super().stop()
        shutil.rmtree(self.folder)


def timed(command, **options):
    """Seconds, and seconds of processor, of a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def settle():
    """What the one before wrote is on the disk, so that it is not in the way of the next."""
    subprocess.run(["sync"], check=True)


def fast_round(folder, nginx, python):
    result, to = {}, folder / "out.gguf"
    settle()
    curl, curl_cpu = timed(["curl", "-sS", "-o", str(to), nginx.file_url])
    digest, _ = timed(["openssl", "dgst", "-sha256", str(to)])
    _, digest_cpu = timed([ROOT / "dist/test/fake-hub", "digest", str(to)])
    result |= {"curl": curl, "openssl": digest, "curl and openssl": curl + digest, "curl processor": curl_cpu,
               "digest processor": digest_cpu}
    to.unlink()
    settle()
    cortex = Cortex(folder, nginx.url)
    result |= {f"cortex {name}": value for name, value in cortex.pull().items()}
    cortex.stop()
    settle()
    result["aria2c"], _ = timed(["aria2c", "-x16", "-s16", "-k1M", "--file-allocation=none", "-q", "-d", str(folder), "-o", "out.gguf",
                                 nginx.file_url])
    to.unlink()
    settle()
    home = folder / "hf"
    code = f"from huggingface_hub import hf_hub_download as d; d('maker/bench', '{NAME}')"
    environment = dict(os.environ, HF_ENDPOINT=nginx.url, HF_HOME=str(home), HF_HUB_DISABLE_XET="1",
                       HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
    result["huggingface_hub"], _ = timed([python, "-c", code], env=environment)
    shutil.rmtree(home)
    return result


def slow_round(folder, model):
    hub = subprocess.Popen(
        [ROOT / "dist/test/fake-hub", "--bytes-per-second", str(RATE), "--answer-delay-ms", str(PAUSE_MS), "maker/bench", "main",
         f"{NAME}={model}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    places = json.loads(hub.stdout.readline())
    settle()
    cortex = Cortex(folder, places["url"], [places["content_url"]])
    result = {"cortex slow": cortex.pull()["seconds"]}
    cortex.stop()
    settle()
    result["aria2c slow"], _ = timed(["aria2c", "-x16", "-s16", "-k1M", "--file-allocation=none", "-q", "-d", str(folder), "-o",
                                      "out.gguf", f"{places['url']}/maker/bench/resolve/main/{NAME}"])
    (folder / "out.gguf").unlink()
    hub.stdin.close()
    hub.wait()
    return result


def version(command):
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]


def run(arguments):
    for program in ("nginx", "aria2c"):
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt-get install nginx-light aria2")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cortex-pull-", dir=arguments.folder))
    model = folder / "served" / NAME
    model.parent.mkdir()
    digest = write_model(model, arguments.mebibytes << 20)
    nginx = Nginx(folder, model, digest)
    rounds = []
    try:
        for number in range(arguments.rounds):
            rounds.append(fast_round(folder, nginx, arguments.python) | slow_round(folder, model))
            print(number + 1, {name: round(value, 3) for name, value in rounds[-1].items()}, file=sys.stderr, flush=True)
    finally:
        nginx.stop()
        shutil.rmtree(folder, ignore_errors=True)
    hub = subprocess.run([arguments.python, "-c", "import huggingface_hub as h; print(h.__version__)"], capture_output=True, text=True)
    nginx_version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().rsplit("/", 1)[-1]
    result = {
        **measured_here(f"scripts/bench_pull.py run --rounds {arguments.rounds} --mebibytes {arguments.mebibytes}"),
        "cortex": commit(),
        "mebibytes": arguments.mebibytes,
        "versions": {"nginx": nginx_version, "curl": version(["curl", "--version"]).split()[1], "aria2c": version(["aria2c", "--version"]),
                     "openssl": version(["openssl", "version"]), "huggingface_hub": hub.stdout.strip()},
        "rounds": rounds,
    }
    publish(result, RESULTS, (BEGIN, END), table)


def cell(values, digits=3):
    middle, (low, high) = statistics.median(values), interval(values)
    return f"{middle:.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"


def table(result):
    rounds, rows = result["rounds"], []
    size = f"{result['mebibytes'] / 1024:g} GiB"

    def values(name):
        return [run[name] for run in rounds]

    def line(what, mine, others, ratio=None, target=None, holds=None):
        rows.append(f"| {what} | {mine} | {others} | {'–' if ratio is None else cell(ratio)} | {target or '–'} | {holds or '–'} |")

    def yes(condition):
        return "yes" if condition else "no"
    middle = statistics.median
    ratio = [run["cortex seconds"] / run["curl and openssl"] for run in rounds]
    line(f"{size} from nginx, verified and listed, s", cell(values("cortex seconds")),
         f"curl, then openssl: {cell(values('curl and openssl'))}", ratio, "≤ 1", yes(middle(ratio) <= 1.02))
    for peer in ("aria2c", "huggingface_hub"):
        line(f"the same beside {peer}, which verifies nothing, s", cell(values("cortex seconds")), cell(values(peer)),
             [run["cortex seconds"] / run[peer] for run in rounds])
    after = values("cortex after the last byte")
    line("from the last byte to the list, s", cell(after), "–", None, "≤ 1 s", yes(middle(after) <= 1.02))
    ratio = [run["cortex processor"] / (run["curl processor"] + run["digest processor"]) for run in rounds]
    line("processor, s", cell(values("cortex processor")),
         f"curl {cell(values('curl processor'))} + digest {cell(values('digest processor'))}", ratio, "≤ 1.3", yes(middle(ratio) <= 1.3 * 1.02))
    # A bound is for every run.
    most = max(values("cortex memory"))
    line("memory added at the peak, MiB", f"{cell(values('cortex memory'))}, at most {most:.3g}", "–", None, "< 32", yes(most < 32 * 1.02))
    ratio = [run["aria2c slow"] / run["cortex slow"] for run in rounds]
    line(f"{PAUSE_MS} ms before each answer, {RATE // 10**6} MB/s a connection, s", cell(values("cortex slow")),
         f"aria2c -x16 -s16 -k1M: {cell(values('aria2c slow'))}", ratio, "≥ 0.95 of its rate", yes(middle(ratio) >= 0.95 * 0.98))
    head = ["| what | cortex | others | ratio | target | holds |", "|---|---|---|---|---|---|"]
    versions = ", ".join(f"{name} {text}" if name not in text.lower() else text for name, text in result["versions"].items())
    tail = ["", f"{result['date']}, {result['machine']}; medians with 95 % intervals of {len(rounds)} rounds. cortex {result['cortex']}; "
            f"{versions}. Made by `{result['command']}`; every run is in [bench/results/pull.json](../bench/results/pull.json).", ""]
    return "\n".join(head + rows + tail)


def check():
    check_shown(RESULTS, (BEGIN, END), table)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run")
    measuring.add_argument("--rounds", type=int, default=7)
    measuring.add_argument("--mebibytes", type=int, default=2048)
    measuring.add_argument("--python", default=sys.executable, help="a Python that has huggingface_hub")
    measuring.add_argument("--folder", help="where everything is written")
    commands.add_parser("check")
    arguments = parser.parse_args()
    run(arguments) if arguments.command == "run" else check()


if __name__ == "__main__":
    main()
