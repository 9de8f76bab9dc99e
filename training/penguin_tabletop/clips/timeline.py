"""A table-top over time: clips of known length, and an endless live one.

Between events only noise, exposure flicker and slow light changes vary, none of which should count as an event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from penguin_models.errors import TabletopError
from penguin_models.types import Size
from penguin_tabletop.clips.director import Director
from penguin_tabletop.clips.events import Event, Step
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.scene.planning import plan_clip_scene
from penguin_tabletop.scene.scene import Scene
from penguin_tabletop.seeds import Random, seeded_random
from penguin_tabletop.truth import View, view_of

_LENGTH_S = (6.0, 16.0)
_BEFORE_S, _PAUSE_S, _LIVE_PAUSE_S = (1.0, 3.0), (1.0, 3.5), (3.0, 8.0)
_AFTER_S = 1.0  # time without events at the end, so that the last frame shows how everything ended
_CALM_PROBABILITY = 0.15


def check_timing(fps: float, seconds: float | None) -> None:
    """Raises TabletopError if the frame rate or the length of a clip is out of range."""
    if not 1 <= fps <= 120:
        raise TabletopError(f"fps {fps} must be from 1 to 120")
    if seconds is not None and not 1 <= seconds <= 3600:
        raise TabletopError(f"a length of {seconds} seconds must be from 1 to 3600")


class _LightDrift:
    """Light that changes slowly and exposure that flickers."""

    def __init__(self, random: Random):
        self._flicker = random.uniform(0, 0.06)
        self._slow = random.uniform(0.02, 0.15)
        self._period_s = random.uniform(15, 60)
        self._side = random.uniform(0, 0.2)
        self._phase = random.uniform(0, 2 * np.pi)

    def applied_to(self, scene: Scene, time_s: float) -> Scene:
        sensor = scene.sensor
        number = sensor.number + round(time_s * 1000)
        angle = 2 * np.pi * time_s / self._period_s + self._phase
        flicker = self._flicker * np.random.default_rng(number).uniform(-1, 1)
        gain = sensor.gain * (1 + self._slow * float(np.sin(angle)) + flicker)
        side = self._side * float(np.sin(0.7 * angle))
        return replace(scene, sensor=replace(sensor, gain=gain, side=side, number=number))


class TabletopClip:
    """A clip with known events: `seconds` long, with `events` in order of time and frames at `stamps_s`."""

    def __init__(self, seed: int, size: Size, fps: float = 2.0, seconds: float | None = None, calm: bool | None = None):
        """Plans a clip without rendering anything; raises TabletopError if `fps` or `seconds` is out of range.

        The length is 6 to 16 seconds at random if `seconds` is None; a calm clip has no events, at random if None.
        """
        check_timing(fps, seconds)
        random = seeded_random(seed, "clip")
        length = round(random.uniform(*_LENGTH_S), 1)
        calm_by_chance = bool(random.random() < _CALM_PROBABILITY)
        self.seed = seed
        self.seconds = length if seconds is None else seconds
        self._drift = _LightDrift(random)
        self._start = plan_clip_scene(random, size)
        self._steps: list[Step] = []
        if not (calm_by_chance if calm is None else calm):
            self._steps = _plan_steps(random, self._start, size, self.seconds)
        self.events: tuple[Event, ...] = tuple(step.event for step in self._steps)
        self.stamps_s = [number / fps for number in range(int(np.ceil(self.seconds * fps - 1e-9)))]

    def scene(self, time_s: float) -> Scene:
        """Returns the scene at a time."""
        started = [step for step in self._steps if step.event.start_s <= time_s]
        return self._drift.applied_to(started[-1].at(time_s) if started else self._start, time_s)

    def frames(self, renderer: SceneRenderer) -> Iterator[View]:
        """Yields the rendered frames."""
        return (view_of(self.scene(stamp_s), renderer, stamp_s) for stamp_s in self.stamps_s)


class LiveTabletop:
    """An endless table-top on which something happens now and then."""

    def __init__(self, seed: int, size: Size, rate_hz: float = 10.0):
        """Plans the first scene; `rate_hz` is the rate of its own clock, as `step` does not wait.

        Raises TabletopError if the size is out of range or PyBullet is not installed.
        """
        self._random = seeded_random(seed, "live")
        self._renderer = SceneRenderer(size)
        self._drift = _LightDrift(self._random)
        self._scene = plan_clip_scene(self._random, size)
        self._director = Director(self._random, size)
        self._rate_hz = rate_hz
        self._frame = 0
        self._step: Step | None = None
        self._next_s = _tenths(self._random.uniform(*_BEFORE_S))

    def step(self) -> tuple[View, Event | None]:
        """Renders the next frame; returns it with the event in progress."""
        stamp_s = self._frame / self._rate_hz
        self._frame += 1
        if self._step is not None and stamp_s >= self._step.event.end_s:
            self._scene = self._step.after
            self._next_s = _tenths(self._step.event.end_s + self._random.uniform(*_LIVE_PAUSE_S))
            self._step = None
        if self._step is None and stamp_s >= self._next_s:
            self._step = self._director.next_step(self._scene, self._next_s)
            self._next_s = _tenths(self._next_s + self._random.uniform(*_LIVE_PAUSE_S))
        scene, event = (self._step.at(stamp_s), self._step.event) if self._step else (self._scene, None)
        view = view_of(self._drift.applied_to(scene, stamp_s), self._renderer, stamp_s)
        return view, event if event and event.start_s <= stamp_s else None


def _plan_steps(random: Random, scene: Scene, size: Size, seconds: float) -> list[Step]:
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


def _tenths(time_s: float) -> float:
    """Rounds to tenths of a second, so that the times of events can be written without loss."""
    return round(time_s, 1)
