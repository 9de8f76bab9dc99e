"""Sizes of a model, read from and written to the released `config.json` and `preprocessor_config.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penguin_models.errors import CheckpointError

MODEL_TYPE = "penguinvl_qwen3"
ENCODER_MODEL_TYPE = "penguinvl_vision_encoder"
ENCODER_KEY = "vision_encoder_config"
CHECKPOINT_FILES = ["*.json", "*.safetensors", "merges.txt"]
"""What a checkpoint is made of; other files of a repository (code, pictures) are never downloaded."""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a Penguin-Encoder; the defaults are the released one (Qwen3-0.6B's shape).

    Attributes:
        hidden_size: width of the patch features.
        intermediate_size: width of the gated feed-forward layer.
        num_hidden_layers: transformer layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; divides the query heads.
        head_dim: width of one head; even, since each frequency turns a pair.
        patch_size: side of a square patch in pixels.
        num_channels: colours.
        rms_norm_eps: epsilon of every RMSNorm.
        rope_theta: base of the rotary frequencies.
    """

    hidden_size: int = 1024
    intermediate_size: int = 3072
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int = 8
    head_dim: int = 128
    patch_size: int = 14
    num_channels: int = 3
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"encoder: {self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} "
                "key-value heads; the first must be a multiple of the second"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"encoder: head_dim {self.head_dim} is odd; rotary embeddings need an even one")

    @property
    def patch_dim(self) -> int:
        """Numbers in one flattened patch."""
        return self.num_channels * self.patch_size**2

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderConfig:
        """Reads the `vision_encoder_config` part of a released configuration, or a Qwen3 configuration."""
        if not isinstance(values, dict):
            raise CheckpointError(f"encoder configuration is a {type(values).__name__}, not an object")
        if values.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"encoder: activation {values['hidden_act']!r} is not supported, only 'silu' is")
        if values.get("attention_bias"):
            raise CheckpointError("encoder: attention_bias is true, which no Penguin-Encoder has")
        _check_sizes("encoder configuration", values, list(cls.__dataclass_fields__)[:8])
        _check_positive("encoder configuration", values, ["rms_norm_eps", "rope_theta"])
        if values.get("num_channels", 3) != 3:
            raise CheckpointError(f"encoder configuration: num_channels is {values['num_channels']}, images have 3")
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        known["rope_theta"] = float(_rope_theta(values))
        missing = [n for n in ("hidden_size", "num_hidden_layers", "num_attention_heads") if n not in known]
        if missing:
            raise CheckpointError(f"encoder configuration lacks {', '.join(missing)}")
        return cls(**known)


@dataclass(frozen=True)
class PenguinConfig:
    """Shape of a whole model.

    Attributes:
        encoder: shape of the vision encoder.
        decoder: the decoder's fields as in a Qwen3 `config.json`.
        image_token_id: id of `<image>`, whose embeddings visual tokens replace.
        raw: every other field of the file, kept so that saving loses nothing.
    """

    encoder: EncoderConfig
    decoder: dict[str, Any]
    image_token_id: int
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def hidden_size(self) -> int:
        """Width of the decoder's embeddings."""
        return int(self.decoder["hidden_size"])

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return int(self.decoder["vocab_size"])

    @property
    def context_length(self) -> int:
        """Longest sequence of the decoder, in tokens."""
        return int(self.decoder["max_position_embeddings"])

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether `lm_head` is the embedding table."""
        return bool(self.decoder.get("tie_word_embeddings", False))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, as far as the configuration names them."""
        eos = self.raw.get("eos_token_id")
        return tuple(int(i) for i in (eos if isinstance(eos, list) else [eos]) if i is not None and _is_whole(i, 0))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], encoder: dict[str, Any] | None = None) -> PenguinConfig:
        """Reads a released configuration.

        Args:
            raw: content of `config.json`.
            encoder: the encoder's configuration where the file does not hold it.

        Raises:
            CheckpointError: the file is of another model, or lacks what is needed.
        """
        if raw.get("model_type") != MODEL_TYPE:
            raise CheckpointError(
                f"config.json is of a {raw.get('model_type')!r} model; a Penguin-VL checkpoint says {MODEL_TYPE!r}"
            )
        encoder = raw.get(ENCODER_KEY) or encoder
        if encoder is None:
            raise CheckpointError(f"config.json has no {ENCODER_KEY!r}, and no encoder checkpoint supplies it")
        missing = [n for n in (*DECODER_FIELDS[:5], "image_token_index") if raw.get(n) is None]
        if missing:
            raise CheckpointError(f"config.json lacks {', '.join(missing)}")
        _check_sizes("config.json", raw, DECODER_FIELDS[:8])
        _check_positive("config.json", raw, ["rms_norm_eps", "rope_theta"])
        if raw.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"config.json: hidden_act is {raw['hidden_act']!r}, Qwen3 decoders use 'silu'")
        if not _is_whole(raw["image_token_index"], 0):
            raise CheckpointError(f"config.json: image_token_index is {raw['image_token_index']!r}, not a token id")
        decoder = {name: raw[name] for name in DECODER_FIELDS if raw.get(name) is not None}
        return cls(
            EncoderConfig.from_dict(encoder), decoder, int(raw["image_token_index"]), raw | {ENCODER_KEY: encoder}
        )

    def to_dict(self, dtype: str) -> dict[str, Any]:
        """The released `config.json`, with the encoder inside and `dtype` as the type of the weights."""
        assert ENCODER_KEY in self.raw
        kept = {name: value for name, value in self.raw.items() if name != "dtype"}  # transformers 5's torch_dtype
        return kept | {"vision_encoder": None, "torch_dtype": dtype}

    @classmethod
    def create(cls, encoder: EncoderConfig, decoder: dict[str, Any], image_token_id: int, **raw: Any) -> PenguinConfig:
        """A new configuration in the released form (for models that are trained or made here)."""
        encoder_dict = {"model_type": ENCODER_MODEL_TYPE, "hidden_act": "silu", **vars(encoder)}
        return cls.from_dict(
            {
                "architectures": ["PenguinVLQwen3ForCausalLM"],
                "model_type": MODEL_TYPE,
                "vision_projector_type": "mlp2x_gelu",
                "vision_encoder": None,
                "image_token_index": image_token_id,
                "vision_hidden_size": encoder.hidden_size,
                ENCODER_KEY: encoder_dict,
                **decoder,
                **raw,
            }
        )


# The first five must be in every file; the first eight are sizes.
DECODER_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "attention_dropout",
    "tie_word_embeddings",
    "initializer_range",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
)


@dataclass(frozen=True)
class ImageConfig:
    """How pixels become patches, from `preprocessor_config.json`.

    Attributes:
        patch_size: side of a square patch in pixels.
        min_tokens: the allocation keeps a frame at 1.5 times this or more.
        max_tokens: visual tokens of one prompt unless asked otherwise.
        mean: per colour, of values in [0, 1].
        std: per colour.
    """

    patch_size: int = 14
    min_tokens: int = 16
    max_tokens: int = 16384
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ImageConfig:
        """Reads a released `preprocessor_config.json`."""
        if raw.get("resample", BICUBIC) != BICUBIC:
            raise CheckpointError(f"preprocessor_config.json: resample {raw['resample']} is not bicubic ({BICUBIC})")
        sizes = ("patch_size", "min_tokens", "max_tokens")
        _check_sizes("preprocessor_config.json", raw, sizes)
        values: dict[str, Any] = {name: raw[name] for name in sizes if raw.get(name) is not None}
        for name in ("mean", "std"):
            given = raw.get(f"image_{name}")
            if given is None:
                continue
            numbers = isinstance(given, list) and all(isinstance(v, int | float) for v in given)
            if not numbers or len(given) != 3 or (name == "std" and min(given) <= 0):
                raise CheckpointError(f"preprocessor_config.json: image_{name} is {given!r}, it must be 3 numbers")
            values[name] = tuple(float(v) for v in given)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The released `preprocessor_config.json`."""
        return {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(self.mean),
            "image_processor_type": "PenguinVLImageProcessor",
            "image_std": list(self.std),
            "max_tokens": self.max_tokens,
            "min_tokens": self.min_tokens,
            "patch_size": self.patch_size,
            "resample": BICUBIC,
            "rescale_factor": 1 / 255,
        }


BICUBIC = 3  # Pillow's number, used by the files


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: the file is missing or is not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise CheckpointError(f"{path} is missing; a checkpoint folder needs it") from err
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as err:
        raise CheckpointError(f"{path} cannot be read as JSON: {err}") from err
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not an object")
    return values


def _check_sizes(where: str, values: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if values.get(name) is not None and not _is_whole(values[name], 1):
            raise CheckpointError(f"{where}: {name} is {values[name]!r}, it must be a whole number of at least 1")


def _check_positive(where: str, values: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        value = values.get(name)
        if value is not None and (not isinstance(value, int | float) or value <= 0):
            raise CheckpointError(f"{where}: {name} is {value!r}, it must be a number above 0")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _rope_theta(values: dict[str, Any]) -> float:
    """Qwen3 files say `rope_theta`, those written by transformers 5 put it into `rope_parameters`."""
    nested = values.get("rope_parameters") or {}
    return float(nested.get("rope_theta", values.get("rope_theta", 1e6)))
