"""What the steps of a run have written, below its output folder.

    settings.json               settings and shards; a run continues only with the same ones
    inspected/00000.parquet     what was measured of each sample of a shard (see `Inspected`)
    duplicates.npy              the sample that each sample duplicates, or -1, int64 [samples of all shards]
    embedded/00000.npy          unit vectors of the samples of a shard that are neither dropped nor duplicates, float16
    embedded/00000.json         why some of them could not be embedded, by their number; their vectors are zero
    clusters.npz                centroids and parents of the hierarchy
    assigned/00000.npy          the finest cluster of each of these vectors, -1 for zeros
    quotas.npy                  number of samples to keep of each finest cluster
    chosen/00000.npy            samples kept of a group of clusters, by their number over all shards
    kept.npy                    whether each sample is selected, bool [samples of all shards]
    lines/00000.jsonl           the selected samples of a shard of lines, before they are joined
    selected/                   the result: 00000.tar and 00000.parquet of each shard, samples.jsonl of all lines
    dropped/00000.jsonl         name, reason and detail of each sample of a shard that is not in it
    summary.json, report.html   numbers and samples

A file appears complete or not at all: what exists is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import SettingError
from penguin_models.types import Int64Array
from penguin_training.curation.clustering import Hierarchy
from penguin_training.curation.inspection import Inspected
from penguin_training.curation.settings import CurationSettings
from penguin_training.curation.shards import Shard

_COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "reason", "detail")),
        *((name, pa.binary()) for name in ("hashes", "colours")),
    ]
)


@dataclass(frozen=True)
class CurationRun:
    """Settings, shards and results of a run; can be sent to worker processes."""

    folder: Path
    settings: CurationSettings
    shards: Sequence[Shard]

    def check_folder(self) -> None:
        """Raises SettingError if the output folder holds something else, or a run with other settings or inputs."""
        if not self._settings_file.is_file():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise SettingError(f"{self.folder} is not empty and holds no curation; choose a new folder")
        elif (found := self._settings_file.read_text()) != (wanted := self._settings_text()):
            changed = _difference(json.loads(found), json.loads(wanted))
            raise SettingError(f"{self.folder} holds a curation with another {changed}; choose a new folder")

    def start(self) -> None:
        """Creates the output folder; raises SettingError as `check_folder` does."""
        self.check_folder()
        if not self._settings_file.is_file():
            with atomic_write(self._settings_file) as file:
                file.write(self._settings_text())

    @property
    def _settings_file(self) -> Path:
        return self.folder / "settings.json"

    def _settings_text(self) -> str:
        return json.dumps(self.settings.to_dict() | {"shards": [asdict(shard) for shard in self.shards]}, indent=1)

    def path(self, step: str, number: int, ending: str = ".npy") -> Path:
        """Returns the file of a part of a step."""
        return self.folder / step / f"{number:05d}{ending}"

    def write_inspected(self, number: int, samples: Sequence[Inspected]) -> None:
        """Writes what was measured of the samples of a shard."""
        with atomic_write(self.path("inspected", number, ".parquet"), "wb") as file:
            parquet.write_table(pa.Table.from_pylist([asdict(sample) for sample in samples], _COLUMNS), file)

    def inspected(self, number: int, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Returns columns of what was measured of the samples of a shard."""
        table = parquet.read_table(self.path("inspected", number, ".parquet"), columns=list(columns))
        return {name: table.column(name).to_pylist() for name in columns}

    @cached_property
    def first(self) -> Int64Array:
        """Number over all shards of the first sample of each shard, and the number of samples: int64 [shards + 1]."""
        files = (self.path("inspected", number, ".parquet") for number in range(len(self.shards)))
        counts = [parquet.read_metadata(file).num_rows for file in files]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)

    def of_shard(self, name: str, number: int) -> npt.NDArray[Any]:
        """Returns the values of a shard in a file with a value for each sample of all shards."""
        start, end = self.first[number : number + 2]
        return np.array(np.load(self.folder / name, mmap_mode="r", allow_pickle=False)[start:end])

    def survivors(self, number: int) -> Int64Array:
        """Returns the numbers in the shard of the samples that are neither dropped nor duplicates."""
        reasons = np.array(self.inspected(number, ["reason"])["reason"], dtype=np.str_)
        return np.flatnonzero((reasons == "") & (self.of_shard("duplicates.npy", number) < 0))

    def vectors(self, number: int) -> npt.NDArray[np.float16]:
        """Returns the vectors of a shard's survivors, float16 [samples, D], mapped into memory."""
        vectors: npt.NDArray[np.float16] = np.load(self.path("embedded", number), mmap_mode="r", allow_pickle=False)
        return vectors

    def not_embedded(self, number: int) -> dict[int, str]:
        """Returns why samples of a shard could not be embedded, by their number in it."""
        found = json.loads(self.path("embedded", number, ".json").read_text())
        return {int(sample): problem for sample, problem in found.items()}

    def hierarchy(self) -> Hierarchy:
        """Returns the clusters."""
        with np.load(self.folder / "clusters.npz", allow_pickle=False) as file:
            parents = [file[f"parents_{level}"] for level in range(len(file.files) - 1)]
            return Hierarchy(file["centroids"], parents)

    def save(self, path: Path, values: npt.NDArray[Any]) -> None:
        """Writes an array; raises WriteError if that fails."""
        with atomic_write(path, "wb") as file:
            np.save(file, values, allow_pickle=False)


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Returns the first setting that differs, with both values."""
    name = next(name for name in wanted if found.get(name) != wanted[name])
    if name == "shards":
        return "input (a file was added, removed or changed)"
    return f"setting: {name} is {found.get(name)} there, and {wanted[name]} here"
