"""A picture: ten aspects fused into one caption, checked against its boxes; a caption and a question for each box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penguin_models.grounding import GroundedObject, format_object, parse
from penguin_models.media import ClipFrame
from penguin_models.types import Size, UInt8Array
from penguin_training.recaptioning.captioner import Captioner
from penguin_training.recaptioning.consistency import contradictions, distinct
from penguin_training.recaptioning.prompts import (
    ASPECTS,
    CAPTION_REQUEST,
    DETECTION,
    REGION,
    describe_region,
    fusion,
    refer_to,
)

_MARGIN = 0.15
"""What a region shows around its box, as a share of the box."""


@dataclass(frozen=True)
class Recaptioned:
    """What was made of a sample."""

    samples: tuple[dict[str, Any], ...] = ()  # annotations without their media
    reasons: tuple[str, ...] = ()  # why nothing was made


def recaption_picture(rgb: UInt8Array, captioner: Captioner) -> Recaptioned:
    """Asks about a picture, uint8 [H, W, 3]; raises PenguinError if the captioner cannot answer."""
    picture = [ClipFrame(0.0, rgb)]
    *described, listed = captioner.answers(picture, [*ASPECTS.values(), DETECTION])
    aspects = dict(zip(ASPECTS, (parse(answer).text for answer in described), strict=True))
    objects = distinct(parse(listed).objects)
    [fused] = captioner.answers(picture, [fusion(aspects)])
    caption = parse(fused).text
    if not caption:
        return Recaptioned(reasons=("the captioner gave no caption",))
    if reasons := contradictions(caption, objects):
        return Recaptioned(reasons=tuple(reasons))
    samples = [_sample("caption", [(CAPTION_REQUEST, caption)]) | {"aspects": aspects}]
    if objects:
        samples.append(_sample("regions", _region_turns(rgb, objects, captioner)) | {"independent_turns": True})
    return Recaptioned(tuple(samples))


def _region_turns(rgb: UInt8Array, objects: Sequence[GroundedObject], captioner: Captioner) -> list[tuple[str, str]]:
    """Returns questions and answers: a caption for each box, and its box for each label that only one object has."""
    labels = [item.label for item in objects]
    turns = []
    for item in objects:
        [caption] = captioner.answers([ClipFrame(0.0, _crop(rgb, item))], [REGION])
        if caption := parse(caption).text:
            turns.append((describe_region(item.box), caption))
        if labels.count(item.label) == 1:
            turns.append((refer_to(f"the {item.label}"), format_object(item)))
    return turns


def _crop(rgb: UInt8Array, item: GroundedObject) -> UInt8Array:
    height, width = rgb.shape[:2]
    x1, y1, x2, y2 = item.box.to_pixels(Size(height, width))
    dx, dy = _MARGIN * (x2 - x1) + 1, _MARGIN * (y2 - y1) + 1
    return rgb[max(0, int(y1 - dy)) : int(y2 + dy) + 1, max(0, int(x1 - dx)) : int(x2 + dx) + 1]


def _sample(name: str, turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Returns an annotation in which the first question shows the picture."""
    conversations = []
    for number, (question, answer) in enumerate(turns):
        shown = "" if number else "<image>\n"
        conversations += [{"from": "human", "value": shown + question}, {"from": "gpt", "value": answer}]
    return {"name": name, "conversations": conversations}
