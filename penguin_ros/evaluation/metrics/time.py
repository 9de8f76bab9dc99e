"""Scores predicted time ranges. A span is (start, end) in seconds with start <= end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

RECALL_THRESHOLDS = (0.3, 0.5, 0.7)
Span: TypeAlias = tuple[float, float]


def temporal_iou(a: Span, b: Span) -> float:
    """Returns intersection over union of two spans, as in Charades-STA (Gao et al. 2017, arXiv:1705.02101).

    Two equal spans of length 0 have an IoU of 1.
    """
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = max(a[1], b[1]) - min(a[0], b[0])
    return intersection / union if union > 0 else 1.0


def best_iou(predicted: Sequence[Span], accepted: Sequence[Span]) -> float:
    """Returns the IoU of the first predicted span with the closest accepted span; 0 if nothing was predicted.

    The mean over questions is mIoU; the share of questions at or above a threshold is R@1 at that threshold (Gao et
    al. 2017).
    """
    return max((temporal_iou(predicted[0], span) for span in accepted), default=0.0) if predicted else 0.0


_CLOCK = r"(?:\d{1,2}:)?\d{1,2}:\d{2}(?:\.\d+)?"
_SECONDS = r"\d+(?:\.\d+)?"
_TIME = rf"({_CLOCK}|{_SECONDS})\s*(?:s|sec|secs|seconds?)?"
_RANGE = re.compile(rf"{_TIME}\s*(?:-|\N{{EN DASH}}|\N{{EM DASH}}|to|and|until|till)\s*{_TIME}\b", re.IGNORECASE)
_START_END = re.compile(
    rf"\b(?:start|begin)\w*\W+(?:\w+\W+){{0,3}}?{_TIME}.*?\b(?:end|stop|finish)\w*\W+(?:\w+\W+){{0,3}}?{_TIME}",
    re.IGNORECASE | re.DOTALL,
)


def find_span(text: str) -> Span | None:
    """Returns the first span that free text states, or None.

    Understands "24.3 - 30.4 seconds", "from 0:05 to 0:12" and "starts at 3 s and ends at 5 s". If the end comes first,
    the two are swapped.
    """
    match = _START_END.search(text) or _RANGE.search(text)
    if match is None:
        return None
    start, end = sorted(_seconds(time) for time in match.groups())
    return start, end


def _seconds(time: str) -> float:
    seconds = 0.0
    for part in time.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
