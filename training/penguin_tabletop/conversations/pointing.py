"""Tasks on a picture that need boxes: words in and a box out, or a box in and words out.

A description that asks for one object fits exactly one, and clearly.
"""

from __future__ import annotations

import numpy as np

from penguin_models.grounding import Box, format_grounding, format_object
from penguin_tabletop.conversations.captions import relation_sentences
from penguin_tabletop.conversations.language import an, ask, pick, say
from penguin_tabletop.conversations.turns import ExpectedReply, Turn
from penguin_tabletop.scene.catalogue import COLOURS, KINDS
from penguin_tabletop.seeds import Random
from penguin_tabletop.truth import SceneTruth, VisibleObject

_OUTERMOST_GAP = 70  # the outermost object must be this much further out than the next, in thousandths
_NEAREST_GAP_M = 0.06
_BY_KIND_PROBABILITY = 0.4
_COLOURED_KINDS = [kind.name for kind in KINDS.values() if kind.coloured]


def find_by_name(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the box of an object given by its label, or by its kind if that is enough."""
    if not truth.unique:
        return None
    item = pick(random, truth.unique)
    kinds = [other.kind for other in truth.objects]
    by_kind = kinds.count(item.kind) == 1 and random.random() < _BY_KIND_PROBABILITY
    return _find("find_by_name", random, f"the {item.kind if by_kind else item.label}", item)


def find_by_place(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the box of an object given by its place: the leftmost one, the one on the tray, ..."""
    places = _places(truth)
    return _find("find_by_place", random, *pick(random, places)) if places else None


def find_by_print(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the box of an object given by the word on it."""
    words = [item.word for item in truth.objects]
    if not (items := [item for item in truth.objects if item.word and words.count(item.word) == 1]):
        return None
    item = pick(random, items)
    templates = ('the {kind} that says "{word}"', 'the word "{word}"', 'the object with the word "{word}"')
    what = pick(random, templates).format(kind=item.kind, word=item.word)
    return _find("find_by_print", random, what, item)


def find_all(truth: SceneTruth, random: Random) -> Turn:
    """Asks for the boxes of all objects of a kind or of a colour; sometimes there are none."""
    by_kind = bool(random.random() < 0.5)
    present = [item.kind if by_kind else item.colour for item in truth.objects]
    if random.random() < 0.8 and any(present):
        chosen = pick(random, [name for name in present if name])
    else:
        chosen = pick(random, [name for name in (_COLOURED_KINDS if by_kind else COLOURS) if name not in present])
    found = [item for item, name in zip(truth.objects, present, strict=True) if name == chosen]
    what = KINDS[chosen].plural if by_kind else f"{chosen} objects"
    if not by_kind and chosen == "orange" and any(item.kind == "robot arm" for item in truth.objects):
        what, found = "robot arms", [item for item in truth.objects if item.kind == "robot arm"]
    question = ask(random, "find_all", what=what)
    answer = format_grounding([item.rounded for item in found]) if found else f"There are no {what}."
    return Turn("find_all", question, answer, ExpectedReply("boxes", tuple(item.grounded for item in found)))


def name_in_box(truth: SceneTruth, random: Random) -> Turn:
    """Asks for the label of the object in a box."""
    item = pick(random, truth.objects)
    question = ask(random, "name_in_box", box=box_words(item.rounded.box))
    answer = say(random, "name_in_box", an=an(item.label))
    return Turn("name_in_box", question, answer, ExpectedReply("label", answer=item.label))


def list_boxes(truth: SceneTruth, random: Random) -> Turn:
    """Asks for a list of boxes with their objects, which teaches a model to look up by place."""
    answer = ", ".join(f"{box_words(item.rounded.box)}: {item.label}" for item in truth.objects)
    return Turn("list_boxes", ask(random, "list_boxes"), answer, ExpectedReply("words", answer=answer))


def describe_box(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the object in a box and its relations to others."""
    if not truth.unique:
        return None
    item = pick(random, truth.unique)
    question = ask(random, "describe_box", box=box_words(item.rounded.box))
    sentences = [say(random, "name_in_box", an=an(item.label))]
    subject = f"The {item.label} is"
    own = [text for text in relation_sentences(truth, random, 99) if text.startswith(subject)]
    sentences += [text.replace(subject, "It is") for text in own[:2]]
    if item.word:
        sentences.append(f'It says "{item.word}".')
    return Turn("describe_box", question, " ".join(sentences), ExpectedReply("label", answer=item.label))


def single_loads(truth: SceneTruth) -> list[tuple[VisibleObject, VisibleObject]]:
    """Returns (support, object) for each support that carries exactly one object."""
    pairs = []
    for support in truth.unique:
        carried = [item for item in truth.objects if item.on == support.id]
        if len(carried) == 1:
            pairs.append((support, carried[0]))
    return pairs


def box_words(box: Box) -> str:
    """Returns a box as written in a question."""
    return f"({box.x1},{box.y1},{box.x2},{box.y2})"


def _find(task: str, random: Random, what: str, item: VisibleObject) -> Turn:
    question = ask(random, "find", what=what)
    return Turn(task, question, format_object(item.rounded), ExpectedReply("boxes", (item.grounded,)))


def _places(truth: SceneTruth) -> list[tuple[str, VisibleObject]]:
    """Returns descriptions by place that fit exactly one object."""
    items = list(truth.objects)
    if len(items) < 2:
        return []
    found: list[tuple[str, VisibleObject]] = []
    middles = [item.middle_x for item in items]
    order = np.argsort(middles)
    if middles[order[1]] - middles[order[0]] > _OUTERMOST_GAP:
        found.append(("the leftmost object", items[order[0]]))
    if middles[order[-1]] - middles[order[-2]] > _OUTERMOST_GAP:
        found.append(("the rightmost object", items[order[-1]]))
    near = sorted(items, key=lambda item: item.ahead_m)
    if near[1].ahead_m - near[0].ahead_m > _NEAREST_GAP_M:
        found += [(f"the object {words}", near[0]) for words in ("closest to the camera", "at the front")]
    if near[-1].ahead_m - near[-2].ahead_m > _NEAREST_GAP_M:
        found += [(f"the object {words}", near[-1]) for words in ("furthest from the camera", "at the back")]
    for support, carried in single_loads(truth):
        found += [(f"the object on the {support.label}", carried)] * 3
    return found
