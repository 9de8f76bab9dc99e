"""Signals that end a command: Ctrl-C without a traceback; SIGTERM and SIGHUP like Ctrl-C where there is a clean-up."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTED = 130
_AGAIN_S = 0.01
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def quiet_ctrl_c() -> Iterator[None]:
    """Ends the process with exit code 130 and no traceback if Ctrl-C interrupts the block, imports included.

    A block that handles KeyboardInterrupt, or SIGINT itself, decides how it ends.
    """
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    def unraisable(event: sys.UnraisableHookArgs) -> None:
        if not isinstance(event.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(event)
            return
        import threading

        # It hit a destructor or a callback of the import system, where Python ignores it: once more, outside of it.
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGINT)).start()

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background process ignores it
        signal.signal(signal.SIGINT, interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        yield
    except BaseException as err:  # imports in C turn the interrupt into errors of their own
        if not interrupted or (isinstance(err, SystemExit) and err.code != _INTERRUPTED):
            raise
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(_INTERRUPTED)  # Python's own end would report SIGINT if the interrupt hit a string that was executed
    finally:
        sys.unraisablehook = hook
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def stopping_like_ctrl_c() -> Iterator[None]:
    """Raises KeyboardInterrupt in the main thread at the first SIGTERM or SIGHUP; a signal that is ignored stays so."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in _SIGNALS:  # a second one would interrupt the clean-up
            signal.signal(other, signal.SIG_IGN)
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
