"""Conditions to judge: statements about what is on the table now, of which half hold.

Those that do not hold are near misses: another colour or kind, one object more or fewer, the opposite relation, or an
object that was there and has left. The question is the prompt of a watch, so that the first token of the answer is the
judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penguin_models.watch import watch_question
from penguin_tabletop.conversations.captions_and_boxes import place_in_picture
from penguin_tabletop.conversations.language import NUMBERS, an, are, capital, pick
from penguin_tabletop.conversations.phrases import CONDITIONS
from penguin_tabletop.conversations.picture_tasks import absent_object, countable, related_pair
from penguin_tabletop.conversations.turns import ExpectedReply, Turn
from penguin_tabletop.scene.catalogue import COLOURS, KINDS, SIZES
from penguin_tabletop.seeds import Random, choose_weighted
from penguin_tabletop.truth import OPPOSITE, SceneTruth

_Statement = Callable[[SceneTruth, Random, bool, Sequence[str]], str | None]
"""Returns a statement that holds or does not, from the labels of objects that have left; None if nothing fits."""
_SIDES = ("on the left", "in the middle", "on the right")
_TRIES_PER_TURN = 6


def condition_turns(truth: SceneTruth, random: Random, most: int, gone: Sequence[str] = ()) -> list[Turn]:
    """Returns 1 to `most` conditions to judge in a picture, with yes or no; none if the picture is unclear.

    Args:
        truth: What the picture shows, possibly nothing.
        random: Chooses.
        most: Largest number of conditions; 0 for none.
        gone: Labels of objects that were in view before.
    """
    if truth.unclear or not most:
        return []
    wanted, present = int(random.integers(1, most + 1)), set(_names(truth))
    left = [name for name in dict.fromkeys(map(_without_size, gone)) if name not in present]
    statements = _STATEMENTS if truth.objects else _EMPTY_STATEMENTS
    turns: dict[str, Turn] = {}
    for make in choose_weighted(random, statements, _TRIES_PER_TURN * most):
        holds = bool(random.random() < 0.5)
        if len(turns) < wanted and (statement := make(truth, random, holds, left)) is not None:
            answer = "yes" if holds else "no"
            expected = ExpectedReply("choice", answer=answer, options=("yes", "no"))
            turns.setdefault(statement, Turn("condition", watch_question(_typed(statement, random)), answer, expected))
    return list(turns.values())


def _there(truth: SceneTruth, random: Random, holds: bool, gone: Sequence[str]) -> str | None:
    """An object is there."""
    if holds and not truth.objects:
        return None
    name = _present(truth, random) if holds else _absent(truth, random, gone)
    return _phrase("there", random, an=an(name), name=name)


def _not_there(truth: SceneTruth, random: Random, holds: bool, gone: Sequence[str]) -> str | None:
    """An object is not there."""
    if not holds and not truth.objects:
        return None
    name = _absent(truth, random, gone) if holds else _present(truth, random)
    return _phrase("not_there", random, an=an(name), name=name)


def _colour(truth: SceneTruth, random: Random, holds: bool, _: Sequence[str]) -> str | None:
    """The only object of a kind has a colour."""
    kinds = [item.kind for item in truth.objects]
    if not (items := [item for item in truth.objects if item.colour and kinds.count(item.kind) == 1]):
        return None
    item = pick(random, items)
    others = [colour for colour in COLOURS if colour != item.colour]
    near = [other.colour for other in items if other.colour != item.colour]
    wrong = pick(random, near if near and random.random() < 0.6 else others)
    return _phrase("colour", random, kind=item.kind, colour=item.colour if holds else wrong)


def _count(truth: SceneTruth, random: Random, holds: bool, _: Sequence[str]) -> str | None:
    """There is a number of objects: of a kind, of a colour, or in all."""
    singular, plural, number = countable(truth, random)
    if not holds:
        number += 1 if number == 0 or random.random() < 0.5 else -1
    if number >= len(NUMBERS):
        return None
    what = singular if number == 1 else plural
    return _phrase("count", random, are=are(number), n=NUMBERS[number], what=what)


def _relation(truth: SceneTruth, random: Random, holds: bool, _: Sequence[str]) -> str | None:
    """An object is left of, right of, in front of, behind or on another."""
    if not (pair := related_pair(truth, random)):
        return None
    subject, name, other = pair
    stated = name if holds else OPPOSITE.get(name) or pick(random, sorted(OPPOSITE))
    return f"the {subject.label} is {stated} the {other.label}"


def _side(truth: SceneTruth, random: Random, holds: bool, _: Sequence[str]) -> str | None:
    """An object is on a side of the picture."""
    if not (items := [item for item in truth.unique if place_in_picture(item)]):
        return None
    item = pick(random, items)
    where = place_in_picture(item)
    stated = where if holds else pick(random, [side for side in _SIDES if side != where])
    return _phrase("side", random, label=item.label, where=stated)


def _anything(truth: SceneTruth, random: Random, holds: bool, _: Sequence[str]) -> str:
    """There is something, or nothing."""
    return _phrase("something" if holds == bool(truth.objects) else "nothing", random)


_STATEMENTS: dict[_Statement, float] = {
    _there: 3.0,
    _not_there: 2.0,
    _colour: 1.0,
    _count: 1.5,
    _relation: 2.0,
    _side: 1.0,
    _anything: 0.6,
}
_EMPTY_STATEMENTS: dict[_Statement, float] = {_anything: 3.0, _there: 1.0, _not_there: 1.0, _count: 1.0}


def _names(truth: SceneTruth) -> list[str]:
    return [f"{item.colour} {item.kind}" if item.colour else item.kind for item in truth.objects]


def _present(truth: SceneTruth, random: Random) -> str:
    """Returns the name of an object that is there, with its colour or without."""
    return pick(random, _names(truth) if random.random() < 0.75 else [item.kind for item in truth.objects])


def _absent(truth: SceneTruth, random: Random, gone: Sequence[str]) -> str:
    """Returns the name of an object that is not there: one that has left, or a near miss."""
    if gone and random.random() < 0.5:
        return pick(random, gone)
    kinds = {item.kind for item in truth.objects}
    if random.random() < 0.25 and (others := [kind for kind in KINDS if kind not in kinds]):
        return pick(random, others)
    return absent_object(truth, random)


def _phrase(name: str, random: Random, /, **fields: object) -> str:
    return pick(random, CONDITIONS[name]).format(**fields)


def _without_size(label: str) -> str:
    first, _, rest = label.partition(" ")
    return rest if first in SIZES else label


def _typed(statement: str, random: Random) -> str:
    """Returns a statement as people type it: with or without a capital and a full stop."""
    draw = random.random()
    return statement if draw < 0.35 else capital(statement) + ("." if draw < 0.8 else "")
