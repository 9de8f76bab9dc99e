"""Draws charts, diagrams, tables and pages of text, which have no labels: training data for reconstruction alone.

They are drawn at twice their size and scaled down, so that lines and letters are smooth.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from penguin_models.types import Size, UInt8Array
from penguin_tabletop.scene.catalogue import COLOURS, WORDS
from penguin_tabletop.seeds import Random

_FINER = 2


def draw_chart(random: Random, size: Size) -> UInt8Array:
    """Returns a picture of a random chart or page, uint8 [H, W, 3]."""
    sheet = _Sheet(random, Size(size.height * _FINER, size.width * _FINER))
    kinds = (_bars, _lines, _pie, _points, _flow, _table, _page)
    kinds[int(random.integers(len(kinds)))](sheet, *sheet.frame)
    return np.asarray(sheet.image.resize((size.width, size.height), Image.Resampling.BOX))


class _Sheet:
    """A sheet of paper with a frame to draw in and perhaps a title."""

    def __init__(self, random: Random, size: Size):
        self.random, self.size = random, size
        dark = random.random() < 0.15
        paper = random.integers(20, 60) if dark else random.integers(225, 256)
        self.paper = tuple(int(np.clip(paper + shade, 0, 255)) for shade in random.integers(-8, 9, 3))
        self.ink = (230, 230, 230) if dark else (30, 30, 35)
        self.image = Image.new("RGB", (size.width, size.height), self.paper)
        self.draw = ImageDraw.Draw(self.image)
        left, top = random.uniform(0.08, 0.18, 2)
        right, bottom = random.uniform(0.84, 0.95, 2)
        self.frame = (left * size.width, top * size.height, right * size.width, bottom * size.height)
        self.unit = max(1, min(size) // 112)
        if random.random() < 0.7:
            self.text(size.width / 2, 0.05 * size.height, self.words(int(random.integers(1, 4))), 6, "mm")

    def words(self, count: int) -> str:
        return " ".join(str(self.random.choice(WORDS)) for _ in range(count))

    def text(self, x: float, y: float, text: str, height: float, anchor: str) -> None:
        self.draw.text((x, y), text, self.ink, ImageFont.load_default(height * self.unit), anchor=anchor)

    def colour(self) -> tuple[int, int, int]:
        red, green, blue = COLOURS[str(self.random.choice(list(COLOURS)))]
        return int(red * 255), int(green * 255), int(blue * 255)

    def axes(self) -> None:
        """Draws two axes with numbers, perhaps with a grid."""
        left, top, right, bottom = self.frame
        grid = self.random.random() < 0.5
        steps = int(self.random.integers(3, 7))
        for step in range(steps + 1):
            y = bottom - (bottom - top) * step / steps
            if grid:
                faint = tuple((3 * a + b) // 4 for a, b in zip(self.paper, self.ink, strict=True))
                self.draw.line((left, y, right, y), faint, self.unit)
            self.text(left - 2 * self.unit, y, str(step * 10), 4.5, "rm")
        self.draw.line((left, top, left, bottom, right, bottom), self.ink, self.unit)


def _bars(sheet: _Sheet, left: float, top: float, right: float, bottom: float) -> None:
    sheet.axes()
    count = int(sheet.random.integers(3, 9))
    step, colour, same = (right - left) / count, sheet.colour(), sheet.random.random() < 0.5
    for number, value in enumerate(sheet.random.uniform(0.05, 1, count)):
        x = left + step * (number + 0.15)
        fill = colour if same else sheet.colour()
        sheet.draw.rectangle((x, bottom - value * (bottom - top), x + 0.7 * step, bottom), fill, sheet.ink, sheet.unit)
        if count < 6:
            sheet.text(x + 0.35 * step, bottom + sheet.unit, sheet.words(1)[:4], 4.5, "mt")


def _lines(sheet: _Sheet, left: float, top: float, right: float, bottom: float) -> None:
    sheet.axes()
    for _ in range(int(sheet.random.integers(1, 4))):
        count = int(sheet.random.integers(4, 12))
        values = np.clip(0.5 + np.cumsum(sheet.random.normal(0, 0.18, count)), 0, 1)
        x = np.linspace(left, right, count)
        points = list(zip(x.tolist(), (bottom - values * (bottom - top)).tolist(), strict=True))
        colour = sheet.colour()
        sheet.draw.line(points, colour, 2 * sheet.unit, joint="curve")
        if sheet.random.random() < 0.5:
            for point in points:
                sheet.draw.circle(point, 2 * sheet.unit, colour)


def _pie(sheet: _Sheet, left: float, top: float, right: float, bottom: float) -> None:
    radius, middle = min(right - left, bottom - top) / 2, ((left + right) / 2, (top + bottom) / 2)
    box = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
    edges = np.sort(sheet.random.uniform(0, 360, int(sheet.random.integers(2, 7))))
    for start, end in zip(edges, np.append(edges[1:], edges[0] + 360), strict=True):
        sheet.draw.pieslice(box, float(start), float(end), sheet.colour(), sheet.ink, sheet.unit)
    if sheet.random.random() < 0.4:
        sheet.draw.circle(middle, 0.5 * radius, sheet.paper)


def _points(sheet: _Sheet, left: float, top: float, right: float, bottom: float) -> None:
    sheet.axes()
    for _ in range(int(sheet.random.integers(1, 4))):
        colour, centre = sheet.colour(), sheet.random.uniform(0.2, 0.8, 2)
        for x, y in np.clip(sheet.random.normal(centre, 0.12, (int(sheet.random.integers(5, 25)), 2)), 0, 1):
            sheet.draw.circle((left + x * (right - left), bottom - y * (bottom - top)), 2 * sheet.unit, colour)


def _flow(sheet: _Sheet, left: float, top: float, right: float, bottom: float) -> None:
    """Draws boxes with words, and arrows from each to the next."""
    count = int(sheet.random.integers(2, 5))
    down = bool(sheet.random.random() < 0.5)
    step = ((bottom - top) if down else (right - left)) / count
    half_width, half_height = (0.28 * (right - left), 0.3 * step) if down else (0.36 * step, 0.14 * (bottom - top))
    places = [
        ((left + right) / 2, top + step * (n + 0.5)) if down else (left + step * (n + 0.5), (top + bottom) / 2)
        for n in range(count)
    ]
    for number, (x, y) in enumerate(places):
        if number:
            sheet.draw.line((*places[number - 1], x, y), sheet.ink, sheet.unit)
            tip = (x, y - half_height) if down else (x - half_width, y)
            sheet.draw.regular_polygon((*tip, 3 * sheet.unit), 3, 180 if down else 270, sheet.ink)
    for x, y in places:
        shape = (x - half_width, y - half_height, x + half_width, y + half_height)
        sheet.draw.rounded_rectangle(shape, 3 * sheet.unit, sheet.paper, sheet.colour(), 2 * sheet.unit)
        sheet.text(x, y, sheet.words(1), 6, "mm")


def _table(sheet: _Sheet, left: float, top: float, right: float, bottom: float) -> None:
    rows, columns = int(sheet.random.integers(3, 8)), int(sheet.random.integers(2, 5))
    height, width = (bottom - top) / rows, (right - left) / columns
    sheet.draw.rectangle((left, top, right, top + height), sheet.colour())
    for row in range(rows + 1):
        sheet.draw.line((left, top + row * height, right, top + row * height), sheet.ink, sheet.unit)
    for row in range(rows):
        for column in range(columns):
            text = sheet.words(1) if row == 0 or column == 0 else str(int(sheet.random.integers(0, 1000)))
            sheet.text(left + (column + 0.5) * width, top + (row + 0.5) * height, text, 5, "mm")


def _page(sheet: _Sheet, left: float, top: float, right: float, bottom: float) -> None:
    height = float(sheet.random.uniform(5, 9))
    y = top
    while y < bottom - height * sheet.unit:
        words = sheet.words(int(sheet.random.integers(2, 5)))
        sheet.text(left, y, words if sheet.random.random() < 0.5 else words.lower(), height, "lt")
        y += 1.5 * height * sheet.unit
    if sheet.random.random() < 0.3:
        sheet.draw.rectangle((left, top, right, bottom), None, sheet.colour(), 2 * sheet.unit)
