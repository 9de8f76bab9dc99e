"""Samples by number, made on demand: endless, reproducible, without files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np

from penguin_models.errors import TabletopError
from penguin_models.types import Size
from penguin_tabletop.clips.timeline import check_timing
from penguin_tabletop.render.picture import SceneRenderer, check_size
from penguin_tabletop.samples import Family, Sample, chart_sample, clip_sample, image_sample, pair_sample, text_sample
from penguin_tabletop.seeds import Split, seeded_random


@dataclass(frozen=True)
class Mixture:
    """Weights of the families of samples."""

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
        """Returns a random family."""
        weights = np.array([getattr(self, name) for name in get_args(Family)])
        family: Family = get_args(Family)[random.choice(len(weights), p=weights / weights.sum())]
        return family


@dataclass(frozen=True)
class TabletopSettings:
    """Settings of a data set."""

    split: Split = Split.TRAIN  # where the seeds come from
    base: int = 0  # number of a separate family of scenes; see `Split.seed`
    size: Size = field(default_factory=lambda: Size(168, 168))  # of the pictures in pixels
    turns: int = 4  # largest number of questions about the same pictures
    fps: float = 2.0  # of clips
    seconds: float | None = None  # length of clips; random if None
    mixture: Mixture = field(default_factory=Mixture)
    drills: float = 0.0  # share of texts that are only to be repeated

    def __post_init__(self) -> None:
        self.split.seed(0, self.base)
        check_size(self.size)
        check_timing(self.fps, self.seconds)
        if self.turns < 1:
            raise TabletopError(f"turns {self.turns} must be at least 1")
        if not 0 <= self.drills <= 1:
            raise TabletopError(f"drills {self.drills} must be a share, from 0 to 1")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self) | {"split": self.split.name.lower()}


class TabletopDataset:
    """An endless data set: sample n depends only on the settings and n, so that any process can make it."""

    def __init__(self, settings: TabletopSettings):
        """Stores the settings; the renderer starts with the first picture, in the process that needs it."""
        self.settings = settings
        self._renderer: SceneRenderer | None = None

    def __getitem__(self, number: int) -> Sample:
        """Makes a sample."""
        settings = self.settings
        seed = settings.split.seed(number, settings.base)
        name = f"{settings.split.name.lower()}-{settings.base}-{number:08d}"
        family = settings.mixture.choose(seeded_random(seed, "family"))
        if family == "text":
            return text_sample(name, seed, settings.turns, settings.drills)
        if family == "chart":
            return chart_sample(name, seed, settings.size)
        if self._renderer is None:
            self._renderer = SceneRenderer(settings.size)
        if family == "image":
            return image_sample(name, seed, self._renderer, settings.turns)
        if family == "pair":
            return pair_sample(name, seed, self._renderer)
        return clip_sample(name, seed, self._renderer, settings.turns, settings.fps, settings.seconds)

    def close(self) -> None:
        """Frees the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the renderer: another process starts its own."""
        return self.__dict__ | {"_renderer": None}
