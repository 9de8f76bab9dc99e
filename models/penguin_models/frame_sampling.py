"""Sampling at a fixed rate over timestamps that may jump: which samples show which frame. Decodes nothing.

The rule is that of ffmpeg's fps filter rounding down, as in the released code: a frame is held until the next one
starts, and sample n shows the last frame that starts before (n + 1) / fps seconds. The filter itself would make a copy
of the frame for each sample of a gap, 1.7 billion if the clock was set from 1970 to now.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

_T = TypeVar("_T")

LONGEST_GAP_S = 30 * 3600
"""A longer gap is no pause, but a clock that was set. As in ffmpeg's command (its option dts_error_threshold)."""
# A broadcast format counts anew wherever recordings were joined (ffmpeg: dts_delta_threshold). But a gap of less than
# 10 times the interval before it is the pause of a slide show.
_LONGEST_BROADCAST_GAP_S = 10
_SLIDE_SHOW = 10
_FIRST_INTERVAL_S = Fraction(60)
_DISORDER_S = Fraction(1, 10)  # Decoders may return frames slightly out of order
MAX_JUMPS = 100


class FrameSampler:
    """Samples the frames of one video; the parts between jumps of its timestamps follow each other without a gap."""

    def __init__(self, fps: Fraction, broadcast: bool = False):
        """Takes the rate, and whether the container is of a broadcast format (MPEG-TS, MPEG-PS, Ogg)."""
        self._fps = fps
        self._restarts = broadcast
        self.jumps: list[tuple[float, float]] = []
        """After how many seconds the timestamps jumped, and by how many seconds; the first 100."""

    def sample(self, frames: Iterable[tuple[_T, Fraction, Fraction]]) -> Iterator[tuple[_T, range]]:
        """Yields each sampled frame with the numbers of its samples, which count up from 0.

        Something is shown of every part before or after a jump or a long gap, be it shorter than 1 / fps.

        Args:
            frames: Each frame with its start and its duration in seconds, 0 if unknown. Two are held at a time.
        """
        interval, shift = _FIRST_INTERVAL_S, Fraction(0)
        held, origin, first, next_number, shown = None, Fraction(0), 0, 0, False
        for frame, start, duration in frames:
            start += shift
            if held is None:
                origin, first = start, math.floor(start * self._fps)
                next_number = first
            else:
                gap = start - held[1]
                jumps = self._is_jump(gap, interval)
                end = held[1] + self._lasting(held[2], interval) if jumps else start
                stop = self._stop(end, next_number, must_show=jumps and not shown)
                if stop > next_number:
                    yield held[0], range(next_number - first, stop - first)
                    next_number, shown = stop, True
                if jumps:
                    after = max(end, next_number / self._fps)
                    start, shift = after, shift + after - start
                    self._note(float(start - origin), float(gap))
                else:
                    interval = max(gap, Fraction(0))
                shown = shown and not jumps and gap <= _LONGEST_BROADCAST_GAP_S
            held = frame, start, duration
        if held is not None:
            end = held[1] + (self._lasting(held[2], interval) if held[2] else 0)
            stop = self._stop(end, next_number, must_show=not shown)
            if stop > next_number:
                yield held[0], range(next_number - first, stop - first)

    def _stop(self, end: Fraction, next_number: int, must_show: bool) -> int:
        """Returns the number after the last sample of a frame that is shown until `end`."""
        return max(math.floor(end * self._fps), next_number + must_show)

    def _is_jump(self, gap: Fraction, interval: Fraction) -> bool:
        return not -_DISORDER_S <= gap <= self._longest_gap(interval)

    def _longest_gap(self, interval: Fraction) -> Fraction:
        if self._restarts:
            return max(Fraction(_LONGEST_BROADCAST_GAP_S), _SLIDE_SHOW * interval)
        return Fraction(LONGEST_GAP_S)

    def _lasting(self, duration: Fraction, interval: Fraction) -> Fraction:
        """Returns a duration, or an estimate if it is unknown or, as before a jump in MP4, includes the jump."""
        return duration if 0 < duration <= self._longest_gap(interval) else min(interval, 1 / self._fps)

    def _note(self, at_s: float, by_s: float) -> None:
        self._restarts = self._restarts or abs(by_s) > _LONGEST_BROADCAST_GAP_S  # it may be set right again
        if len(self.jumps) < MAX_JUMPS:
            self.jumps.append((at_s, by_s))
