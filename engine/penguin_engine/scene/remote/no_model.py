"""What stands in for a runtime and a processor where only a server has the model: nothing is encoded or tokenised."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import BPE

from penguin_engine.runtimes.base import KVCache, PromptSegment, RuntimeInfo, VisualTokens
from penguin_models.config import ImageConfig
from penguin_models.processor import Processor
from penguin_models.types import Float32Array, PatchedImage

_ANY_LENGTH = 2**31 - 1


class NoModel:
    """A runtime without a model: sessions on it have a memory, and a cache that stays empty."""

    def __init__(self, base_url: str, context_length: int | None):
        """Sets what diagnostics show; `context_length` is the server's in tokens, None if it does not say."""
        self.info = RuntimeInfo("openai", base_url, "", context_length or _ANY_LENGTH, 0)

    def encode(self, images: Sequence[PatchedImage]) -> Sequence[VisualTokens]:
        """Is never called."""
        raise AssertionError("there is no local model")

    def open_cache(self, max_length: int) -> KVCache:
        """Returns an empty cache."""
        return _NoCache(max_length, "")

    def synchronize(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class _NoCache(KVCache):
    def _extend(self, segments: Sequence[PromptSegment], new: int) -> Float32Array:
        raise AssertionError("there is no local model")

    def _free(self) -> None:
        pass


def processor_without_tokens() -> Processor:
    """Returns a processor with the image sizes of the released models and an empty vocabulary: servers count tokens."""
    return Processor(Tokenizer(BPE()), ImageConfig(), image_token_id=0, end_token_ids=())
