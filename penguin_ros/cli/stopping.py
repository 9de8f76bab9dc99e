"""SIGTERM and SIGHUP as KeyboardInterrupt, for commands that must clean up when they are ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


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
