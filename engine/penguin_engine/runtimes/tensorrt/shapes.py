"""Input shapes that TensorRT plans accept, for the vision graph and the decoder. Does not import tensorrt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from penguin_engine.export.manifest import DECODER, VISION, Manifest
from penguin_engine.runtimes.exported import TOKENS_PER_STEP
from penguin_models.errors import EngineError
from penguin_models.types import PatchedImage

PREFILL, DECODE = 0, 1
"""Indices of the decoder's optimisation profiles."""
SINGLE, BATCH = 0, 1
"""Indices of the vision graph's optimisation profiles: one frame of any size, or several small ones."""
BUCKET_TOKENS = 256
"""Cache lengths are rounded up to a multiple of this, so that few shapes occur; each multiple is recorded."""
_SMALL_PATCHES, _SMALL_FRAMES = 512, 8
_LARGEST = 2**20
"""Most tokens and patches: TensorRT's messages about sizes that overflow name no limit."""

Shape = tuple[int, ...]


class ShapeRange(NamedTuple):
    """Sizes of an input within an optimisation profile."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


ShapeProfile = dict[str, ShapeRange]


@dataclass(frozen=True)
class PlanLimits:
    """Largest inputs of a plan."""

    max_tokens: int = 8192  # longest cache, a multiple of 256
    max_patches: int = 10_764  # patches of the largest frame; the default is a frame of 1920x1080 in the memory

    def __post_init__(self) -> None:
        if not BUCKET_TOKENS <= self.max_tokens <= _LARGEST or self.max_tokens % BUCKET_TOKENS:
            raise EngineError(
                f"max_tokens is {self.max_tokens}, it must be a multiple of {BUCKET_TOKENS} from {BUCKET_TOKENS} to "
                f"{_LARGEST}"
            )
        if not _SMALL_PATCHES <= self.max_patches <= _LARGEST:
            raise EngineError(f"max_patches is {self.max_patches}, it must be from {_SMALL_PATCHES} to {_LARGEST}")


def vision_profiles(manifest: Manifest, limits: PlanLimits) -> list[ShapeProfile]:
    """Returns the shapes of the vision graph's inputs by profile (`SINGLE`, `BATCH`)."""
    typical = min(1280, limits.max_patches)
    single = _vision_shapes(manifest, (1, 1), (1, typical), (1, limits.max_patches), limits.max_patches)
    small = (_SMALL_FRAMES, _SMALL_PATCHES)
    batch = _vision_shapes(manifest, (2, 1), (_SMALL_FRAMES, 80), small, _SMALL_FRAMES * _SMALL_PATCHES)
    return [single, batch]


def decoder_profiles(manifest: Manifest, limits: PlanLimits) -> list[ShapeProfile]:
    """Returns the shapes of the decoder's inputs by profile (`PREFILL`, `DECODE`)."""
    return [_decoder_shapes(manifest, limits, TOKENS_PER_STEP), _decoder_shapes(manifest, limits, 1)]


def plan_shapes(manifest: Manifest, limits: PlanLimits) -> dict[str, Any]:
    """Returns all shapes as plain JSON types: by graph a list of profiles, by input [minimum, optimum, maximum]."""
    by_graph = {VISION: vision_profiles(manifest, limits), DECODER: decoder_profiles(manifest, limits)}
    return {
        graph: [{name: [list(size) for size in sizes] for name, sizes in profile.items()} for profile in profiles]
        for graph, profiles in by_graph.items()
    }


def fits_vision_plan(images: Sequence[PatchedImage]) -> bool:
    """Returns whether images may go through the vision plan together."""
    return len(images) == 1 or (
        len(images) <= _SMALL_FRAMES and max(image.grid.area for image in images) <= _SMALL_PATCHES
    )


def check_patches(images: Sequence[PatchedImage], limits: PlanLimits, command: Callable[[int], str]) -> None:
    """Raises EngineError if an image is too large; `command` returns how to build the plan for a number of patches."""
    largest = max(images, key=lambda image: image.grid.area, default=None)
    if largest is not None and largest.grid.area > limits.max_patches:
        tokens = limits.max_patches // largest.merge_size**2
        raise EngineError(
            f"an image of {largest.grid.area} patches exceeds the plan's limit of {limits.max_patches}; build it "
            f"again: {command(largest.grid.area)} - or make images smaller by a token budget of at most {tokens}"
        )


def _vision_shapes(manifest: Manifest, least: Shape, typical: Shape, most: Shape, patches: int) -> ShapeProfile:
    counts = (least[0] * least[1], typical[0] * typical[1], patches)
    return {
        "patches": ShapeRange(*((n, manifest.patch_dim) for n in counts)),
        "positions": ShapeRange(*((n, 2) for n in counts)),
        "slots": ShapeRange(least, typical, most),
        "places": ShapeRange(*((n,) for n in counts)),
        "blocks": ShapeRange((1, 1), (max(1, counts[1] // 4), 4), (patches, 4)),
    }


def _decoder_shapes(manifest: Manifest, limits: PlanLimits, most_new_tokens: int) -> ShapeProfile:
    d = manifest.decoder
    new = (1, most_new_tokens, most_new_tokens)
    shapes = {"embeddings": ShapeRange(*((n, d.hidden) for n in new)), "positions": ShapeRange(*((n,) for n in new))}
    caches = [f"past_{name}" for name in d.cache_names]
    past = (BUCKET_TOKENS, max(BUCKET_TOKENS, limits.max_tokens // 2), limits.max_tokens)
    rows = ShapeRange(*((n, d.kv_heads, d.head_dim) for n in past))
    return shapes | {"past_mask": ShapeRange(*((n,) for n in past))} | dict.fromkeys(caches, rows)
