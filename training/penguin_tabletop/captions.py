"""Tasks on a picture: captions in several lengths, with and without boxes. The picture must be clear and not empty."""

from __future__ import annotations

import numpy as np

from penguin_models.grounding import format_grounding, format_object
from penguin_tabletop.language import amounts, an, are, capital, listed, pick, say
from penguin_tabletop.truth import Relation, SceneTruth, VisibleObject
from penguin_tabletop.turns import Expected, Turn

Random = np.random.Generator


def caption_short(truth: SceneTruth, random: Random) -> Turn:
    """One sentence that names every object."""
    question = pick(
        random,
        (
            "Describe the image in one sentence.",
            "What do you see?",
            "Give a short caption.",
            "What is on the table?",
            "What is in the picture?",
            "Name the objects.",
            "Write a short caption for this picture.",
            "Say briefly what the image shows.",
        ),
    )
    return _caption("caption_short", question, short_caption(truth, random), truth)


def caption_medium(truth: SceneTruth, random: Random) -> Turn:
    """What is there, and how some of it lies."""
    question = pick(
        random,
        (
            "Describe the image.",
            "Describe the picture in a few sentences.",
            "What does the image show?",
            "Tell me about this picture.",
            "Describe what is on the table.",
            "Describe the scene.",
        ),
    )
    sentences = [short_caption(truth, random), *relation_sentences(truth, random, 2)]
    return _caption("caption_medium", question, " ".join(sentences), truth)


def caption_detailed(truth: SceneTruth, random: Random) -> Turn:
    """What is there, where it is in the picture, how it lies, what is printed on it."""
    question = pick(
        random,
        (
            "Describe the image in detail.",
            "Describe everything that you see.",
            "Give a detailed description of the picture.",
            "Describe the scene in detail, with all objects and where they are.",
            "Write a long caption.",
        ),
    )
    return _caption("caption_detailed", question, detailed_caption(truth, random), truth)


def caption_grounded(truth: SceneTruth, random: Random) -> Turn:
    """One sentence in which every object has its box."""
    question = pick(
        random,
        (
            "Describe the image with boxes.",
            "Describe the picture and give the box of each object.",
            "Give a grounded caption.",
            "What is on the table, and where? Use boxes.",
            "Caption the image with boxes.",
        ),
    )
    things = listed([f"{an(item.label).split()[0]} {format_object(item.told)}" for item in truth.objects])
    answer = say(
        random,
        (
            "there {are} {things} on a {table} table.",
            "{things} on a {table} table.",
            "I see {things} on a {table} table.",
        ),
        things=things,
        table=truth.table,
        are=are(len(truth.objects)),
    )
    return _boxes("caption_grounded", question, answer, truth)


def find_everything(truth: SceneTruth, random: Random) -> Turn:
    """A plain list of all objects with their boxes."""
    question = pick(
        random,
        (
            "List all objects with their boxes.",
            "Find all objects.",
            "Detect every object.",
            "Where are the objects? List them with boxes.",
            "Give the box of every object.",
        ),
    )
    return _boxes("find_everything", question, format_grounding([o.told for o in truth.objects]), truth)


def short_caption(truth: SceneTruth, random: Random) -> str:
    """One sentence that names every object."""
    return say(
        random,
        (
            "there {are} {things} on a {table} table.",
            "{things} on a {table} table.",
            "the picture shows {things} on a {table} table.",
            "I see {things} on a {table} table.",
        ),
        things=amounts(truth.counts()),
        table=truth.table,
        are=are(len(truth.objects) if len(truth.counts()) == 1 else 1),
    )


def detailed_caption(truth: SceneTruth, random: Random) -> str:
    """Several sentences: what is there, where it is, how it lies, what is printed on it."""
    sentences = [short_caption(truth, random)]
    counts = truth.counts()
    for item in truth.objects:
        where = place_in_picture(item)
        if where and counts[item.label] == 1:
            ways = ("the {label} is {where}.", "{where} is the {label}.")
            sentences.append(say(random, ways, label=item.label, where=where))
    sentences += relation_sentences(truth, random, 4)
    for item in truth.objects:
        if item.word and counts[item.label] == 1:
            ways = ('the {label} says "{word}".', 'on the {label} is the word "{word}".')
            sentences.append(say(random, ways, label=item.label, word=item.word))
    return " ".join(sentences)


def relation_sentences(truth: SceneTruth, random: Random, most: int) -> list[str]:
    """How objects lie to each other; each pair once, what stands on something first."""
    counts, by_id = truth.counts(), {item.id: item for item in truth.objects}
    clear = [r for r in truth.relations if counts[by_id[r.subject].label] == counts[by_id[r.object].label] == 1]
    order = sorted(random.permutation(len(clear)).tolist(), key=lambda index: clear[index].name != "on")
    chosen: list[Relation] = []
    for relation in (clear[index] for index in order):
        pairs = [{other.subject, other.object} for other in chosen]
        if len(chosen) < most and {relation.subject, relation.object} not in pairs:
            chosen.append(relation)
    return [
        capital(f"the {by_id[relation.subject].label} is {relation.name} the {by_id[relation.object].label}.")
        for relation in chosen
    ]


def place_in_picture(item: VisibleObject) -> str:
    """Left, middle or right in words, "" if that is not clear."""
    middle = (item.box.x1 + item.box.x2) / 2
    if middle < 340:
        return "on the left"
    if middle > 660:
        return "on the right"
    return "in the middle" if 430 < middle < 570 else ""


def _caption(task: str, question: str, answer: str, truth: SceneTruth) -> Turn:
    return Turn(task, question, answer, Expected("caption", tuple(item.grounded for item in truth.objects)))


def _boxes(task: str, question: str, answer: str, truth: SceneTruth) -> Turn:
    return Turn(task, question, answer, Expected("boxes", tuple(item.grounded for item in truth.objects)))
