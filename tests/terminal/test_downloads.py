"""The fake hub as the hub's own client sees it, and `cortex pull` as a person at a terminal does."""

import hashlib
import http.server
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import threading
import time
import types

import pytest

from support import ROOT, MODEL, REPO, FILE, ID, PATIENCE, Daemon, Terminal


def test_the_hubs_own_client_downloads_from_the_fake(hub, tmp_path):
    code = f"""
import huggingface_hub as h
api = h.HfApi()
info = api.model_info({REPO!r}, files_metadata=True)
assert info.sha == {hub.commit!r}
assert {{file.rfilename for file in info.siblings}} >= {{{FILE!r}, "README.md"}}
assert {REPO!r} in [model.id for model in api.list_models(search="SmolLM2")]
assert len(list(api.list_repo_tree({REPO!r}, recursive=True))) >= 3
print(h.hf_hub_download({REPO!r}, {FILE!r}))
print(h.hf_hub_download({REPO!r}, "README.md"))
"""
    environment = dict(os.environ, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path), HF_HUB_DISABLE_XET="1",
                       HF_HUB_DISABLE_TELEMETRY="1")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, readme = done.stdout.split()
    assert hashlib.sha256(pathlib.Path(model).read_bytes()).digest() == hashlib.sha256(MODEL.read_bytes()).digest()
    assert pathlib.Path(readme).read_bytes() == (ROOT / "README.md").read_bytes()


@pytest.mark.parametrize("daemon", ["slow_hub"], indirect=True)
def test_a_person_chooses_and_watches(daemon):
    terminal = Terminal([*daemon.command, "pull", REPO])
    menu = terminal.until("Select an option (1-2):")
    assert f"1. {FILE} (default)  93.8 MiB" in menu and "2. SmolLM2-135M-Instruct-Q8_0.gguf  93.8 MiB" in menu, menu
    terminal.type("\n")
    terminal.until(f"Selected: {FILE}")
    shown = terminal.until("MiB/s")
    # The end of a long name, a bar, percent, bytes, rate and time.
    line = next(line for line in shown.splitlines() if "MiB/s" in line)
    assert line.startswith("…nstruct-Q4_K_M.gguf ["), line
    assert "[" in line and "%" in line and "/93.8 MiB" in line and "left" in line, line
    assert terminal.end() == 0
    end = terminal.text()
    assert f"Model {ID} downloaded successfully!" in end, end
    # One bar, redrawn in its place.
    assert end.count("/93.8 MiB") == 1 and "100%" in end, end
    assert daemon.cortex("run", "--temperature", "0", REPO, "What is the capital of France? Answer in one sentence.").stdout.count("Paris") == 1


def test_ctrl_d_chooses_nothing(daemon):
    terminal = Terminal([*daemon.command, "pull", REPO])
    terminal.until("Select an option (1-2):")
    terminal.type("\x04")
    assert terminal.end() == 130
    assert daemon.pulls() == []


def test_a_run_downloads_a_model_that_is_not_here(daemon):
    question = "What is the capital of France? Answer in one sentence."
    answered = daemon.cortex("run", "--temperature", "0", REPO, question)
    assert answered.returncode == 0 and "Paris" in answered.stdout, answered.stderr
    assert "downloaded successfully" not in answered.stdout
    assert "checking what came" in answered.stderr, answered.stderr
    # By another name of what is there, nothing is downloaded.
    again = daemon.cortex("run", "--temperature", "0", f"{REPO}:Q4_K_M", question)
    assert again.returncode == 0 and again.stdout == answered.stdout, again.stderr
    unknown = daemon.cortex("run", "maker/nothing", question)
    assert unknown.returncode == 1
    assert "Model maker/nothing not found! None of yours has that name" in unknown.stderr


def test_an_unknown_authority_is_told(tmp_path):
    place = pathlib.Path(__file__).parent
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "localhost.crt", place / "localhost.key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = types.SimpleNamespace(url=f"https://localhost:{server.server_port}", content_url="http://127.0.0.1:9")
    daemon = Daemon(tmp_path, hub)
    try:
        refused = daemon.cortex("pull", REPO)
        assert refused.returncode == 1
        assert "no secure connection" in refused.stderr and "authority that this machine does not know" in refused.stderr
        assert "install it on this machine" in refused.stderr, refused.stderr
    finally:
        daemon.stop()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("daemon", ["slow_hub"], indirect=True)
def test_ctrl_c_asks_and_leaving_stops_nothing(daemon):
    terminal = Terminal([*daemon.command, "pull", "--yes", REPO])
    terminal.until("MiB/s")
    terminal.type("\x03")
    terminal.until("Cancel the download?")
    terminal.type("n\n")
    assert terminal.end() == 0
    assert "it goes on" in terminal.text()
    assert daemon.pulls()[0]["state"] in ("downloading", "verifying", "succeeded")
    terminal = Terminal([*daemon.command, "pull", REPO, "--yes"])
    terminal.until("MiB/s")
    terminal.type("\x03")
    terminal.until("Cancel the download?")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert daemon.pulls()[0]["state"] == "downloading"
    terminal = Terminal([*daemon.command, "pull", "--yes", REPO])
    terminal.until("MiB/s")
    terminal.type("\x03")
    terminal.until("Cancel the download?")
    terminal.type("y\n")
    assert terminal.end() == 130
    assert daemon.pulls()[0]["state"] == "cancelled"


@pytest.mark.parametrize("daemon", ["slow_hub"], indirect=True)
def test_without_a_terminal_ctrl_c_cancels(daemon):
    process = subprocess.Popen([*daemon.command, "pull", REPO], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "MiB/s" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert "the download was cancelled" in said
    assert daemon.pulls()[0]["state"] == "cancelled"
