"""Watches: conditions in words that the worker judges on the newest frames, until one has held for long enough.

A judgement costs the condition's tokens on the KV cache of the camera's session; all watches of a camera that are due
share the prefill of its newest frame. Time is that of the frames' stamps: a condition holds from one judged frame to
the next, so that two of them too far apart, a jump back in time or a cleared memory begin anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.requests import MAX_CAMERAS, MAX_QUESTION_CHARS, Request
from penguin_models.errors import BusyError, CancelledError, NotActiveError, PromptError
from penguin_models.processor import Processor
from penguin_models.types import UInt8Array
from penguin_models.watch import Calibration, watch_question

MAX_WATCHES = 16
"""Maximum number of conditions that a node watches for."""
_PERIOD_S, _THRESHOLD = 1.0, 0.5
_LONGEST_S = 86_400.0
_GAP_S, _GAP_PERIODS = 5.0, 2.0
"""A condition does not hold from one judged frame to the next if these are further apart than both."""


@dataclass(frozen=True)
class WatchRequest:
    """A condition, checked and tokenised once."""

    condition: str
    token_ids: Sequence[int]  # of the prompt after its last frame
    cameras: tuple[str, ...]  # each is judged on its own
    period_s: float = _PERIOD_S  # seconds between two judgements of a camera's newest frame, by stamps
    threshold: float = _THRESHOLD  # the condition holds from this calibrated probability on
    hold_s: float = 0.0  # seconds for which it has to hold

    @classmethod
    def prepare(
        cls,
        processor: Processor,
        condition: str,
        cameras: Sequence[str],
        camera_name: Callable[[str], str],
        period_s: float = 0.0,
        threshold: float = 0.0,
        hold_s: float = 0.0,
    ) -> WatchRequest:
        """Checks a condition and its limits, and tokenises it.

        Args:
            processor: Processor of the checkpoint that judges.
            condition: A statement that holds or does not.
            cameras: Cameras to watch, in any form that `camera_name` takes.
            camera_name: Returns the name of a camera, or raises UnknownCameraError.
            period_s: Seconds between two judgements; 0 for 1 s.
            threshold: Probability from which the condition holds; 0 for 0.5.
            hold_s: Seconds for which it has to hold; 0 for a single frame.

        Raises:
            PromptError: The condition is empty, too long, not Unicode or contains reserved tokens; there are too many
                cameras; or a number is out of range.
            UnknownCameraError: A camera has no valid name.
            ContextLengthError: The condition needs more tokens than a session keeps free for a question.
        """
        if len(condition) > MAX_QUESTION_CHARS:
            raise PromptError(
                f"the condition has {len(condition)} characters, the limit is {MAX_QUESTION_CHARS}; shorten it"
            )
        if not condition.strip():
            raise PromptError("the condition is empty; give a statement, such as: a person is lying on the floor")
        for name, value, largest, wanted in (
            ("period_s", period_s, _LONGEST_S, "from 0 (1 s) to 86400"),
            ("threshold", threshold, 1.0, "from 0 (0.5) to 1"),
            ("hold_s", hold_s, _LONGEST_S, "from 0 (a single frame) to 86400"),
        ):
            if not 0 <= value <= largest:
                raise PromptError(f"{name} is {value:g}, it must be {wanted}")
        if len(cameras) > MAX_CAMERAS:
            raise PromptError(f"the watch names {len(cameras)} cameras, the limit is {MAX_CAMERAS}")
        asked = Request.prepare(processor, watch_question(condition), Sampling(max_new_tokens=1))
        names = tuple(dict.fromkeys(map(camera_name, cameras)))
        return cls(condition, asked.token_ids, names, period_s or _PERIOD_S, threshold or _THRESHOLD, hold_s)


@dataclass(frozen=True)
class Judgement:
    """What the model thinks of a condition in one frame."""

    camera: str
    condition: str
    frame: HeldFrame  # the frame as the memory holds it
    pixels: UInt8Array  # pixels of the frame when it was judged, uint8 [H, W, 3]
    probability: float  # calibrated probability that the condition holds
    holds: bool  # whether it reaches the threshold
    held_s: float  # seconds for which it has held, from stamp to stamp
    judged: int  # number of frames that the watch has judged so far


@dataclass
class _Progress:
    """How far a watch is with one camera."""

    seq: int  # number of the frame judged last
    stamp_ns: int  # its stamp
    clears: int  # how often the memory had been cleared by then
    since_ns: int | None  # stamp from which on the condition has held; None if it does not hold


@dataclass(eq=False)
class PendingWatch:
    """A condition that is being watched for.

    Attributes:
        request: The condition.
        on_judgement: Called by the worker with each judgement.
        result: Resolves to the judgement with which the condition has held for long enough, or to the exception that
            ended the watch before.
        newest: The newest judgement; None before the first.
        period_s: Seconds between the last two judgements of the same camera, by stamps; 0 before the second.
    """

    request: WatchRequest
    on_judgement: Callable[[Judgement], None] = lambda judgement: None
    result: Future[Judgement] = field(default_factory=Future)
    newest: Judgement | None = None
    period_s: float = 0.0
    _judged: int = 0
    _progress: dict[str, _Progress] = field(default_factory=dict)

    def is_due(self, camera: str, frame: HeldFrame, clears: int) -> bool:
        """Returns whether a camera's newest frame is to be judged; `clears` counts how often its memory was cleared."""
        if camera not in self.request.cameras:
            return False
        last = self._progress.get(camera)
        if last is None or clears != last.clears:
            return True
        elapsed_s = (frame.stamp_ns - last.stamp_ns) * 1e-9
        # A hundredth of the period less, because stamps of a steady camera vary.
        return frame.seq != last.seq and not 0 <= elapsed_s < 0.99 * self.request.period_s

    def judged_ns(self, camera: str) -> int:
        """Returns the stamp of the frame of a camera that was judged last; a very early one before the first."""
        last = self._progress.get(camera)
        return -(2**63) if last is None else last.stamp_ns

    def judge(self, camera: str, frame: HeldFrame, clears: int, probability: float) -> Judgement:
        """Takes in a judgement of a frame."""
        request, last, stamp_ns = self.request, self._progress.get(camera), frame.stamp_ns
        holds, since_ns = probability >= request.threshold, stamp_ns
        if last is not None and clears == last.clears and stamp_ns >= last.stamp_ns:
            self.period_s = (stamp_ns - last.stamp_ns) * 1e-9
            if last.since_ns is not None and self.period_s <= max(_GAP_S, _GAP_PERIODS * request.period_s):
                since_ns = last.since_ns
        self._progress[camera] = _Progress(frame.seq, stamp_ns, clears, since_ns if holds else None)
        self._judged += 1
        held_s = (stamp_ns - since_ns) * 1e-9 if holds else 0.0
        judgement = Judgement(camera, request.condition, frame, frame.pixels, probability, holds, held_s, self._judged)
        self.newest = judgement
        return judgement

    def is_fulfilled(self, judgement: Judgement) -> bool:
        """Returns whether the condition has held for long enough."""
        return judgement.holds and judgement.held_s >= self.request.hold_s


class Watches:
    """The conditions of a node, at most `limit`. Every method returns at once and may be called by any thread.

    No watch is accepted until `open` is called.

    Attributes:
        calibration: Maps the model's judgements to probabilities; set by the worker's owner.
        refused: Number of watches refused because there were too many.
    """

    def __init__(self, limit: int = MAX_WATCHES, closed_because: str = "the node is not active"):
        self.limit, self.refused = limit, 0
        self.calibration = Calibration()
        self._lock = threading.Lock()
        self._pending: list[PendingWatch] = []
        self._closed_because: str | None = closed_because

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def slowest(self) -> PendingWatch | None:
        """The watch that is furthest behind its period; None if all are judged as often as wanted."""
        behind = [watch for watch in self.pending() if watch.period_s > 2 * watch.request.period_s]
        return max(behind, key=lambda watch: watch.period_s / watch.request.period_s, default=None)

    def pending(self) -> Sequence[PendingWatch]:
        """Returns all watches, in order of arrival."""
        with self._lock:
            return tuple(self._pending)

    def open(self) -> None:
        """Accepts watches from now on."""
        with self._lock:
            self._closed_because = None

    def close(self, because: str) -> None:
        """Refuses watches from now on, for a stated reason; all others end as cancelled."""
        with self._lock:
            self._closed_because = because
        for watch in self.pending():
            self.end(watch, CancelledError(f"cancelled before the condition held: {because}"))

    def check(self) -> None:
        """Raises if `add` would.

        Raises:
            NotActiveError: The node is not active.
            BusyError: There are too many watches.
        """
        if self._closed_because is not None:
            raise NotActiveError(self._closed_because)
        if len(self._pending) >= self.limit:
            self.refused += 1
            raise BusyError(f"{len(self._pending)} conditions are watched for, the limit is {self.limit}; cancel one")

    def add(self, watch: PendingWatch) -> None:
        """Adds a watch; raises as `check` does."""
        with self._lock:
            self.check()
            self._pending.append(watch)

    def end(self, watch: PendingWatch, result: Judgement | Exception) -> None:
        """Resolves a watch, unless it has ended."""
        with self._lock:
            if watch not in self._pending:
                return
            self._pending.remove(watch)
        if isinstance(result, Exception):
            watch.result.set_exception(result)
        else:
            watch.result.set_result(result)

    def due(self, camera: str, frame: HeldFrame | None, clears: int) -> Sequence[PendingWatch]:
        """Returns the watches for which a camera's newest frame is to be judged, the longest unjudged first."""
        if frame is None:
            return []
        due = [watch for watch in self.pending() if watch.is_due(camera, frame, clears)]
        return sorted(due, key=lambda watch: watch.judged_ns(camera))

    def judged(self, watch: PendingWatch, camera: str, frame: HeldFrame, clears: int, probability: float) -> None:
        """Reports the judgement of a frame, and resolves a watch whose condition has held for long enough."""
        judgement = watch.judge(camera, frame, clears, probability)
        watch.on_judgement(judgement)
        if watch.is_fulfilled(judgement):
            self.end(watch, judgement)
