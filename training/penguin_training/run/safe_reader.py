"""Reads a distributed checkpoint of PyTorch without executing anything that its files contain.

PyTorch 2.13 reads the metadata with `pickle`, and values that are not tensors with `weights_only=False`; both call any
function that a file names.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, cast

import torch
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from penguin_models.errors import TrainingError

_CLASSES: dict[tuple[str, str], Any] = {
    **{(v.__module__, n): v for n, v in vars(metadata).items() if getattr(v, "__module__", "") == metadata.__name__},
    (_StorageInfo.__module__, _StorageInfo.__name__): _StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): {"torch.strided": torch.strided}.__getitem__,
    **{(module, "PosixPath"): PurePosixPath for module in ("pathlib", "pathlib._local")},
}
_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


class SafeReader(FileSystemReader):
    """Reads a folder that `torch.distributed.checkpoint.save` wrote."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Returns the metadata; raises TrainingError if they are damaged, or hold what a checkpoint does not need."""
        path = Path(self.path) / ".metadata"
        try:
            read = _Unpickler(io.BytesIO(path.read_bytes())).load()
            names = {info.relative_path for info in read.storage_data.values()}
        except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, pickle.UnpicklingError) as err:
            raise TrainingError(f"{path} cannot be read: {err}") from err
        if outside := sorted(name for name in names if PurePath(name).name != name):
            raise TrainingError(f"{path} names a file outside its folder: {outside[0][:200]}")
        read.storage_meta = read.storage_meta or StorageMeta()
        read.storage_meta.load_id = self.load_id
        return cast(Metadata, read)


class SafePlanner(DefaultLoadPlanner):
    """Loads tensors, numbers, strings and containers of them."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Puts a value that is not a tensor into the state; raises UnpicklingError if it is of another type."""
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


class _Unpickler(pickle.Unpickler):
    """Refuses everything except the classes of a checkpoint's metadata."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which a state does not need")
        return _CLASSES[module, name]
