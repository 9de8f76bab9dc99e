"""The result of a run in numbers: samples dropped by reason, and sizes of clusters before and after the selection."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from penguin_models.atomic_write import atomic_write
from penguin_models.types import Int64Array
from penguin_training.curation.results import CurationRun

_NAMED = 20


@dataclass(frozen=True, eq=False)
class Level:
    """Sizes of the clusters of a level, int64 [clusters]."""

    before: Int64Array  # Samples that are neither dropped nor duplicates
    after: Int64Array  # Samples that were selected


@dataclass(frozen=True, eq=False)
class Summary:
    """The result of a run.

    Attributes:
        samples: Number of samples in the input.
        kept: Number of samples that were selected.
        dropped: Number of samples that were not, by reason.
        unreadable: The first samples that could not be read: name and detail.
        levels: Clusters of each level, the finest first.
    """

    samples: int
    kept: int
    dropped: dict[str, int]
    unreadable: list[tuple[str, str]]
    levels: list[Level]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        levels = [
            {
                "clusters": len(level.before),
                "largest_before": int(level.before.max()),
                "largest_after": int(level.after.max()),
                "entropy_before_bits": entropy_bits(level.before),
                "entropy_after_bits": entropy_bits(level.after),
            }
            for level in self.levels
        ]
        return asdict(self) | {"levels": levels}


def entropy_bits(counts: Sequence[int] | Int64Array) -> float:
    """Returns the entropy of a distribution given by counts; log2 of their number if they are equal."""
    shares = np.asarray(counts, np.float64)
    shares = shares[shares > 0] / max(shares.sum(), 1.0)
    return float(-(shares * np.log2(shares)).sum())


def summarise(run: CurationRun, leaf_sizes: Int64Array) -> Summary:
    """Counts, from the files of the steps, and writes summary.json; raises WriteError if that fails."""
    dropped: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    for number in range(len(run.shards)):
        with run.path("dropped", number, ".jsonl").open(encoding="utf-8") as file:
            for line in map(json.loads, file):
                dropped[line["reason"]] += 1
                if line["reason"] in ("unreadable", "not embedded") and len(unreadable) < _NAMED:
                    unreadable.append((line["name"], line["detail"]))
    hierarchy, samples = run.hierarchy(), int(run.first[-1])
    quotas: Int64Array = np.load(run.folder / "quotas.npy", allow_pickle=False)
    sizes = zip(hierarchy.level_sizes(leaf_sizes), hierarchy.level_sizes(quotas), strict=True)
    levels = [Level(before, after) for before, after in sizes]
    summary = Summary(samples, samples - dropped.total(), dict(dropped.most_common()), unreadable, levels)
    with atomic_write(run.folder / "summary.json") as file:
        json.dump(summary.to_dict(), file, indent=1)
    return summary
