"""Does a caption agree with the boxes of the same picture? Counts and names are compared, in English."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from penguin_models.grounding import Box, GroundedObject
from penguin_training.recaptioning.counting import Mention, Noun, last_part, mentions, words_of

_SAME_BOX = 0.9
"""Boxes of one label that overlap more than this (intersection over union) are one object."""


def distinct(objects: Sequence[GroundedObject]) -> list[GroundedObject]:
    """Returns the objects without those whose box repeats an earlier one of the same label."""
    kept: list[GroundedObject] = []
    for item in objects:
        if not any(item.label == other.label and overlap(item.box, other.box) > _SAME_BOX for other in kept):
            kept.append(item)
    return kept


def contradictions(caption: str, objects: Sequence[GroundedObject]) -> list[str]:
    """Returns what the caption says otherwise than the boxes, in sentences; empty if they agree.

    A label is compared by its last word, so that "a red cube" and "two cubes" concern boxes of "red cube" and "blue
    cube". Where a caption can be read in two ways ("two cubes", "other cubes"), it agrees. Indefinite articles say
    nothing about a number. Objects that the caption counts without boxes are not judged.
    """
    labels = _labels(objects)
    nouns = {noun: Noun.of(noun) for noun in labels}
    words = {last_part(word) for word in words_of(caption)}
    every = mentions(caption, nouns)
    found = []
    for noun, of_boxes in sorted(labels.items()):
        said = [mention for mention in every if mention.noun == noun]
        if words.isdisjoint(nouns[noun].singular | nouns[noun].plural):
            found.append(f"the caption does not name the {noun} of a box")
        elif wrong := _wrong_counts(said, of_boxes):
            listed = " and ".join(map(str, wrong))
            found.append(f"the caption counts {listed} of the kind {noun}, there are {len(of_boxes)} boxes")
    return found


def overlap(one: Box, other: Box) -> float:
    """Returns the intersection over union of two boxes."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    common = max(0, width) * max(0, height)
    both = sum((box.x2 - box.x1) * (box.y2 - box.y1) for box in (one, other))
    return common / (both - common) if both > common else float(one == other)


def _labels(objects: Sequence[GroundedObject]) -> dict[str, list[frozenset[str]]]:
    """Returns by noun, the last word of the label, the words of each label; "cube" and "cubes" are one noun."""
    labels: dict[str, list[frozenset[str]]] = defaultdict(list)
    for item in objects:
        words = [word for word in words_of(item.label) if word[0].isalnum()]
        if words:
            own = last_part(words[-1])
            noun = next((other for other in labels if own in Noun.of(other).plural | Noun.of(other).singular), own)
            labels[noun].append(frozenset(words))
    return labels


def _wrong_counts(said: Sequence[Mention], boxes: Sequence[frozenset[str]]) -> list[int]:
    """Returns the numbers that a caption states of a noun if they cannot be those of its boxes."""
    stated = [mention for mention in said if mention.count]
    none = [mention for mention in said if mention.count == 0 and not mention.adding]
    denied = [mention for mention in none if any(mention.modifiers <= label for label in boxes)]
    if denied:
        return [0, *(mention.count or 0 for mention in stated)]
    counts = [mention.count or 0 for mention in stated]
    most = max(counts, default=len(boxes))
    together = sum(mention.count or 0 for mention in stated if not mention.definite)
    others = [mention for mention in said if mention.count is None and _adds(mention, stated)]
    room = len(boxes) if any(mention.plural for mention in others) else len(others)
    agrees = most <= len(boxes) and any(base <= len(boxes) <= base + room for base in (most, together))
    return [] if agrees else counts


def _adds(mention: Mention, stated: Sequence[Mention]) -> bool:
    """Returns whether a phrase without a number may be about objects that the stated numbers do not count.

    "Three cubes" is the whole number, if nothing else stands in its sentence; "three red cubes" is a part.
    """
    if mention.adding:
        return True
    if mention.definite and any(mention.modifiers <= other.modifiers for other in stated):
        return False
    whole = [other.sentence for other in stated if (other.count or 0) > 1 and not other.modifiers and not other.adding]
    return not whole or mention.sentence in whole
