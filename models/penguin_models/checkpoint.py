"""Checkpoints: a folder or a repository of the model hub <-> a model with its processor.

Reads the released and the training layout, one file or shards, the encoder inside or in a second checkpoint; writes
the released layout. Nothing is ever initialised at random where a tensor is missing: that is an error.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn

from penguin_models.config import CHECKPOINT_FILES, ENCODER_KEY, PenguinConfig, read_json
from penguin_models.device_memory import oom_as_error
from penguin_models.errors import CheckpointError
from penguin_models.processor import Processor
from penguin_models.tensor_files import (
    ENCODER_PREFIX,
    StoredTensor,
    check_tensors,
    index_tensors,
    read_tensors,
    released_name,
)
from penguin_models.vlm import PenguinVL

LM_HEAD = "language_model.lm_head.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_pretrained(
    path_or_repo: str | Path, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
) -> tuple[PenguinVL, Processor]:
    """Loads a checkpoint.

    Args:
        path_or_repo: a folder, or `owner/name` on the model hub (downloaded once, then taken from its cache).
        dtype: type of the weights: "float32", "float16", "bfloat16" or a torch type; as stored if None.
        device: where the weights go, for example "cpu" or "cuda:0".

    Returns:
        The model in evaluation mode, and its processor.

    Raises:
        CheckpointError: the folder is missing or incomplete, or a tensor is missing, unexpected or misshapen.
        DeviceMemoryError: the weights do not fit into the device's memory.
    """
    target = _device(device)
    model, stored, processor = open_checkpoint(path_or_repo)
    config = model.config
    weights_dtype = _dtype(dtype) or stored_dtype(stored)
    with oom_as_error(
        f"{path_or_repo} as {str(weights_dtype).removeprefix('torch.')}",
        "Load it in 16 bits (--dtype bfloat16), or on the CPU (--device cpu), or free memory there.",
    ):
        _reserve(model, stored, weights_dtype, target)
    _fill(dict(model.named_parameters()), stored)
    if config.tie_word_embeddings:
        model.language_model.lm_head.weight = model.language_model.model.embed_tokens.weight
    rotary = model.language_model.model.rotary_emb
    model.language_model.model.rotary_emb = type(rotary)(model.language_model.config).to(target)
    return model.eval(), processor


def open_checkpoint(path_or_repo: str | Path) -> tuple[PenguinVL, dict[str, StoredTensor], Processor]:
    """Checks a checkpoint and reads everything but its weights.

    Returns:
        The model with shapes but no memory, where each of its parameters lies on disk, and the processor.

    Raises:
        CheckpointError: the folder is missing or incomplete, or a tensor is missing, unexpected or misshapen.
    """
    folder = resolve_checkpoint(path_or_repo)
    config, stored = _describe(folder)
    processor = Processor.from_pretrained(folder, config.image_token_id, config.eos_token_ids)
    if processor.images.patch_size != config.encoder.patch_size:
        raise CheckpointError(
            f"{folder}: preprocessor_config.json has patches of {processor.images.patch_size} pixels, "
            f"the encoder of {config.encoder.patch_size}"
        )
    model = empty_model(config)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if config.tie_word_embeddings:
        expected.pop(LM_HEAD, None)
        _check_tied(folder, stored)
    check_tensors(folder, expected, stored)
    return model, stored, processor


def stored_dtype(stored: dict[str, StoredTensor]) -> torch.dtype:
    """Type in which a checkpoint holds its weights."""
    return _STORED_DTYPES.get(stored[EMBEDDINGS].dtype, torch.float32)


def save_pretrained(
    model: PenguinVL, processor: Processor, folder: str | Path, max_shard_size: int | str = "5GB"
) -> None:
    """Writes a checkpoint in the released layout; loading it again gives bit-identical weights.

    Files are complete before they replace those of an earlier save, whose weights are removed last.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise CheckpointError(f"{folder} cannot be made a folder: {err.strerror}") from err
    state = {released_name(name): p.detach() for name, p in model.named_parameters()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    config = model.config.to_dict(str(model.dtype).removeprefix("torch."))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        staging = Path(temporary)
        save_torch_state_dict(state, staging, max_shard_size=max_shard_size)
        (staging / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        processor.save_pretrained(staging)
        written = {file.name for file in staging.iterdir()}
        for weights in staging.glob("*.safetensors"):  # which are written for nobody else to read
            shutil.copymode(staging / "config.json", weights)
        for name in written:
            (staging / name).replace(folder / name)
        for stale in folder.glob("model*.safetensors*"):
            if stale.name not in written:
                stale.unlink()


def resolve_checkpoint(path_or_repo: str | Path, weights: bool = True) -> Path:
    """Folder of a checkpoint; a repository of the model hub is downloaded unless its cache has it.

    Args:
        path_or_repo: a folder, or `owner/name` on the model hub.
        weights: False leaves the weights of a repository where they are.

    Raises:
        CheckpointError: there is neither such a folder nor such a repository, or the hub cannot be reached.
    """
    path = Path(path_or_repo).expanduser()
    if path.is_dir():
        return path
    name = str(path_or_repo)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{name} is not a checkpoint folder; give one, or owner/name on the model hub")
    try:
        files = [file for file in CHECKPOINT_FILES if weights or not file.endswith(".safetensors")]
        return Path(snapshot_download(name, allow_patterns=files))
    except HFValidationError as err:
        raise CheckpointError(f"{name} is neither a folder nor a repository name: {err}") from err
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as err:
        reason = str(err).strip().splitlines()[0]
        raise CheckpointError(
            f"{name} is not a folder here, and could not be taken from the model hub or its cache: {reason}"
        ) from err


def empty_model(config: PenguinConfig) -> PenguinVL:
    """A model whose parameters have shapes but no memory."""
    try:
        with torch.device("meta"):
            return PenguinVL(config)
    except (ValueError, TypeError, KeyError) as err:  # what transformers makes of impossible settings
        raise CheckpointError(f"config.json describes no Qwen3 decoder: {' '.join(str(err).split())[:200]}") from err


def _describe(folder: Path) -> tuple[PenguinConfig, dict[str, StoredTensor]]:
    """Configuration and tensors of a checkpoint, with the encoder from a second one where the first lacks it."""
    raw = read_json(folder / "config.json")
    stored = index_tensors(folder)
    has_encoder = any(name.startswith(ENCODER_PREFIX) for name in stored)
    encoder_raw = raw.get(ENCODER_KEY)
    if not has_encoder or encoder_raw is None:
        second = raw.get("vision_encoder")
        if not isinstance(second, str) or not second:
            lacks = ENCODER_KEY if encoder_raw is None else "encoder tensors"
            raise CheckpointError(
                f"{folder} has no {lacks}, and its config.json names no vision_encoder to take it from"
            )
        beside = folder / second
        encoder_folder = resolve_checkpoint(beside if beside.is_dir() else second)
        encoder_raw = encoder_raw or read_json(encoder_folder / "config.json")
        if not has_encoder:
            stored |= {n: t for n, t in index_tensors(encoder_folder).items() if n.startswith(ENCODER_PREFIX)}
    return PenguinConfig.from_dict(raw, encoder_raw), stored


def _check_tied(folder: Path, stored: dict[str, StoredTensor]) -> None:
    """A tied checkpoint may hold `lm_head` all the same, but then it must be the embedding table."""
    head = stored.pop(LM_HEAD, None)
    if head is None or EMBEDDINGS not in stored:
        return
    table = stored[EMBEDDINGS]
    heads, tables = read_tensors({"head": head}), read_tensors({"table": table})
    same = head.shape == table.shape and all(
        torch.equal(ours, theirs) for (_, _, ours), (_, _, theirs) in zip(heads, tables, strict=True)
    )
    if not same:
        raise CheckpointError(
            f"{folder}: config.json ties lm_head to the embeddings, but {head.name} differs from them; "
            'set "tie_word_embeddings" to false if the head is meant to be separate'
        )


@torch.no_grad()
def _fill(parameters: dict[str, nn.Parameter], stored: dict[str, StoredTensor]) -> None:
    for name, rows, block in read_tensors(stored):
        parameters[name][rows] = block


def _reserve(model: nn.Module, stored: dict[str, StoredTensor], dtype: torch.dtype, device: torch.device) -> None:
    """Gives the parameters memory."""
    for name, tensor in stored.items():
        parent, _, leaf = name.rpartition(".")
        value = torch.empty(tensor.shape, dtype=dtype, device=device)
        setattr(model.get_submodule(parent), leaf, nn.Parameter(value))


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"dtype {dtype!r} is unknown to torch; choose from {', '.join(DTYPES)}, or run what `penguin-vl quantize` "
            "makes with --runtime onnx"
        )
    return DTYPES[dtype]


def _device(device: str | torch.device) -> torch.device:
    """Checks that torch has the device: nothing falls back to the CPU."""
    try:
        target = torch.device(device)
        if target.type == "meta":
            raise RuntimeError("it has no memory")
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        reason: Any = str(err).strip().splitlines()[0][:150]
        raise CheckpointError(f"torch {torch.__version__} cannot use device {str(device)!r} here: {reason}") from err
    return target
