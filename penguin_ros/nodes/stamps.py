"""Dates images: by their stamps, or by arrival where these are missing, stand still or jump to and fro.

Knows nothing of ROS: times are passed in.
"""

from __future__ import annotations

from collections import deque

_STANDING_S = 1.0
"""Images are dated by arrival once their stamps have not advanced for this long."""
_SLOWEST = 0.01
"""Stamps that advance by less than this share of the time that passes stand still; a bag may be played slowly."""
_SWINGS = 2
"""Stamps that jumped back and forth this often belong to two clocks."""
_MANY_JUMPS, _OFTEN_S = 3, 60.0
"""Number of jumps back within this time that is reported."""
STEADY_S = 30.0
"""Stamps are used again after they have advanced for this long."""
_UNSYNCHRONISED_S = 5.0
"""Stamps that differ from the node's clock by more than this come from another clock."""


class Stamps:
    """Judges the stamps of one camera.

    One jump back is a bag that loops: the memory is cleared, and the stamps are used. A camera whose clock is wrong but
    advances keeps its stamps as well.

    Attributes:
        images: Number of images.
        unstamped: Number of images without a stamp.
        repeated: Number of images with the stamp of the image before.
        jumps_back: Number of jumps back in time; each clears the memory.
        broken: Why images are dated by arrival; "" while their stamps are used.
    """

    def __init__(self, jump_back_s: float):
        self.images = self.unstamped = self.repeated = self.jumps_back = 0
        self.broken = ""
        self._jump_back_ns = round(jump_back_s * 1e9)
        self._previous_ns: int | None = None
        self._ahead_ns = 0  # stamp minus arrival, of the newest image whose stamp was used
        self._mark = (0, 0.0)  # stamp and arrival of the newest image that advanced
        self._standing_since_s: float | None = None
        self._broken_s = 0.0
        self._jumped_ns = 0  # size of the last jump back, until a jump forward undoes it
        self._swings = 0
        self._jumps_s: deque[float] = deque(maxlen=_MANY_JUMPS)

    def date(self, stamp_ns: int, now_ns: int, arrived_s: float) -> int:
        """Returns the time of an image in nanoseconds.

        Args:
            stamp_ns: Stamp of the image; 0 if it has none.
            now_ns: The node's clock.
            arrived_s: Arrival of the image on the monotonic clock.
        """
        self.images += 1
        if stamp_ns == 0:
            self.unstamped += 1
            return now_ns + self._offset_ns  # among the stamped images of the same camera
        self._judge(stamp_ns, arrived_s)
        self._previous_ns = stamp_ns
        if self.broken:
            self._ahead_ns = 0
            return now_ns
        self._ahead_ns = stamp_ns - now_ns
        return stamp_ns

    def age_s(self, time_ns: int, now_ns: int) -> float:
        """Returns the age of an image in seconds, from its time by `date`; a wrong clock is accounted for."""
        return max(0.0, (now_ns + self._offset_ns - time_ns) * 1e-9)

    def jumps_often(self, now_s: float) -> bool:
        """Returns whether time jumped back several times within the last minute, on the monotonic clock."""
        return len(self._jumps_s) == _MANY_JUMPS and now_s - self._jumps_s[0] <= _OFTEN_S

    @property
    def ahead_s(self) -> float:
        """Seconds by which the stamps differ from the node's clock; 0 if they come from the same clock."""
        return self._offset_ns * 1e-9

    @property
    def _offset_ns(self) -> int:
        return self._ahead_ns if abs(self._ahead_ns) > _UNSYNCHRONISED_S * 1e9 else 0

    def _judge(self, stamp_ns: int, arrived_s: float) -> None:
        step_ns = 0 if self._previous_ns is None else stamp_ns - self._previous_ns
        self.repeated += self._previous_ns is not None and step_ns == 0
        has_jumped = step_ns <= -self._jump_back_ns
        if has_jumped:
            self._jumps_s.append(arrived_s)
        self._count_swings(step_ns, has_jumped)
        mark_ns, mark_s = self._mark
        if (
            self._previous_ns is None
            or has_jumped
            or stamp_ns - mark_ns > max(0.0, _SLOWEST * (arrived_s - mark_s) * 1e9)
        ):
            self._mark, self._standing_since_s = (stamp_ns, arrived_s), None
        elif self._standing_since_s is None:
            self._standing_since_s = arrived_s
        is_standing = self._standing_since_s is not None and arrived_s - self._standing_since_s >= _STANDING_S
        if is_standing:
            self._distrust(f"stamps stood still at {stamp_ns * 1e-9:.3f} s", arrived_s)
        elif self._swings >= _SWINGS and (has_jumped or not self.broken):
            self._distrust("stamps jumped to and fro, as those of two clocks", arrived_s)
        elif self.broken and has_jumped:
            self._broken_s = arrived_s
        elif self.broken and arrived_s - self._broken_s >= STEADY_S:
            self.broken, self._swings = "", 0

    def _count_swings(self, step_ns: int, has_jumped: bool) -> None:
        """A jump back, and a single step forward that undoes at least half of it; a bag that loops takes many steps."""
        self.jumps_back += has_jumped and not self.broken
        if has_jumped:
            self._jumped_ns = -step_ns
        elif 0 < self._jumped_ns <= 2 * step_ns:
            self._jumped_ns = 0
            self._swings += 1

    def _distrust(self, reason: str, arrived_s: float) -> None:
        self.broken, self._broken_s = reason, arrived_s
