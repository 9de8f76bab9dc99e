"""Decodes samples and measures what filters and deduplication need: size, sharpness, motion, perceptual hashes.

The views of a sample are its images, and up to `_CLIP_FRAMES` frames of each clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import imagehash
import numpy as np
from PIL import Image

from penguin_models.errors import DataError, PenguinError
from penguin_models.media import VideoFile, load_image
from penguin_models.types import UInt8Array
from penguin_training.curation.settings import Filters
from penguin_training.curation.shard_rows import Media, read_shard
from penguin_training.curation.shards import Shard
from penguin_training.data.frame_folder import FrameFolder

HASH_BYTES = 32
GRID = 8  # Rows and columns of mean colours
_CLIP_HZ, _CLIP_FRAMES = 2.0, 8
_SHARPNESS_SIDE = 512


class Views(NamedTuple):
    """The decoded sample."""

    images: list[UInt8Array]  # [H, W, 3] each: its images, then the frames of its clips
    clips: list[int]  # Number of frames of each clip


@dataclass(frozen=True)
class Inspected:
    """What is known of a sample.

    Attributes:
        name: Its id, or its place in the file.
        reason: Why it is dropped: "unreadable", "too small", "too long", "blurred", "static"; empty if it is not.
        detail: The same as a sentence with the value and the limit.
        hashes: pHash of each view, 32 bytes each, below each other.
        colours: Mean colours of each view on a grid, uint8 [GRID, GRID, 3] each, below each other.
    """

    name: str
    reason: str = ""
    detail: str = ""
    hashes: bytes = b""
    colours: bytes = b""


def inspect_shard(shard: Shard, filters: Filters) -> list[Inspected]:
    """Inspects all samples of a shard, in order."""
    return [
        Inspected(name, "unreadable", str(views)) if isinstance(views, PenguinError) else _inspect(name, views, filters)
        for _, name, views in decoded(shard)
    ]


def decoded(shard: Shard, wanted: set[int] | None = None) -> Iterator[tuple[int, str, Views | PenguinError]]:
    """Yields number, name and views of the samples of a shard, or those in `wanted`; or what is wrong with them."""
    with TemporaryDirectory(prefix="penguin-clips-") as folder:
        for number, row in enumerate(read_shard(shard)):
            if wanted is not None and number not in wanted:
                continue
            if isinstance(row, DataError):
                yield number, f"{Path(shard.path).name}, sample {number + 1} from {shard.first}", row
                continue
            views: Views | PenguinError
            try:
                views = _views(row.media(Path(folder)))
            except PenguinError as err:
                views = err
            yield number, row.name, views


def _views(media: Media) -> Views:
    images: list[UInt8Array] = []
    frames: list[UInt8Array] = []
    clips = []
    for reference in media:
        if reference.frames:
            images.append(reference.frames[0].rgb)
        elif not reference.is_clip:
            images.append(load_image(reference.path))
        else:
            clip_class = FrameFolder if reference.path.is_dir() else VideoFile
            shown = [rgb for _, rgb in clip_class(reference.path, _CLIP_HZ, _CLIP_FRAMES)]
            frames += shown
            clips.append(len(shown))
    return Views(images + frames, clips)


def _inspect(name: str, views: Views, filters: Filters) -> Inspected:
    sharpness = [_sharpness(rgb) for rgb in views.images]
    colours = [_colours(rgb) for rgb in views.images]
    reason, detail = _fault(views, sharpness, colours, filters)
    if reason:
        return Inspected(name, reason, detail)
    hashes = b"".join(_hash(rgb) for rgb in views.images)
    return Inspected(name, hashes=hashes, colours=b"".join(grid.tobytes() for grid in colours))


def _fault(views: Views, sharpness: list[float], colours: list[UInt8Array], filters: Filters) -> tuple[str, str]:
    """Returns the reason and the sentence for the first filter that the sample does not pass; empty if it passes."""
    sides = [sorted(rgb.shape[:2]) for rgb in views.images]
    smallest, aspect = min(low for low, _ in sides), max(high / low for low, high in sides)
    if smallest < filters.min_side:
        return "too small", f"a side has {smallest} pixels, min_side is {filters.min_side}"
    if aspect > filters.max_aspect:
        return "too long", f"one side is {aspect:.1f} times the other, max_aspect is {filters.max_aspect:g}"
    images = len(views.images) - sum(views.clips)
    first = images
    sharpest = sharpness[:images]
    for count in views.clips:
        sharpest.append(max(sharpness[first : first + count]))
        motion = _motion(colours[first : first + count])
        if motion < filters.min_motion:
            return "static", f"its frames differ by {motion:.1f} levels, min_motion is {filters.min_motion:g}"
        first += count
    if min(sharpest) < filters.min_sharpness:
        return "blurred", f"its sharpness is {min(sharpest):.1f}, min_sharpness is {filters.min_sharpness:g}"
    return "", ""


def _sharpness(rgb: UInt8Array) -> float:
    """Returns the variance of the Laplacian, after reducing the image so that a limit holds for all sizes."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    factor = _SHARPNESS_SIDE / max(grey.shape)
    if factor < 1:
        size = [max(1, round(side * factor)) for side in reversed(grey.shape)]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _colours(rgb: UInt8Array) -> UInt8Array:
    grid: UInt8Array = np.asarray(cv2.resize(rgb, (GRID, GRID), interpolation=cv2.INTER_AREA), np.uint8)
    return grid


def _motion(colours: list[UInt8Array]) -> float:
    """Returns the largest change of a mean colour between consecutive frames, in levels of 0..255."""
    grids = np.stack(colours).astype(np.int16).mean(axis=3)  # [frames, GRID, GRID]
    return float(np.abs(np.diff(grids, axis=0)).max(initial=0.0))


def _hash(rgb: UInt8Array) -> bytes:
    """Returns the 16 x 16 bits of a pHash, the 64 bits of its lowest frequencies first."""
    bits = imagehash.phash(Image.fromarray(rgb), hash_size=16).hash
    low = bits[:8, :8].ravel()
    rest = np.concatenate([bits[:8, 8:].ravel(), bits[8:].ravel()])
    return np.packbits(np.concatenate([low, rest])).tobytes()
