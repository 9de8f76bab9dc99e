"""Time lines of clips: events as bars, key frames as strokes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _ROW, _LEFT, _PIXELS_PER_S = 960, 22, 150, 13.0
_EVENT, _KEY, _TEXT, _LINE = (255, 205, 120), (30, 90, 200), (40, 40, 40), (215, 215, 215)


def draw_timelines(path: Path, policies: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Writes a picture with one line for each clip of each policy; calm clips have no bars.

    Args:
        path: picture file.
        policies: by name, clips with "events" (start and end in seconds) and "key_frames" (seconds).
    """
    rows = sum(len(clips) + 1 for clips in policies.values())
    image = Image.new("RGB", (_WIDTH, (rows + 1) * _ROW), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=13)
    y = 4
    for name, clips in policies.items():
        draw.text((8, y), f"{name}: events (bars, with 1 s of grace) and key frames (strokes)", _TEXT, font)
        y += _ROW
        for number, clip in enumerate(clips):
            draw.text((8, y), f"clip {number // 2 + 1}{', calm' if number % 2 else ''}", _TEXT, font)
            draw.line((_LEFT, y + _ROW // 2, _WIDTH - 10, y + _ROW // 2), _LINE)
            for start, end in clip["events"]:
                x1, x2 = (_LEFT + _PIXELS_PER_S * second for second in (start, end))
                draw.rectangle((x1, y + 3, x2, y + _ROW - 4), _EVENT)
            for second in clip["key_frames"]:
                x = _LEFT + _PIXELS_PER_S * second
                draw.line((x, y + 1, x, y + _ROW - 2), _KEY, 2)
            y += _ROW
    image.save(path)
