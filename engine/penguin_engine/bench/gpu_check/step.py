"""A step of the check, and its run in a process of its own.

Whatever happens to that process, the step ends in an outcome, even if it crashes or hangs.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED, TIMED_OUT = "passed", "failed", "skipped", "timed out"
_EXIT_S = 10
"""Seconds for a process to end after it has sent its finding, before it is killed."""
_PR_SET_PDEATHSIG = 1


class Skipped(Exception):  # noqa: N818 - an outcome, not an error
    """Raised by a step that cannot run here; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What a step found."""

    note: str  # one line
    figures: dict[str, Any] = field(default_factory=dict)  # plain JSON types
    passed: bool = True


@dataclass(frozen=True)
class Step:
    """A check or a measurement."""

    name: str
    limit_s: float
    run: Callable[[Path], Finding]  # gets a folder for temporary files that all steps share
    needs_s: float = 10.0  # skipped if less time is left for all steps


@dataclass(frozen=True)
class Outcome:
    """How a step ended."""

    name: str
    status: str  # PASSED, FAILED, SKIPPED or TIMED_OUT
    seconds: float
    note: str
    figures: dict[str, Any] = field(default_factory=dict)


def run_step(step: Step, work: Path, log: Path, left_s: float) -> Outcome:
    """Runs a step within its limit and the seconds that are left; its output is appended to `log`."""
    if left_s < step.needs_s:
        return Outcome(step.name, SKIPPED, 0.0, f"needs about {step.needs_s:.0f} s, {max(0, left_s):.0f} s are left")
    limit_s = min(step.limit_s, left_s)
    start = time.monotonic()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = _context().Process(target=_run, args=(step, work, log, sender))
    process.start()
    sender.close()
    try:
        status, note, figures = _receive(receiver, limit_s)
        process.join(_EXIT_S if status != TIMED_OUT else 0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()  # in case it has no group of its own yet
        process.join(_EXIT_S)  # a driver can keep a killed process
    if not status:
        status, note = FAILED, f"the process ended with exit code {process.exitcode}, see {log.name}"
    return Outcome(step.name, status, time.monotonic() - start, note, figures)


def _context() -> Any:
    """Forked processes need no imports. But CUDA fails in them if anything has used its driver before the fork."""
    return multiprocessing.get_context("spawn" if has_driver() else "fork")


def has_driver() -> bool:
    """Returns whether this machine has a CUDA driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _receive(receiver: Connection, limit_s: float) -> tuple[str, str, dict[str, Any]]:
    """Returns status, note and figures; the status is empty if the process ended without a word."""
    if not receiver.poll(max(0.0, limit_s)):
        return TIMED_OUT, f"stopped after {limit_s:.3g} s", {}
    try:
        received: tuple[str, str, dict[str, Any]] = receiver.recv()
        return received
    except EOFError:
        return "", "", {}


def _run(step: Step, work: Path, log: Path, sender: Connection) -> None:
    os.setsid()  # what the step starts is killed with it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing else ends a step if the script is killed
    sys.stdout = sys.stderr = file = log.open("a", buffering=1, encoding="utf-8")
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    faulthandler.enable(file)
    file.write(f"--- {step.name}\n")
    try:
        finding = step.run(work)
        sender.send((PASSED if finding.passed else FAILED, finding.note, finding.figures))
    except Skipped as reason:
        sender.send((SKIPPED, str(reason), {}))
    except BaseException as err:  # noqa: BLE001 - reported as the outcome of the step
        traceback.print_exc()
        sender.send((FAILED, f"{type(err).__name__}: {' '.join(str(err).split())[:300]}", {}))
