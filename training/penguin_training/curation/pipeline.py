"""The steps of curation, in order. Those over shards run in worker processes, the others in this one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import DataError
from penguin_models.types import Float32Array, Int64Array
from penguin_training.curation.clustering import POINTS_PER_CLUSTER, balanced_quotas, cluster
from penguin_training.curation.duplicates import find_duplicates
from penguin_training.curation.embedding import Embedder, OpenEmbedder, embed_shard
from penguin_training.curation.farthest_points import farthest_points
from penguin_training.curation.inspection import inspect_shard
from penguin_training.curation.report import write_report
from penguin_training.curation.results import CurationRun
from penguin_training.curation.selected_files import selected_file, write_selected
from penguin_training.curation.summary import Summary, summarise
from penguin_training.curation.workers import Work, Workers

Progress = Callable[[str, int, int], None]
"""Receives the name of a step, the number of its parts that are done, and their total."""
_SAMPLES_PER_CHOICE = 100_000
_CHECKED_SIDE = 224  # Pixels of the picture that an encoder is checked with


def curate(run: CurationRun, open_embedder: OpenEmbedder, workers: Workers, on_progress: Progress) -> Summary:
    """Runs the steps that are not done yet, and returns what came of all.

    Raises:
        PenguinError: The encoder cannot be used, in which case nothing is written; or a step fails, and what is done is
            not lost.
    """
    run.check_folder()
    every = range(len(run.shards))
    with workers.connected():
        steps = _Steps(run, workers, on_progress)
        if any(not run.path("embedded", number).is_file() for number in every):
            _check_encoder(open_embedder, workers)
        run.start()
        steps.over_shards("inspected", every, partial(_inspect, run), ".parquet")
        if int(run.first[-1]) == 0:
            raise DataError("the input holds no samples")
        steps.once("duplicates.npy", lambda: _find_duplicates(run))
        steps.over_shards("embedded", every, partial(_Embedding, run, open_embedder), uses_encoder=True)
        steps.once("clusters.npz", lambda: _cluster(run))
        steps.over_shards("assigned", every, partial(_Assignment, run))
        sizes = _leaf_sizes(run)
        steps.once("quotas.npy", lambda: _set_quotas(run, sizes))
        groups = _groups(sizes)
        steps.over_shards("chosen", range(len(groups)), partial(_Choice, run, groups))
        steps.once("kept.npy", lambda: _mark_kept(run, len(groups)))
        steps.over_shards("dropped", every, partial(_write, run), ".jsonl")
    _join_lines(run)
    summary = summarise(run, sizes)
    write_report(run, summary)
    return summary


def _check_encoder(open_embedder: OpenEmbedder, workers: Workers) -> None:
    """Opens the encoder where it will run, and embeds a picture; raises PenguinError if it cannot."""

    def open_work() -> Work:
        embedder = open_embedder()
        return lambda number: _embed_grey(embedder)

    for _ in workers.run([0], open_work, uses_encoder=True):
        pass


def _embed_grey(embedder: Embedder) -> None:
    embedder([np.full((_CHECKED_SIDE, _CHECKED_SIDE, 3), 128, np.uint8)])


@dataclass(frozen=True)
class _Steps:
    """Runs what has no result yet."""

    run: CurationRun
    workers: Workers
    on_progress: Progress

    def over_shards(
        self,
        step: str,
        numbers: Sequence[int],
        open_work: Callable[[], Work],
        ending: str = ".npy",
        uses_encoder: bool = False,
    ) -> None:
        """Does the parts of a step that have no file yet."""
        missing = [number for number in numbers if not self.run.path(step, number, ending).is_file()]
        done = len(numbers) - len(missing)
        self.on_progress(step, done, len(numbers))
        for _ in self.workers.run(missing, open_work, uses_encoder):
            done += 1
            self.on_progress(step, done, len(numbers))

    def once(self, name: str, work: Callable[[], None]) -> None:
        """Does a step that writes this file, if there is none yet."""
        step = Path(name).stem
        self.on_progress(step, 0, 1)
        if not (self.run.folder / name).is_file():
            work()
        self.on_progress(step, 1, 1)


def _inspect(run: CurationRun) -> Work:
    filters = run.settings.filters
    return lambda number: run.write_inspected(number, inspect_shard(run.shards[number], filters))


def _find_duplicates(run: CurationRun) -> None:
    hashes: list[bytes] = []
    colours: list[bytes] = []
    for number in range(len(run.shards)):
        found = run.inspected(number, ["hashes", "colours"])
        hashes += found["hashes"]
        colours += found["colours"]
    run.save(run.folder / "duplicates.npy", find_duplicates(hashes, colours, run.settings.max_distance))


class _Embedding:
    def __init__(self, run: CurationRun, open_embedder: OpenEmbedder):
        self._run, self._embedder = run, open_embedder()

    def __call__(self, number: int) -> None:
        run = self._run
        vectors, problems = embed_shard(run.shards[number], set(run.survivors(number).tolist()), self._embedder)
        with atomic_write(run.path("embedded", number, ".json")) as file:
            json.dump(problems, file)
        run.save(run.path("embedded", number), vectors.astype(np.float16))


def _cluster(run: CurationRun) -> None:
    counts = [_embedded(run, number).size for number in range(len(run.shards))]
    if not (total := sum(counts)):
        raise DataError(
            f"no sample is left to select from: all were dropped, see {run.folder / 'inspected'}; relax the filters"
        )
    levels = run.settings.levels(total)
    random = np.random.default_rng(run.settings.seed)
    share = min(1.0, POINTS_PER_CLUSTER * levels[0] / total)
    points: list[Float32Array] = []
    for number, count in enumerate(counts):
        rows = _embedded(run, number)[np.sort(random.permutation(count)[: max(1, round(share * count))])]
        points.append(run.vectors(number)[rows].astype(np.float32))
    width = max(part.shape[1] for part in points)
    hierarchy = cluster(np.concatenate([part for part in points if part.shape[1] == width]), levels, run.settings.seed)
    arrays: dict[str, Any] = {f"parents_{level}": parents for level, parents in enumerate(hierarchy.parents)}
    with atomic_write(run.folder / "clusters.npz", "wb") as file:
        np.savez(file, centroids=hierarchy.centroids, **arrays)


def _embedded(run: CurationRun, number: int) -> Int64Array:
    """Returns the rows of a shard's vectors that are not zero."""
    return np.flatnonzero(np.asarray(run.vectors(number)).any(axis=1))


class _Assignment:
    def __init__(self, run: CurationRun):
        self._run, self._hierarchy = run, run.hierarchy()

    def __call__(self, number: int) -> None:
        rows, vectors = _embedded(self._run, number), self._run.vectors(number)
        leaves = np.full(len(vectors), -1, np.int64)
        if len(rows):
            leaves[rows] = self._hierarchy.assign(vectors[rows].astype(np.float32))
        self._run.save(self._run.path("assigned", number), leaves)


def _assigned(run: CurationRun, number: int) -> Int64Array:
    leaves: Int64Array = np.load(run.path("assigned", number), allow_pickle=False)
    return leaves


def _leaf_sizes(run: CurationRun) -> Int64Array:
    sizes = np.zeros(len(run.hierarchy().centroids), np.int64)
    for number in range(len(run.shards)):
        leaves = _assigned(run, number)
        sizes += np.bincount(leaves[leaves >= 0], minlength=len(sizes))
    return sizes


def _set_quotas(run: CurationRun, sizes: Int64Array) -> None:
    run.save(run.folder / "quotas.npy", balanced_quotas(run.hierarchy(), sizes, run.settings.keep))


def _groups(sizes: Int64Array) -> list[Int64Array]:
    """Divides the finest clusters into groups of about `_SAMPLES_PER_CHOICE` samples."""
    group = np.cumsum(sizes) // _SAMPLES_PER_CHOICE
    return [np.flatnonzero(group == number) for number in np.unique(group)]


class _Choice:
    """Chooses samples of a group of clusters, of which it reads the vectors from all shards."""

    def __init__(self, run: CurationRun, groups: Sequence[Int64Array]):
        self._run, self._groups = run, groups
        self._quotas: Int64Array = np.load(run.folder / "quotas.npy", allow_pickle=False)

    def __call__(self, group: int) -> None:
        run = self._run
        leaves, samples, vectors = [], [], []
        for number in range(len(run.shards)):
            assigned = _assigned(run, number)
            rows = np.flatnonzero(np.isin(assigned, self._groups[group]))
            if len(rows):
                leaves.append(assigned[rows])
                samples.append(run.first[number] + run.survivors(number)[rows])
                vectors.append(run.vectors(number)[rows])
        chosen = [np.empty(0, np.int64)]
        if leaves:
            chosen += self._choose(np.concatenate(leaves), np.concatenate(samples), np.concatenate(vectors))
        run.save(run.path("chosen", group), np.concatenate(chosen))

    def _choose(self, leaves: Int64Array, samples: Int64Array, vectors: Float32Array) -> list[Int64Array]:
        chosen = []
        for leaf in np.unique(leaves):
            members = np.flatnonzero(leaves == leaf)
            quota = int(self._quotas[leaf])
            if quota < len(members):
                members = members[farthest_points(vectors[members].astype(np.float32), quota)]
            chosen.append(samples[members])
        return chosen


def _mark_kept(run: CurationRun, groups: int) -> None:
    kept = np.zeros(int(run.first[-1]), np.bool_)
    for group in range(groups):
        kept[np.load(run.path("chosen", group), allow_pickle=False)] = True
    run.save(run.folder / "kept.npy", kept)


def _write(run: CurationRun) -> Work:
    return lambda number: _write_shard(run, number)


def _write_shard(run: CurationRun, number: int) -> None:
    """Writes the selected samples of a shard, then why each of the others was dropped."""
    kept = run.of_shard("kept.npy", number)
    if kept.any():
        write_selected(run.shards[number], set(np.flatnonzero(kept).tolist()), selected_file(run, number))
    found = run.inspected(number, ["name", "reason", "detail"])
    duplicate_of = run.of_shard("duplicates.npy", number)
    not_embedded = run.not_embedded(number)
    with atomic_write(run.path("dropped", number, ".jsonl")) as file:
        for sample in np.flatnonzero(~kept).tolist():
            reason, detail = found["reason"][sample], found["detail"][sample]
            if duplicate_of[sample] >= 0:
                shard = int(np.searchsorted(run.first, duplicate_of[sample], "right")) - 1
                place = f"{Path(run.shards[shard].path).name}, sample {duplicate_of[sample] - run.first[shard]}"
                reason, detail = "duplicate", f"it shows the same as {place} of shard {shard}"
            elif sample in not_embedded:
                reason, detail = "not embedded", not_embedded[sample]
            elif not reason:
                reason, detail = "not selected", "its cluster has enough samples"
            line = {"name": found["name"][sample], "reason": reason, "detail": detail}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _join_lines(run: CurationRun) -> None:
    """Joins the lines of all shards to one file, which can be trained on."""
    parts = sorted((run.folder / "lines").glob("*.jsonl"))
    if parts:
        with atomic_write(run.folder / "selected" / "samples.jsonl", "wb") as joined:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined)
