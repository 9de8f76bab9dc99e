"""Between a camera and the worker: the newest frame wins, at most so many a second. Offering takes constant time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from penguin_models.types import Frame

LoadFrame: TypeAlias = Callable[[], Frame]
"""Converts a message to a frame; called by the worker, so that frames which nobody takes cost nothing."""

_EARLY = 0.25
"""A frame may come so many periods before its time: a camera that jitters at the sampling rate loses none."""
_NEVER = -(2**63)


class Mailbox:
    """Holds the newest frame of one camera until the worker takes it.

    Attributes:
        received: frames offered.
        skipped: not taken because of the sampling rate.
        late: older than the newest frame, but by less than a jump in time.
        dropped: taken in, and replaced by a newer one before the worker had time.
    """

    def __init__(self, sample_rate_hz: float, jump_back_s: float = 1.0):
        self.received = self.skipped = self.late = self.dropped = 0
        self._period_ns = 0
        self._jump_ns = round(jump_back_s * 1e9)
        self._lock = threading.Lock()
        self._waiting: LoadFrame | None = None
        self._newest_ns = _NEVER
        self._due_ns = _NEVER
        self.set_rate(sample_rate_hz)

    def set_rate(self, sample_rate_hz: float) -> None:
        """Takes at most so many frames a second, by the clock of their stamps; 0 takes all."""
        with self._lock:
            self._period_ns = round(1e9 / sample_rate_hz) if sample_rate_hz else 0
            self._due_ns = self._newest_ns if self._newest_ns == _NEVER else self._newest_ns + self._period_ns

    def offer(self, stamp_ns: int, load: LoadFrame) -> bool:
        """Leaves a frame; whether it waits to be taken. After a jump back in time the next frame is due at once."""
        with self._lock:
            self.received += 1
            jumped = stamp_ns <= self._newest_ns - self._jump_ns
            if stamp_ns < self._newest_ns and not jumped:
                self.late += 1
                return False
            if not jumped and stamp_ns < self._due_ns - _EARLY * self._period_ns:
                self.skipped += 1
                return False
            on_time = not jumped and stamp_ns < self._due_ns + self._period_ns
            self._due_ns = (self._due_ns if on_time else stamp_ns) + self._period_ns
            self._newest_ns = stamp_ns
            self.dropped += self._waiting is not None
            self._waiting = load
            return True

    def take(self) -> LoadFrame | None:
        """The frame that waits, which then waits no more."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
            return waiting
