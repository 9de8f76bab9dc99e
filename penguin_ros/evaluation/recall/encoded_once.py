"""A runtime that encodes equal pictures once: many questions about a recording look at the same frames."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from penguin_engine.runtimes.base import KVCache, Runtime, VisualTokens
from penguin_models.types import PatchedImage


class EncodedOnce:
    """A runtime in front of another one, which does the work; visual tokens are held as long as it lives."""

    def __init__(self, runtime: Runtime):
        self._runtime, self.info = runtime, runtime.info
        self._encoded: dict[bytes, VisualTokens] = {}

    def encode(self, images: Sequence[PatchedImage]) -> list[VisualTokens]:
        """Returns the visual tokens of each image."""
        keys = [blake2b(image.patches.tobytes(), key=repr(image.grid).encode()).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._encoded}
        if new:
            self._encoded |= zip(new, self._runtime.encode(list(new.values())), strict=True)
        return [self._encoded[key] for key in keys]

    def open_cache(self, max_length: int) -> KVCache:
        """Opens a cache of the runtime."""
        return self._runtime.open_cache(max_length)

    def synchronize(self) -> None:
        """Waits for the runtime."""
        self._runtime.synchronize()

    def close(self) -> None:
        """Forgets all visual tokens; the runtime stays open."""
        self._encoded.clear()
