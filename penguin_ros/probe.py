"""Tries installed packages in a process of its own, because native libraries that do not fit may crash it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

_TIMEOUT_S = 60


def probe(code: str) -> tuple[str, str | None]:
    """Runs lines of Python; returns what they print, and why they failed: None if they did not."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        return "", f"it could not be tried ({type(err).__name__})"
    if done.returncode == 0:
        return done.stdout.strip(), None
    if done.returncode < 0:
        return "", f"it ends the process with {signal.Signals(-done.returncode).name}"
    return "", (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
