"""Plot of the events and keyframes of clips over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penguin_models.errors import MediaError

_EVENT_COLOUR, _KEYFRAME_COLOUR = "#ffcd78", "#1e5ac8"


def check_plot(path: Path) -> None:
    """Raises MediaError if a plot cannot be written there, so that it is known before a long measurement."""
    from matplotlib.figure import Figure

    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise MediaError(f"plot {path} cannot be written: name it .png or .svg")
    if not path.absolute().parent.is_dir():
        raise MediaError(f"plot {path} cannot be written: there is no folder {path.parent}")


def draw_timelines(path: Path, policies: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Writes a plot with one row per clip of each policy; every second clip is a calm one, without events.

    Args:
        path: Image file, in the format that its ending names.
        policies: By name, clips with "events" (start and end in seconds) and "keyframes" (seconds).
    """
    from matplotlib.figure import Figure

    rows = max(len(clips) for clips in policies.values())
    figure = Figure(figsize=(10, len(policies) * (1 + 0.2 * rows)), layout="constrained")
    axes = figure.subplots(len(policies), squeeze=False)[:, 0]
    for axis, (name, clips) in zip(axes, policies.items(), strict=True):
        for number, clip in enumerate(clips):
            spans = [(start, end - start) for start, end in clip["events"]]
            axis.broken_barh(spans, (number - 0.4, 0.8), color=_EVENT_COLOUR)
        keyframes = [clip["keyframes"] for clip in clips]
        axis.eventplot(keyframes, lineoffsets=range(len(clips)), linelengths=0.9, color=_KEYFRAME_COLOUR)
        axis.set(title=f"{name}: events with 1 s of grace (bars), keyframes (strokes)", xlabel="seconds")
        axis.set_yticks(range(len(clips)), [f"clip {n // 2 + 1}{', calm' * (n % 2)}" for n in range(len(clips))])
        axis.set_ylim(len(clips) - 0.5, -0.5)
    figure.savefig(path)
