"""The plots of a report, as SVG. Each takes plain numbers; colours are those of the report's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from penguin_ros.evaluation.report.svg import (
    COLOURS,
    FAINT,
    GRID,
    INK,
    RIGHT,
    WRONG,
    Scale,
    axes,
    drawing,
    polyline,
    tag,
    text,
)
from penguin_ros.evaluation.results import BagTimeline

_WIDTH, _HEIGHT = 520.0, 260.0
_MOST_POINTS = 1500
_HALF_TRIANGLE = 5.0
_GAP = 6.0
_LETTER = 5.8
"""Width of a letter of a label, about."""


def interval_bar(value: float, low: float | None, high: float | None, colour: str) -> Markup:
    """A share from 0 to 1 with its interval, small enough for a table."""
    x = Scale(0, 1, 4, 116)
    parts = [tag("line", x1=x(0), x2=x(1), y1=8, y2=8, stroke=GRID, stroke_width=2)]
    if low is not None and high is not None:
        parts.append(tag("line", x1=x(low), x2=x(high), y1=8, y2=8, stroke=colour, stroke_width=4, opacity=0.45))
    parts.append(tag("circle", cx=x(value), cy=8, r=4, fill=colour))
    words = "" if low is None or high is None else f", 95 % interval {low:.2f} to {high:.2f}"
    return drawing(120, 16, *parts, label=f"{value:.2f}{words}")


def age_plot(groups: Mapping[str, Sequence[Mapping[str, float | None]]], columns: Sequence[str]) -> Markup:
    """Right answers by the age of the needed evidence.

    Args:
        groups: by span of ages, for each column value, low and high; empty where a column has no such questions.
        columns: their names.
    """
    x = Scale(0, max(1, len(groups)), 40, _WIDTH - 10)
    y = Scale(0, 1, _HEIGHT - 40, 24)
    parts = [tag("line", x1=x.start, x2=x.end, y1=y(v), y2=y(v), stroke=GRID) for v in y.ticks()]
    parts += [text(f"{v:.1f}", 34, y(v) + 4, text_anchor="end", font_size=11, fill=FAINT) for v in y.ticks()]
    parts.append(text("share of right answers", x.start, 14, font_size=12, fill=INK))
    for index, (group, cells) in enumerate(groups.items()):
        parts.append(text(group, x(index + 0.5), _HEIGHT - 22, text_anchor="middle", font_size=11, fill=FAINT))
        for number, cell in enumerate(cells):
            value = cell.get("value")
            if value is None:
                continue
            at = x(index + (number + 1) / (len(cells) + 1))
            low, high = cell.get("low"), cell.get("high")
            if low is not None and high is not None:
                ends = {"y1": y(low), "y2": y(high)}
                parts.append(tag("line", x1=at, x2=at, stroke=_colour(number), stroke_width=4, opacity=0.45, **ends))
            parts.append(tag("circle", cx=at, cy=y(value), r=5, fill=_colour(number)))
    parts.append(
        text("age of the needed evidence when asked", (x.start + x.end) / 2, _HEIGHT - 5, text_anchor="middle",
             font_size=12, fill=INK)
    )  # fmt: skip
    return drawing(_WIDTH, _HEIGHT, *parts, label=f"right answers by age of the evidence: {', '.join(columns)}")


def latency_plot(first: Sequence[Sequence[float]], total: Sequence[Sequence[float]]) -> Markup | None:
    """Share of answers whose first token (solid) and last token (dashed) had come by a time; None without answers."""
    values = [max(v, 1e-4) for series in (*first, *total) for v in series]
    if not values:
        return None
    low, high = min(values), max(values)
    x = Scale(low / 1.2, max(high, low * 2) * 1.2, 40, _WIDTH - 10, log=True)
    y = Scale(0, 1, _HEIGHT - 40, 24)
    parts = [axes(x, y, "seconds after the question", "share of answers")]
    for column, (begun, ended) in enumerate(zip(first, total, strict=True)):
        for series, dashes in ((begun, None), (ended, "6 4")):
            if series:
                parts.append(
                    polyline(_steps(series, x, y), stroke=_colour(column), stroke_width=2, stroke_dasharray=dashes)
                )
    return drawing(_WIDTH, _HEIGHT, *parts, label="times to the first and to the last token")


def token_plot(series: Sequence[Sequence[tuple[int, float]]]) -> Markup | None:
    """Each answer's visual tokens, and the work until its first token; None without answers."""
    points = [point for column in series for point in column]
    if not points:
        return None
    x = Scale(0, max(1, *(tokens for tokens, _ in points)) * 1.05, 46, _WIDTH - 10)
    y = Scale(0, max(1e-3, *(seconds for _, seconds in points)) * 1.05, _HEIGHT - 40, 24)
    parts = [axes(x, y, "visual tokens in the prompt", "seconds of work to the first token")]
    for column, answers in enumerate(series):
        parts += [
            tag("circle", cx=x(tokens), cy=y(seconds), r=3.5, fill=_colour(column), opacity=0.6)
            for tokens, seconds in answers
        ]
    return drawing(_WIDTH, _HEIGHT, *parts, label="visual tokens and time to the first token")


@dataclass(frozen=True)
class Mark:
    """A question on a time line: when it was asked, its id, and whether the answer was right."""

    time_s: float
    name: str
    correct: bool


@dataclass(frozen=True)
class Span:
    """Something that happens on a time line, and the question that is about it."""

    start_s: float
    end_s: float
    name: str
    question: str


def memory_plot(timeline: BagTimeline, marks: Sequence[Mark], spans: Sequence[Span]) -> Markup:
    """What a memory did: frames taken, tokens held, compactions; above it the questions, below it what happened."""
    width, top, base = 900.0, 46.0, 190.0
    ends = [*timeline.time_s[-1:], *(m.time_s for m in marks), *(s.end_s for s in spans)]
    x = Scale(0, max(1.0, *ends), 50, width - 12)
    y = Scale(0, timeline.token_budget * 1.08, base, top)
    lanes = _lanes([_bar(span, x, width) for span in spans])
    height = base + 52 + 16 * len(lanes)
    parts = [axes(x, y, "", ""), text("visual tokens held", x.start, 12, font_size=12, fill=INK)]
    parts.append(_budget(x, y, timeline.token_budget))
    parts += [_area(timeline, x, y), _frames(timeline, x, base), _compactions(timeline, x, y)]
    parts += [_asked(together, x) for together in _together(marks, x)]
    for lane, bars in enumerate(lanes):
        parts += [bar.draw(base + 44 + 16 * lane) for bar in bars]
    return drawing(width, height, *parts, label=f"memory of {timeline.camera} in {timeline.bag}")


def _together(marks: Sequence[Mark], x: Scale) -> list[list[Mark]]:
    """Questions in the order of their times; those whose triangles would cover each other are one group."""
    groups: list[list[Mark]] = []
    for mark in sorted(marks, key=lambda mark: mark.time_s):
        if groups and x(mark.time_s) - x(groups[-1][0].time_s) < 2 * _HALF_TRIANGLE:
            groups[-1].append(mark)
        else:
            groups.append([mark])
    return groups


def _asked(marks: Sequence[Mark], x: Scale) -> str:
    """A triangle for questions of one time; how many are right beside it, where they are several."""
    right, at = sum(mark.correct for mark in marks), x(marks[0].time_s)
    colour = RIGHT if right == len(marks) else WRONG if right == 0 else FAINT
    points = [(at + dx, 24.0 + dy) for dx, dy in ((-_HALF_TRIANGLE, 0), (_HALF_TRIANGLE, 0), (0, 10))]
    shape = "M" + " L".join(f"{px:.1f} {py:.1f}" for px, py in points) + " Z"
    told = [f"{m.name}, asked at {m.time_s:.1f} s: {'right' if m.correct else 'wrong'}" for m in marks]
    title = tag("title", _escaped("\n".join(told)))
    drawn = tag("path", title, d=shape, fill="white" if right == 0 else colour, stroke=colour, stroke_width=1.5)
    if len(marks) == 1:
        return drawn
    words = f"{right} of {len(marks)} right"
    room = at - x.start > _LETTER * len(words)
    beside = {"x": at - 9, "text_anchor": "end"} if room else {"x": at + 9, "text_anchor": "start"}
    return drawn + text(words, y=33, font_size=11, fill=INK, **beside)


def _budget(x: Scale, y: Scale, tokens: int) -> str:
    line = tag("line", x1=x.start, x2=x.end, y1=y(tokens), y2=y(tokens), stroke=WRONG, stroke_dasharray="4 4")
    return line + text("budget", x.end, y(tokens) - 4, text_anchor="end", font_size=11, fill=WRONG)


def _area(timeline: BagTimeline, x: Scale, y: Scale) -> str:
    stride = max(1, len(timeline.time_s) // _MOST_POINTS)
    points = [(x(t), y(n)) for t, n in zip(timeline.time_s[::stride], timeline.tokens[::stride], strict=True)]
    if not points:
        return ""
    outline = [(points[0][0], y(0)), *points, (points[-1][0], y(0))]
    written = " ".join(f"{px:.1f},{py:.1f}" for px, py in outline)
    return tag("polygon", points=written, fill=COLOURS[0], opacity=0.18) + polyline(points, stroke=COLOURS[0])


def _frames(timeline: BagTimeline, x: Scale, base: float) -> str:
    """Key frames as long strokes, context frames as short ones, below the axis."""
    paths = {0: "", 1: ""}
    for time_s, kind in zip(timeline.time_s, timeline.kind, strict=True):
        if kind in paths:
            paths[kind] += f"M{x(time_s):.1f} {base + 18:.0f}v{18 if kind == 0 else 8}"
    return tag("path", d=paths[1] or "M0 0", stroke=FAINT) + tag(
        "path", d=paths[0] or "M0 0", stroke=INK, stroke_width=2
    )


def _compactions(timeline: BagTimeline, x: Scale, y: Scale) -> str:
    parts = []
    for time_s, shrunk, left in zip(timeline.time_s, timeline.shrunk, timeline.left, strict=True):
        if shrunk or left:
            title = tag("title", f"at {time_s:.1f} s: {shrunk} frames shrank, {left} left")
            at = x(time_s)
            parts.append(
                tag("line", title, x1=at, x2=at, y1=y.start, y2=y.end, stroke=COLOURS[2], stroke_dasharray="2 3")
            )
    return "".join(parts)


@dataclass(frozen=True)
class _Bar:
    """A span as it is drawn: its bar with the name on its right, or on its left where there is no room.

    Attributes:
        span: what happens.
        start: where the bar begins.
        end: where the bar ends.
        left: where bar or name begin.
        right: where bar and name end.
    """

    span: Span
    start: float
    end: float
    left: float
    right: float

    def draw(self, y: float) -> str:
        span = self.span
        told = f"{span.name}, {span.start_s:.1f} to {span.end_s:.1f} s: {span.question}"
        title, width = tag("title", _escaped(told)), self.end - self.start
        bar = tag("rect", title, x=self.start, y=y, width=width, height=11, rx=2, fill="#f0c36d")
        beside = {"x": self.end + 4, "text_anchor": "start"}
        if self.left < self.start:
            beside = {"x": self.start - 4, "text_anchor": "end"}
        return bar + text(_short(span.name), y=y + 10, font_size=11, fill=INK, **beside)


def _bar(span: Span, x: Scale, width: float) -> _Bar:
    start, end = x(span.start_s), max(x(span.end_s), x(span.start_s) + 3)
    name = 4 + _LETTER * len(_short(span.name))
    if end + name > width:
        return _Bar(span, start, end, start - name, end)
    return _Bar(span, start, end, start, end + name)


def _lanes(bars: Sequence[_Bar]) -> list[list[_Bar]]:
    """Bars in rows, so that none covers another or its name."""
    lanes: list[list[_Bar]] = []
    for bar in sorted(bars, key=lambda bar: bar.left):
        for lane in lanes:
            if lane[-1].right + _GAP < bar.left:
                lane.append(bar)
                break
        else:
            lanes.append([bar])
    return lanes


def _steps(values: Sequence[float], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """An empirical distribution as stairs."""
    ordered = sorted(max(v, 1e-4) for v in values)
    points = [(x(ordered[0]), y(0))]
    for count, value in enumerate(ordered, start=1):
        points += [(x(value), points[-1][1]), (x(value), y(count / len(ordered)))]
    return points


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def _escaped(name: str) -> str:
    return str(Markup.escape(name))


def _colour(column: int) -> str:
    return COLOURS[column % len(COLOURS)]
