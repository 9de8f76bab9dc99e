"""Decides when the images of a topic were taken: by their header stamps or by their log times.

Both can be useless: stamps are 0 or never change with some drivers, log times with simulated time before the first
message on /clock; and both jump if the clock is set while recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penguin_models.media import duration

MAX_DISORDER_S = 1.0
"""Stamps that go back by more than this, in the order of log times, are a jump of one of the clocks."""
MAX_PAUSE_S = 86_400.0
"""A longer step, forward or back, is a jump of the clock."""
_MIN_DISTINCT = 0.25
"""Share of different times below which a clock has stopped."""


@dataclass(frozen=True)
class ImageTimes:
    """When the images of a topic were taken."""

    ns: NDArray[np.int64]  # in the order in which the images were written
    notes: tuple[str, ...] = ()  # sentences about jumps, and about times that were not used
    fault: str = ""  # one sentence if a time does not identify an image, because time jumps back or does not pass


@dataclass
class _Clock:
    name: str
    ns: NDArray[np.int64]
    fault: str = ""  # why it cannot be used
    has_jumped: bool = False  # whether the fault is a jump back

    def check_that_it_runs(self) -> None:
        different = len(np.unique(self.ns))
        if zeros := int((self.ns == 0).sum()):
            self.fault = f"{zeros} of {len(self.ns)} {self.name} are 0"
        elif len(self.ns) > 1 and different <= max(1, _MIN_DISTINCT * len(self.ns)):
            self.fault = f"only {different} of {len(self.ns)} {self.name} differ"

    def check_jump_back(self, limit_s: float) -> None:
        back_s, index = _step_back(self.ns)
        if not self.fault and back_s > limit_s:
            self.fault, self.has_jumped = f"{self.name} jump back by {duration(back_s)} at image {index}", True

    def pause(self) -> str:
        """Returns a sentence about the longest jump forward, if there is one."""
        steps = np.diff(self.ns, prepend=self.ns[0])
        index = int(np.argmax(steps))
        step_s = steps[index] * 1e-9
        return f"{self.name} jump forward by {duration(step_s)} at image {index}" if step_s > MAX_PAUSE_S else ""


def image_times(topic: str, log_ns: Sequence[int], header_ns: Sequence[int], prefer_log: bool = False) -> ImageTimes:
    """Returns when the images of a topic were taken, by the clock that can be trusted.

    Args:
        topic: For the notes.
        log_ns: When each image was recorded, in the order of writing.
        header_ns: Stamps of their headers; one that is 0 counts as not set, and the log time is used.
        prefer_log: Which of two good clocks to use.
    """
    stamps, log = np.array(header_ns, np.int64), _Clock("log times", np.array(log_ns, np.int64))
    filled = np.where(stamps == 0, log.ns, stamps)
    unknown = int((filled == 0).sum())
    header = _Clock("header stamps", _spaced(filled))
    clocks = [log, header] if prefer_log else [header, log]
    if not stamps.any():
        clocks = [_Clock("log times", header.ns)]
    for clock in clocks:
        clock.check_that_it_runs()
    disagree = not any(c.fault for c in clocks) and _step_back(header.ns[np.argsort(log.ns, kind="stable")])[0]
    for clock in clocks:
        # If both clocks agree that images were written in another order, that is no jump.
        clock.check_jump_back(MAX_DISORDER_S if disagree > MAX_DISORDER_S else MAX_PAUSE_S)
    # A clock that jumps forward is used only if the other one does too, or cannot be used.
    usable = sorted((clock for clock in clocks if not clock.fault), key=lambda clock: bool(clock.pause()))
    if not usable:
        return _in_order_of_writing(topic, clocks)
    chosen = usable[0]
    pause = chosen.pause()
    faults = [clock.fault or ("" if pause else clock.pause()) for clock in clocks if clock is not chosen]
    notes = [f"{topic}: {fault}, so {chosen.name} are used" for fault in faults if fault]
    if unknown:
        notes.append(f"{topic}: {unknown} of {len(stamps)} images have no time, and count at the usual distance")
    if pause:
        notes.append(f"{topic}: {pause}: was the clock set while recording?")
    if _step_back(chosen.ns)[0] > MAX_DISORDER_S:
        notes.append(f"{topic}: images were not written in the order of their {chosen.name}, by which they are sorted")
    return ImageTimes(chosen.ns, tuple(notes), _jump_of(topic, header) if header.has_jumped else "")


def _in_order_of_writing(topic: str, clocks: Sequence[_Clock]) -> ImageTimes:
    faults = "; ".join(clock.fault for clock in clocks)
    best = max(clocks, key=lambda clock: len(np.unique(clock.ns)))
    jumped = next((clock for clock in clocks if clock.has_jumped), None)
    if jumped is not None or len(np.unique(best.ns)) > 1:
        notes = (f"{topic}: {faults}: was the clock set while recording? Images are used in the order of writing",)
        return ImageTimes(without_jumps(best.ns, MAX_DISORDER_S), notes, _jump_of(topic, jumped or best))
    ns = best.ns + 10**9 * np.arange(len(best.ns), dtype=np.int64)
    notes = (f"{topic}: {faults}: the images are taken to be 1 s apart, in the order of writing",)
    return ImageTimes(ns, notes, f"{faults}, so nothing says when the images of {topic} were taken")


def _jump_of(topic: str, clock: _Clock) -> str:
    back_s, index = _step_back(clock.ns)
    return (
        f"time jumps back by {duration(back_s)} at image {index} of {topic}; split the bag there, because times in a "
        "bag must be unique"
    )


def _spaced(ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns times in which those that are 0 follow from the others, unless all are 0."""
    known = np.flatnonzero(ns)
    if len(known) in (0, len(ns)):
        return ns
    places, first = np.arange(len(ns)), known[0]
    step = int(np.median(np.diff(ns[known]))) if len(known) > 1 else 10**9
    origin = ns[first]  # times are interpolated relative to it, because a float has too few digits
    spaced = origin + np.interp(places, known, ns[known] - origin).astype(np.int64)
    return np.where(places < first, origin - step * (first - places), spaced)


def without_jumps(ns: NDArray[np.int64], max_back_s: float = MAX_PAUSE_S) -> NDArray[np.int64]:
    """Returns times in which jumps of the clock, forward or back, take as long as the usual step."""
    steps = np.diff(ns)
    jumps = (steps > MAX_PAUSE_S * 1e9) | (steps < -max_back_s * 1e9)
    usual = steps[~jumps & (steps > 0)]
    steps[jumps] = np.median(usual) if len(usual) else 10**9
    return np.concatenate((ns[:1], ns[:1] + np.cumsum(steps)))


def _step_back(ns: NDArray[np.int64]) -> tuple[float, int]:
    """Returns by how many seconds times are behind an earlier one at most, and where that begins."""
    behind_s = (np.maximum.accumulate(ns) - ns) * 1e-9
    large = np.flatnonzero(behind_s > MAX_DISORDER_S)
    return float(behind_s.max()), int(large[0]) if len(large) else 0
