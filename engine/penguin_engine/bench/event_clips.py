"""Drawn table-top clips with known events, for measuring keyframe policies.

Events: an object appears, moves or leaves; the camera moves. Disturbances, which are not events: sensor noise,
flickering exposure, and light that changes slowly and from one side. The same seed gives the same clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import cv2
import numpy as np
import numpy.typing as npt

from penguin_models.types import Float32Array, Frame, Size, UInt8Array

_Vector = npt.NDArray[np.float64]
_SIZE = Size(240, 320)
_FPS = 5.0
_MOVE_S = 0.6
"""Duration of a motion of an object or the camera."""


@dataclass
class _Thing:
    shape: str
    colour: tuple[int, int, int]
    radius: float
    place: _Vector  # [x, y] as shares of the frame's size
    appears_s: float
    leaves_s: float = np.inf
    moves_s: float = np.inf  # start of its only motion
    shift: _Vector = field(default_factory=lambda: np.zeros(2))  # [x, y] of that motion


class EventClip:
    """A clip of 320x240 pixels at 5 frames per second, planned when it is made and drawn when it is iterated.

    `events` are the start and end of each event in seconds; a calm clip has disturbances only.
    """

    def __init__(self, seed: int, seconds: float = 60.0, calm: bool = False):
        self._seconds = seconds
        self._random = np.random.default_rng(seed)
        self._noise_seed = int(self._random.integers(2**31))
        self._noise = self._random.uniform(2, 8)
        self._flicker = self._random.uniform(0.02, 0.1)
        self._slow = self._random.uniform(0.1, 0.3)
        self._table = self._draw_table()
        self._things = [self._thing(0.0) for _ in range(self._random.integers(3, 6))]
        self._camera: list[tuple[float, _Vector]] = []  # start and shift of each motion
        self.events = [] if calm else self._plan()

    def __iter__(self) -> Iterator[Frame]:
        """Draws the frames."""
        noise = np.random.default_rng(self._noise_seed)
        for number in range(int(self._seconds * _FPS)):
            time_s = number / _FPS
            picture = self._light(self._draw(time_s), time_s, noise)
            picture += noise.normal(0, self._noise, picture.shape)
            yield Frame(np.clip(picture, 0, 255).astype(np.uint8), round(time_s * 1e9))

    def _plan(self) -> list[tuple[float, float]]:
        events = []
        time_s = 5.0
        while time_s < self._seconds - 5:
            kind = str(self._random.choice(["appears", "moves", "leaves", "camera"], p=[0.35, 0.3, 0.2, 0.15]))
            free = [t for t in self._things if t.moves_s == t.leaves_s == np.inf and t.appears_s < time_s]
            if kind in ("moves", "leaves") and not free:
                kind = "appears"
            if kind == "appears":
                self._things.append(self._thing(time_s))
            elif kind == "leaves":
                free[0].leaves_s = time_s
            elif kind == "moves":
                free[0].moves_s, free[0].shift = time_s, self._random.uniform(0.2, 0.8, 2) - free[0].place
            else:
                self._camera.append((time_s, self._camera_shift()))
            events.append((time_s, time_s + (_MOVE_S if kind in ("moves", "camera") else 0.0)))
            time_s += self._random.uniform(4, 9)
        return events

    def _camera_shift(self) -> _Vector:
        """Returns a motion of the camera that leaves the objects in view."""
        here = np.sum([shift for _, shift in self._camera], axis=0)
        while True:
            there = self._random.uniform(-0.15, 0.15, 2)
            if np.abs(there - here).max() > 0.08:
                return there - here  # type: ignore[no-any-return]

    def _thing(self, appears_s: float) -> _Thing:
        place = self._random.uniform(0.2, 0.8, 2)
        red, green, blue = self._random.permutation(np.array([self._random.integers(180, 240), 40, 70])).tolist()
        shape = str(self._random.choice(["ball", "cube", "cone"]))
        return _Thing(shape, (red, green, blue), self._random.uniform(0.03, 0.08), place, appears_s)

    def _draw_table(self) -> UInt8Array:
        """Returns a wooden table, twice as large as the picture so that the camera can move over it."""
        height, width = 2 * _SIZE.height, 2 * _SIZE.width
        grain = self._random.normal(0, 1, (height // 4, width // 64, 1))
        grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
        wood: UInt8Array = np.clip(np.array([150, 115, 80]) + 14 * grain, 0, 255).astype(np.uint8)
        return wood

    def _draw(self, time_s: float) -> Float32Array:
        height, width = _SIZE
        canvas = self._table.copy()
        for thing in self._things:
            if thing.appears_s <= time_s < thing.leaves_s:
                x, y = 0.5 + thing.place + _progress(thing.moves_s, time_s) * thing.shift
                centre = (round(x * width), round(y * height))
                _draw_thing(canvas, thing, centre, round(thing.radius * min(_SIZE)))
        offset = 0.5 + sum((_progress(start_s, time_s) * shift for start_s, shift in self._camera), np.zeros(2))
        left, top = np.clip(offset, 0, 1) * (width, height)
        return canvas[int(top) : int(top) + height, int(left) : int(left) + width].astype(np.float32)

    def _light(self, picture: Float32Array, time_s: float, random: np.random.Generator) -> Float32Array:
        slow = 1 + self._slow * np.sin(2 * np.pi * time_s / 40)
        side = 1 + self._slow * np.sin(2 * np.pi * time_s / 50 + 1) * np.linspace(-0.5, 0.5, _SIZE.width)
        flicker = 1 + self._flicker * random.uniform(-1, 1)
        lit: Float32Array = picture * (slow * flicker * side[None, :, None]).astype(np.float32)
        return lit


def _progress(start_s: float, time_s: float) -> float:
    """Returns the share of a motion that has happened, from 0 to 1."""
    return float(np.clip((time_s - start_s) / _MOVE_S, 0, 1))


def _draw_thing(canvas: UInt8Array, thing: _Thing, centre: tuple[int, int], radius: int) -> None:
    shadow = (centre[0] + radius // 3, centre[1] + radius // 2)
    cv2.ellipse(canvas, shadow, (radius, radius // 2), 0, 0, 360, (70, 55, 40), -1, cv2.LINE_AA)
    if thing.shape == "ball":
        cv2.circle(canvas, centre, radius, thing.colour, -1, cv2.LINE_AA)
    elif thing.shape == "cube":
        corner = (centre[0] - radius, centre[1] - radius)
        cv2.rectangle(canvas, corner, (centre[0] + radius, centre[1] + radius), thing.colour, -1)
    else:
        points = np.array([(0, -radius), (radius, radius), (-radius, radius)]) + centre
        cv2.fillPoly(canvas, [points.astype(np.int32)], thing.colour, cv2.LINE_AA)


def drawn_samples(count: int) -> list[UInt8Array]:
    """Returns the first frame of `count` drawn clips, uint8 [240, 320, 3] each: sample images for calibration."""
    return [frame.rgb for seed in range(count) for frame in islice(EventClip(seed, seconds=2.0), 1)]
