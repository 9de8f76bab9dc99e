"""Tasks on a picture with short answers: counts, colours, kinds, relations, existence, places, printed words.

A plain question gets a sentence; a question that asks for one word gets one word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penguin_tabletop.captions import place_in_picture
from penguin_tabletop.catalogue import COLOURS, KINDS, TABLES
from penguin_tabletop.language import an, are, capital, pick, say
from penguin_tabletop.pointing import one_of, unique
from penguin_tabletop.truth import OPPOSITE, RELATIONS, SceneTruth, VisibleObject
from penguin_tabletop.turns import Expected, Turn

Random = np.random.Generator
BRIEFLY = ("Answer with one word.", "Answer briefly.", "In one word.", "Short answer.")
_TABLES = tuple(sorted({table.name for table in TABLES}))


def count_objects(truth: SceneTruth, random: Random) -> Turn:
    """How many objects, of a kind, of a colour, or in all."""
    what, number = _countable(truth, random)
    question = say(
        random,
        (
            "how many {what} are there?",
            "how many {what} do you see?",
            "count the {what}.",
            "what is the number of {what}?",
            "how many {what} are on the table?",
        ),
        what=what[1],
    )
    count = "no" if number == 0 else str(number)
    sentence = f"There {are(number)} {count} {what[0] if number == 1 else what[1]}."
    return _answered("count", random, question, str(number), sentence, Expected("number", number=number))


def colour_of(truth: SceneTruth, random: Random) -> Turn | None:
    """The colour of the only object of a kind."""
    kinds = [item.kind for item in truth.objects]
    item = one_of(random, [item for item in truth.objects if item.colour and kinds.count(item.kind) == 1])
    if item is None or item.colour is None:
        return None
    templates = (
        "what colour is the {kind}?",
        "which colour does the {kind} have?",
        "tell me the colour of the {kind}.",
    )
    question = say(random, templates, kind=item.kind)
    expected = Expected("choice", answer=item.colour, options=tuple(COLOURS))
    return _answered("colour", random, question, item.colour, f"The {item.kind} is {item.colour}.", expected)


def list_colours(truth: SceneTruth, random: Random) -> Turn | None:
    """Kinds first, then their colours: what a model learns to look up by kind."""
    coloured = [item for item in truth.objects if item.colour]
    if not coloured:
        return None
    question = pick(
        random,
        (
            "Which colours do the objects have?",
            "List the objects with their colours.",
            "What colour is each object?",
        ),
    )
    answer = ", ".join(f"{item.kind}: {item.colour}" for item in coloured)
    return Turn("list_colours", question, answer, Expected("words", answer=answer))


def kind_of_colour(truth: SceneTruth, random: Random) -> Turn | None:
    """What the only object of a colour is."""
    colours = [item.colour for item in truth.objects]
    arm = any(item.kind == "robot arm" for item in truth.objects)
    items = [
        item
        for item in truth.objects
        if item.colour and colours.count(item.colour) == 1 and not (arm and item.colour == "orange")
    ]
    item = one_of(random, items)
    if item is None:
        return None
    templates = ("what is the {colour} object?", "which object is {colour}?", "what kind of object is {colour}?")
    question = say(random, templates, colour=item.colour)
    expected = Expected("choice", answer=item.kind, options=tuple(KINDS))
    return _answered("kind", random, question, item.kind, f"The {item.colour} object is {an(item.kind)}.", expected)


def relation_between(truth: SceneTruth, random: Random) -> Turn | None:
    """Where one object is, seen from another."""
    pair = _related(truth, random)
    if pair is None:
        return None
    subject, name, other = pair
    question = say(
        random,
        (
            "where is the {a} relative to the {b}?",
            "how does the {a} lie to the {b}: left of, right of, in front of, behind or on?",
            "is the {a} left of, right of, in front of, behind or on the {b}?",
            "where is the {a}, seen from the {b}?",
        ),
        a=subject.label,
        b=other.label,
    )
    sentence = f"The {subject.label} is {name} the {other.label}."
    expected = Expected("choice", answer=name, options=RELATIONS)
    return _answered("relation", random, question, name, sentence, expected)


def relation_holds(truth: SceneTruth, random: Random) -> Turn | None:
    """Whether one object lies to another as is said; as often yes as no."""
    pair = _related(truth, random)
    if pair is None:
        return None
    subject, name, other = pair
    holds = bool(random.random() < 0.5)
    said = name if holds else _other_relation(random, name)
    question = say(
        random, ("is the {a} {r} the {b}?", "does the {a} lie {r} the {b}?"), a=subject.label, b=other.label, r=said
    )
    fact = f"the {subject.label} is {name} the {other.label}."
    return _yes_no("relation_yes_no", random, question, holds, fact)


def exists(truth: SceneTruth, random: Random) -> Turn:
    """Whether there is an object of a colour and kind; as often yes as no, and no is often a near miss."""
    there = bool(random.random() < 0.5)
    if there:
        item = truth.objects[int(random.integers(len(truth.objects)))]
        name = f"{item.colour} {item.kind}" if item.colour else item.kind
    else:
        name = _absent(truth, random)
    question = say(
        random,
        ("is there {an}?", "do you see {an}?", "is {an} on the table?", "can you see {an} in the picture?"),
        an=an(name),
    )
    fact = f"there is {an(name)}." if there else f"there is no {name}."
    return _yes_no("existence", random, question, there, fact)


def what_is_on(truth: SceneTruth, random: Random) -> Turn | None:
    """What something carries, if it carries one thing."""
    carried = [item for item in truth.objects if item.on is not None]
    pairs = [
        (item, support)
        for support in unique(truth)
        for item in carried
        if item.on == support.id and sum(other.on == support.id for other in carried) == 1
    ]
    if not pairs:
        return None
    item, support = pairs[int(random.integers(len(pairs)))]
    question = say(
        random, ("what is on the {b}?", "which object stands on the {b}?", "what does the {b} carry?"), b=support.label
    )
    answer = say(random, ("{an}.", "{an} is on the {b}."), an=an(item.label), b=support.label)
    return Turn("what_is_on", question, answer, Expected("label", answer=item.label))


def larger_of(truth: SceneTruth, random: Random) -> Turn | None:
    """The larger one of two objects of a kind."""
    comparable = [item for item in unique(truth) if KINDS[item.kind].weight > 0 and KINDS[item.kind].variants == 1]
    large, small = ([item for item in comparable if item.size == size] for size in ("large", "small"))
    pairs = [(a, b) for a in large for b in small if a.kind == b.kind and a.colour != b.colour]
    if not pairs:
        return None
    larger, smaller = pairs[int(random.integers(len(pairs)))]
    first, second = (larger, smaller) if random.random() < 0.5 else (smaller, larger)
    question = say(
        random,
        ("which {kind} is larger, the {a} one or the {b} one?", "is the {a} or the {b} {kind} larger?"),
        kind=larger.kind,
        a=first.colour,
        b=second.colour,
    )
    expected = Expected("choice", answer=str(larger.colour), options=(str(first.colour), str(second.colour)))
    sentence = f"The {larger.colour} {larger.kind} is larger."
    return _answered("size", random, question, str(larger.colour), sentence, expected)


def side_of_picture(truth: SceneTruth, random: Random) -> Turn | None:
    """On which side of the picture an object is."""
    item = one_of(random, [item for item in unique(truth) if place_in_picture(item)])
    if item is None:
        return None
    question = say(
        random,
        (
            "is the {label} on the left, in the middle or on the right?",
            "on which side is the {label}: left, middle or right?",
            "where in the picture is the {label}: on the left, in the middle or on the right?",
        ),
        label=item.label,
    )
    where = place_in_picture(item)
    side = where.split()[-1]
    expected = Expected("choice", answer=side, options=("left", "middle", "right"))
    return _answered("side", random, question, side, f"The {item.label} is {where}.", expected)


def table_of(truth: SceneTruth, random: Random) -> Turn:
    """What the table is like."""
    question = pick(random, ("What kind of table is it?", "What is the table like?", "Describe the table in one word."))
    expected = Expected("choice", answer=truth.table, options=_TABLES)
    return _answered("table", random, question, truth.table, f"It is a {truth.table} table.", expected)


def read_print(truth: SceneTruth, random: Random) -> Turn | None:
    """What is printed on an object."""
    kinds = [item.kind for item in truth.objects]
    item = one_of(random, [item for item in unique(truth) if item.word])
    if item is None:
        return None
    name = item.kind if kinds.count(item.kind) == 1 and random.random() < 0.5 else item.label
    question = say(
        random,
        (
            "what does the {name} say?",
            "read the {name}.",
            "which word is on the {name}?",
            "what is printed on the {name}?",
            "read the word on the {name}.",
        ),
        name=name,
    )
    answer = say(random, ('"{word}"', 'the {name} says "{word}".', 'it says "{word}".'), name=name, word=item.word)
    return Turn("reading", question, answer, Expected("text", answer=item.word))


def _answered(task: str, random: Random, question: str, brief: str, sentence: str, expected: Expected) -> Turn:
    if random.random() < 0.5:
        return Turn(task, f"{question} {pick(random, BRIEFLY)}", brief, expected)
    return Turn(task, question, sentence, expected)


def _yes_no(task: str, random: Random, question: str, yes: bool, fact: str) -> Turn:
    word = "yes" if yes else "no"
    expected = Expected("choice", answer=word, options=("yes", "no"))
    return _answered(task, random, question, word, f"{capital(word)}, {fact}", expected)


def _countable(truth: SceneTruth, random: Random) -> tuple[tuple[str, str], int]:
    """What to count, one and several of it, and how many there are; now and then none."""
    draw = random.random()
    arm = any(item.kind == "robot arm" for item in truth.objects)
    if draw < 0.3:
        return ("object", "objects"), len(truth.objects)
    if draw < 0.65:
        present = [item.kind for item in truth.objects if item.colour]
        kind = pick(random, present) if present and random.random() < 0.8 else pick(random, list(KINDS))
        return (kind, KINDS[kind].plural), sum(item.kind == kind for item in truth.objects)
    shades = [item.colour for item in truth.objects if item.colour and not (arm and item.colour == "orange")]
    colours = [colour for colour in COLOURS if not (arm and colour == "orange")]
    colour = pick(random, shades) if shades and random.random() < 0.8 else pick(random, colours)
    return (f"{colour} object", f"{colour} objects"), sum(item.colour == colour for item in truth.objects)


def _related(truth: SceneTruth, random: Random) -> tuple[VisibleObject, str, VisibleObject] | None:
    """Two objects whose relation is clear; each relation that occurs is equally likely."""
    items = {item.id: item for item in unique(truth)}
    clear = [r for r in truth.relations if r.subject in items and r.object in items]
    if not clear:
        return None
    name = pick(random, sorted({relation.name for relation in clear}))
    fitting = [relation for relation in clear if relation.name == name]
    relation = fitting[int(random.integers(len(fitting)))]
    return items[relation.subject], relation.name, items[relation.object]


def _other_relation(random: Random, name: str) -> str:
    """A relation that does not hold where `name` does: the opposite, or for "on" any other."""
    return OPPOSITE.get(name) or pick(random, sorted(OPPOSITE))


def _absent(truth: SceneTruth, random: Random) -> str:
    """Colour and kind of an object that is not there; half the time both are there, but not together."""
    present = {(item.colour, item.kind) for item in truth.objects}
    colours: Sequence[str] = sorted({item.colour for item in truth.objects if item.colour})
    kinds: Sequence[str] = sorted({item.kind for item in truth.objects if item.colour})
    near = [(colour, kind) for colour in colours for kind in kinds if (colour, kind) not in present]
    if near and random.random() < 0.5:
        colour, kind = near[int(random.integers(len(near)))]
        return f"{colour} {kind}"
    plain = [kind.name for kind in KINDS.values() if kind.coloured]
    while True:
        colour, kind = pick(random, tuple(COLOURS)), pick(random, plain)
        if random.random() < 0.6 and colours:  # one of the two is there
            colour, kind = (pick(random, colours), kind) if random.random() < 0.5 else (colour, pick(random, kinds))
        if (colour, kind) not in present:
            return f"{colour} {kind}"
