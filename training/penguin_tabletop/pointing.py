"""Tasks on a picture that point: words in and a box out, or a box in and words out.

A description that asks for one object fits exactly one, and clearly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penguin_models.grounding import Box, format_grounding, format_object
from penguin_tabletop.captions import relation_sentences
from penguin_tabletop.catalogue import COLOURS, KINDS
from penguin_tabletop.language import an, capital, pick, say
from penguin_tabletop.truth import SceneTruth, VisibleObject
from penguin_tabletop.turns import Expected, Turn

Random = np.random.Generator
_NEXT = 70
"""Outermost objects must be this far out beyond the next, in thousandths."""
_NEAREST_M = 0.06
_BY_KIND = 0.4
_WHERE = (
    "Where is {what}?",
    "Find {what}.",
    "Point to {what}.",
    "Give the box of {what}.",
    "Locate {what}.",
    "Show me {what}.",
    "In which box is {what}?",
)


def find_by_name(truth: SceneTruth, random: Random) -> Turn | None:
    """An object by its label, or by its kind alone where that is enough."""
    item = one_of(random, unique(truth))
    if item is None:
        return None
    kinds = [other.kind for other in truth.objects]
    name = item.kind if kinds.count(item.kind) == 1 and random.random() < _BY_KIND else item.label
    return _found("find_by_name", random, f"the {name}", item)


def find_by_place(truth: SceneTruth, random: Random) -> Turn | None:
    """An object by where it is: the leftmost one, the one on the tray, ..."""
    places = _places(truth)
    if not places:
        return None
    what, item = places[int(random.integers(len(places)))]
    return _found("find_by_place", random, what, item)


def find_by_print(truth: SceneTruth, random: Random) -> Turn | None:
    """An object by the word on it."""
    words = [item.word for item in truth.objects]
    item = one_of(random, [item for item in truth.objects if item.word and words.count(item.word) == 1])
    if item is None:
        return None
    templates = ('the {kind} that says "{word}"', 'the word "{word}"', 'the object with the word "{word}"')
    what = pick(random, templates).format(kind=item.kind, word=item.word)
    return _found("find_by_print", random, what, item)


def find_all(truth: SceneTruth, random: Random) -> Turn:
    """All objects of a kind or of a colour; sometimes there are none."""
    by_kind = bool(random.random() < 0.5)
    present = [item.kind if by_kind else item.colour for item in truth.objects]
    if random.random() < 0.8 and any(present):
        chosen = pick(random, [name for name in present if name])
    else:
        chosen = pick(random, [name for name in (_PLAIN_KINDS if by_kind else COLOURS) if name not in present])
    found = [item for item, name in zip(truth.objects, present, strict=True) if name == chosen]
    what = KINDS[chosen].plural if by_kind else f"{chosen} objects"
    if not by_kind and chosen == "orange" and any(item.kind == "robot arm" for item in truth.objects):
        what, found = "robot arms", [item for item in truth.objects if item.kind == "robot arm"]
    question = say(random, ("find all {what}.", "where are the {what}?", "give the boxes of all {what}."), what=what)
    answer = format_grounding([item.told for item in found]) if found else f"There are no {what}."
    return Turn("find_all", question, answer, Expected("boxes", tuple(item.grounded for item in found)))


def name_in_box(truth: SceneTruth, random: Random) -> Turn:
    """The label of what is in a box."""
    item = truth.objects[int(random.integers(len(truth.objects)))]
    question = say(
        random,
        (
            "what is in the box {box}?",
            "what is at {box}?",
            "name the object in {box}.",
            "which object is in {box}?",
            "{box}: what is this?",
        ),
        box=box_words(item.told.box),
    )
    answer = say(random, ("{an}.", "this is {an}.", "it is {an}."), an=an(item.label))
    return Turn("name_in_box", question, answer, Expected("label", answer=item.label))


def list_boxes(truth: SceneTruth, random: Random) -> Turn:
    """Boxes first, then what is in them: what a model learns to look up by place."""
    question = pick(
        random,
        (
            "List the boxes and say what is in each.",
            "Give all boxes with their contents.",
            "Name the object in every box.",
        ),
    )
    answer = ", ".join(f"{box_words(item.told.box)}: {item.label}" for item in truth.objects)
    return Turn("list_boxes", question, answer, Expected("words", answer=answer))


def describe_box(truth: SceneTruth, random: Random) -> Turn | None:
    """What is in a box and how it lies to others."""
    item = one_of(random, unique(truth))
    if item is None:
        return None
    question = say(
        random,
        ("describe the object in the box {box}.", "tell me about the object at {box}.", "describe what is in {box}."),
        box=box_words(item.told.box),
    )
    sentences = [say(random, ("{an}.", "this is {an}.", "it is {an}."), an=an(item.label))]
    subject = f"The {item.label} is"
    own = [text for text in relation_sentences(truth, random, 99) if text.startswith(subject)]
    sentences += [text.replace(subject, "It is") for text in own[:2]]
    if item.word:
        sentences.append(f'It says "{item.word}".')
    return Turn("describe_box", question, " ".join(sentences), Expected("label", answer=item.label))


def unique(truth: SceneTruth) -> list[VisibleObject]:
    """Objects whose label no other has."""
    counts = truth.counts()
    return [item for item in truth.objects if counts[item.label] == 1]


def one_of(random: Random, items: Sequence[VisibleObject]) -> VisibleObject | None:
    """Any of them, None if there is none."""
    return items[int(random.integers(len(items)))] if items else None


def box_words(box: Box) -> str:
    """A box as it stands in a question."""
    return f"({box.x1},{box.y1},{box.x2},{box.y2})"


_PLAIN_KINDS = [kind.name for kind in KINDS.values() if kind.coloured]


def _found(task: str, random: Random, what: str, item: VisibleObject) -> Turn:
    question = capital(pick(random, _WHERE).format(what=what))
    return Turn(task, question, format_object(item.told), Expected("boxes", (item.grounded,)))


def _places(truth: SceneTruth) -> list[tuple[str, VisibleObject]]:
    """Descriptions by place that fit exactly one object."""
    items = list(truth.objects)
    if len(items) < 2:
        return []
    found: list[tuple[str, VisibleObject]] = []
    middles = [(item.box.x1 + item.box.x2) / 2 for item in items]
    order = np.argsort(middles)
    if middles[order[1]] - middles[order[0]] > _NEXT:
        found += [(f"the {word} object", items[order[0]]) for word in ("leftmost",)]
    if middles[order[-1]] - middles[order[-2]] > _NEXT:
        found += [(f"the {word} object", items[order[-1]]) for word in ("rightmost",)]
    near = sorted(items, key=lambda item: item.ahead_m)
    if near[1].ahead_m - near[0].ahead_m > _NEAREST_M:
        found += [(f"the object {words}", near[0]) for words in ("closest to the camera", "at the front")]
    if near[-1].ahead_m - near[-2].ahead_m > _NEAREST_M:
        found += [(f"the object {words}", near[-1]) for words in ("furthest from the camera", "at the back")]
    for support in unique(truth):
        carried = [item for item in items if item.on == support.id]
        if len(carried) == 1:
            found += [(f"the object on the {support.label}", carried[0])] * 3
    return found
