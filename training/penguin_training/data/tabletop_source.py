"""Scenes of the simulated table-top as samples of a stage: rendered when they are read, without files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from penguin_models.media import ClipFrame
from penguin_tabletop.dataset import Family, Mixture, TabletopDataset, TabletopSettings
from penguin_training.data.annotations import Annotation, parse_annotation
from penguin_training.settings.data import TabletopScenes


def open_scenes(scenes: TabletopScenes, fps: float) -> TabletopDataset:
    """Returns the scenes; each worker process that they are sent to starts its own renderer."""
    mixture = Mixture()
    if weights := scenes.mixture:
        mixture = Mixture(*(weights.get(family, 0.0) for family in get_args(Family)))
    return TabletopDataset(TabletopSettings(base=scenes.seed, turns=scenes.turns, fps=fps, mixture=mixture))


def read_scene(dataset: TabletopDataset, number: int) -> Annotation:
    """Renders a scene; its media hold their frames."""
    sample = dataset[number]
    is_clip = bool(sample.stamps_s)
    stamps = sample.stamps_s or (0.0,) * len(sample.frames)
    frames = tuple(ClipFrame(*item) for item in zip(stamps, sample.frames, strict=True))
    media_frames = [frames] if is_clip else [(frame,) for frame in frames]
    names = [str(position) for position in range(len(media_frames))]
    raw = sample.annotation() | {"video" if is_clip else "image": names}
    annotation = parse_annotation(raw, Path(sample.id), sample.id)
    media = zip(annotation.media, media_frames, strict=True)
    references = (replace(reference, frames=own, held=sample.held) for reference, own in media)
    return replace(annotation, media=tuple(references))
