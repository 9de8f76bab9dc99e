"""Tensors on disk: finds them, maps their names between layouts, and streams them into a model.

Released checkpoints, training checkpoints and stand-alone encoders name the same tensors differently; here every name
becomes that of our modules (`PenguinVL`) or is ignored on purpose.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from penguin_models.config import read_json
from penguin_models.errors import CheckpointError

ENCODER_PREFIX = "vision_encoder."
# Parts that training adds and buffers that are computed: never loaded.
_IGNORED = re.compile(r"(^|\.)(vision_encoder_teacher|vision_distill_layer)\.|rotary_emb\.|\.inv_freq$")
_TO_OURS = (
    (re.compile(r"^model\.vision_encoder\.vision_encoder\.(embeddings|encoder)\."), r"vision_encoder.\1."),
    (re.compile(r"^model\.vision_encoder\.(embeddings|encoder)\."), r"vision_encoder.\1."),
    (re.compile(r"^model\.vision_projector\."), "vision_projector."),
    (re.compile(r"^model\.(embed_tokens|layers|norm)\."), r"language_model.model.\1."),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
    # A stand-alone encoder.
    (re.compile(r"^(embeddings|encoder)\."), r"vision_encoder.\1."),
)
_TO_RELEASED = (
    (re.compile(r"^language_model\."), ""),
    (re.compile(r"^vision_(encoder|projector)\."), r"model.vision_\1."),
)
FLOATS = ("F64", "F32", "F16", "BF16")
"""Stored types that are read; quantised checkpoints are not."""
# A mapped file counts as memory of the process: reopening it after so much keeps the peak near the model's size.
_REOPEN_BYTES = 32 * 2**20


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what it looks like."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def our_name(stored: str) -> str | None:
    """Name of a stored tensor in `PenguinVL`, or None for what is ignored on purpose; unknown names stay."""
    if _IGNORED.search(stored):
        return None
    for pattern, replacement in _TO_OURS:
        name, changed = pattern.subn(replacement, stored)
        if changed:
            return name
    return stored


def released_name(ours: str) -> str:
    """Name of one of `PenguinVL`'s parameters in a released checkpoint."""
    for pattern, replacement in _TO_RELEASED:
        ours = pattern.sub(replacement, ours)
    return ours


def index_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Tensors of a checkpoint folder by their names in `PenguinVL`, without reading their data.

    Raises:
        CheckpointError: no safetensors, a shard that is missing or cut short, or two tensors for one parameter.
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
    """Compares names and shapes before anything is loaded.

    Raises:
        CheckpointError: names every missing, unexpected or misshapen tensor (the first few of many).
    """
    missing = [released_name(name) for name in expected if name not in found]
    unexpected = [found[name].name for name in found if name not in expected]
    misshapen = [
        f"{found[name].name} is {list(found[name].shape)}, config.json wants {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    quantised = [f"{t.name} is {t.dtype}" for name, t in found.items() if name in expected and t.dtype not in FLOATS]
    problems = [
        f"{len(names)} {kind}: {_some(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
            (f"not of type {', '.join(FLOATS)}", quantised),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{folder} does not fit its config.json; tensors " + "; ".join(problems))


def read_tensors(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, slice, Tensor]]:
    """Streams tensors in blocks of rows, so that little more than one block is in memory.

    Yields:
        (name, rows, block): block holds these rows of the tensor; it is valid only until the next is taken.
    """
    by_file = sorted(stored.items(), key=lambda item: (item[1].file, item[1].name))
    for file, items in groupby(by_file, key=lambda item: item[1].file):
        for batch in _batches(items):
            with _open(file) as tensors:
                for name, tensor, rows in batch:
                    yield name, rows, tensors.get_slice(tensor.name)[rows]


def _batches(
    items: Iterable[tuple[str, StoredTensor]],
) -> Iterator[list[tuple[str, StoredTensor, slice]]]:
    """Cuts tensors into blocks of rows, and gathers blocks up to about `_REOPEN_BYTES`."""
    batch: list[tuple[str, StoredTensor, slice]] = []
    size = 0
    for name, tensor in items:
        row_bytes = 4 * math.prod(tensor.shape[1:])
        block = max(1, _REOPEN_BYTES // row_bytes)
        for start in range(0, tensor.shape[0], block):
            stop = min(start + block, tensor.shape[0])
            batch.append((name, tensor, slice(start, stop)))
            size += (stop - start) * row_bytes
            if size >= _REOPEN_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _weight_files(folder: Path) -> list[Path]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index} is not a safetensors index: it has no weight_map")
        names = sorted(set(weight_map.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {_some(missing)}, which its index names; download them again")
        return [folder / name for name in names]
    if single.is_file():
        return [single]
    raise CheckpointError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")


def _open(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as err:
        raise CheckpointError(f"{file} is not a complete safetensors file ({err}); download it again") from err


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
