"""Writes the selected samples of a shard in the form in which they came: archive, table, or lines."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from penguin_models.atomic_write import atomic_write
from penguin_training.curation.results import CurationRun
from penguin_training.curation.shard_rows import Row, read_shard
from penguin_training.curation.shards import Shard

_MEDIA_FIELDS = ("image", "images", "video", "videos", "image_url", "url")
_ROWS = 32  # of a table at a time


def selected_file(run: CurationRun, number: int) -> Path:
    """Returns the file for the selected samples of a shard; lines are joined to one file in the end."""
    kind = run.shards[number].kind
    return (
        run.path("selected", number, f".{kind}") if kind in ("tar", "parquet") else run.path("lines", number, ".jsonl")
    )


def write_selected(shard: Shard, kept: set[int], path: Path) -> None:
    """Writes the samples with the numbers `kept`; paths in lines become absolute. Raises WriteError if that fails."""
    rows = (row for number, row in enumerate(read_shard(shard)) if number in kept and isinstance(row, Row))
    if shard.kind == "parquet":
        _write_table(shard, rows, path)
    elif shard.kind == "tar":
        _write_archive(rows, path)
    else:
        with atomic_write(path) as file:
            for row in rows:
                file.write(json.dumps(_sample(row, Path(shard.root)), ensure_ascii=False) + "\n")


def _write_archive(rows: Iterator[Row], path: Path) -> None:
    with atomic_write(path, "wb") as file, tarfile.open(fileobj=file, mode="w|") as archive:
        for row in rows:
            for member, content in row.source:
                archive.addfile(member, io.BytesIO(content))


def _write_table(shard: Shard, rows: Iterator[Row], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = parquet.read_schema(shard.path)
    with atomic_write(path, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        while values := [row.source for row in islice(rows, _ROWS)]:
            writer.write_table(pa.Table.from_pylist(values, schema=schema))


def _sample(row: Row, root: Path) -> Any:
    if isinstance(row.source, Path):
        return {"id": row.name, "image": str(row.source)}
    assert isinstance(row.source, dict)  # others are unreadable
    return {key: _absolute(value, root, key in _MEDIA_FIELDS) for key, value in row.source.items()}


def _absolute(value: Any, root: Path, is_path: bool) -> Any:
    """Makes relative paths in a sample absolute, also in the parts of messages."""
    if isinstance(value, str):
        is_relative = is_path and "://" not in value and not value.startswith("data:")
        return str(root / value) if is_relative else value
    if isinstance(value, list):
        return [_absolute(item, root, is_path) for item in value]
    if isinstance(value, dict):
        return {key: _absolute(item, root, key in _MEDIA_FIELDS) for key, item in value.items()}
    return value
