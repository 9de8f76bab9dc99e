"""Signals that end a command: Ctrl-C without a traceback; SIGTERM and SIGHUP like Ctrl-C where there is a clean-up."""

from __future__ import annotations

import atexit
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from time import monotonic
from types import FrameType
from typing import NoReturn

_INTERRUPTED = 130
_AGAIN_S = 0.01
_LOOK_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopFlag:
    """Is set once, by signal handlers too, and wakes the one thread that waits for it.

    `threading.Event` would deadlock if a signal interrupts its `set` or `wait`. The wait looks at the flag from time to
    time: Python runs signal handlers in the main thread, and does not wake it for one that another thread received,
    or that came just before the wait.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waking: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Sets the flag."""
        self._is_set = True
        self._waking.put(None)

    def is_set(self) -> bool:
        """Returns whether the flag is set."""
        return self._is_set

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until the flag is set or the time is over; returns whether it is set."""
        end_s = math.inf if timeout_s is None else monotonic() + timeout_s
        while not self._is_set and (left_s := end_s - monotonic()) > 0:
            with suppress(Empty):
                self._waking.get(timeout=min(left_s, _LOOK_S))
        return self._is_set


def stop_on_signals() -> StopFlag:
    """Returns a flag that any SIGINT, SIGTERM or SIGHUP sets, from now to the end of the process.

    A SIGHUP that nohup ignores stays ignored.
    """
    flag = StopFlag()
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: flag.set())
    atexit.register(_ignore_signals)
    return flag


def end_process(exit_code: int) -> NoReturn:
    """Ends the process at once, without the interpreter's teardown, which takes a second and waits for threads."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the terminal may be closed
            stream.flush()
    os._exit(exit_code)


@contextmanager
def quiet_ctrl_c() -> Iterator[None]:
    """Ends the process with exit code 130 and no traceback if Ctrl-C interrupts the block, imports included.

    A block may handle KeyboardInterrupt or SIGINT itself; a second Ctrl-C ends the process.
    """
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            end_process(_INTERRUPTED)
        interrupted = True
        raise KeyboardInterrupt

    def unraisable(event: sys.UnraisableHookArgs) -> None:
        nonlocal interrupted
        if not isinstance(event.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(event)
            return
        import threading

        # It hit a destructor or a callback of the import system, where Python ignores it: once more, outside of it.
        interrupted = False
        signal.signal(signal.SIGINT, interrupt)
        try:
            threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGINT)).start()
        except RuntimeError:  # no memory for a thread
            end_process(_INTERRUPTED)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background process ignores it
        signal.signal(signal.SIGINT, interrupt)
        atexit.register(_ignore_signals)
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        yield
    except BaseException as err:  # imports in C turn the interrupt into errors of their own
        if not interrupted or (isinstance(err, SystemExit) and err.code != _INTERRUPTED):
            raise
        end_process(_INTERRUPTED)  # Python itself would report SIGINT if it hit a string that was being executed
    finally:
        sys.unraisablehook = hook
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def stopping_like_ctrl_c() -> Iterator[None]:
    """Raises KeyboardInterrupt in the main thread at the first SIGINT, SIGTERM or SIGHUP, and ignores later ones.

    A later one would interrupt the clean-up. A signal that is ignored stays so.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        on_ctrl_c = before[signal.SIGINT]
        if number == signal.SIGINT and callable(on_ctrl_c):
            on_ctrl_c(number, frame)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """Ignores further signals; at exit as well, because Python's teardown would restore their default, the death."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
