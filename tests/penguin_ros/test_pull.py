"""`penguin-vl pull` against a small model hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPO, COMMIT = "tencent/Penguin-VL-2B", "c0ffee" * 6 + "abcd"


class Hub(ThreadingHTTPServer):
    """Serves one repository: what the hub's own client asks for.

    Attributes:
        files: name -> content.
        cut: names whose next transfer breaks off half-way.
        sent: (name, first byte) of each transfer.
    """

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Answering)
        self.files, self.cut, self.sent = files, set(), []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    """A request to the hub."""

    server: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, files = self.path.partition("?")[0], self.server.files
        if path.startswith(f"/api/models/{REPO}/revision/"):
            self._json({"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        elif path.startswith(f"/api/models/{REPO}/tree/{COMMIT}"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": f"{number:040x}"}
                for number, (name, data) in enumerate(files.items())
            ]
            self._json(entries)
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/") and path.rpartition("/")[2] in files:
            self._file(path.rpartition("/")[2])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _json(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _file(self, name):
        data = self.server.files[name]
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{list(self.server.files).index(name):040x}"')
        self.send_header("Content-Length", str(len(data) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.sent.append((name, first))
        if name in self.server.cut:
            self.server.cut.remove(name)
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data[first:])


@pytest.fixture
def hub(checkpoint):
    files = {file.name: file.read_bytes() for file in sorted(checkpoint.iterdir())}
    hub = Hub(files | {"README.md": b"not part of a checkpoint"})
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    yield hub
    hub.shutdown()
    thread.join()
    hub.server_close()


@pytest.fixture
def pull(hub, tmp_path):
    """Runs `penguin-vl pull`: (exit code, standard output, standard error)."""

    def run(*args):
        environment = os.environ | {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-m", "penguin_ros.cli.main", "pull", *map(str, args)]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return run


def check_files(folder, hub):
    """All of the checkpoint, and nothing else of the repository."""
    wanted = {name: data for name, data in hub.files.items() if name != "README.md"}
    assert {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.is_file()} == wanted


def test_a_checkpoint_is_downloaded_once(pull, hub, checkpoint):
    code, out, err = pull(REPO, "--json")
    assert code == 0, err
    said = json.loads(out)
    check_files(said["folder"], hub)
    expected = sum(file.stat().st_size for file in checkpoint.iterdir())
    assert (said["repo"], said["downloaded_bytes"]) == (REPO, expected)
    hub.sent.clear()
    code, out, _ = pull(REPO, "--json")
    assert code == 0 and json.loads(out) == {**said, "downloaded_bytes": 0}
    assert hub.sent == []


def test_a_broken_transfer_goes_on_where_it_stopped(pull, hub, tmp_path):
    """Into a folder of the user's choice, with a progress bar on standard error."""
    weights = "model.safetensors"
    hub.files[weights] = bytes(range(256)) * 2**17  # the client writes, and goes on, in blocks of 10 MiB
    hub.cut.add(weights)
    code, out, err = pull(REPO, "--out", tmp_path / "here")
    assert code == 0 and out == f"{tmp_path / 'here'}\n"
    check_files(tmp_path / "here", hub)
    starts = [first for name, first in hub.sent if name == weights]
    assert starts[0] == 0 and 0 < starts[-1] <= len(hub.files[weights]) // 2
    assert "GB to download" in err and "100%" in err


def test_what_the_hub_does_not_have(pull):
    code, out, err = pull("someone/nothing")
    assert (code, out) == (1, "")
    assert err == "error: someone/nothing does not exist on the model hub, or needs `hf auth login`\n"
