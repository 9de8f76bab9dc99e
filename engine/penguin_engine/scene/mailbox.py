"""Mailbox: hands a camera's newest frame to the worker, at the sampling rate; offering takes constant time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from penguin_engine.scene.stamp_order import StampOrder
from penguin_models.types import Frame

LoadFrame: TypeAlias = Callable[[], Frame]
"""Converts a message to a frame. The worker calls it, so that frames which are replaced cost nothing."""

_EARLY = 0.25
"""A frame may come this share of a period early, so that a camera with jitter at the sampling rate loses none."""


class Mailbox:
    """Holds the newest frame of one camera until the worker takes it.

    Attributes:
        received: Number of frames offered.
        skipped: Frames not accepted because of the sampling rate.
        late: Frames older than the newest one, but by less than a jump in time.
        dropped: Frames that were accepted and replaced by a newer one before the worker took them.
    """

    def __init__(self, sample_rate_hz: float, jump_back_s: float = 1.0):
        self.received = self.skipped = self.late = self.dropped = 0
        self._period_ns = 0
        self._jump_back_s = jump_back_s
        self._lock = threading.Lock()
        self._waiting: LoadFrame | None = None
        self._newest_ns: int | None = None
        self._due_ns: int | None = None
        self.set_rate(sample_rate_hz)

    @property
    def period_s(self) -> float:
        """Seconds between two accepted frames; 0 for all."""
        return self._period_ns * 1e-9

    @property
    def is_waiting(self) -> bool:
        """Whether a frame waits."""
        return self._waiting is not None

    def set_rate(self, sample_rate_hz: float) -> None:
        """Sets the maximum number of frames per second, by their stamps; 0 accepts all."""
        with self._lock:
            self._period_ns = round(1e9 / sample_rate_hz) if sample_rate_hz else 0
            self._due_ns = None if self._newest_ns is None else self._newest_ns + self._period_ns

    def offer(self, stamp_ns: int, load: LoadFrame) -> bool:
        """Offers a frame and returns whether it was accepted; after a jump back in time a frame is due at once."""
        with self._lock:
            self.received += 1
            order = StampOrder.of(stamp_ns, self._newest_ns, self._jump_back_s)
            if order is StampOrder.LATE:
                self.late += 1
                return False
            due_ns = None if order is StampOrder.JUMPED_BACK else self._due_ns
            if due_ns is not None and stamp_ns < due_ns - _EARLY * self._period_ns:
                self.skipped += 1
                return False
            on_time = due_ns is not None and stamp_ns < due_ns + self._period_ns
            self._due_ns = (due_ns if due_ns is not None and on_time else stamp_ns) + self._period_ns
            self._newest_ns = stamp_ns
            self.dropped += self._waiting is not None
            self._waiting = load
            return True

    def take(self) -> LoadFrame | None:
        """Returns the waiting frame and empties the mailbox."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
            return waiting
