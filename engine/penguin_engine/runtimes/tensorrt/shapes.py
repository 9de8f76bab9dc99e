"""Shapes that TensorRT plans take: of the vision graph's inputs, and of the decoder's. Does not import tensorrt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from penguin_engine.export.manifest import DECODER, PROFILES, VISION, Manifest
from penguin_engine.runtimes.exported import TOKENS_PER_STEP
from penguin_models.errors import EngineError
from penguin_models.types import PatchedImage

PREFILL, DECODE = 0, 1
"""Indices of the decoder's profiles."""
SINGLE, BATCH = 0, 1
"""Indices of the vision graph's profiles: one frame of any size, or several small ones."""
BUCKET_TOKENS = 256
"""A decoding step is captured once for each so many tokens held, where the graph's shapes follow the cache's length."""
_SMALL_PATCHES, _SMALL_FRAMES = 512, 8

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRange:
    """Sizes of an input that a profile takes."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


ShapeProfile = dict[str, ShapeRange]


@dataclass(frozen=True)
class PlanLimits:
    """How large inputs may be.

    Attributes:
        max_tokens: longest cache; with the "fused" profile every cache takes memory for so many.
        max_patches: of the largest single frame; a memory holds one of 1920x1080 at 10,764.
    """

    max_tokens: int = 8192
    max_patches: int = 10_764

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max_tokens", self.max_tokens, BUCKET_TOKENS),
            ("max_patches", self.max_patches, _SMALL_PATCHES),
        ):
            if value < least or (name == "max_tokens" and value % BUCKET_TOKENS):
                multiple = f" and a multiple of {BUCKET_TOKENS}" if name == "max_tokens" else ""
                raise EngineError(f"{name} is {value}, it must be at least {least}{multiple}")


def vision_profiles(manifest: Manifest, limits: PlanLimits) -> list[ShapeProfile]:
    """Shapes of the vision graph's inputs: one frame of any size, and several small ones."""
    typical = min(1280, limits.max_patches)
    single = _vision_shapes(manifest, (1, 1), (1, typical), (1, limits.max_patches), limits.max_patches)
    small = (_SMALL_FRAMES, _SMALL_PATCHES)
    batch = _vision_shapes(manifest, (2, 1), (_SMALL_FRAMES, 80), small, _SMALL_FRAMES * _SMALL_PATCHES)
    return [single, batch]


def decoder_profiles(manifest: Manifest, limits: PlanLimits) -> list[ShapeProfile]:
    """Shapes of the decoder's inputs: for a prefill, and for a decoding step."""
    return [_decoder_shapes(manifest, limits, PREFILL), _decoder_shapes(manifest, limits, DECODE)]


def fits_vision_plan(images: Sequence[PatchedImage]) -> bool:
    """Whether images may go through the vision plan together."""
    return len(images) == 1 or (
        len(images) <= _SMALL_FRAMES and max(image.grid.area for image in images) <= _SMALL_PATCHES
    )


def check_patches(images: Sequence[PatchedImage], limits: PlanLimits, command: Callable[[int], str]) -> None:
    """Raises EngineError where an image is larger than the plan takes.

    Args:
        images: that go through the plan.
        limits: of the plan.
        command: builds the plan anew for images of so many patches.
    """
    largest = max((image for image in images), key=lambda image: image.grid.area, default=None)
    if largest is not None and largest.grid.area > limits.max_patches:
        tokens = limits.max_patches // largest.merge_size**2
        raise EngineError(
            f"an image of {largest.grid.area} patches is larger than the {limits.max_patches} that the plan takes; "
            f"build it again: {command(largest.grid.area)} - or lower the token budget to at most {tokens}, so that "
            "images are made smaller"
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


def _decoder_shapes(manifest: Manifest, limits: PlanLimits, kind: int) -> ShapeProfile:
    d = manifest.decoder
    new = (1, TOKENS_PER_STEP, TOKENS_PER_STEP) if kind == PREFILL else (1, 1, 1)
    shapes = {
        "embeddings": ShapeRange(*((n, d.hidden) for n in new)),
        "positions": ShapeRange(*((n,) for n in new)),
    }
    caches = [f"past_{name}_{layer}" for layer in range(d.layers) for name in ("key", "value")]
    if PROFILES[manifest.profile].cache == "buffer":
        buffer = (1, d.kv_heads, limits.max_tokens, d.head_dim)
        return shapes | dict.fromkeys(caches, ShapeRange(buffer, buffer, buffer))
    past = (BUCKET_TOKENS, max(BUCKET_TOKENS, limits.max_tokens // 2), limits.max_tokens)
    rows = ShapeRange(*((n, d.kv_heads, d.head_dim) for n in past))
    return shapes | {"past_mask": ShapeRange(*((n,) for n in past))} | dict.fromkeys(caches, rows)


def plan_shapes(manifest: Manifest, limits: PlanLimits) -> dict[str, Any]:
    """Everything about the shapes of plans, as plain types: by graph, the profiles; by input, least, typical, most."""
    by_graph = {VISION: vision_profiles(manifest, limits), DECODER: decoder_profiles(manifest, limits)}
    return {
        graph: [
            {name: [list(size) for size in astuple(sizes)] for name, sizes in profile.items()} for profile in profiles
        ]
        for graph, profiles in by_graph.items()
    }
