"""Checkpoints: a folder or a repository of the model hub <-> a model with its processor.

Reads the released and the training layout, one file or shards, the encoder inside or in a second checkpoint; writes
the released layout. A missing tensor is an error; nothing is ever initialised at random.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn

from penguin_models.atomic_write import atomic_files
from penguin_models.config import ENCODER_KEY, PenguinConfig, read_json
from penguin_models.errors import CheckpointError, oom_as_error
from penguin_models.hub import WEIGHTS, resolve_checkpoint
from penguin_models.processor import Processor
from penguin_models.tensor_files import (
    ENCODER_PREFIX,
    FLOATS,
    StoredTensor,
    check_tensors,
    copy_tensors,
    file_inside,
    index_tensors,
    read_tensors,
    released_name,
)
from penguin_models.vlm import PenguinVL

LM_HEAD = "language_model.lm_head.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CPU_FLAGS = {
    torch.bfloat16: {"avx512_bf16", "amx_bf16", "bf16"},
    torch.float16: {"avx512_fp16", "amx_fp16", "asimdhp"},
}
"""Instructions that multiply numbers of a type, as Linux names them on x86-64 and ARM."""


def load_pretrained(
    path_or_repo: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> tuple[PenguinVL, Processor]:
    """Loads a checkpoint.

    Args:
        path_or_repo: A folder, or `owner/name` on the model hub (downloaded once, then taken from the local cache).
        dtype: Type of the weights: "float32", "float16", "bfloat16" or a torch type; "auto" for `fast_dtype`; as stored
            if None.
        device: Device of the weights, for example "cpu" or "cuda:0".
        revision: Branch, tag or commit on the model hub; its default branch if None.

    Returns:
        The model in evaluation mode, and its processor.

    Raises:
        CheckpointError: The checkpoint is missing or incomplete, or a tensor is missing, unexpected or misshapen.
        DeviceMemoryError: The weights do not fit into the device's memory.
    """
    target = usable_device(device)
    model, stored, processor = open_checkpoint(path_or_repo, revision)
    weights_dtype = stored_dtype(stored) if dtype in (None, "auto") else resolve_dtype(dtype)
    if dtype == "auto":
        weights_dtype = fast_dtype(weights_dtype, target)
    with oom_as_error(
        f"{path_or_repo} as {str(weights_dtype).removeprefix('torch.')}",
        "Load it in 16 bits (--dtype bfloat16), or on the CPU (--device cpu), or free memory there.",
    ):
        reserve(model, stored, weights_dtype, target)
    copy_tensors(stored, dict(model.named_parameters()))
    decoder = model.language_model
    if model.config.tie_word_embeddings:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    decoder.model.rotary_emb = type(decoder.model.rotary_emb)(decoder.config).to(target)
    return model.eval(), processor


def open_checkpoint(
    path_or_repo: str | Path, revision: str | None = None
) -> tuple[PenguinVL, dict[str, StoredTensor], Processor]:
    """Checks a checkpoint and reads everything but its weights; arguments as for `load_pretrained`.

    Returns:
        The model on torch's meta device, the place of each of its parameters on disk, and the processor.

    Raises:
        CheckpointError: The checkpoint is missing or incomplete, or a tensor is missing, unexpected or misshapen.
    """
    folder = resolve_checkpoint(path_or_repo, revision)
    config, stored = read_config(folder), index_checkpoint(folder)
    processor = Processor.from_pretrained(folder, config.image_token_id)
    if processor.images.patch_size != config.encoder.patch_size:
        raise CheckpointError(
            f"{folder}: preprocessor_config.json has patches of {processor.images.patch_size} pixels, "
            f"the encoder of {config.encoder.patch_size}; the files belong to different checkpoints"
        )
    model = empty_model(config)
    model.end_token_ids = processor.end_token_ids
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if config.tie_word_embeddings:
        expected.pop(LM_HEAD, None)
        _check_tied(folder, stored)
    check_tensors(folder, expected, stored)
    return model, stored, processor


def stored_dtype(stored: dict[str, StoredTensor]) -> torch.dtype:
    """Returns the type in which a checkpoint holds its weights."""
    return STORED_DTYPES.get(stored[EMBEDDINGS].dtype, torch.float32)


def fast_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Returns the type in which weights of a type should run: float32 on a CPU that has no instructions for theirs.

    Such CPUs emulate 16-bit types, several times as slowly; float32 needs twice the memory.
    """
    emulated = device.type == "cpu" and stored in _CPU_FLAGS and not _CPU_FLAGS[stored] & _cpu_flags()
    return torch.float32 if emulated else stored


def _cpu_flags() -> set[str]:
    """Returns the names of what this CPU can do; none on other systems than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}


def save_pretrained(
    model: PenguinVL, processor: Processor, folder: str | Path, max_shard_size: int | str = "5GB"
) -> None:
    """Writes a checkpoint in the released layout; loading it again gives bit-identical weights.

    Files are complete before they replace those of an earlier save, whose weights are removed last.

    Raises:
        WriteError: The folder cannot be written; an earlier save in it is unchanged.
    """
    folder = Path(folder)
    state = {released_name(name): p.detach() for name, p in model.named_parameters()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    config = model.config.to_dict(str(model.dtype).removeprefix("torch."))
    with atomic_files(folder) as staging:
        save_torch_state_dict(state, staging, max_shard_size=max_shard_size)
        (staging / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        processor.save_pretrained(staging)
        written = {file.name for file in staging.iterdir()}
        for weights in staging.glob(WEIGHTS):  # safetensors makes them readable for their owner only
            shutil.copymode(staging / "config.json", weights)
    for stale in folder.glob("model*.safetensors*"):
        if stale.name not in written:
            stale.unlink()


def empty_model(config: PenguinConfig) -> PenguinVL:
    """Returns a model on the meta device; raises CheckpointError if transformers cannot build its decoder."""
    try:
        with torch.device("meta"):
            return PenguinVL(config)
    except (ValueError, TypeError, KeyError) as err:
        raise CheckpointError(f"config.json describes no Qwen3 decoder: {' '.join(str(err).split())[:200]}") from err


def read_config(folder: Path) -> PenguinConfig:
    """Reads a checkpoint's configuration, and that of its encoder from a second checkpoint if the first lacks it.

    Raises:
        CheckpointError: A file is missing or belongs to another model, or there is no configuration of an encoder.
    """
    raw = read_json(folder / "config.json")
    encoder = raw.get(ENCODER_KEY)
    if encoder is None:
        encoder = read_json(_encoder_folder(folder, raw, lacks=ENCODER_KEY, weights=False) / "config.json")
    return PenguinConfig.from_dict(raw, encoder)


def index_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a checkpoint, those of the encoder from a second checkpoint if the first lacks them."""
    stored = index_tensors(folder)
    if not any(name.startswith(ENCODER_PREFIX) for name in stored):
        raw = read_json(folder / "config.json")
        encoder = index_tensors(_encoder_folder(folder, raw, lacks="encoder tensors"))
        stored |= {name: tensor for name, tensor in encoder.items() if name.startswith(ENCODER_PREFIX)}
    return stored


def _encoder_folder(folder: Path, raw: dict[str, Any], *, lacks: str, weights: bool = True) -> Path:
    second = raw.get("vision_encoder")
    if not isinstance(second, str) or not second:
        raise CheckpointError(f"{folder} has no {lacks}, and its config.json names no vision_encoder to take them from")
    inside = file_inside(folder, second)
    return resolve_checkpoint(inside if inside.is_dir() else second, weights=weights)


def _check_tied(folder: Path, stored: dict[str, StoredTensor]) -> None:
    """Drops the `lm_head` that a tied checkpoint may hold; it must equal the embedding table."""
    head = stored.pop(LM_HEAD, None)
    if head is None or EMBEDDINGS not in stored:
        return
    table = stored[EMBEDDINGS]
    if 0 in table.shape or len(table.shape) != 2 or table.dtype not in FLOATS:
        return  # `check_tensors` refuses it
    heads, tables = read_tensors({"head": head}), read_tensors({"table": table})
    same = (head.shape, head.dtype) == (table.shape, table.dtype) and all(
        torch.equal(ours, theirs) for (_, _, ours), (_, _, theirs) in zip(heads, tables, strict=True)
    )
    if not same:
        raise CheckpointError(
            f"{folder}: config.json ties lm_head to the embeddings, but {head.name} differs from them; "
            'set "tie_word_embeddings" to false if the head is meant to be separate'
        )


def reserve(model: nn.Module, stored: Mapping[str, StoredTensor], dtype: torch.dtype, device: torch.device) -> None:
    """Allocates memory for the parameters that are stored."""
    for name, tensor in stored.items():
        parent, _, leaf = name.rpartition(".")
        value = torch.empty(tensor.shape, dtype=dtype, device=device)
        setattr(model.get_submodule(parent), leaf, nn.Parameter(value))


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Returns the torch type of a name; raises CheckpointError if there is none."""
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"dtype {dtype!r} is unknown to torch; choose from {', '.join(DTYPES)}, or run what `penguin-vl quantize` "
            "makes with --runtime onnx"
        )
    return DTYPES[dtype]


def usable_device(device: str | torch.device) -> torch.device:
    """Returns the device, or raises CheckpointError if torch cannot use it; nothing falls back to the CPU."""
    try:
        target = torch.device(device)
        if target.type == "meta":
            raise RuntimeError("it has no memory")
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        reason = str(err).strip().splitlines()[0][:150]
        raise CheckpointError(f"torch {torch.__version__} cannot use device {str(device)!r} here: {reason}") from err
    return target
