"""What every runtime can do: encode images, and extend a KV cache with text and visual tokens.

Torch, ONNX Runtime and TensorRT stand behind these few operations; nothing above them sees their types. Sampling,
stopping and streaming are written once, in generation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from penguin_models.errors import ContextLengthError
from penguin_models.types import Float32Array, PatchedImage


@dataclass(frozen=True)
class RuntimeInfo:
    """What a runtime is.

    Attributes:
        name: "torch", "onnx" or "tensorrt".
        device: for example "cpu" or "cuda:0".
        dtype: type of the weights.
        context_length: longest cache in tokens.
        vocab_size: length of the logits.
    """

    name: str
    device: str
    dtype: str
    context_length: int
    vocab_size: int


class VisualTokens(Protocol):
    """Encoded image; stays on the runtime's device."""

    @property
    def length(self) -> int:
        """Visual tokens."""
        ...


TokenIds: TypeAlias = Sequence[int]
PromptSegment: TypeAlias = TokenIds | VisualTokens


class KVCache(Protocol):
    """The KV cache of one scene."""

    @property
    def length(self) -> int:
        """Tokens held."""
        ...

    def append(self, parts: Sequence[PromptSegment]) -> Float32Array:
        """Extends the cache.

        Returns:
            Logits after the last token: float32 [vocab].

        Raises:
            ContextLengthError: the parts do not fit; the cache is as before.
        """
        ...

    def truncate(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        ...

    def close(self) -> None:
        """Frees the memory; the cache cannot be used again."""
        ...


class Runtime(Protocol):
    """A loaded model."""

    @property
    def info(self) -> RuntimeInfo:
        """What this runtime is."""
        ...

    def encode(self, images: Sequence[PatchedImage]) -> list[Any]:
        """Visual tokens of each image; they do not depend on which images are encoded together."""
        ...

    def open_cache(self, max_length: int) -> KVCache:
        """An empty cache for at most so many tokens; many may be open, the weights are shared.

        Raises:
            ContextLengthError: max_length is above the model's context length.
        """
        ...

    def synchronize(self) -> None:
        """Returns when everything that was asked for is done; `encode` may return while the device works."""
        ...


def segment_length(part: PromptSegment) -> int:
    """Tokens of a part."""
    return len(part) if isinstance(part, Sequence) else part.length


def interleave(texts: Sequence[TokenIds], visuals: Sequence[VisualTokens]) -> list[PromptSegment]:
    """The parts of a prompt whose text was cut at its images: one more text than visuals."""
    assert len(texts) == len(visuals) + 1, (len(texts), len(visuals))
    parts: list[PromptSegment] = [texts[0]]
    for visual, text in zip(visuals, texts[1:], strict=True):
        parts += [visual, text]
    return parts


def check_fits(tokens: int, limit: int, what: str) -> None:
    """Raises ContextLengthError where tokens exceed a limit, saying by how many."""
    if tokens > limit:
        raise ContextLengthError(
            f"{what} needs {tokens} tokens, {tokens - limit} more than the {limit} there is room for; "
            "shorten the question, lower the token budget or the number of new tokens"
        )
