"""What runtimes of exported folders share: embeddings of prompts, frames packed for the vision graph, caches. No torch.

Axes: N patches of all frames; F frames; L patches of the longest frame; T visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penguin_engine.export.manifest import EMBEDDINGS, Manifest
from penguin_engine.runtimes.base import PromptSegment, check_fits, segment_length
from penguin_models.errors import EngineError
from penguin_models.types import Int64Array, PatchedImage, Size

Array = npt.NDArray[Any]
STORAGE: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
"""numpy's type for numbers of a graph's type; it has no bfloat16 of its own, and here nobody calculates with it."""
PATCHES_PER_PASS = 4096
"""Patches that go through the vision graph together: bounds its memory, however many frames there are."""
TOKENS_PER_STEP = 512
"""New tokens that go through the decoder together: bounds the attention scores to this times the cache."""
_LARGEST_PADDING = 0.25
"""Frames go through together while padding to the longest adds at most this share."""


@dataclass(frozen=True, eq=False)
class HostVisualTokens:
    """Visual tokens [length, hidden] in host memory, in the decoder's type."""

    embeddings: Array

    @property
    def length(self) -> int:
        """Visual tokens."""
        return int(self.embeddings.shape[0])


class ReservedCache:
    """What caches in memory that is reserved once have in common: how much they hold, and what still fits."""

    def __init__(self, max_length: int):
        self._max_length = max_length
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._length

    def truncate(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        assert 0 <= length <= self._length, f"cannot truncate {self._length} tokens to {length}"
        self._length = length

    def _count(self, parts: Sequence[PromptSegment]) -> int:
        """Tokens that are to be appended, of which there are some, and which fit."""
        new = sum(segment_length(part) for part in parts)
        check_fits(self._length + new, self._max_length, "the cache")
        assert new > 0, "nothing to append"
        return new


class EmbeddingTable:
    """The embedding table, mapped from its file: only rows that are used take memory."""

    def __init__(self, folder: Path, manifest: Manifest):
        shape = (manifest.decoder.vocab, manifest.decoder.hidden)
        self._rows = np.memmap(folder / EMBEDDINGS, STORAGE[manifest.dtype], mode="r", shape=shape)

    def embed(self, parts: Sequence[PromptSegment]) -> Array:
        """Embeddings of text and visual tokens in turn: [tokens, hidden]."""
        return np.concatenate([self._part(part) for part in parts if segment_length(part)])

    def _part(self, part: PromptSegment) -> Array:
        if isinstance(part, HostVisualTokens):
            return part.embeddings
        assert isinstance(part, Sequence), f"a part of another runtime: {type(part).__name__}"
        return self.rows(part)

    def rows(self, ids: Sequence[int]) -> Array:
        """Embeddings of token ids: [tokens, hidden]."""
        return np.asarray(self._rows[np.asarray(ids, dtype=np.int64)])


@dataclass(frozen=True)
class Piece:
    """Some tokens of one part of a prompt, and where they stand in their chunk.

    Attributes:
        part: token ids or visual tokens.
        start: first token of the part.
        length: tokens.
        offset: in the chunk.
    """

    part: PromptSegment
    start: int
    length: int
    offset: int


def chunks(parts: Sequence[PromptSegment], size: int) -> Iterator[list[Piece]]:
    """Cuts a prompt into chunks of at most so many tokens, without looking into its parts."""
    chunk: list[Piece] = []
    filled = 0
    for part in parts:
        start, rest = 0, segment_length(part)
        while rest:
            length = min(rest, size - filled)
            chunk.append(Piece(part, start, length, filled))
            start, rest, filled = start + length, rest - length, filled + length
            if filled == size:
                yield chunk
                chunk, filled = [], 0
    if chunk:
        yield chunk


@dataclass(frozen=True, eq=False)
class VisionPass:
    """Frames that go through the vision graph together, and the graph's inputs.

    Attributes:
        indices: which of the caller's images.
        tokens: visual tokens of each.
        inputs: by name; see graphs/vision.py.
    """

    indices: tuple[int, ...]
    tokens: tuple[int, ...]
    inputs: dict[str, Array]


def vision_passes(
    images: Sequence[PatchedImage],
    equal_frames: bool,
    fits: Callable[[Sequence[PatchedImage]], bool] = lambda images: True,
) -> Iterator[VisionPass]:
    """Packs images into passes.

    Args:
        images: of any sizes.
        equal_frames: whether all frames of a pass must have the same number of patches; else of similar size.
        fits: what else must hold for images, the longest last, to go through together.
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


def encode_in_passes(
    images: Sequence[PatchedImage], equal_frames: bool, run: Callable[[dict[str, Array]], Array]
) -> list[HostVisualTokens]:
    """Runs the vision graph over all images and hands each its own tokens, in the order of the images."""
    encoded: list[HostVisualTokens | None] = [None] * len(images)
    for vision_pass in vision_passes(images, equal_frames):
        tokens = run(vision_pass.inputs)
        ends = np.cumsum(vision_pass.tokens)
        for index, end, count in zip(vision_pass.indices, ends, vision_pass.tokens, strict=True):
            # Copied: a view would keep the tokens of all images of the pass alive.
            encoded[index] = HostVisualTokens(tokens[end - count : end].copy())
    return [tokens for tokens in encoded if tokens is not None]


def _fit_together(images: Sequence[PatchedImage], equal_frames: bool) -> bool:
    """Whether images, the longest last, may go through together."""
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


@lru_cache(maxsize=256)
def patch_positions(grid: Size, merge_size: int) -> Int64Array:
    """Row and column of each patch of a frame in block order: int64 [N, 2]."""
    m = merge_size
    positions = np.stack(np.meshgrid(np.arange(grid.height), np.arange(grid.width), indexing="ij"), axis=-1)
    blocks = positions.reshape(grid.height // m, m, grid.width // m, m, 2).swapaxes(1, 2)
    return np.ascontiguousarray(blocks.reshape(-1, 2))


def check_precision(manifest: Manifest, precision: str | None, folder: Path) -> None:
    """Raises EngineError where an exported folder is of another precision than asked for."""
    if precision is not None and precision != manifest.precision:
        raise EngineError(
            f"{folder} holds {manifest.precision}, {precision} was asked for; leave the precision out, or export the "
            "checkpoint in that one"
        )
