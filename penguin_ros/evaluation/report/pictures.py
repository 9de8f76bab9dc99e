"""Frames with boxes drawn over them, as SVG: pixels are stored once and used by every drawing that shows them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from penguin_models.grounding import SCALE
from penguin_models.types import Size
from penguin_ros.evaluation.metrics.boxes import BoxTuple
from penguin_ros.evaluation.metrics.scoring import to_thousandths
from penguin_ros.evaluation.question_file import Expected
from penguin_ros.evaluation.records import FrameRecord
from penguin_ros.evaluation.report.svg import EXPECTED, drawing, tag, text
from penguin_ros.evaluation.results import ScoredRecord


@dataclass(frozen=True)
class DrawnBox:
    """A box in thousandths of the image, as it is drawn."""

    label: str
    box: BoxTuple
    colour: str
    class_: str


class Pictures:
    """The frames of a page."""

    def __init__(self) -> None:
        self._names: dict[Path, str] = {}
        self._symbols: list[str] = []

    def draw(self, folder: Path, frame: FrameRecord, boxes: Sequence[DrawnBox]) -> Markup | None:
        """A frame with boxes; None where its file is not there."""
        name = self._symbol(folder / "frames" / frame.file, frame)
        if name is None:
            return None
        parts = [tag("use", href=f"#{name}"), *(_draw(item, frame) for item in boxes)]
        return drawing(frame.width, frame.height, *parts, label=f"{frame.camera} at {frame.time_s:.1f} s")

    def definitions(self) -> Markup:
        """What the drawings refer to; belongs into the page once."""
        return Markup("").join(Markup(symbol) for symbol in self._symbols)

    def _symbol(self, file: Path, frame: FrameRecord) -> str | None:
        if file in self._names:
            return self._names[file]
        try:
            data = base64.b64encode(file.read_bytes()).decode()
        except OSError:
            return None
        name = f"frame-{len(self._names)}"
        self._names[file] = name
        url = f"data:image/jpeg;base64,{data}"
        self._symbols.append(tag("image", id=name, href=url, width=frame.width, height=frame.height))
        return name


def expected_boxes(expected: Sequence[Expected], frame: FrameRecord) -> list[DrawnBox]:
    """What should have been pointed at."""
    size = Size(frame.height, frame.width)
    return [
        DrawnBox(item.labels[0], to_thousandths(item, objects.unit, size), EXPECTED, "expected")
        for objects in expected
        if objects.type == "objects"
        for item in objects.objects or []
    ]


def given_boxes(record: ScoredRecord, colour: str) -> list[DrawnBox]:
    """What the answer points at."""
    return [DrawnBox(item.label, item.box, colour, "given") for item in record.objects]


def _draw(item: DrawnBox, frame: FrameRecord) -> str:
    x1, y1, x2, y2 = (side * full / SCALE for side, full in zip(item.box, (frame.width, frame.height) * 2, strict=True))
    unit = max(frame.width, frame.height) / 320
    dashes = None if item.class_ == "expected" else f"{5 * unit:.1f} {3 * unit:.1f}"
    box = tag(
        "rect",
        x=x1,
        y=y1,
        width=max(x2 - x1, unit),
        height=max(y2 - y1, unit),
        fill="none",
        stroke=item.colour,
        stroke_width=2 * unit,
        stroke_dasharray=dashes,
    )
    # Expected labels stand above their boxes and given ones below, so that both can be read.
    above = y1 - 3 * unit if y1 > 14 * unit else y1 + 11 * unit
    below = y2 + 11 * unit if y2 < frame.height - 14 * unit else y2 - 4 * unit
    words = text(
        item.label,
        min(x1, frame.width - 5.5 * unit * len(item.label)) if len(item.label) * 5.5 * unit < frame.width else 0.0,
        above if item.class_ == "expected" else below,
        font_size=10 * unit,
        font_weight="bold",
        fill=item.colour,
        stroke="white",
        stroke_width=2.5 * unit,
        paint_order="stroke",
    )
    return tag("g", box, words, class_=item.class_)
