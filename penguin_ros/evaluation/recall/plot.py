"""The plot of `evaluate recall`: score against the age of the evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penguin_models.atomic_write import atomic_write
from penguin_ros.evaluation.recall.questions import BANDS, NOMINAL_AGES_S

_COLOURS = {
    "memory": "#0b62a4",
    "episodes": "#1f7a1f",
    "window": "#c75000",
    "last-4": "#7b3294",
    "uniform": "#00737f",
    "offline": "#a6761d",
}
"""Distinguishable with red-green colour blindness, together with the markers."""
_MARKERS = dict(zip(_COLOURS, "osD^vP", strict=True))
_FAINT, _GRID = "#777777", "#dddddd"
_RECENT_AT_S = 5.0
_APART = 0.013
"""Distance between the methods of a band, as a share of the axis."""


def draw_recall(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes the plot; the path's ending names the format. Raises WriteError."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "svg.fonttype": "none", "axes.spines.right": False}):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        scores = summary["scores"]
        ages_s = [_age_s(band) for bands in scores.values() for band in bands]
        apart = (max(ages_s, default=1.0) / _RECENT_AT_S) ** _APART
        for rank, (method, bands) in enumerate(scores.items()):
            shift = apart ** (rank - (len(scores) - 1) / 2)
            _draw(axes, bands, shift, color=_COLOURS[method], marker=_MARKERS[method], label=method, lw=1.6, ms=5)
        references = {"evidence shown": summary["shown"], **summary["guesses"]}
        for (name, bands), style in zip(references.items(), (":", "--", "-."), strict=True):
            _draw(axes, bands, 1.0, with_intervals=False, color=_FAINT, linestyle=style, label=name, lw=1.1)
        _label(axes, {band for bands in scores.values() for band in bands})
        figure.legend(loc="outside right center", frameon=False)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)


def _draw(axes: Any, bands: Mapping[str, Any], shift: float, with_intervals: bool = True, **style: Any) -> None:
    """Draws the scores of one method as a line, with bars for their intervals."""
    at_s = [_age_s(band) * shift for band in bands]
    axes.plot(at_s, [score["value"] for score in bands.values()], **style)
    for age_s, score in zip(at_s, bands.values(), strict=True):
        if with_intervals and score["low"] is not None:
            axes.vlines(age_s, score["low"], score["high"], color=style["color"], linewidth=3, alpha=0.35)


def _label(axes: Any, bands: set[str]) -> None:
    names = [band for band in BANDS if band in bands]
    axes.set_xticks([_age_s(name) for name in names], [re.sub(r"(?<=\d)(?=[a-z])", " ", name) for name in names])
    axes.set_xticks([], minor=True)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("age of the evidence when asked")
    axes.set_ylabel("share of right answers, 95 % intervals")
    axes.spines["top"].set_visible(False)
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)


def _age_s(band: str) -> float:
    return NOMINAL_AGES_S.get(band, _RECENT_AT_S)
