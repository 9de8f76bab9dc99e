"""Speed and recall of keyframe policies, on clips with known events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penguin_engine.bench.event_clips import EventClip
from penguin_engine.bench.machine import resident_bytes
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.types import Frame, FrameKind, Size

REFERENCE_FRAMES_PER_S = 4.0
"""The released keyframe code at 1920x1080 on two cores."""
FULL_HD = Size(1080, 1920)
_GRACE_S = 1.0


@dataclass(frozen=True)
class AnnotatedClip:
    """A clip and the times at which something happens in it."""

    frames: Iterable[Frame]
    events: Sequence[tuple[float, float]]  # start and end of each in seconds
    seconds: float  # length of the clip


def drawn_clips(count: int = 8, seconds: float = 60.0) -> Iterator[AnnotatedClip]:
    """Yields `count` drawn clips with events, each followed by a calm one: only noise, flicker and slow light."""
    for seed in range(count):
        for calm in (False, True):
            clip = EventClip(1000 * calm + seed, seconds, calm=calm)
            yield AnnotatedClip(clip, clip.events, seconds)


def policy_speed(policy: KeyframePolicy, size: Size = FULL_HD, seconds: float = 10.0) -> dict[str, Any]:
    """Returns the frames per second that a policy labels, and the growth of memory meanwhile."""
    random = np.random.default_rng(0)
    base = np.kron(random.integers(0, 240, (size.height // 20, size.width // 20, 3)), np.ones((20, 20, 1)))
    scene = np.pad(base, ((0, size.height - base.shape[0]), (0, size.width - base.shape[1]), (0, 0)), mode="edge")
    # A still camera with sensor noise: every frame must be compared in full.
    frames = [Frame((scene + random.integers(0, 12, scene.shape)).astype(np.uint8), i) for i in range(4)]
    for frame in frames * 5:  # allocators settle
        policy.observe(frame)
    resident, count = resident_bytes(), 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        policy.observe(frames[count % 4])
        count += 1
    return {
        "policy": type(policy).__name__,
        "size": f"{size.width}x{size.height}",
        "frames": count,
        "frames_per_s": count / elapsed,
        "reference_frames_per_s": REFERENCE_FRAMES_PER_S,
        "growth_bytes": resident_bytes() - resident,
    }


def policy_recall(make: Callable[[], KeyframePolicy], clips: Iterable[AnnotatedClip]) -> dict[str, Any]:
    """Returns the share of events that a policy notices, and its rate of false keyframes.

    An event is noticed if a keyframe falls between its start and 1 s after its end. Every other keyframe is false,
    except the first of a clip. Recall is None if the clips have no events.
    """
    noticed: list[bool] = []
    false, total_s = 0, 0.0
    timeline: list[dict[str, Any]] = []
    for clip in clips:
        policy = make()
        keys = [frame.stamp_ns * 1e-9 for frame in clip.frames if policy.observe(frame) == FrameKind.KEY][1:]
        spans = [(start, end + _GRACE_S) for start, end in clip.events]
        noticed += [any(start <= key <= end for key in keys) for start, end in spans]
        false += sum(not any(start <= key <= end for start, end in spans) for key in keys)
        total_s += clip.seconds
        timeline.append({"events": spans, "keyframes": keys})
    return {
        "events": len(noticed),
        "recall": sum(noticed) / len(noticed) if noticed else None,
        "false_keyframes_per_min": false / (total_s / 60),
        "timeline": timeline,
    }
