"""Builds words and lists: articles, plurals, amounts; and phrasings chosen at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penguin_tabletop.conversations.phrases import ANSWERS, QUESTIONS
from penguin_tabletop.scene.catalogue import COLOURS, KINDS, SIZES
from penguin_tabletop.seeds import Random, T

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def pick(random: Random, choices: Sequence[T]) -> T:
    """Returns one of several choices."""
    return choices[int(random.integers(len(choices)))]


def ask(random: Random, task: str, /, **fields: object) -> str:
    """Returns one phrasing of a task's question, with its fields filled in."""
    return capital(pick(random, QUESTIONS[task]).format(**fields))


def say(random: Random, name: str, /, **fields: object) -> str:
    """Returns one phrasing of an answer, with its fields filled in."""
    return capital(pick(random, ANSWERS[name]).format(**fields))


def capital(text: str) -> str:
    """Returns the text with a capital letter at the start."""
    return text[:1].upper() + text[1:]


def as_typed(random: Random, question: str) -> str:
    """Returns a question as people type it: now and then without capital and question mark, or with a "please"."""
    draw = random.random()
    if draw < 0.1 and question[0].isalpha():
        return (question[0].lower() + question[1:]).rstrip("?.")
    if draw < 0.15 and question[0].isalpha():
        please = "Please tell me: " if "?" in question else "Please "
        return please + question[0].lower() + question[1:]
    return question


def sentences_of(text: str) -> list[str]:
    """Splits a text after each full stop."""
    return [part for part in text.replace(". ", ".\n").split("\n") if part]


def an(label: str) -> str:
    """Returns the label with its indefinite article."""
    return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"


def are(count: int) -> str:
    """Returns "is" or "are"."""
    return "is" if count == 1 else "are"


def plural(label: str) -> str:
    """Returns the plural of a label."""
    kind = kind_of(label)
    return label.removesuffix(kind) + KINDS[kind].plural


def kind_of(label: str) -> str:
    """Returns the kind that a label ends with."""
    return next(name for name in KINDS if label == name or label.endswith(" " + name))


def amounts(counts: Mapping[str, int]) -> str:
    """Returns a list such as "a red cube, two blue balls and a robot arm"."""
    return listed([an(label) if n == 1 else f"{NUMBERS[n]} {plural(label)}" for label, n in counts.items()])


def listed(parts: Sequence[str]) -> str:
    """Returns a list such as "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def every_label() -> list[str]:
    """Returns all labels that can occur, the longest first."""
    coloured = [kind.name for kind in KINDS.values() if kind.coloured]
    sizes = ("", *(f"{size} " for size in SIZES))
    names = [f"{size}{colour} {kind}" for kind in coloured for colour in COLOURS for size in sizes]
    return sorted(names + [kind for kind in KINDS if kind not in coloured], key=len, reverse=True)
