"""Scenes of the simulated table-top as samples of a stage: rendered when they are read, without files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from penguin_models.config import ImageConfig
from penguin_models.media import ClipFrame
from penguin_tabletop.dataset import Family, Mixture, TabletopDataset, TabletopSettings
from penguin_tabletop.seeds import Split, choose_weighted, seeded_random
from penguin_training.data.annotations import Annotation, parse_annotation
from penguin_training.data.memory_clips import DrawnMemory, draw_memory
from penguin_training.data.recall_scenes import RecallScenes
from penguin_training.settings.data import RECORDINGS, MemorySettings, SceneFamily, TabletopScenes


class SceneSource:
    """Samples by number; each worker process that it is sent to starts its own renderers."""

    def __init__(
        self, scenes: TabletopScenes, fps: float, memory: MemorySettings | None, images: ImageConfig, seed: int
    ):
        """Opens the scenes.

        Args:
            scenes: Which scenes.
            fps: Frames per second of clips.
            memory: What recordings go through; None if there are none among the scenes.
            images: Images as the checkpoint takes them.
            seed: The stage's seed.
        """
        weights = scenes.mixture
        self._seed, self._weights = scenes.seed, weights if scenes.has_recordings else None
        mixture = Mixture()
        if weights and (self._weights is None or any(weights.get(family) for family in get_args(Family))):
            mixture = Mixture(*(weights.get(family, 0.0) for family in get_args(Family)))
        samples = TabletopSettings(
            base=scenes.seed, turns=scenes.turns, fps=fps, mixture=mixture, conditions=scenes.conditions
        )
        self._scenes = TabletopDataset(samples)
        self._recordings: RecallScenes | None = None
        if memory is not None and scenes.has_recordings:
            draw = partial(_draw, memory, images, seed)
            seconds = (scenes.seconds[0], scenes.seconds[1])
            self._recordings = RecallScenes(scenes.seed, seconds, scenes.turns, draw, scenes.conditions)

    def read(self, number: int) -> Annotation:
        """Renders a sample; its media hold their frames."""
        if self._weights is None or self._recordings is None:
            return read_scene(self._scenes, number)
        weights: dict[SceneFamily, float] = {family: self._weights.get(family, 0.0) for family in RECORDINGS}
        weights["image"] = sum(self._weights.values()) - sum(weights.values())  # any scene that is no recording
        (family,) = choose_weighted(seeded_random(Split.TRAIN.seed(number, self._seed), "recording?"), weights)
        if family in ("recall", "shown", "judge"):
            return self._recordings.read(number, family)
        return read_scene(self._scenes, number)


def _draw(memory: MemorySettings, images: ImageConfig, seed: int, sample: str) -> DrawnMemory:
    return draw_memory(memory, images, sample, seed)


def read_scene(dataset: TabletopDataset, number: int) -> Annotation:
    """Renders a scene; its media hold their frames."""
    sample = dataset[number]
    is_clip = sample.family == "clip"
    stamps = sample.stamps_s or (0.0,) * len(sample.frames)
    frames = tuple(ClipFrame(*item) for item in zip(stamps, sample.frames, strict=True))
    media_frames = [frames] if is_clip else [(frame,) for frame in frames]
    names = [str(position) for position in range(len(media_frames))]
    raw = sample.annotation() | {"video" if is_clip else "image": names}
    annotation = parse_annotation(raw, Path(sample.id), sample.id)
    media = zip(annotation.media, media_frames, strict=True)
    references = (replace(reference, frames=own) for reference, own in media)
    return replace(annotation, media=tuple(references))
