"""How right a span of time is. Spans are (start, end) in seconds, start <= end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

RECALL_THRESHOLDS = (0.3, 0.5, 0.7)
Span: TypeAlias = tuple[float, float]


def temporal_iou(a: Span, b: Span) -> float:
    """Intersection over union of two spans, as Charades-STA uses it (Gao et al. 2017, arXiv:1705.02101).

    Two equal instants have 1.
    """
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = max(a[1], b[1]) - min(a[0], b[0])
    return intersection / union if union > 0 else 1.0


def best_iou(given: Sequence[Span], expected: Sequence[Span]) -> float:
    """IoU of the first span that an answer gives with the nearest of those accepted; 0 where it gives none.

    Its mean over questions is mIoU; the share at or above a threshold is R@1 at that threshold.
    """
    return max((temporal_iou(given[0], span) for span in expected), default=0.0) if given else 0.0


_CLOCK = r"(?:\d{1,2}:)?\d{1,2}:\d{2}(?:\.\d+)?"
_SECONDS = r"\d+(?:\.\d+)?"
_TIME = rf"({_CLOCK}|{_SECONDS})\s*(?:s|sec|secs|seconds?)?"
_RANGE = re.compile(rf"{_TIME}\s*(?:-|\N{{EN DASH}}|\N{{EM DASH}}|to|and|until|till)\s*{_TIME}\b", re.IGNORECASE)
_START_END = re.compile(
    rf"\b(?:start|begin)\w*\W+(?:\w+\W+){{0,3}}?{_TIME}.*?\b(?:end|stop|finish)\w*\W+(?:\w+\W+){{0,3}}?{_TIME}",
    re.IGNORECASE | re.DOTALL,
)


def find_span(text: str) -> Span | None:
    """The first span of time that an answer in free words gives: "24.3 - 30.4 seconds", "from 0:05 to 0:12",
    "starts at 3 s and ends at 5 s"; None without one. A span given backwards is turned round.
    """
    match = _START_END.search(text) or _RANGE.search(text)
    if match is None:
        return None
    start, end = (_in_seconds(words) for words in match.groups())
    return min(start, end), max(start, end)


def _in_seconds(words: str) -> float:
    seconds = 0.0
    for part in words.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
