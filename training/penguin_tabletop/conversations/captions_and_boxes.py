"""Tasks on a picture: captions of several lengths, and boxes for words or words for boxes. The picture must be clear.

A description that asks for one object fits exactly one, and clearly.
"""

from __future__ import annotations

from penguin_models.grounding import Box, format_grounding, format_object
from penguin_tabletop.conversations.language import amounts, an, are, ask, capital, listed, pick, say
from penguin_tabletop.conversations.turns import ExpectedKind, ExpectedReply, Turn
from penguin_tabletop.scene.catalogue import COLOURS, KINDS
from penguin_tabletop.seeds import Random
from penguin_tabletop.truth import Relation, SceneTruth, VisibleObject

_OUTERMOST_GAP = 70  # the outermost object must be this much further out than the next, in thousandths
_NEAREST_GAP_M = 0.06
_BY_KIND_PROBABILITY = 0.4
_COLOURED_KINDS = [kind.name for kind in KINDS.values() if kind.coloured]


def caption_short(truth: SceneTruth, random: Random) -> Turn:
    """Asks for one sentence that names every object."""
    return _caption("caption_short", ask(random, "caption_short"), short_caption(truth, random), truth)


def caption_medium(truth: SceneTruth, random: Random) -> Turn:
    """Asks for all objects and some of their relations."""
    question = ask(random, "caption_medium")
    sentences = [short_caption(truth, random), *relation_sentences(truth, random, 2)]
    return _caption("caption_medium", question, " ".join(sentences), truth)


def caption_detailed(truth: SceneTruth, random: Random) -> Turn:
    """Asks for all objects, their places in the picture, their relations, and printed words."""
    return _caption("caption_detailed", ask(random, "caption_detailed"), detailed_caption(truth, random), truth)


def caption_grounded(truth: SceneTruth, random: Random) -> Turn:
    """Asks for one sentence in which every object has its box."""
    question = ask(random, "caption_grounded")
    things = listed([f"{an(item.label).split()[0]} {format_object(item.rounded)}" for item in truth.objects])
    answer = say(random, "caption_grounded", things=things, table=truth.table, are=are(len(truth.objects)))
    return _caption("caption_grounded", question, answer, truth, "boxes")


def find_everything(truth: SceneTruth, random: Random) -> Turn:
    """Asks for a plain list of all objects with their boxes."""
    answer = format_grounding([item.rounded for item in truth.objects])
    return _caption("find_everything", ask(random, "find_everything"), answer, truth, "boxes")


def short_caption(truth: SceneTruth, random: Random) -> str:
    """Returns one sentence that names every object."""
    counts = truth.counts()
    is_or_are = are(len(truth.objects) if len(counts) == 1 else 1)
    return say(random, "caption_short", things=amounts(counts), table=truth.table, are=is_or_are)


def detailed_caption(truth: SceneTruth, random: Random) -> str:
    """Returns several sentences: all objects, their places and relations, and printed words."""
    sentences = [short_caption(truth, random)]
    for item in truth.unique:
        if where := place_in_picture(item):
            sentences.append(say(random, "place", label=item.label, where=where))
    sentences += relation_sentences(truth, random, 4)
    for item in truth.unique:
        if item.word:
            sentences.append(say(random, "word_of", label=item.label, word=item.word))
    return " ".join(sentences)


def relation_sentences(truth: SceneTruth, random: Random, most: int) -> list[str]:
    """Returns sentences about relations, at most one per pair of objects; those about supports come first."""
    labels = {item.id: item.label for item in truth.unique}
    clear = [relation for relation in truth.relations if relation.subject in labels and relation.object in labels]
    order = sorted(random.permutation(len(clear)).tolist(), key=lambda index: clear[index].name != "on")
    chosen: list[Relation] = []
    for relation in (clear[index] for index in order):
        pairs = [{other.subject, other.object} for other in chosen]
        if len(chosen) < most and {relation.subject, relation.object} not in pairs:
            chosen.append(relation)
    return [capital(f"the {labels[r.subject]} is {r.name} the {labels[r.object]}.") for r in chosen]


def place_in_picture(item: VisibleObject) -> str:
    """Returns left, middle or right in words, "" if that is not clear."""
    if item.middle_x < 340:
        return "on the left"
    if item.middle_x > 660:
        return "on the right"
    return "in the middle" if 430 < item.middle_x < 570 else ""


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


def _caption(task: str, question: str, answer: str, truth: SceneTruth, kind: ExpectedKind = "caption") -> Turn:
    return Turn(task, question, answer, ExpectedReply(kind, tuple(item.grounded for item in truth.objects)))


def _find(task: str, random: Random, what: str, item: VisibleObject) -> Turn:
    question = ask(random, "find", what=what)
    return Turn(task, question, format_object(item.rounded), ExpectedReply("boxes", (item.grounded,)))


def _places(truth: SceneTruth) -> list[tuple[str, VisibleObject]]:
    """Returns descriptions by place that fit exactly one object."""
    items = list(truth.objects)
    if len(items) < 2:
        return []
    found: list[tuple[str, VisibleObject]] = []
    across = sorted(items, key=lambda item: item.middle_x)
    if across[1].middle_x - across[0].middle_x > _OUTERMOST_GAP:
        found.append(("the leftmost object", across[0]))
    if across[-1].middle_x - across[-2].middle_x > _OUTERMOST_GAP:
        found.append(("the rightmost object", across[-1]))
    near = sorted(items, key=lambda item: item.ahead_m)
    if near[1].ahead_m - near[0].ahead_m > _NEAREST_GAP_M:
        found += [(f"the object {words}", near[0]) for words in ("closest to the camera", "at the front")]
    if near[-1].ahead_m - near[-2].ahead_m > _NEAREST_GAP_M:
        found += [(f"the object {words}", near[-1]) for words in ("furthest from the camera", "at the back")]
    for support, carried in single_loads(truth):
        found += [(f"the object on the {support.label}", carried)] * 3
    return found
