"""The keyframe-policy protocol: labels each frame of a stream as a keyframe or an intermediate frame.

Training, offline video and the online memory use it. A policy sees one frame at a time, at constant cost, and never
holds a clip. Implementations: reference_policy.py (the released rule) and novelty_policy.py (the online default).
"""

from __future__ import annotations

from typing import Protocol

from penguin_models.types import Frame, FrameKind


class KeyframePolicy(Protocol):
    """Labels frames as they arrive."""

    def observe(self, frame: Frame) -> FrameKind:
        """Returns the kind of the frame, given all frames before it; the first is a keyframe."""
        ...

    def reset(self) -> None:
        """Forgets all frames; the next one counts as the first."""
        ...
