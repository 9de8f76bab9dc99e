"""A table-top over time: clips that end, and a live one that does not.

Between events, what changes is what no one should call an event: noise, flickering exposure, slow changes of light.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from penguin_models.errors import TabletopError
from penguin_models.types import Size, UInt8Array
from penguin_tabletop.director import Director
from penguin_tabletop.events import Event, Step
from penguin_tabletop.picture import Photographer, Picture, check_size
from penguin_tabletop.planning import plan_clip_scene
from penguin_tabletop.scene import Scene, Sensor
from penguin_tabletop.seeds import random_of
from penguin_tabletop.truth import SceneTruth, truth_of

SHORTEST_S, LONGEST_S = 6.0, 16.0
_BEFORE_S, _PAUSE_S = (1.0, 3.0), (1.0, 3.5)
_LIVE_PAUSE_S = (3.0, 8.0)
_AFTER_S = 1.0
"""The last frame of a clip, at one frame a second or more, shows how everything ended."""
_CALM = 0.15


def check_timing(fps: float, seconds: float | None) -> None:
    """Raises TabletopError where the frame rate or length of a clip makes no sense."""
    if not 1 <= fps <= 120:
        raise TabletopError(f"fps {fps} must be from 1 to 120")
    if seconds is not None and not 1 <= seconds <= 3600:
        raise TabletopError(f"a length of {seconds} seconds must be from 1 to 3600")


class ClipView(NamedTuple):
    """One frame of a clip: its time, the picture with its masks, and what it shows."""

    stamp_s: float
    picture: Picture
    truth: SceneTruth


@dataclass(frozen=True)
class _Weather:
    """Light that changes slowly and exposure that flickers."""

    flicker: float
    slow: float
    period_s: float
    side: float
    phase: float

    def over(self, sensor: Sensor, time_s: float) -> Sensor:
        """The sensor at a time."""
        number = sensor.number + round(time_s * 1000)
        turn = 2 * np.pi * time_s / self.period_s + self.phase
        flicker = self.flicker * float(np.random.default_rng(number).uniform(-1, 1))
        gain = sensor.gain * (1 + self.slow * float(np.sin(turn)) + flicker)
        return replace(sensor, gain=gain, side=self.side * float(np.sin(0.7 * turn)), number=number)


class TabletopClip:
    """A clip: known length, known events.

    Attributes:
        seed: of everything.
        events: in order of time; none in a calm clip.
        stamps_s: of the frames.
        size: of the frames.
    """

    def __init__(self, seed: int, size: Size, fps: float = 2.0, seconds: float | None = None, calm: bool | None = None):
        """Plans a clip; nothing is rendered yet.

        Args:
            seed: of everything; take it from a `Split`.
            size: of the frames in pixels.
            fps: frames per second, at least 1.
            seconds: length; SHORTEST_S to LONGEST_S if not given.
            calm: without events; now and then if not given.

        Raises:
            TabletopError: a setting that makes no sense.
        """
        check_size(size)
        check_timing(fps, seconds)
        random = random_of(seed, "clip")
        length = round(float(random.uniform(SHORTEST_S, LONGEST_S)), 1)
        by_chance = bool(random.random() < _CALM)
        self.seed, self.size = seed, size
        self.seconds = length if seconds is None else seconds
        self._weather = _weather(random)
        self._start = plan_clip_scene(random, size)
        self._steps: list[Step] = []
        if not (by_chance if calm is None else calm):
            self._steps = _plan(random, self._start, size, self.seconds)
        self.events: tuple[Event, ...] = tuple(step.event for step in self._steps)
        self.stamps_s = [number / fps for number in range(int(np.ceil(self.seconds * fps - 1e-9)))]

    def scene(self, time_s: float) -> Scene:
        """What is where at a time."""
        return _at(self._start, self._steps, self._weather, time_s)

    def frames(self, photographer: Photographer) -> Iterator[ClipView]:
        """Renders the clip."""
        for stamp in self.stamps_s:
            yield _view(photographer, self.scene(stamp), stamp)


class LiveFrame(NamedTuple):
    """A frame of the live table-top: its time, uint8 [H, W, 3], what it shows, and the events in progress."""

    stamp_s: float
    rgb: UInt8Array
    truth: SceneTruth
    events: tuple[Event, ...]


class LiveTabletop:
    """A table-top that goes on for ever, something happening now and then."""

    def __init__(self, seed: int, size: Size, rate_hz: float = 10.0):
        """Sets up the table.

        Args:
            seed: of everything.
            size: of the frames in pixels.
            rate_hz: frames per second of its own clock; `step` does not wait.

        Raises:
            TabletopError: a setting that makes no sense, or PyBullet is not installed.
        """
        if not 0 < rate_hz <= 120:
            raise TabletopError(f"rate {rate_hz} Hz must be above 0 and at most 120")
        self._random = random_of(seed, "live")
        self._photographer = Photographer(size)
        self._weather = _weather(self._random)
        self._scene = plan_clip_scene(self._random, size)
        self._director = Director(self._random, size)
        self._rate_hz = rate_hz
        self._frame = 0
        self._step: Step | None = None
        self._next_s = _tenths(self._random.uniform(*_BEFORE_S))

    def step(self) -> LiveFrame:
        """The next frame."""
        stamp = self._frame / self._rate_hz
        self._frame += 1
        if self._step is not None and stamp >= self._step.event.end_s:
            self._scene = self._step.after
            self._next_s = _tenths(self._step.event.end_s + self._random.uniform(*_LIVE_PAUSE_S))
            self._step = None
        if self._step is None and stamp >= self._next_s:
            self._step = self._director.next_step(self._scene, self._next_s)
            self._next_s = _tenths(self._next_s + self._random.uniform(*_LIVE_PAUSE_S))
        steps = [] if self._step is None else [self._step]
        view = _view(self._photographer, _at(self._scene, steps, self._weather, stamp), stamp)
        events = tuple(step.event for step in steps if step.event.start_s <= stamp)
        return LiveFrame(stamp, view.picture.rgb, view.truth, events)

    def close(self) -> None:
        """Frees the renderer."""
        self._photographer.close()


def _plan(random: np.random.Generator, scene: Scene, size: Size, seconds: float) -> list[Step]:
    director = Director(random, size)
    steps: list[Step] = []
    time_s = _tenths(random.uniform(*_BEFORE_S))
    while time_s < seconds - _AFTER_S:
        step = director.next_step(scene, time_s)
        if step is not None and step.event.end_s <= seconds - _AFTER_S:
            steps.append(step)
            scene, time_s = step.after, step.event.end_s
        time_s = _tenths(time_s + random.uniform(*_PAUSE_S))
    return steps


def _at(start: Scene, steps: Sequence[Step], weather: _Weather, time_s: float) -> Scene:
    scene = start
    for step in steps:
        if time_s < step.event.start_s:
            break
        scene = step.at(time_s)
    return replace(scene, sensor=weather.over(scene.sensor, time_s))


def _view(photographer: Photographer, scene: Scene, stamp_s: float) -> ClipView:
    picture = photographer.take(scene)
    return ClipView(stamp_s, picture, truth_of(scene, picture))


def _weather(random: np.random.Generator) -> _Weather:
    return _Weather(
        flicker=float(random.uniform(0, 0.06)),
        slow=float(random.uniform(0.02, 0.15)),
        period_s=float(random.uniform(15, 60)),
        side=float(random.uniform(0, 0.2)),
        phase=float(random.uniform(0, 2 * np.pi)),
    )


def _tenths(time_s: float) -> float:
    """Rounded to tenths of a second: the times of events can be written without loss."""
    return round(float(time_s), 1)
