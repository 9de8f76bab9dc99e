"""Writes what came of a run as one HTML page, with thumbnails of samples in it.

Thumbnails are read from a few shards, spread evenly over the input, so that the page costs the same for any input.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import PenguinError
from penguin_models.types import Int64Array, UInt8Array
from penguin_training.curation.inspection import decoded
from penguin_training.curation.results import CurationRun
from penguin_training.curation.summary import Summary, entropy_bits

_SHARDS, _SHOWN, _CLUSTERS = 8, 8, 24
_SIDE = 112  # of a thumbnail in pixels


@dataclass(frozen=True)
class Thumbnail:
    """A sample on the page; `uri` is empty if it cannot be decoded."""

    name: str
    detail: str
    uri: str


def write_report(run: CurationRun, summary: Summary) -> Path:
    """Writes the page, and returns its path; raises WriteError if that fails."""
    selected, dropped = _choose(run)
    shown = {place for places in (*selected.values(), *dropped.values()) for place, _ in places}
    thumbnails = _thumbnails(run, shown)
    level = summary.levels[-1]
    largest = np.argsort(-level.before, kind="stable")[:_CLUSTERS].tolist()
    clusters = [(int(level.before[n]), int(level.after[n]), _shown(selected[n], thumbnails)) for n in largest]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = resources.files("penguin_training.curation") / "report.html"
    html = environment.from_string(page.read_text(encoding="utf-8")).render(
        summary=summary,
        settings=run.settings,
        clusters=clusters,
        most=max([1, *(before for before, _, _ in clusters)]),
        dropped={reason: _shown(dropped[reason], thumbnails) for reason in summary.dropped},
        entropy_bits=entropy_bits,
        shards=min(_SHARDS, len(run.shards)),
    )
    path = run.folder / "report.html"
    with atomic_write(path) as file:
        file.write(html)
    return path


_Place = tuple[int, int]  # shard, and number of the sample in it
_Places = dict[object, list[tuple[_Place, str]]]  # with what the page says about them


def _choose(run: CurationRun) -> tuple[_Places, _Places]:
    """Returns selected samples by their coarsest cluster, and dropped ones by reason."""
    top = _coarsest(run)
    selected: _Places = defaultdict(list)
    dropped: _Places = defaultdict(list)
    for shard in sorted(set(np.linspace(0, len(run.shards) - 1, _SHARDS, dtype=int).tolist())):
        kept = run.of_shard("kept.npy", shard)
        leaves = np.load(run.path("assigned", shard), allow_pickle=False)
        for sample, leaf in zip(run.survivors(shard).tolist(), leaves.tolist(), strict=True):
            if kept[sample] and len(selected[top[leaf]]) < _SHOWN:
                selected[int(top[leaf])].append(((shard, sample), ""))
        lines = run.path("dropped", shard, ".jsonl").read_text(encoding="utf-8").splitlines()
        for sample, line in zip(np.flatnonzero(~kept).tolist(), map(json.loads, lines), strict=True):
            if len(dropped[line["reason"]]) < _SHOWN:
                dropped[line["reason"]].append(((shard, sample), f"{line['name']}: {line['detail']}"))
    return selected, dropped


def _coarsest(run: CurationRun) -> Int64Array:
    """Returns the coarsest cluster of each finest one."""
    hierarchy = run.hierarchy()
    top = np.arange(len(hierarchy.centroids))
    for parents in hierarchy.parents:
        top = parents[top]
    return top


def _thumbnails(run: CurationRun, places: set[_Place]) -> dict[_Place, Thumbnail]:
    found = {}
    for shard in {shard for shard, _ in places}:
        wanted = {sample for number, sample in places if number == shard}
        for sample, name, views in decoded(run.shards[shard], wanted):
            uri = "" if isinstance(views, PenguinError) else _uri(views.images[len(views.images) // 2])
            found[shard, sample] = Thumbnail(name, "", uri)
    return found


def _shown(places: list[tuple[_Place, str]], thumbnails: dict[_Place, Thumbnail]) -> list[Thumbnail]:
    found = [(thumbnails[place], detail) for place, detail in places if place in thumbnails]
    return [Thumbnail(thumbnail.name, detail, thumbnail.uri) for thumbnail, detail in found]


def _uri(rgb: UInt8Array) -> str:
    factor = _SIDE / max(rgb.shape[:2])
    size = [max(1, round(side * factor)) for side in (rgb.shape[1], rgb.shape[0])]
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
