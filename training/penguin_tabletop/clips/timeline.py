"""A table-top over time: clips, recordings of hours, and an endless live one.

Between events only noise, exposure flicker and slow light changes vary, none of which should count as an event.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from penguin_models.errors import TabletopError
from penguin_models.types import Size
from penguin_tabletop.clips.director import Director
from penguin_tabletop.clips.events import Event, Step
from penguin_tabletop.render.picture import SceneRenderer, check_size
from penguin_tabletop.scene.planning import plan_clip_scene
from penguin_tabletop.scene.scene import Scene
from penguin_tabletop.seeds import Random, seeded_random
from penguin_tabletop.truth import View, view_of

_LENGTH_S = (6.0, 16.0)
_BEFORE_S, _PAUSE_S, _LIVE_PAUSE_S = (1.0, 3.0), (1.0, 3.5), (3.0, 8.0)
_AFTER_S = 1.0  # time without events at the end, so that the last frame shows how everything ended
_CALM_PROBABILITY = 0.15
MIN_RECORDING_S, MAX_RECORDING_S = 10.0, 4 * 3600.0
SPELL_AGES_S = (300.0, 1800.0, 7200.0)
_ALL_BUSY_S = 90.0  # a recording up to this length is busy all the time
_SPELL_S = (25.0, 40.0)
_CALM_PERIOD_S = 10.0


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


class PlannedTimeline:
    """A table-top with planned events, `seconds` long: `events` in order of time, and frames at `stamps_s`."""

    def __init__(self, seed: int, seconds: float, drift: _LightDrift, start: Scene, steps: Sequence[Step]):
        self.seed, self.seconds = seed, seconds
        self._drift, self._start, self._steps = drift, start, steps
        self.events: tuple[Event, ...] = tuple(step.event for step in steps)
        self.stamps_s: Sequence[float] = ()

    def scene(self, time_s: float) -> Scene:
        """Returns the scene at a time."""
        started = bisect_right(self.events, time_s, key=lambda event: event.start_s)
        return self._drift.applied_to(self._steps[started - 1].at(time_s) if started else self._start, time_s)

    def frames(self, renderer: SceneRenderer) -> Iterator[View]:
        """Yields the rendered frames."""
        return (view_of(self.scene(stamp_s), renderer, stamp_s) for stamp_s in self.stamps_s)


class TabletopClip(PlannedTimeline):
    """A clip at a constant rate, on which something happens every few seconds."""

    def __init__(self, seed: int, size: Size, fps: float = 2.0, seconds: float | None = None, calm: bool | None = None):
        """Plans a clip without rendering anything; raises TabletopError if `fps` or `seconds` is out of range.

        The length is 6 to 16 seconds at random if `seconds` is None; a calm clip has no events, at random if None.
        """
        check_timing(fps, seconds)
        random = seeded_random(seed, "clip")
        length = round(random.uniform(*_LENGTH_S), 1)
        calm_by_chance = bool(random.random() < _CALM_PROBABILITY)
        length = length if seconds is None else seconds
        drift, start = _LightDrift(random), plan_clip_scene(random, size)
        steps: list[Step] = []
        if not (calm_by_chance if calm is None else calm):
            steps = _plan_steps(random, start, size, [(0.0, length)])
        super().__init__(seed, length, drift, start, steps)
        self.stamps_s = [number / fps for number in range(int(np.ceil(length * fps - 1e-9)))]


class TabletopRecording(PlannedTimeline):
    """A recording of minutes or hours that ends now: something happens during its last minute, and now and then before.

    A recording longer than 90 seconds has two busy spells around each of the ages 5 minutes, 30 minutes, 2 hours that
    it reaches. Where nothing happens, frames are 10 seconds apart, so that an hour costs little.
    """

    def __init__(self, seed: int, size: Size, seconds: float, fps: float = 2.0):
        """Plans a recording without rendering anything; raises TabletopError if an argument is out of range."""
        check_size(size)
        if not 1 <= fps <= 120:
            raise TabletopError(f"fps {fps} must be from 1 to 120")
        if not MIN_RECORDING_S <= seconds <= MAX_RECORDING_S:
            raise TabletopError(
                f"a recording of {seconds:g} seconds must have from {MIN_RECORDING_S:g} to {MAX_RECORDING_S:g}"
            )
        random = seeded_random(seed, "recording")
        drift, start = _LightDrift(random), plan_clip_scene(random, size)
        busy = _busy_spells(random, seconds)
        super().__init__(seed, seconds, drift, start, _plan_steps(random, start, size, busy))
        self.stamps_s = list(_recording_stamps(busy, seconds, fps))


def _busy_spells(random: Random, seconds: float) -> list[tuple[float, float]]:
    """Returns when something happens, as start and end in seconds, in order of time."""
    if seconds <= _ALL_BUSY_S:
        return [(0.0, seconds)]
    spells = [(seconds - 60.0, seconds)]
    for age_s in (age_s for age_s in SPELL_AGES_S if age_s <= seconds):
        for low, high in ((0.75, 0.95), (0.5, 0.7)):
            start_s = float(np.floor(seconds - age_s * random.uniform(low, high)))
            spells.append((start_s, start_s + float(np.floor(random.uniform(*_SPELL_S)))))
    return sorted(spells)


def _recording_stamps(busy: Sequence[tuple[float, float]], seconds: float, fps: float) -> Iterator[float]:
    """Yields the stamps of frames, which are multiples of the frame period."""
    number, last = 0, int(np.ceil(seconds * fps - 1e-9)) - 1
    while number <= last:
        stamp_s = number / fps
        yield stamp_s
        calm = not any(start_s - 1 <= stamp_s < end_s for start_s, end_s in busy)
        upcoming = min((start_s - 1 for start_s, _ in busy if start_s - 1 > stamp_s), default=seconds)
        number += max(1, round(min(_CALM_PERIOD_S, upcoming - stamp_s) * fps)) if calm else 1


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


def _plan_steps(random: Random, scene: Scene, size: Size, busy: Sequence[tuple[float, float]]) -> list[Step]:
    """Plans what happens during spells, given as start and end in seconds."""
    director = Director(random, size)
    steps: list[Step] = []
    for start_s, end_s in busy:
        time_s = _tenths(start_s + random.uniform(*_BEFORE_S))
        while time_s < end_s - _AFTER_S:
            step = director.next_step(scene, time_s)
            if step is not None and step.event.end_s <= end_s - _AFTER_S:
                steps.append(step)
                scene, time_s = step.after, step.event.end_s
            time_s = _tenths(time_s + random.uniform(*_PAUSE_S))
    return steps


def _tenths(time_s: float) -> float:
    """Rounds to tenths of a second, so that the times of events can be written without loss."""
    return round(time_s, 1)
