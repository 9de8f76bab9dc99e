"""The time at which something happens to the node, also while simulated time is missing or stands still."""

from __future__ import annotations

import time
from time import monotonic

from rclpy.node import Node

_STANDING_S = 2.0


class NodeTime:
    """The node's clock, or this computer's clock while `use_sim_time` is true and `/clock` does not advance."""

    def __init__(self, node: Node):
        self._clock = node.get_clock()
        self._newest_ns, self._advanced_s = 0, monotonic()

    def now_ns(self) -> int:
        """Returns the time in nanoseconds."""
        return time.time_ns() if self.trouble() else int(self._clock.now().nanoseconds)

    def trouble(self) -> str:
        """Returns why the node's clock is not used; "" if it is."""
        if not self._clock.ros_time_is_active:
            return ""
        now_ns, now_s = self._clock.now().nanoseconds, monotonic()
        if now_ns != self._newest_ns:
            self._newest_ns, self._advanced_s = now_ns, now_s
        if now_ns == 0:
            return "use_sim_time is true, but nothing has been received on /clock"
        if now_s - self._advanced_s < _STANDING_S:
            return ""
        return f"use_sim_time is true, but /clock stands still at {now_ns * 1e-9:.3f} s"
