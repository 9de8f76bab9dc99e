"""Drawing with SVG: elements, scales with ticks, and the frame of a plot. Everything is text; nothing is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

COLOURS = ("#0b62a4", "#c75000", "#7b3294", "#00737f")
"""Of the columns of a report, distinguishable without seeing red and green apart."""
EXPECTED, INK, FAINT, GRID, RIGHT, WRONG = "#1f7a1f", "#333333", "#777777", "#dddddd", "#1f7a1f", "#b3261e"


def tag(name: str, *children: str, **attributes: object) -> str:
    """An element; `stroke_width` becomes stroke-width, `class_` becomes class."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(children)}</{name}>"


def text(words: str, x: float, y: float, **attributes: object) -> str:
    """Words at a place."""
    return tag("text", escape(words), x=x, y=y, **attributes)


def drawing(width: float, height: float, *children: str, label: str) -> Markup:
    """A picture that scales with the page; the label is for those who cannot see it."""
    return Markup(
        tag(
            "svg",
            *children,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {_plain(width)} {_plain(height)}",
            role="img",
            aria_label=label,
        )
    )


@dataclass(frozen=True)
class Scale:
    """Values -> coordinates.

    Attributes:
        low: value at `start`.
        high: value at `end`; above low.
        start: coordinate.
        end: coordinate.
        log: by powers of ten; then low is above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        turn: Callable[[float], float] = math.log10 if self.log else float
        share = (turn(value) - turn(self.low)) / (turn(self.high) - turn(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values between low and high."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= 3 else (1,)
            values = [step * 10.0**power for power in powers for step in steps]
        else:
            step = _round_step((self.high - self.low) / most)
            first = math.ceil(self.low / step - 1e-9)
            values = [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]


def number(value: float) -> str:
    """A value with as many digits as it needs."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def axes(x: Scale, y: Scale, x_label: str, y_label: str) -> str:
    """Grid, ticks and names of the axes of a plot."""
    parts = []
    for value in x.ticks():
        at = x(value)
        parts.append(tag("line", x1=at, x2=at, y1=y.start, y2=y.end, stroke=GRID))
        parts.append(text(number(value), at, y.start + 14, text_anchor="middle", font_size=11, fill=FAINT))
    for value in y.ticks():
        at = y(value)
        parts.append(tag("line", x1=x.start, x2=x.end, y1=at, y2=at, stroke=GRID))
        parts.append(text(number(value), x.start - 5, at + 4, text_anchor="end", font_size=11, fill=FAINT))
    middle = (x.start + x.end) / 2
    parts.append(text(x_label, middle, y.start + 30, text_anchor="middle", font_size=12, fill=INK))
    parts.append(text(y_label, x.start, y.end - 8, font_size=12, fill=INK))
    return "".join(parts)


def polyline(points: Sequence[tuple[float, float]], **attributes: object) -> str:
    """A line through points."""
    written = " ".join(f"{_plain(x)},{_plain(y)}" for x, y in points)
    return tag("polyline", points=written, fill="none", **attributes)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
