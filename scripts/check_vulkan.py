#!/usr/bin/env python3
"""Runs the small model on Mesa's Vulkan driver for the processor: listed, used, switched off, kept, switched on again.

`scripts/vulkan.sh check` builds the compute module and calls this. Prints what it saw, with versions."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
MODEL = os.environ["CORTEX_TEST_MODEL"]
# The modules round differently (the one for the processor multiplies 8-bit numbers), so where a model hesitates its
# tokens may differ: after "The capital of France is" they do from the sixth on. Here it does not hesitate.
PROMPT = "One, two, three, four, five, six, seven, eight, nine, ten. 1, 2, 3, 4, 5, 6, 7,"


class Daemon:
    """A daemon of its own, on a free port, that finds llvmpipe: llama.cpp hides such devices unless they are asked for."""

    def __init__(self, folder: Path):
        self.environment = {
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "GGML_VK_VISIBLE_DEVICES": "0",
            "CORTEX_DATA_FOLDER": str(folder / "data"),
        }
        self.process = subprocess.Popen(
            [DIST / "cortex-server", "--port", "0"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=open(folder / "log", "a"),
            text=True,
        )
        # `Host: 127.0.0.1 Port: 36461`
        words = self.process.stdout.readline().split()
        check(len(words) == 4, f"the daemon says {words}, and in its log: {(folder / 'log').read_text()}")
        self.url = f"http://{words[1]}:{words[3]}"

    def ask(self, path: str, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def known(self):
        """The machine, once the drivers have answered: the first time they compile what they need."""
        while True:
            machine = self.ask("/v1/hardware")[1]
            if not machine["gpus_pending"]:
                return machine

    def tokens(self):
        status, answer = self.ask(
            "/v1/completions",
            {"model": "m", "prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True,
             # Mesa 22.3.6 dies now and then in steps of several tokens.
             "speculative.n_max": 0},
        )
        check(status == 200, answer)
        return answer["choices"][0]["text"], answer["timings"]

    def placement(self):
        return self.ask("/inferences/server/models")[1]["data"][0]["placement"]

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def check(held, what):
    if not held:
        sys.exit(f"error: {what}")


def version(package: str) -> str:
    said = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True, check=False)
    return said.stdout or "not from a package"


def main():
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder))
        try:
            walk(daemon, Path(folder))
        finally:
            daemon.stop()


def walk(daemon: Daemon, folder: Path):
    for package in ("libvulkan1", "mesa-vulkan-drivers", "glslc"):
        print(f"{package} {version(package)}")
    machine = daemon.known()
    gpus = machine["gpus"]
    print(json.dumps(gpus))
    check(len(gpus) == 1 and gpus[0]["activated"] and gpus[0]["device"] == "Vulkan0", f"not listed: {machine}")
    status, answer = daemon.ask("/v1/models/import", {"model": "m", "modelPath": MODEL})
    check(status == 200, answer)

    status, fit = daemon.ask("/v1/models/fit", {"model": "m"})
    check(status == 200, fit)
    on_graphics, timings = daemon.tokens()
    placement = daemon.placement()
    print(f"fit: {fit['verdict']}; {json.dumps(fit['graphics'])}")
    print(f"used: {json.dumps(placement)}")
    check(placement["device_layers"] == placement["layers"] > 0 and placement["reason"] is None, "it is not all there")
    print(f"on it: {on_graphics!r}, {timings}")

    status, answer = daemon.ask("/v1/hardware/activate", {"gpus": []})
    check(status == 200 and answer["activated_gpus"] == [], answer)
    check(daemon.placement() == placement, "what is loaded stays where it is")
    daemon.ask("/v1/models/stop", {"model": "m"})
    on_processor, timings = daemon.tokens()
    off = daemon.placement()
    print(f"switched off: {json.dumps(off)}")
    check(off["device_layers"] == 0 and "switched off" in off["reason"], "it is still used")
    print(f"on the processor: {on_processor!r}, {timings}")
    check(on_processor == on_graphics, "the tokens differ")

    status, answer = daemon.ask("/v1/hardware/activate", {"gpus": [1]})
    check(status == 400 and answer["message"] == "Invalid GPU index provided.", answer)
    daemon.stop()
    again = Daemon(folder)
    try:
        check(not again.known()["gpus"][0]["activated"], "the choice was lost")
        status, answer = again.ask("/v1/hardware/activate", {"gpus": [0]})
        check(status == 200 and answer["activated_gpus"] == [0], answer)
        again.tokens()
        check(again.placement()["device_layers"] == placement["layers"], "it is not used again")
        for ngl in (10, 0):
            status, answer = again.ask("/v1/models/start", {"model": "m", "ngl": ngl})
            check(status == 200, answer)
            placed = again.placement()
            check(placed["device_layers"] == ngl, placed)
            check(again.tokens()[0] == on_processor, f"the tokens with {ngl} layers differ")
            print(f"{ngl} layers: {json.dumps(placed)}")
    finally:
        again.stop()
    print("all of it holds")


if __name__ == "__main__":
    main()
