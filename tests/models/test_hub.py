"""Revisions of a repository on the model hub: the requested one is used, or an error says what there is."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

MAIN, OLDER = "c0ffee" * 6 + "abcd", "0123456789" * 4
NAME = "tencent/Penguin-VL-2B"
SCRIPT = """
import json, sys
from penguin_models.errors import CheckpointError
from penguin_models.hub import resolve_checkpoint
results = []
for name, revision in json.loads(sys.argv[1]):
    try:
        results.append(resolve_checkpoint(name, revision).name)
    except CheckpointError as err:
        results.append(f"error: {err}")
print(json.dumps(results))
"""


def resolve(cache, *cases, **environment):
    """Resolves (name, revision) pairs: a commit or an error for each, and what is written to standard error."""
    hub = {"HF_HUB_CACHE": str(cache), "HF_HOME": str(cache / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)],
        env={**os.environ, **hub, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def offline(cache, *cases):
    return resolve(cache, *cases, HF_HUB_OFFLINE="1")


@pytest.fixture
def make_cache(checkpoint, tmp_path):
    """Returns a function that makes a cache as the hub's client writes it, with these branches and tags."""

    def make(**revisions):
        repository = tmp_path / "cache" / "models--tencent--Penguin-VL-2B"
        for name, commit in revisions.items():
            snapshot = repository / "snapshots" / commit
            snapshot.mkdir(parents=True)
            if name != "commit":
                (repository / "refs").mkdir(exist_ok=True)
                (repository / "refs" / name).write_text(commit)
            for file in checkpoint.iterdir():
                blob = repository / "blobs" / f"{commit[:6]}-{file.name}"
                blob.parent.mkdir(exist_ok=True)
                blob.write_bytes(file.read_bytes())
                (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
        return tmp_path / "cache"

    return make


@contextmanager
def hub(status, **headers):
    """Serves a hub that answers every request with the same error."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *args): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_network_the_cached_revision_is_used_and_no_other(make_cache):
    cases = ((NAME, None), (NAME, "v1"), (NAME, OLDER), (NAME, "v2"), ("tencent/Penguin-VL-8B", None))
    cache = make_cache(main=MAIN, v1=OLDER)
    (latest, tag, commit, missing, unknown), log = offline(cache, *cases)
    assert (latest, tag, commit) == (MAIN, OLDER, OLDER)
    folder = cache / "models--tencent--Penguin-VL-2B" / "snapshots" / MAIN
    assert missing == (
        f"error: {NAME} is not a folder here; the model hub is not asked because HF_HUB_OFFLINE is set, and the local "
        "cache does not hold it at revision v2 completely. It holds main, v1: give the folder as the model: "
        f"{folder} (or --revision main, where a command has this option). With a connection and without that variable, "
        f"download it: hf download {NAME} --revision v2"
    )
    assert unknown.endswith(
        "completely. With a connection and without that variable, download it: hf download tencent/Penguin-VL-8B"
    )
    assert set(log.splitlines()) == {
        f"{NAME}: taking its default branch (commit c0ffeec); the cache also holds v1, chosen with --revision"
    }


@pytest.mark.parametrize(("ref", "named"), [("v1", "v1"), ("commit", OLDER)])
def test_another_revision_than_the_default_branch_is_named_and_not_run(make_cache, ref, named):
    ((found,), log) = offline(make_cache(**{ref: OLDER}), (NAME, None))
    assert "does not hold it at its default branch main completely" in found
    assert (
        f"It holds {named}: give the folder as the model: " in found
        and f"(or --revision {named}, " in found
        and log == ""
    )


def test_a_tag_of_the_same_commit_needs_no_warning(make_cache):
    cache = make_cache(main=MAIN)
    (cache / "models--tencent--Penguin-VL-2B" / "refs" / "v1").write_text(MAIN)
    assert offline(cache, (NAME, None)) == ([MAIN], "")


def test_a_partly_cached_revision_is_no_checkpoint(make_cache):
    cache = make_cache(main=MAIN)
    for file in cache.rglob("*model.safetensors"):
        file.unlink()
    ((found,), _) = offline(cache, (NAME, None))
    assert "holds no *.safetensors files" in found and found.endswith(f"download it: hf download {NAME}")


@pytest.mark.parametrize(
    ("status", "code", "revision", "messages"),
    [
        (404, "RevisionNotFound", "v2", ["has no revision v2 on the model hub", "It holds v1"]),
        (404, "RepoNotFound", None, ["nor a repository that you may read", "hf auth login"]),
        (403, "GatedRepo", "v2", ["gated, request access there"]),
        (500, "", None, ["answers with error 500", "It holds v1: give the folder as the model"]),
    ],
)
def test_answers_of_the_hub_are_explained(make_cache, status, code, revision, messages):
    with hub(status, X_Error_Code=code) as endpoint:
        ((found,), _) = resolve(make_cache(v1=OLDER), (NAME, revision), HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
    assert all(message in found for message in messages), found


def test_a_hub_that_cannot_be_reached_is_not_the_end_of_a_cached_revision(make_cache):
    cases = ((NAME, "v1"), (NAME, None))
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    ((found, missing), _) = resolve(make_cache(v1=OLDER), *cases, **nowhere)
    assert found == OLDER
    assert "the model hub cannot be reached, and the local cache" in missing and "--revision v1" in missing
