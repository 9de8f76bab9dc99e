"""How right a span of time is. Spans are (start, end) in seconds, start <= end."""

from __future__ import annotations

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
