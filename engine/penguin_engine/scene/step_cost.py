"""StepCost: what one operation takes, learnt from measurements of operations of different sizes."""

from __future__ import annotations

from bisect import bisect_left

_WEIGHT = 0.3
"""Weight of a new measurement."""
_GROWTH = 1.5
"""Costs grow at most with this power of the size; linear layers grow with 1, attention with 2."""
_MOST = 1 << 20
_LEAST_SLOPE = 0.25
"""Beyond the largest point the cost grows at least by this share of what is in proportion."""


class StepCost:
    """Seconds of an operation as a function of its size: linear between measured sizes, and never falling.

    Sizes within a factor of two share one averaged point. Where points contradict each other, because the machine has
    become slower or faster, the latest is right. Beyond the largest point the slope of the last two continues; with a
    single point the cost is in proportion to the size. Without any measurement everything costs nothing.
    """

    def __init__(self) -> None:
        self._points: dict[int, tuple[float, float]] = {}  # by the size's number of bits, latest last: size, seconds
        self._curve: list[tuple[float, float]] = []
        self._largest: dict[float, int] = {}

    def observe(self, size: int, seconds: float) -> None:
        """Learns from an operation of a size (at least 1) that took some seconds."""
        key = size.bit_length()
        mean_size, mean_s = self._points.pop(key, (float(size), seconds))
        self._points[key] = mean_size + _WEIGHT * (size - mean_size), mean_s + _WEIGHT * (seconds - mean_s)
        self._curve, self._largest = [], {}

    def seconds(self, size: int) -> float:
        """Returns the predicted seconds of an operation."""
        curve = self._consistent()
        if not curve:
            return 0.0
        if size <= curve[0][0]:
            return curve[0][1]
        if len(curve) == 1:
            return curve[0][1] * size / curve[0][0]
        index = min(bisect_left(curve, (float(size), 0.0)), len(curve) - 1)
        (low, low_s), (high, high_s) = curve[index - 1], curve[index]
        slope = (high_s - low_s) / (high - low)
        if size > high:
            return high_s + max(slope, _LEAST_SLOPE * high_s / high) * (size - high)
        return low_s + slope * (size - low)

    def largest(self, seconds: float) -> int:
        """Returns the largest size that takes at most some seconds; at least 1.

        Twice the largest measured size is tried where that size fits, so that an unknown slope cannot hold it back.
        """
        if seconds not in self._largest:
            self._largest[seconds] = self._search(seconds)
        return self._largest[seconds]

    def _search(self, seconds: float) -> int:
        low, high = 1, _MOST
        curve = self._consistent()
        if curve and curve[-1][1] <= seconds:
            low = 2 * round(curve[-1][0])
        while low < high:
            middle = (low + high + 1) // 2
            if self.seconds(middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def _consistent(self) -> list[tuple[float, float]]:
        """Returns the points in order of size, earlier ones corrected by later ones; computed when it is needed."""
        if not self._curve:
            curve: list[tuple[float, float]] = []
            for size, seconds in reversed(self._points.values()):
                for other, other_s in reversed(curve):
                    bounds = other_s, other_s * (size / other) ** _GROWTH
                    seconds = min(max(seconds, min(bounds)), max(bounds))
                curve.append((size, seconds))
            self._curve = sorted(curve)
        return self._curve
