"""Files of image features, for retrieval and as a teacher: NumPy archives (.npz) and Parquet tables (.parquet).

    name        file of the image; for a bag, its image topic
    stamp_ns    capture time, 0 for a file
    feature     float32 [D], mean over the tokens
    rows, columns, tokens   size of the grid and all tokens in raster order, if they are wanted

In a table, `tokens` is a flat list of rows * columns * D numbers. An archive has one array of each with the `tokens` of
all images below each other, [sum of rows * columns, D], and calls `feature` `features`, [images, D].
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import SettingError
from penguin_models.types import Float32Array, Size

_ROWS_PER_GROUP = 256


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of one image."""

    name: str
    stamp_ns: int
    grid: Size  # rows and columns of tokens
    tokens: Float32Array  # [rows * columns, D]

    @property
    def feature(self) -> Float32Array:
        """Mean over the tokens, [D]."""
        mean: Float32Array = self.tokens.mean(axis=0, dtype=np.float32)
        return mean


def check_ending(path: Path) -> None:
    """Raises SettingError if features cannot be written to a file of this name."""
    if path.suffix not in (".npz", ".parquet"):
        raise SettingError(f"{path} ends with {path.suffix!r}; features are written to a .npz or .parquet file")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise SettingError(f"{path} needs pyarrow: pip install pyarrow, or write a .npz file")


def write_features(path: Path, images: Iterable[ImageFeatures], with_tokens: bool) -> int:
    """Writes the features of images and returns their number.

    A table is written while the images come; an archive is held in memory until then.

    Raises:
        SettingError: The name ends with something else, or pyarrow is missing.
        WriteError: The file cannot be written; an earlier one is unchanged.
    """
    check_ending(path)
    write = _write_archive if path.suffix == ".npz" else _write_table
    with atomic_write(path, "wb") as file:
        return write(file, iter(images), with_tokens)


def _write_archive(file: IO[bytes], images: Iterator[ImageFeatures], with_tokens: bool) -> int:
    names, stamps, features, grids, tokens = [], [], [], [], []
    for image in images:
        names.append(image.name)
        stamps.append(image.stamp_ns)
        features.append(image.feature)
        if with_tokens:
            grids.append(image.grid)
            tokens.append(image.tokens)
    arrays: dict[str, Any] = {"name": np.array(names, dtype=np.str_), "stamp_ns": np.array(stamps, np.int64)}
    arrays["features"] = np.stack(features) if features else np.empty((0, 0), np.float32)
    if tokens:
        arrays["rows"], arrays["columns"] = np.array(grids, np.int64).T
        arrays["tokens"] = np.concatenate(tokens)
    np.savez(file, **arrays)
    return len(names)


def _write_table(file: IO[bytes], images: Iterator[ImageFeatures], with_tokens: bool) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    numbers = pa.list_(pa.float32())
    columns = [("name", pa.string()), ("stamp_ns", pa.int64()), ("feature", numbers)]
    if with_tokens:
        columns += [("rows", pa.int64()), ("columns", pa.int64()), ("tokens", numbers)]
    schema, count = pa.schema(columns), 0
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(images, _ROWS_PER_GROUP)):
            rows: dict[str, list[Any]] = {
                "name": [image.name for image in group],
                "stamp_ns": [image.stamp_ns for image in group],
                "feature": [image.feature for image in group],
                "rows": [image.grid.height for image in group],
                "columns": [image.grid.width for image in group],
                "tokens": [image.tokens.reshape(-1) for image in group] if with_tokens else [],
            }
            writer.write_table(pa.table({name: rows[name] for name in schema.names}, schema=schema))
            count += len(group)
    return count
