"""`penguin-vl` commands in processes of their own, for commands that run a whole graph."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_ENDING_S = 10.0


@contextmanager
def running(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a `penguin-vl` command in a process of its own, which has ended after the block; it is killed after 10 s."""
    process = subprocess.Popen(
        [sys.executable, "-m", "penguin_ros.cli.main", *args], stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def node_arguments(model: str, topics: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Returns the arguments of `penguin-vl` that run a node which logs warnings only."""
    arguments = ["node", "--model", model, "--log-level", "warn"]
    arguments += [part for topic in topics for part in ("--image-topic", topic)]
    return [*arguments, *(part for value in settings for part in ("--set", value))]
