"""The fake hub as the hub's own client sees it, and `cortex pull` as a person at a terminal does."""

import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import pty
import select
import signal
import ssl
import struct
import subprocess
import sys
import termios
import threading
import time
import types

import pyte
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = pathlib.Path(os.environ["CORTEX_TEST_MODEL"])
REPO, FILE = "maker/SmolLM2-GGUF", "SmolLM2-135M-Instruct-Q4_K_M.gguf"
ID = f"maker:SmolLM2-GGUF:{FILE}"
# Something that never comes fails the test.
PATIENCE = 60


class Hub:
    def __init__(self, *options):
        other = ROOT / "README.md"
        self.process = subprocess.Popen(
            [ROOT / "dist/test/fake-hub", *options, REPO, "main", f"{FILE}={MODEL}",
             f"SmolLM2-135M-Instruct-Q8_0.gguf={MODEL}", f"README.md={other}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        places = json.loads(self.process.stdout.readline())
        self.url, self.content_url, self.commit = places["url"], places["content_url"], places["commit"]

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.stop()


@pytest.fixture
def slow_hub():
    hub = Hub("--bytes-per-second", "3000000")
    yield hub
    hub.stop()


class Daemon:
    def __init__(self, folder, hub):
        (folder / "cortexrc").write_text(f"allowedDownloadHosts: ['{hub.content_url}']\ndownloadConnections: 4\n")
        self.process = subprocess.Popen(
            [ROOT / "dist/cortex-server", "--config_file_path", folder / "cortexrc", "--data_folder_path", folder / "data",
             "--host", "127.0.0.1", "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            env=dict(os.environ, HF_ENDPOINT=hub.url))
        line = self.process.stdout.readline()
        assert "Port: " in line, line
        port = line.rsplit("Port: ", 1)[1].strip()
        self.command = [ROOT / "dist/cortex", "--data-folder", folder / "data", "--config-file", folder / "cortexrc",
                        "--host", "127.0.0.1", "--port", port]

    def cortex(self, *arguments):
        return subprocess.run([*self.command, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def pulls(self):
        return json.loads(self.cortex("--json", "pull").stdout)["data"]

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def daemon(tmp_path, request):
    hub = request.getfixturevalue(getattr(request, "param", "hub"))
    daemon = Daemon(tmp_path, hub)
    yield daemon
    daemon.stop()


class Terminal:
    """A program at a terminal, and what its screen shows."""

    def __init__(self, command):
        self.screen = pyte.Screen(100, 30)
        self.stream = pyte.ByteStream(self.screen)
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm-256color"
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
            os.execv(command[0], [str(part) for part in command])
        self.ended = False

    def read(self):
        ready, _, _ = select.select([self.descriptor], [], [], 0.1)
        if not ready:
            return
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:
            data = b""
        if data:
            self.stream.feed(data)
        else:
            self.ended = True

    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display).strip()

    def until(self, wanted):
        """The screen when it shows this."""
        deadline = time.monotonic() + PATIENCE
        while wanted not in self.text():
            assert not self.ended and time.monotonic() < deadline, f"never shown: {wanted}\n{self.text()}"
            self.read()
        return self.text()

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def end(self):
        """The exit code."""
        deadline = time.monotonic() + PATIENCE
        while not self.ended:
            assert time.monotonic() < deadline, self.text()
            self.read()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


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
