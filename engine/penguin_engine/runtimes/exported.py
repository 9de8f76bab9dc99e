"""What the runtimes of exported folders share: prompt embeddings and frames packed for the vision graph. No torch.

Axes: N patches of all frames; F frames; L patches of the longest frame; T visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penguin_engine.export.manifest import EMBEDDINGS, Manifest
from penguin_engine.runtimes.base import PromptSegment, segment_length
from penguin_models.errors import EngineError
from penguin_models.images import patch_positions
from penguin_models.types import PatchedImage

Array = npt.NDArray[Any]
STORAGE: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
"""numpy type that stores values of a graph's type; numpy has no bfloat16, and nothing here computes with it."""
PATCHES_PER_PASS = 4096
"""Patches per run of the vision graph, which bounds its memory for any number of frames; one frame may exceed it."""
TOKENS_PER_STEP = 512
"""New tokens per run of the decoder, which bounds attention scores to this times the cache length."""
_LARGEST_PADDING = 0.25
"""Frames share a pass as long as padding to the longest adds at most this fraction."""


@dataclass(frozen=True, eq=False)
class HostVisualTokens:
    """Visual tokens [length, hidden] in host memory, in the decoder's type."""

    embeddings: Array

    @property
    def length(self) -> int:
        """Number of visual tokens."""
        return int(self.embeddings.shape[0])

    def part(self, start: int, stop: int) -> HostVisualTokens:
        """See `VisualTokens.part`."""
        return HostVisualTokens(self.embeddings[start:stop])


class EmbeddingTable:
    """The embedding table, memory-mapped: only rows that are used occupy memory; they get the decoder's type."""

    def __init__(self, folder: Path, manifest: Manifest):
        shape = (manifest.decoder.vocab, manifest.decoder.hidden)
        self._stored, self._dtype = manifest.table_dtype, manifest.dtype
        self._rows = np.memmap(folder / EMBEDDINGS, STORAGE[self._stored], mode="r", shape=shape)

    def embed(self, segments: Sequence[PromptSegment]) -> Array:
        """Returns the embeddings of text and visual tokens in order, [tokens, hidden]."""
        return np.concatenate([self._embed(segment) for segment in segments if segment_length(segment)])

    def rows(self, ids: Sequence[int]) -> Array:
        """Returns the embeddings of token ids, [tokens, hidden]."""
        rows = np.asarray(self._rows[np.asarray(ids, dtype=np.int64)])
        if self._stored == "bfloat16" and self._dtype == "float32":
            return (rows.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is the upper half of a float32
        return rows.astype(STORAGE[self._dtype], copy=False)

    def _embed(self, segment: PromptSegment) -> Array:
        if isinstance(segment, HostVisualTokens):
            return segment.embeddings
        assert isinstance(segment, Sequence), f"a segment of another runtime: {type(segment).__name__}"
        return self.rows(segment)


@dataclass(frozen=True)
class SegmentSlice:
    """Consecutive tokens of a segment that belong to one chunk of a prompt."""

    segment: PromptSegment
    start: int  # first token within the segment
    length: int  # number of tokens
    offset: int  # place of the first token within the chunk


def split_into_chunks(segments: Sequence[PromptSegment], size: int) -> Iterator[list[SegmentSlice]]:
    """Splits a prompt into chunks of at most `size` tokens without accessing the tokens."""
    chunk: list[SegmentSlice] = []
    filled = 0
    for segment in segments:
        start, rest = 0, segment_length(segment)
        while rest:
            length = min(rest, size - filled)
            chunk.append(SegmentSlice(segment, start, length, filled))
            start, rest, filled = start + length, rest - length, filled + length
            if filled == size:
                yield chunk
                chunk, filled = [], 0
    if chunk:
        yield chunk


@dataclass(frozen=True, eq=False)
class VisionPass:
    """Images that go through the vision graph together."""

    indices: tuple[int, ...]  # positions in the caller's list of images
    tokens: tuple[int, ...]  # visual tokens of each image
    inputs: dict[str, Array]  # the graph's inputs by name, see export/graphs/vision.py


def vision_passes(
    images: Sequence[PatchedImage],
    equal_frames: bool,
    fits: Callable[[Sequence[PatchedImage]], bool] = lambda images: True,
) -> Iterator[VisionPass]:
    """Groups images of any sizes into passes of images of a similar (`equal_frames`: the same) number of patches.

    `fits` is an additional condition for images, longest last, to share a pass.
    """
    order = sorted(range(len(images)), key=lambda i: (images[i].merge_size, images[i].grid.area))
    group: list[int] = []
    for i in order:
        wider = [images[j] for j in (*group, i)]
        if group and not (_fit_together(wider, equal_frames) and fits(wider)):
            yield _pack(images, group)
            group = []
        group.append(i)
    if group:
        yield _pack(images, group)


def _fit_together(images: Sequence[PatchedImage], equal_frames: bool) -> bool:
    """Whether images, longest last, may share a pass."""
    longest, patches = images[-1].grid.area, sum(image.grid.area for image in images)
    if images[0].merge_size != images[-1].merge_size or patches > PATCHES_PER_PASS:
        return False
    padding = longest * len(images) - patches
    return padding == 0 if equal_frames else padding <= _LARGEST_PADDING * patches


def _pack(images: Sequence[PatchedImage], indices: Sequence[int]) -> VisionPass:
    frames = [images[i] for i in indices]
    lengths = np.array([frame.grid.area for frame in frames])
    offsets = np.arange(lengths.max())[None]
    slots = np.where(offsets < lengths[:, None], offsets + (np.cumsum(lengths) - lengths)[:, None], -1)  # [F, L]
    merged = frames[0].merge_size ** 2
    inputs: dict[str, Array] = {
        "patches": np.concatenate([frame.patches for frame in frames]),
        "positions": np.concatenate([patch_positions(frame.grid, frame.merge_size) for frame in frames]),
        "slots": slots,
        "places": np.flatnonzero(slots >= 0),
        "blocks": np.arange(lengths.sum()).reshape(-1, merged),
    }
    return VisionPass(tuple(indices), tuple(frame.tokens for frame in frames), inputs)


def check_precision(manifest: Manifest, precision: str | None, folder: Path) -> None:
    """Raises EngineError if an exported folder does not have the requested precision."""
    if precision is not None and precision != manifest.precision:
        raise EngineError(
            f"{folder} contains {manifest.precision}, but {precision} was requested; omit the precision, or export the "
            f"checkpoint in {precision}"
        )
