"""Clips of the simulated table-top for measuring keyframe policies, and a plot of events and keyframes over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from penguin_engine.bench.keyframe_policies import AnnotatedClip
from penguin_models.atomic_write import atomic_write
from penguin_models.errors import MediaError
from penguin_models.types import Frame, Size
from penguin_tabletop.clips.timeline import TabletopClip
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.seeds import Split

_SIZE = Size(240, 320)
_FPS = 5.0
_EVENT_COLOUR, _KEYFRAME_COLOUR = "#ffcd78", "#1e5ac8"


def rendered_clips(count: int) -> Iterator[AnnotatedClip]:
    """Yields clips of the test split with events, each followed by a calm one: only noise, flicker and slow light.

    Raises TabletopError if PyBullet is not installed.
    """
    for number in range(count):
        for calm in (False, True):
            clip = TabletopClip(Split.TEST.seed(number, base=1 + calm), _SIZE, _FPS, calm=calm)
            yield AnnotatedClip(_render(clip), [(event.start_s, event.end_s) for event in clip.events], clip.seconds)


def _render(clip: TabletopClip) -> Iterator[Frame]:
    for view in clip.frames(SceneRenderer(_SIZE)):
        yield Frame(view.picture.rgb, round(view.stamp_s * 1e9))


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

    Clips have "events" (start and end in seconds) and "keyframes" (seconds). The path's ending names the format.
    Raises WriteError.
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
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format=path.suffix.removeprefix("."))
