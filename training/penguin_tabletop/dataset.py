"""Samples by number, made when they are asked for: endless, the same every time, without files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

import numpy as np

from penguin_models.errors import TabletopError
from penguin_models.types import Size
from penguin_tabletop.picture import Photographer, check_size
from penguin_tabletop.samples import (
    Family,
    Sample,
    chart_sample,
    clip_sample,
    image_sample,
    pair_sample,
    text_sample,
)
from penguin_tabletop.seeds import Split, random_of
from penguin_tabletop.timeline import check_timing


@dataclass(frozen=True)
class Mixture:
    """How often each family of samples comes, as weights."""

    image: float = 0.62
    pair: float = 0.08
    clip: float = 0.2
    chart: float = 0.05
    text: float = 0.05

    def __post_init__(self) -> None:
        weights = list(asdict(self).values())
        if min(weights) < 0 or sum(weights) <= 0:
            raise TabletopError(f"weights {weights} of a mixture must not be negative, and one must be above 0")

    def choose(self, random: np.random.Generator) -> Family:
        """One of the families."""
        weights = np.array([getattr(self, name) for name in get_args(Family)])
        family: Family = get_args(Family)[random.choice(len(weights), p=weights / weights.sum())]
        return family


@dataclass(frozen=True)
class TabletopSettings:
    """What the samples are like.

    Attributes:
        split: whose seeds are used.
        base: a family of scenes of its own; see `Split.seed`.
        size: of the pictures in pixels.
        turns: most questions about the same pictures.
        fps: frames per second of clips.
        seconds: length of clips; various if None.
        mixture: how often each family comes.
        drills: share of texts that are drills.
    """

    split: Split = Split.TRAIN
    base: int = 0
    size: Size = field(default_factory=lambda: Size(168, 168))
    turns: int = 4
    fps: float = 2.0
    seconds: float | None = None
    mixture: Mixture = field(default_factory=Mixture)
    drills: float = 0.0

    def __post_init__(self) -> None:
        self.split.seed(0, self.base)
        check_size(self.size)
        check_timing(self.fps, self.seconds)
        if self.turns < 1:
            raise TabletopError(f"turns {self.turns} must be at least 1")
        if not 0 <= self.drills <= 1:
            raise TabletopError(f"drills {self.drills} must be a share, from 0 to 1")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {
            "split": self.split.name.lower(),
            "size": list(self.size),
            "mixture": asdict(self.mixture),
        }


class TabletopDataset:
    """Sample number n is a function of the settings and n alone; processes may share the work as they like."""

    def __init__(self, settings: TabletopSettings):
        """Takes the settings; the renderer starts with the first picture, in the process that wants it."""
        self.settings = settings
        self._photographer: Photographer | None = None

    def __getitem__(self, number: int) -> Sample:
        """Makes a sample."""
        settings = self.settings
        seed = settings.split.seed(number, settings.base)
        name = f"{settings.split.name.lower()}-{settings.base}-{number:08d}"
        family = settings.mixture.choose(random_of(seed, "family"))
        if family == "text":
            return text_sample(name, seed, settings.turns, settings.drills)
        if family == "chart":
            return chart_sample(name, seed, settings.size)
        photographer = self._started()
        if family == "image":
            return image_sample(name, seed, photographer, settings.turns)
        if family == "pair":
            return pair_sample(name, seed, photographer)
        return clip_sample(name, seed, photographer, settings.turns, settings.fps, settings.seconds)

    def __iter__(self) -> Iterator[Sample]:
        """All samples, without end."""
        return self.samples()

    def samples(self, start: int = 0, step: int = 1) -> Iterator[Sample]:
        """Samples start, start + step, ... without end: worker k of n takes `samples(k, n)`."""
        number = start
        while True:
            yield self[number]
            number += step

    def close(self) -> None:
        """Frees the renderer."""
        if self._photographer is not None:
            self._photographer.close()
            self._photographer = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the renderer: another process starts its own."""
        return self.__dict__ | {"_photographer": None}

    def _started(self) -> Photographer:
        if self._photographer is None:
            self._photographer = Photographer(self.settings.size)
        return self._photographer
