"""StepCost: what one operation takes, learnt from measurements of operations of different sizes."""

from __future__ import annotations

from bisect import bisect_left

_WEIGHT = 0.3
"""Weight of a new measurement; earlier ones are forgotten."""
_MOST = 1 << 20
_LEAST_SLOPE = 0.25
"""Beyond the largest point the cost grows at least by this share of what is in proportion."""


class StepCost:
    """Seconds of an operation as a function of its size: linear between measured sizes, and never falling.

    Sizes within a factor of two share one averaged point. Beyond the largest point the slope of the last two continues;
    with a single point the cost is in proportion to the size. Without any measurement everything costs nothing.
    """

    def __init__(self) -> None:
        self._points: dict[int, tuple[float, float]] = {}  # by the size's number of bits: mean size, mean seconds
        self._curve: list[tuple[float, float]] = []

    def observe(self, size: int, seconds: float) -> None:
        """Learns from an operation of a size (at least 1) that took some seconds."""
        key = size.bit_length()
        mean_size, mean_s = self._points.get(key, (float(size), seconds))
        self._points[key] = mean_size + _WEIGHT * (size - mean_size), mean_s + _WEIGHT * (seconds - mean_s)
        highest = 0.0
        self._curve = []
        for _, (mean_size, mean_s) in sorted(self._points.items()):
            highest = max(highest, mean_s)
            self._curve.append((mean_size, highest))

    def seconds(self, size: int) -> float:
        """Returns the predicted seconds of an operation."""
        curve = self._curve
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
        low, high = 1, _MOST
        if self._curve and self._curve[-1][1] <= seconds:
            low = 2 * round(self._curve[-1][0])
        while low < high:
            middle = (low + high + 1) // 2
            if self.seconds(middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low
