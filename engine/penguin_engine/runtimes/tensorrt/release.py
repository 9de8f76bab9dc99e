"""What belongs to a CUDA context is released while that context is current.

pycuda releases memory, streams and events when nobody holds them any more; but in a thread where their context is not
current, unless that thread made the context, it gives up without an error and what it held is lost. Frames are dropped
in any thread and at any time, so what is dropped waits here.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

Release = Callable[[], object]


class Releases:
    """How to release what nobody holds any more.

    Args:
        current: makes the context current.
    """

    def __init__(self, current: Callable[[], AbstractContextManager[None]]):
        self._waiting: deque[Release] = deque()
        last = weakref.finalize(self, _run_last, current, self._waiting)
        last.atexit = False  # what a process still holds at its end goes with it, and the context may be gone

    def after(self, owner: object, release: Release) -> None:
        """When nobody holds the owner any more, `release` waits here to be called; it must not hold the owner."""
        weakref.finalize(owner, self._put, release).atexit = False

    def run(self) -> None:
        """Releases what waits; the context must be current, and its stream not being recorded."""
        _run(self._waiting)

    def _put(self, release: Release) -> None:
        self._waiting.append(release)


def _run(waiting: deque[Release]) -> None:
    while waiting:
        waiting.popleft()()


def _run_last(current: Callable[[], AbstractContextManager[None]], waiting: deque[Release]) -> None:
    with current():
        _run(waiting)
