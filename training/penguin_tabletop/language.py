"""Words for things: articles, plurals, lists, numbers, and sentences that are said in more than one way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from penguin_tabletop.catalogue import COLOURS, KINDS, SIZES

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def pick(random: np.random.Generator, choices: Sequence[str]) -> str:
    """One of several."""
    return choices[int(random.integers(len(choices)))]


def say(random: np.random.Generator, templates: Sequence[str], **fields: object) -> str:
    """One of several ways to say something, its fields filled in, with a capital letter at the start."""
    return capital(pick(random, templates).format(**fields))


def capital(text: str) -> str:
    """With a capital letter at the start; labels in brackets are left as they are."""
    return text[:1].upper() + text[1:]


def typed(random: np.random.Generator, question: str) -> str:
    """A question as people type it: mostly as it is, now and then without capital and mark, or with a please."""
    draw = random.random()
    if draw < 0.1 and question[0].isalpha():
        return (question[0].lower() + question[1:]).rstrip("?.")
    if draw < 0.15 and question[0].isalpha():
        please = "Please tell me: " if "?" in question else "Please "
        return please + question[0].lower() + question[1:]
    return question


def an(label: str) -> str:
    """With the indefinite article."""
    return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"


def plural(label: str) -> str:
    """Several of them."""
    kind = kind_of(label)
    return label.removesuffix(kind) + KINDS[kind].plural


def kind_of(label: str) -> str:
    """The kind that a label ends with."""
    return next(name for name in KINDS if label == name or label.endswith(" " + name))


def amount(count: int, label: str) -> str:
    """As in: a red cube, two red cubes."""
    return an(label) if count == 1 else f"{NUMBERS[count]} {plural(label)}"


def amounts(counts: Mapping[str, int]) -> str:
    """As in: a red cube, two blue balls and a robot arm."""
    return listed([amount(count, label) for label, count in counts.items()])


def listed(parts: Sequence[str]) -> str:
    """As in: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def are(count: int) -> str:
    """Is or are."""
    return "is" if count == 1 else "are"


def every_label() -> list[str]:
    """All labels that can occur, the longest first."""
    names = [
        f"{size}{colour} {kind.name}"
        for kind in KINDS.values()
        for colour in COLOURS
        for size in ("", *(f"{size} " for size in SIZES))
        if kind.coloured
    ] + [kind.name for kind in KINDS.values() if not kind.coloured]
    return sorted(names, key=len, reverse=True)
