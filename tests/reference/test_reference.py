"""The API reference holds: whatever is sent, nothing answers what it does not describe, and nothing fails inside."""

import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What would end the daemon, and what never ends by itself.
LEFT_OUT = ["/processManager/destroy", "/events", "/v1/events"]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_nothing_answers_what_the_reference_does_not_describe(tmp_path):
    hub = subprocess.Popen(
        [ROOT / "dist/test/fake-hub", "maker/tiny-GGUF", "main", f"README.md={ROOT / 'README.md'}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    places = json.loads(hub.stdout.readline())
    settings = tmp_path / "settings"
    settings.write_text(f"allowedDownloadHosts: ['{places['content_url']}']\nthreads: 1\n")
    environment = {**os.environ, "HOME": str(tmp_path), "HF_ENDPOINT": places["url"],
                   "CORTEX_WORKER": str(ROOT / "dist/test/fake-worker")}
    daemon = subprocess.Popen(
        [ROOT / "dist/cortex-server", "--port", "0", "--config_file_path", settings, "--data_folder_path", tmp_path / "data"],
        stdout=subprocess.PIPE, text=True, env=environment)
    try:
        port = daemon.stdout.readline().rsplit("Port: ", 1)[1].strip()
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json",
                   "--checks", CHECKS, "--max-examples", "12", "--seed", "1", "--generation-deterministic",
                   "--request-timeout", "20", "--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all"]
        for path in LEFT_OUT:
            command += ["--exclude-path", path]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
        # Nothing found is no proof that anything was tried.
        tested = re.search(r"Tested: +(\d+)", done.stdout)
        generated = re.search(r"(\d+) generated", done.stdout)
        assert tested and int(tested[1]) > 80 and generated and int(generated[1]) > 1000, done.stdout[-2000:]
        assert daemon.poll() is None, "the daemon still runs"
    finally:
        daemon.kill()
        daemon.wait()
        hub.stdin.close()
        hub.wait()
