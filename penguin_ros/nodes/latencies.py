"""First-token and total latencies of recent captions or answers."""

from __future__ import annotations

from collections import deque

import numpy as np

from penguin_engine.scene.answer import Answer

_RECENT = 100


class Latencies:
    """Latencies of the last hundred answers.

    Attributes:
        count: Number of answers since the start.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first_token_s: deque[float] = deque(maxlen=_RECENT)
        self._total_s: deque[float] = deque(maxlen=_RECENT)

    def add(self, answer: Answer) -> None:
        """Adds an answer."""
        self.count += 1
        self._first_token_s.append(answer.first_token_s)
        self._total_s.append(answer.total_s)

    def percentiles(self) -> dict[str, float]:
        """Returns the 50th and 95th percentiles in seconds; empty before the first answer."""
        return {
            f"{name} p{share} [s]": float(np.percentile([*times], share))
            for name, times in (("first token", self._first_token_s), ("total", self._total_s))
            for share in (50, 95)
            if times
        }

    @property
    def total_p95_s(self) -> float:
        """The 95th percentile of the total latencies in seconds; 0 before the first answer."""
        return self.percentiles().get("total p95 [s]", 0.0)
