"""A fake hub, a daemon with the real model, and a terminal with a program in it."""

import fcntl
import json
import os
import pathlib
import pty
import select
import struct
import subprocess
import termios
import time

import pyte

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = pathlib.Path(os.environ["CORTEX_TEST_MODEL"])
REPO, FILE = "maker/SmolLM2-GGUF", "SmolLM2-135M-Instruct-Q4_K_M.gguf"
ID = f"maker:SmolLM2-GGUF:{FILE}"
# Something that never comes fails the test.
PATIENCE = 60


class Hub:
    def __init__(self, *options, content=None):
        other = ROOT / "README.md"
        content = content or [REPO, "main", f"{FILE}={MODEL}", f"SmolLM2-135M-Instruct-Q8_0.gguf={MODEL}", f"README.md={other}"]
        self.process = subprocess.Popen(
            [ROOT / "dist/test/fake-hub", *options, *content],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        places = json.loads(self.process.stdout.readline())
        self.url, self.content_url, self.commit = places["url"], places["content_url"], places["commit"]

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


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
