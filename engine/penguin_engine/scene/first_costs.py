"""What a model costs on this machine, measured once when it has been loaded, so that a pace knows it from the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.step_cost import StepCost
from penguin_models.errors import DeviceMemoryError, EngineError
from penguin_models.images import patch_image
from penguin_models.processor import Processor
from penguin_models.types import Size

LIMIT_S = 3.0
"""Nothing begins that is expected to end later than this; the smallest operation of each kind runs in any case."""
_CHUNKS = 1, 16, 64, 256
_IMAGES = (4, 6), (8, 12), (16, 24)
"""Sides of images in visual tokens; the smallest has the floor of the allocation rule."""
_GROWTH = 4
"""The next larger operation is expected to take at most this multiple of the last."""


def measure(runtime: Runtime, processor: Processor, pace: Pace, config: MemoryConfig) -> None:
    """Lets a pace learn what tokens and images of several sizes cost, as far as the time permits."""
    start_s = pace.clock()
    token = processor.encode_text("a")[0]
    cache = runtime.open_cache(1 + sum(_CHUNKS))

    def encode(size: Size) -> None:
        rgb = np.zeros((*size, 3), np.uint8)
        runtime.encode([patch_image(rgb, size, config.merge_size, processor.images)])
        runtime.synchronize()

    try:
        chunks = [(tokens, partial(cache.append, [[token] * tokens])) for tokens in _CHUNKS]
        _learn(pace.append, chunks, pace.clock, start_s + LIMIT_S / 2)
    finally:
        cache.close()
    images = [
        (rows * columns * config.merge_size**2, partial(encode, Size(rows * config.factor, columns * config.factor)))
        for rows, columns in _IMAGES
    ]
    _learn(pace.encode, images, pace.clock, start_s + LIMIT_S)


def _learn(
    cost: StepCost, operations: Sequence[tuple[int, Callable[[], object]]], clock: Callable[[], float], end_s: float
) -> None:
    """Measures operations of growing size until the time is up, or one is larger than the runtime supports."""
    first_s = clock()
    operations[0][1]()  # may reserve memory or compile something
    last_s = clock() - first_s
    if clock() + last_s > end_s:
        cost.observe(operations[0][0], last_s)
        return
    last_s /= _GROWTH
    for size, operation in operations:
        start_s = clock()
        if start_s + _GROWTH * last_s > end_s:
            return
        try:
            operation()
        except (EngineError, DeviceMemoryError):
            if size == operations[0][0]:
                raise
            return
        last_s = clock() - start_s
        cost.observe(size, last_s)
