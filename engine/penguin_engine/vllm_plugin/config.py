"""The configuration as vLLM reads it: that of the decoder, with the encoder's and `<image>` as further fields."""

from transformers import Qwen3Config

from penguin_models.config import MODEL_TYPE


class PenguinVLConfig(Qwen3Config):
    """A released `config.json`; its fields are those of a Qwen3 decoder."""

    model_type = MODEL_TYPE
