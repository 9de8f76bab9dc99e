"""The settings of a stage's model: where its weights come from, and the shapes of those that are new."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from penguin_training.settings.types import STRICT, Above, Name, Positive


@dataclass(frozen=True, config=STRICT)
class NewLanguageModel:
    """A Qwen3 decoder that starts from nothing.

    Attributes:
        tokenizer: folder that `penguin-vl prepare tokenizer` wrote.
        hidden_size: width of the embeddings.
        intermediate_size: width of the gated feed-forward layer.
        num_hidden_layers: transformer layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; divides the query heads.
        head_dim: width of one head.
        max_position_embeddings: longest sequence in tokens.
        rope_theta: base of the rotary frequencies.
        initializer_range: standard deviation of the first weights.
        tie_word_embeddings: whether the output matrix is the embedding table.
    """

    tokenizer: Name
    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_dim: Positive
    max_position_embeddings: Positive = 8192
    rope_theta: Above = 1e6
    initializer_range: Above = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: rotary embeddings turn pairs")


@dataclass(frozen=True, config=STRICT)
class NewModel:
    """A Penguin-VL model made of a text-only LLM and an encoder; the projector starts from nothing.

    Attributes:
        llm: Qwen3 checkpoint (folder or hub repository) that becomes the decoder, with its tokenizer.
        encoder_llm: Qwen3 checkpoint whose layers become the encoder; `llm` itself if not given.
        encoder_layers: take only the first so many layers; all if not given.
        encoder_init: "llm", or "random" for an encoder of the same shape that starts from nothing.
        min_tokens: visual tokens below which the allocation does not shrink a frame (times 1.5).
        max_tokens: visual tokens of one prompt at inference, unless asked otherwise.
    """

    llm: Name
    encoder_llm: Name | None = None
    encoder_layers: Positive | None = None
    encoder_init: Literal["llm", "random"] = "llm"
    min_tokens: Positive = 16
    max_tokens: Positive = 16384


@dataclass(frozen=True, config=STRICT)
class ModelSettings:
    """What training starts from: exactly one of the three.

    Attributes:
        start: Penguin-VL checkpoint (folder or hub repository), for example that of the stage before; in a text
            stage a Qwen3 checkpoint.
        new_model: a Penguin-VL model made of an LLM.
        new_language_model: a decoder from nothing, in a text stage.
    """

    start: Name | None = None
    new_model: NewModel | None = None
    new_language_model: NewLanguageModel | None = None

    def __post_init__(self) -> None:
        given = [n for n in ("start", "new_model", "new_language_model") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of start, new_model and new_language_model must be given, not {given or 'none'}"
            )
