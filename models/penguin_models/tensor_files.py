"""Tensors on disk: finds them, maps their names between layouts, and streams them into a model.

Released checkpoints, training checkpoints and stand-alone encoders name the same tensors differently. Every name is
mapped to that in `PenguinVL`, or ignored on purpose.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from penguin_models.config import read_json
from penguin_models.errors import CheckpointError

ENCODER_PREFIX = "vision_encoder."
# Modules that only training uses, and buffers that are computed: never loaded.
_IGNORED = re.compile(r"(^|\.)(vision_encoder_teacher|vision_distill_layer)\.|rotary_emb\.|\.inv_freq$")
_TO_OURS = (
    (re.compile(r"^model\.vision_encoder\.vision_encoder\.(embeddings|encoder)\."), r"vision_encoder.\1."),
    (re.compile(r"^model\.vision_encoder\.(embeddings|encoder)\."), r"vision_encoder.\1."),
    (re.compile(r"^model\.vision_projector\."), "vision_projector."),
    (re.compile(r"^model\.(embed_tokens|layers|norm)\."), r"language_model.model.\1."),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
    (re.compile(r"^(embeddings|encoder)\."), r"vision_encoder.\1."),  # a stand-alone encoder
)
_TO_RELEASED = (
    (re.compile(r"^language_model\."), ""),
    (re.compile(r"^vision_(encoder|projector)\."), r"model.vision_\1."),
)
FLOATS = ("F64", "F32", "F16", "BF16")
"""Stored types that can be read; quantised checkpoints cannot."""
_BLOCK_BYTES = 32 * 2**20
_LONGEST_NAME = 256  # bytes, as file systems have it


@dataclass(frozen=True)
class StoredTensor:
    """Place, shape and safetensors type ("F32", "BF16", ...) of a tensor on disk."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def our_name(stored: str) -> str | None:
    """Returns a stored tensor's name in `PenguinVL`, or None if it is ignored; unknown names are returned unchanged."""
    if _IGNORED.search(stored):
        return None
    for pattern, replacement in _TO_OURS:
        name, changed = pattern.subn(replacement, stored)
        if changed:
            return name
    return stored


def released_name(ours: str) -> str:
    """Returns the released name of one of `PenguinVL`'s parameters."""
    for pattern, replacement in _TO_RELEASED:
        ours = pattern.sub(replacement, ours)
    return ours


def index_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a checkpoint folder by their names in `PenguinVL`, without reading their data.

    Raises:
        CheckpointError: Weights are missing or cut short, or two tensors map to one parameter.
    """
    found: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        with _open(file) as tensors:
            for stored in tensors.keys():  # noqa: SIM118 (not a mapping)
                name = our_name(stored)
                if name is None:
                    continue
                if name in found:
                    raise CheckpointError(f"{folder}: {found[name].name} and {stored} are the same parameter")
                view = tensors.get_slice(stored)
                found[name] = StoredTensor(file, stored, tuple(view.get_shape()), view.get_dtype())
    return found


def check_tensors(folder: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, StoredTensor]) -> None:
    """Compares names, shapes and types before anything is loaded.

    Raises:
        CheckpointError: Tensors are missing, unexpected, misshapen or quantised; it names the first few of each.
    """
    missing = [released_name(name) for name in expected if name not in found]
    unexpected = [found[name].name for name in found if name not in expected]
    pairs = [(found[name], shape) for name, shape in expected.items() if name in found]
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": [
            f"{tensor.name} is {list(tensor.shape)}, config.json wants {list(shape)}"
            for tensor, shape in pairs
            if tensor.shape != shape
        ],
        f"not of type {', '.join(FLOATS)}": [f"{t.name} is {t.dtype}" for t, _ in pairs if t.dtype not in FLOATS],
    }
    listed = [f"{len(names)} {kind}: {_first(names)}" for kind, names in problems.items() if names]
    if listed:
        raise CheckpointError(f"{folder} does not fit its config.json; tensors " + "; ".join(listed))


def read_tensors(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, slice, Tensor]]:
    """Streams tensors in blocks of rows, so that memory holds little more than one block.

    Yields:
        (name, rows, block): These rows of the tensor; valid only until the next block is taken.
    """
    for name, tensor in sorted(stored.items(), key=lambda item: (item[1].file, item[1].name)):
        rows = max(1, _BLOCK_BYTES // (4 * math.prod(tensor.shape[1:])))
        for start in range(0, tensor.shape[0], rows):
            block = slice(start, min(start + rows, tensor.shape[0]))
            # Mapped pages of a file count as memory of the process until it is closed: open it for each block.
            with _open(tensor.file) as tensors:
                yield name, block, tensors.get_slice(tensor.name)[block]


@torch.no_grad()
def copy_tensors(stored: Mapping[str, StoredTensor], parameters: Mapping[str, nn.Parameter]) -> None:
    """Copies stored tensors into the parameters of the same names, with their types and devices."""
    for name, rows, block in read_tensors(stored):
        parameters[name][rows] = block


def shard_names(index: dict[str, Any], path: Path) -> list[str]:
    """Returns the files that a safetensors index names; raises CheckpointError if it is damaged."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path} is not a safetensors index: it has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or "\0" in name or not 0 < len(name.encode(errors="replace")) < _LONGEST_NAME:
            raise CheckpointError(f"{path} names {repr(name)[:200]}, which is not a file; download it again")
    return sorted(set(weight_map.values()))


def file_inside(folder: Path, name: str) -> Path:
    """Returns the path of what a file of this folder names; raises CheckpointError if it is outside the folder.

    Links into `blobs` of the model hub's cache, where the files of a snapshot are stored, count as inside.
    """
    path, root = folder / name, folder.resolve()
    roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    if ".." in Path(name).parts or not any(path.resolve().is_relative_to(inside) for inside in roots):
        raise CheckpointError(f"{folder} names {name[:200]!r}, which is outside the folder; copy it into the folder")
    return path


def _weight_files(folder: Path) -> list[Path]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        files = {name: file_inside(folder, name) for name in shard_names(read_json(index), index)}
        missing = [name for name, file in files.items() if not file.is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {_first(missing)}, which its index names; download them again")
        return list(files.values())
    if single.is_file():
        return [file_inside(folder, single.name)]
    raise CheckpointError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")


def _open(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as err:
        raise CheckpointError(f"{file} is not a complete safetensors file ({err}); download it again") from err


def _first(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
