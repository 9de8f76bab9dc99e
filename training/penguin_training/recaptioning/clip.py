"""A clip at three scales: what happens when, a paragraph for each longer part, and the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from penguin_models.grounding import TimeRange, format_time_range, parse
from penguin_models.media import Clip, ClipFrame, sample_uniformly
from penguin_training.recaptioning.captioner import Captioner
from penguin_training.recaptioning.picture import Recaptioned
from penguin_training.recaptioning.prompts import CLIP_REQUESTS, paragraph, segment, summary

SEGMENT_S = 10.0
"""Length of a part that is described by itself."""
SEGMENTS_PER_PARAGRAPH = 6
FRAMES_PER_SEGMENT = 8
Described = tuple[TimeRange, str]
"""A part of a clip and its description."""


def recaption_clip(clip: Clip, captioner: Captioner) -> Recaptioned:
    """Asks about a clip, holding the frames of one part at a time.

    Raises:
        MediaError: The clip cannot be read.
        PenguinError: The captioner cannot answer.
    """
    dense: list[Described] = []
    for frames in _segments(clip):
        span = TimeRange(frames[0].time_s, frames[-1].time_s)
        dense.append((span, _answer(captioner, frames, segment(span))))
    groups = [dense[i : i + SEGMENTS_PER_PARAGRAPH] for i in range(0, len(dense), SEGMENTS_PER_PARAGRAPH)]
    paragraphs = [
        (TimeRange(group[0][0].start_s, group[-1][0].end_s), _fused(captioner, group, paragraph)) for group in groups
    ]
    texts = {
        "dense": "\n".join(f"{format_time_range(span)} {text}" for span, text in dense),
        "paragraphs": "\n\n".join(text for _, text in paragraphs),
        "whole": _fused(captioner, paragraphs, summary),
    }
    if not dense or not all(text for _, text in (*dense, *paragraphs)) or not texts["whole"]:
        return Recaptioned(reasons=("the captioner did not describe every part of the clip",))
    return Recaptioned(tuple(_sample(name, texts[name]) for name in CLIP_REQUESTS))


def _segments(clip: Clip) -> Iterator[Sequence[ClipFrame]]:
    for _, group in groupby(clip, lambda frame: int(frame.time_s // SEGMENT_S)):
        yield sample_uniformly(list(group), FRAMES_PER_SEGMENT)


def _fused(captioner: Captioner, parts: Sequence[Described], prompt: Callable[[Sequence[Described]], str]) -> str:
    """Returns the captioner's fusion of descriptions; one alone stays as it is."""
    if len(parts) < 2:
        return parts[0][1] if parts else ""
    return _answer(captioner, [], prompt(parts))


def _answer(captioner: Captioner, frames: Sequence[ClipFrame], prompt: str) -> str:
    """Returns an answer without boxes, on one line."""
    [answer] = captioner.answers(frames, [prompt])
    return " ".join(parse(answer).text.split())


def _sample(name: str, text: str) -> dict[str, Any]:
    question = {"from": "human", "value": f"<video>\n{CLIP_REQUESTS[name]}"}
    return {"name": name, "conversations": [question, {"from": "gpt", "value": text}]}
