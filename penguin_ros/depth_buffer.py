"""The depth images that belong to a camera's frames. Does not import ROS."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Any

_RECENT = 8
"""Depth images that are kept because their frame may not have arrived."""
_FRAMES = 24
"""Frames whose depth image is kept until captions and answers about them are complete."""


class DepthBuffer:
    """Keeps the depth message nearest in time to each of the newest frames; they are not decoded. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[int, Any]] = deque(maxlen=_RECENT)
        self._of_frame: OrderedDict[int, tuple[int, Any] | None] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._recent)

    def add(self, stamp_ns: int, message: Any) -> None:
        """Adds a depth message; `stamp_ns` is its stamp in nanoseconds."""
        with self._lock:
            self._recent.append((stamp_ns, message))
            for frame_ns, held in self._of_frame.items():
                if held is None or abs(stamp_ns - frame_ns) < abs(held[0] - frame_ns):
                    self._of_frame[frame_ns] = stamp_ns, message

    def keep_for(self, frame_ns: int) -> None:
        """Keeps what is nearest to a frame, which may arrive before or after its depth image."""
        with self._lock:
            self._of_frame[frame_ns] = self._nearest(frame_ns)
            self._of_frame.move_to_end(frame_ns)
            if len(self._of_frame) > _FRAMES:
                self._of_frame.popitem(last=False)

    def nearest(self, frame_ns: int) -> tuple[int, Any] | None:
        """Returns stamp and message of the depth image that is nearest to a frame; None if there is none."""
        with self._lock:
            return self._of_frame.get(frame_ns) or self._nearest(frame_ns)

    def _nearest(self, frame_ns: int) -> tuple[int, Any] | None:
        return min(self._recent, key=lambda item: abs(item[0] - frame_ns), default=None)
