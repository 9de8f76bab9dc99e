"""Sizes of a model, read from and written to the released `config.json` and `preprocessor_config.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penguin_models.errors import CheckpointError

MODEL_TYPE = "penguinvl_qwen3"
ENCODER_MODEL_TYPE = "penguinvl_vision_encoder"
ENCODER_KEY = "vision_encoder_config"
BICUBIC = 3
"""Pillow's code for bicubic resampling, as the released files store it."""

_DECODER_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
DECODER_FIELDS = (
    *_DECODER_SIZES,
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
"""Fields of `config.json` that describe the decoder."""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a Penguin-Encoder; the defaults are those of the released one (Qwen3-0.6B's shape).

    Attributes are named as in a Qwen3 `config.json`. In addition, patch_size is the side of a square patch in pixels
    and num_channels the number of colours. num_key_value_heads divides num_attention_heads, and head_dim is even.
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
        """Length of a flattened patch."""
        return self.num_channels * self.patch_size**2

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderConfig:
        """Reads the `vision_encoder_config` object of a released configuration, or a Qwen3 configuration.

        Raises:
            CheckpointError: A field is missing, out of range, or not supported.
        """
        where = "encoder configuration"
        if not isinstance(values, dict):
            raise CheckpointError(f"{where} is a {type(values).__name__}, not an object")
        fields = list(cls.__dataclass_fields__)
        _check_numbers(where, values, sizes=fields[:8])
        if values.get("attention_bias"):
            raise CheckpointError(f"{where}: attention_bias is true, but a Penguin-Encoder has no attention bias")
        if values.get("num_channels", 3) != 3:
            raise CheckpointError(f"{where}: num_channels is {values['num_channels']}, but images have 3")
        _check_present(where, values, ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        known = {name: values[name] for name in fields if values.get(name) is not None}
        # Qwen3 files hold `rope_theta`; transformers 5 writes it into `rope_parameters`.
        rope = {**values, **(values.get("rope_parameters") or {})}
        return cls(**known | {"rope_theta": float(rope.get("rope_theta", cls.rope_theta))})


@dataclass(frozen=True)
class PenguinConfig:
    """Shape of a whole model."""

    encoder: EncoderConfig
    decoder: dict[str, Any]  # as in a Qwen3 `config.json`
    image_token_id: int  # id of `<image>`, whose embeddings are replaced by visual tokens
    raw: dict[str, Any] = field(default_factory=dict, repr=False)  # the whole file, so that saving loses nothing

    @property
    def hidden_size(self) -> int:
        """Width of the decoder's embeddings."""
        return int(self.decoder["hidden_size"])

    @property
    def vocab_size(self) -> int:
        """Number of rows of the embedding table."""
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
        eos: Any = self.raw.get("eos_token_id")
        return tuple(i for i in (eos if isinstance(eos, list) else [eos]) if _is_whole(i, 0))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], encoder: dict[str, Any] | None = None) -> PenguinConfig:
        """Reads a released `config.json`, and the encoder's configuration if the file does not hold it.

        Raises:
            CheckpointError: The file belongs to another model, or a field is missing or out of range.
        """
        where = "config.json"
        if raw.get("model_type") != MODEL_TYPE:
            raise CheckpointError(
                f"{where} is of a {raw.get('model_type')!r} model; a Penguin-VL checkpoint says {MODEL_TYPE!r}"
            )
        encoder = raw.get(ENCODER_KEY) or encoder or {}
        _check_present(where, raw, (*_DECODER_SIZES[:5], "image_token_index"))
        _check_numbers(where, raw, sizes=_DECODER_SIZES)
        if not _is_whole(raw["image_token_index"], 0):
            raise CheckpointError(f"{where}: image_token_index is {raw['image_token_index']!r}, not a token id")
        decoder = {name: raw[name] for name in DECODER_FIELDS if raw.get(name) is not None}
        return cls(EncoderConfig.from_dict(encoder), decoder, raw["image_token_index"], raw | {ENCODER_KEY: encoder})

    def to_dict(self, dtype: str) -> dict[str, Any]:
        """Returns the released `config.json`, with the encoder inside and `dtype` as the type of the weights."""
        others = {name: value for name, value in self.raw.items() if name != "dtype"}  # transformers 5's torch_dtype
        return others | {"vision_encoder": None, "torch_dtype": dtype}

    @classmethod
    def create(cls, encoder: EncoderConfig, decoder: dict[str, Any], image_token_id: int, **raw: Any) -> PenguinConfig:
        """Returns the configuration of a new model in the released form, with `raw` as further fields."""
        return cls.from_dict(
            {
                "architectures": ["PenguinVLQwen3ForCausalLM"],
                "model_type": MODEL_TYPE,
                "vision_projector_type": "mlp2x_gelu",
                "vision_encoder": None,
                "image_token_index": image_token_id,
                "vision_hidden_size": encoder.hidden_size,
                ENCODER_KEY: {"model_type": ENCODER_MODEL_TYPE, "hidden_act": "silu", **asdict(encoder)},
                **decoder,
                **raw,
            }
        )


@dataclass(frozen=True)
class ImageConfig:
    """How pixels become patches, from `preprocessor_config.json`."""

    patch_size: int = 14  # side of a square patch in pixels
    min_tokens: int = 16  # token allocation gives a frame at least 1.5 times this many visual tokens
    max_tokens: int = 16384  # default budget of one prompt in visual tokens
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of each colour, for values in [0, 1]
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ImageConfig:
        """Reads a released `preprocessor_config.json`; raises CheckpointError if a field is not supported."""
        where = "preprocessor_config.json"
        if raw.get("resample", BICUBIC) != BICUBIC:
            raise CheckpointError(f"{where}: resample {raw['resample']} is not bicubic ({BICUBIC})")
        sizes = ("patch_size", "min_tokens", "max_tokens")
        _check_numbers(where, raw, sizes)
        values: dict[str, Any] = {name: raw[name] for name in sizes if raw.get(name) is not None}
        for name in ("mean", "std"):
            colours = raw.get(f"image_{name}")
            if colours is None:
                continue
            numbers = isinstance(colours, list) and all(isinstance(v, int | float) for v in colours)
            if not numbers or len(colours) != 3 or (name == "std" and min(colours) <= 0):
                raise CheckpointError(f"{where}: image_{name} is {colours!r}, it must be 3 numbers (std: above 0)")
            values[name] = tuple(float(v) for v in colours)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the released `preprocessor_config.json`."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises CheckpointError if the file is missing or holds anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise CheckpointError(f"{path} is missing; a checkpoint folder needs it") from err
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as err:
        raise CheckpointError(f"{path} cannot be read as JSON: {err}") from err
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not an object")
    return values


def _check_numbers(where: str, values: dict[str, Any], sizes: Iterable[str]) -> None:
    """Checks the type and range of those fields that are present."""
    for name in sizes:
        if values.get(name) is not None and not _is_whole(values[name], 1):
            raise CheckpointError(f"{where}: {name} is {values[name]!r}, it must be a whole number of at least 1")
    for name in ("rms_norm_eps", "rope_theta"):
        value = values.get(name)
        if value is not None and (not isinstance(value, int | float) or value <= 0):
            raise CheckpointError(f"{where}: {name} is {value!r}, it must be a number above 0")
    if values.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{where}: hidden_act is {values['hidden_act']!r}, only 'silu' is supported")


def _check_present(where: str, values: dict[str, Any], names: Iterable[str]) -> None:
    if missing := [name for name in names if values.get(name) is None]:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
