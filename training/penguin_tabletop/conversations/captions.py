"""Tasks on a picture: captions of several lengths, with and without boxes. The picture must be clear."""

from __future__ import annotations

from penguin_models.grounding import format_grounding, format_object
from penguin_tabletop.conversations.language import amounts, an, are, ask, capital, listed, say
from penguin_tabletop.conversations.turns import ExpectedKind, ExpectedReply, Turn
from penguin_tabletop.seeds import Random
from penguin_tabletop.truth import Relation, SceneTruth, VisibleObject


def caption_short(truth: SceneTruth, random: Random) -> Turn:
    """Asks for one sentence that names every object."""
    question = ask(random, "caption_short")
    return _caption("caption_short", question, short_caption(truth, random), truth)


def caption_medium(truth: SceneTruth, random: Random) -> Turn:
    """Asks for all objects and some of their relations."""
    question = ask(random, "caption_medium")
    sentences = [short_caption(truth, random), *relation_sentences(truth, random, 2)]
    return _caption("caption_medium", question, " ".join(sentences), truth)


def caption_detailed(truth: SceneTruth, random: Random) -> Turn:
    """Asks for all objects, their places in the picture, their relations, and printed words."""
    question = ask(random, "caption_detailed")
    return _caption("caption_detailed", question, detailed_caption(truth, random), truth)


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


def _caption(task: str, question: str, answer: str, truth: SceneTruth, kind: ExpectedKind = "caption") -> Turn:
    return Turn(task, question, answer, ExpectedReply(kind, tuple(item.grounded for item in truth.objects)))
