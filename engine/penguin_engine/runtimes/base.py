"""The `Runtime` protocol: encode images, and extend a KV cache with text and visual tokens.

torch, ONNX Runtime and TensorRT implement it, and nothing above it sees their types. Sampling, stopping and streaming
are written once, in scene/generation.py.

Threads: a runtime and its caches are not thread-safe. Calls may come from different threads but must not overlap.
`VisualTokens` may be dropped in any thread at any time, even while the runtime works.

Using a runtime or cache after `close`, or with a segment of another runtime, is a bug in the caller and fails an
assertion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from penguin_models.errors import ContextLengthError, NonFiniteError
from penguin_models.types import Float32Array, PatchedImage


@dataclass(frozen=True)
class RuntimeInfo:
    """Properties of a runtime that never change."""

    name: str  # "torch", "onnx" or "tensorrt"
    device: str  # for example "cpu" or "cuda:0"
    dtype: str  # type or quantisation of the weights, for example "float16" or "int4"
    context_length: int  # longest cache in tokens
    vocab_size: int  # length of the logits


class VisualTokens(Protocol):
    """An encoded image: embeddings that stay on the runtime's device until the last reference is dropped."""

    @property
    def length(self) -> int:
        """Number of visual tokens."""
        ...

    def part(self, start: int, stop: int) -> VisualTokens:
        """Returns the tokens from `start` to before `stop`; shares the memory."""
        ...


TokenIds: TypeAlias = Sequence[int]
PromptSegment: TypeAlias = TokenIds | VisualTokens


class KVCache(ABC):
    """The keys and values of one token sequence, with memory for a fixed maximum length.

    This base class counts cached tokens, checks that new ones fit and that logits are finite, and undoes an append that
    failed. `dtype` is that of the runtime's info.
    """

    def __init__(self, max_length: int, dtype: str):
        self.length = 0  # number of cached tokens
        self._max_length, self._dtype = max_length, dtype
        self._closed = False

    def append(self, segments: Sequence[PromptSegment]) -> Float32Array:
        """Extends the cached sequence and returns when the result is available.

        How a prompt is cut into segments and calls does not change the result, apart from rounding.

        Args:
            segments: Token ids and visual tokens of the same runtime, in order; at least one token in total.

        Returns:
            Logits after the last token, float32 [vocab]; the caller owns the array.

        Raises:
            ContextLengthError: The segments do not fit; nothing was appended.
            DeviceMemoryError, EngineError: The device failed or has too little memory; nothing was appended.
            NonFiniteError: No token can be chosen from the logits. The memory may hold NaN, which some kernels read
                even where it is masked: do not use this cache any more.
        """
        assert not self._closed, "the cache is closed"
        before, new = self.length, sum(segment_length(segment) for segment in segments)
        check_fits(before + new, self._max_length, "the cache")
        assert new > 0, "nothing to append"
        try:
            logits = self._extend(segments, new)
            if not np.isfinite(logits.max()):  # NaN if any logit is; a single -inf is a token that is never chosen
                raise NonFiniteError(
                    f"the model's logits are not finite in {self._dtype}: check its weights for NaN and infinity, and "
                    "run or export it in bfloat16 or float32 if they overflow float16"
                )
            return logits
        except BaseException:
            self.truncate(before)
            raise

    def truncate(self, length: int) -> None:
        """Drops all tokens after the first `length`, which must not exceed the current length; costs nothing."""
        assert 0 <= length <= self.length, f"cannot truncate {self.length} tokens to {length}"
        self.length = length

    def close(self) -> None:
        """Frees the cache's memory; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._free()

    @abstractmethod
    def _extend(self, segments: Sequence[PromptSegment], new: int) -> Float32Array:
        """Appends `new` tokens, adds them to `length` and returns the logits after the last one."""

    @abstractmethod
    def _free(self) -> None: ...


class Runtime(Protocol):
    """A loaded model on one device."""

    info: RuntimeInfo  # also available after `close`

    def encode(self, images: Sequence[PatchedImage]) -> Sequence[VisualTokens]:
        """Encodes images to visual tokens; may return while the device still works (see `synchronize`).

        Args:
            images: Patches of images of any sizes, float32 [patches, patch_dim] each; may be empty.

        Returns:
            Visual tokens of each image, in order. They do not depend on which images are encoded together, apart from
            rounding.

        Raises:
            DeviceMemoryError, EngineError: An image is larger than the runtime supports, or device memory is too small.
        """
        ...

    def open_cache(self, max_length: int) -> KVCache:
        """Opens an empty cache for at most `max_length` tokens; any number may be open, the weights are shared.

        Raises:
            ContextLengthError: max_length exceeds `info.context_length`.
            EngineError: The device has too little memory.
        """
        ...

    def synchronize(self) -> None:
        """Waits until the device has finished all work of this runtime."""
        ...

    def close(self) -> None:
        """Frees weights, engines and device memory; calling it again does nothing.

        Close all caches and drop all visual tokens first: their memory is freed with them, not by the runtime.
        """
        ...


def segment_length(segment: PromptSegment) -> int:
    """Returns the number of tokens of a segment."""
    return len(segment) if isinstance(segment, Sequence) else segment.length


def part_of(segment: PromptSegment, start: int, stop: int) -> PromptSegment:
    """Returns the tokens of a segment from `start` to before `stop`."""
    return segment[start:stop] if isinstance(segment, Sequence) else segment.part(start, stop)


def interleave(texts: Sequence[TokenIds], visuals: Sequence[VisualTokens]) -> list[PromptSegment]:
    """Returns the segments of a prompt whose text was split at its images into one more text than images."""
    segments: list[PromptSegment] = [texts[0]]
    for visual, text in zip(visuals, texts[1:], strict=True):
        segments += [visual, text]
    return segments


def check_fits(tokens: int, limit: int, subject: str) -> None:
    """Raises ContextLengthError if `subject` needs more tokens than the limit."""
    if tokens > limit:
        raise ContextLengthError(
            f"{subject} needs {tokens} tokens, {tokens - limit} more than the {limit} that fit; "
            "shorten the question, lower the token budget or the number of new tokens"
        )
