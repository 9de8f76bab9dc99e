"""Sizes of a model, read from and written to the released `config.json` and `preprocessor_config.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import Required, TypedDict

from penguin_models.errors import CheckpointError

MODEL_TYPE = "penguinvl_qwen3"
ENCODER_MODEL_TYPE = "penguinvl_vision_encoder"
ENCODER_KEY = "vision_encoder_config"
BICUBIC = 3
"""Pillow's code for bicubic resampling, as the released files store it."""

T = TypeVar("T")
Count = Annotated[int, Field(strict=True, ge=1, le=100_000_000)]
Layers = Annotated[int, Field(strict=True, ge=1, le=1000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class DecoderFields(TypedDict, total=False):
    """Fields of `config.json` that describe the decoder, named as in a Qwen3 `config.json`."""

    vocab_size: Required[Count]
    hidden_size: Required[Count]
    intermediate_size: Required[Count]
    num_hidden_layers: Required[Layers]
    num_attention_heads: Required[Count]
    num_key_value_heads: Count
    head_dim: Count
    max_position_embeddings: Count
    hidden_act: Literal["silu"]
    rms_norm_eps: Positive
    rope_theta: Positive
    rope_scaling: dict[str, Any]
    rope_parameters: dict[str, Any]
    attention_bias: bool
    attention_dropout: Annotated[float, Field(ge=0, le=1)]
    tie_word_embeddings: bool
    initializer_range: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    use_sliding_window: bool
    sliding_window: Count
    max_window_layers: Annotated[int, Field(strict=True, ge=0, le=1000)]
    layer_types: Annotated[list[Literal["full_attention", "sliding_attention"]], Field(max_length=1000)]


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a Penguin-Encoder; the defaults are those of the released one (Qwen3-0.6B's shape).

    Attributes are named as in a Qwen3 `config.json`. In addition, patch_size is the side of a square patch in pixels
    and num_channels the number of colours. num_key_value_heads divides num_attention_heads, and head_dim is even.
    """

    hidden_size: Count = 1024
    intermediate_size: Count = 3072
    num_hidden_layers: Layers = 28
    num_attention_heads: Count = 16
    num_key_value_heads: Count = 8
    head_dim: Count = 128
    patch_size: Count = 14
    num_channels: Literal[3] = 3  # images have no other number of colours
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive = 1e6

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
        if isinstance(values, dict):
            if values.get("attention_bias") or values.get("hidden_act", "silu") != "silu":
                raise CheckpointError(f"{where}: a Penguin-Encoder has no attention_bias, and its hidden_act is 'silu'")
            if missing := {"hidden_size", "num_hidden_layers", "num_attention_heads"} - set(values):
                raise CheckpointError(f"{where} lacks {', '.join(sorted(missing))}")
            # Qwen3 files hold `rope_theta`; transformers 5 writes it into `rope_parameters`.
            rope = values.get("rope_parameters")
            values = values | (rope if isinstance(rope, dict) else {})
        return _validated(cls, values, where)


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

    @classmethod
    def from_dict(cls, raw: dict[str, Any], encoder: dict[str, Any] | None = None) -> PenguinConfig:
        """Reads a released `config.json`, and the encoder's configuration if the file does not hold it.

        Raises:
            CheckpointError: The file belongs to another model, or a field is missing or out of range.
        """
        where = "config.json"
        if raw.get("model_type") != MODEL_TYPE:
            found = repr(raw.get("model_type"))[:200]
            if raw.get("model_type") == ENCODER_MODEL_TYPE:
                found += " (an encoder by itself, for load_encoder and penguin-vl embed)"
            raise CheckpointError(f"{where} is of a {found} model; a Penguin-VL checkpoint says {MODEL_TYPE!r}")
        encoder = raw.get(ENCODER_KEY) or encoder or {}
        image_token_id = raw.get("image_token_index")
        if type(image_token_id) is not int or image_token_id < 0:
            raise CheckpointError(f"{where}: image_token_index is {repr(image_token_id)[:200]}, not a token id")
        decoder: Any = _validated(DecoderFields, raw, where)
        return cls(EncoderConfig.from_dict(encoder), decoder, image_token_id, raw | {ENCODER_KEY: encoder})

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

    patch_size: Count = 14  # side of a square patch in pixels
    min_tokens: Count = 16  # token allocation gives a frame at least 1.5 times this many visual tokens
    max_tokens: Count = 16384  # default budget of one prompt in visual tokens
    mean: tuple[Finite, Finite, Finite] = (0.5, 0.5, 0.5)  # of each colour, for values in [0, 1]
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ImageConfig:
        """Reads a released `preprocessor_config.json`; raises CheckpointError if a field is not supported."""
        where = "preprocessor_config.json"
        if raw.get("resample", BICUBIC) != BICUBIC:
            raise CheckpointError(f"{where}: resample {repr(raw['resample'])[:200]} is not bicubic ({BICUBIC})")
        return _validated(cls, raw | {"mean": raw.get("image_mean"), "std": raw.get("image_std")}, where)

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
        content = path.read_bytes()
    except FileNotFoundError as err:
        raise CheckpointError(f"{path} is missing; a checkpoint folder needs it") from err
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror}") from err
    return parse_json(content, path)


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """Returns the JSON object in the content of a file; raises CheckpointError if it holds anything else."""
    try:
        values = json.loads(content.decode())
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{path} cannot be read as JSON: {err}") from err
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not an object")
    return values


def _validated(kind: type[T], values: Any, where: str) -> T:
    """Returns the fields that are not null as a typed dictionary or dataclass; raises CheckpointError at a fault."""
    if isinstance(values, dict):
        values = {name: value for name, value in values.items() if value is not None}
    try:
        return _adapter(kind).validate_python(values)  # type: ignore[no-any-return, arg-type]
    except ValidationError as err:
        fault = err.errors()[0]
        name = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":
            raise CheckpointError(f"{where} lacks {name}") from err
        subject = f"{where}: {name}" if name else where
        raise CheckpointError(f"{subject} is {repr(fault['input'])[:200]}: {fault['msg']}") from err


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
