"""Tasks on a picture with short answers (counts, colours, kinds, relations, ...), and how often each task is asked.

A plain question gets a sentence; a question that asks for one word gets one word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from penguin_tabletop.conversations import captions_and_boxes as boxes
from penguin_tabletop.conversations.captions_and_boxes import place_in_picture, single_loads
from penguin_tabletop.conversations.language import an, are, ask, capital, pick, say
from penguin_tabletop.conversations.phrases import BRIEFLY
from penguin_tabletop.conversations.turns import ExpectedReply, Turn
from penguin_tabletop.scene.catalogue import COLOURS, KINDS, TABLES
from penguin_tabletop.seeds import Random, choose_weighted
from penguin_tabletop.truth import OPPOSITE, RELATIONS, SceneTruth, VisibleObject

PictureTask = Callable[[SceneTruth, Random], Turn | None]
"""Returns None for a picture that it does not fit."""
_TABLES = tuple(sorted({table.name for table in TABLES}))
_TRIES_PER_TURN = 10


def count_objects(truth: SceneTruth, random: Random) -> Turn:
    """Asks for the number of objects, of a kind, of a colour, or in all."""
    singular, plural, number = countable(truth, random)
    question = ask(random, "count", what=plural)
    sentence = f"There {are(number)} {number or 'no'} {singular if number == 1 else plural}."
    expected = ExpectedReply("number", number=number)
    return brief_or_sentence("count", random, question, sentence, expected)


def colour_of(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the colour of the only object of a kind."""
    kinds = [item.kind for item in truth.objects]
    items = [(item.kind, item.colour) for item in truth.objects if item.colour and kinds.count(item.kind) == 1]
    if not items:
        return None
    kind, colour = pick(random, items)
    return _choice("colour", random, colour, f"The {kind} is {colour}.", tuple(COLOURS), kind=kind)


def list_colours(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for a list of kinds with their colours, which teaches a model to look up by kind."""
    if not (answer := ", ".join(f"{item.kind}: {item.colour}" for item in truth.objects if item.colour)):
        return None
    return Turn("list_colours", ask(random, "list_colours"), answer, ExpectedReply("words", answer=answer))


def kind_of_colour(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the kind of the only object of a colour."""
    colours = [item.colour for item in truth.objects]
    unnamed = _unnamed_colours(truth)
    items = [item for item in truth.objects if item.colour not in unnamed and colours.count(item.colour) == 1]
    if not items:
        return None
    item = pick(random, items)
    sentence = f"The {item.colour} object is {an(item.kind)}."
    return _choice("kind", random, item.kind, sentence, tuple(KINDS), colour=item.colour)


def relation_between(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the place of one object relative to another."""
    if not (pair := related_pair(truth, random)):
        return None
    subject, name, other = pair
    sentence = f"The {subject.label} is {name} the {other.label}."
    return _choice("relation", random, name, sentence, RELATIONS, a=subject.label, b=other.label)


def relation_holds(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks whether a stated relation holds; yes and no are equally likely."""
    if not (pair := related_pair(truth, random)):
        return None
    subject, name, other = pair
    holds = bool(random.random() < 0.5)
    stated = name if holds else OPPOSITE.get(name) or pick(random, sorted(OPPOSITE))
    fact = f"the {subject.label} is {name} the {other.label}."
    return _yes_no("relation_yes_no", random, holds, fact, a=subject.label, b=other.label, r=stated)


def exists(truth: SceneTruth, random: Random) -> Turn:
    """Asks whether an object of a colour and kind exists; yes and no are equally likely, no is often a near miss."""
    present = bool(random.random() < 0.5)
    if present:
        item = pick(random, truth.objects)
        name = f"{item.colour} {item.kind}" if item.colour else item.kind
    else:
        name = absent_object(truth, random)
    fact = f"there is {an(name)}." if present else f"there is no {name}."
    return _yes_no("existence", random, present, fact, an=an(name))


def what_is_on(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the only object that a support carries."""
    if not (pairs := [(item, support) for support, item in single_loads(truth)]):
        return None
    item, support = pick(random, pairs)
    question = ask(random, "what_is_on", b=support.label)
    answer = say(random, "what_is_on", an=an(item.label), b=support.label)
    return Turn("what_is_on", question, answer, ExpectedReply("label", answer=item.label))


def larger_of(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the larger one of two objects of a kind."""
    comparable = [item for item in truth.unique if KINDS[item.kind].weight > 0 and KINDS[item.kind].variants == 1]
    large, small = ([item for item in comparable if item.size == size] for size in ("large", "small"))
    if not (pairs := [(a, b) for a in large for b in small if a.kind == b.kind and a.colour != b.colour]):
        return None
    larger, smaller = pick(random, pairs)
    first, second = (larger, smaller) if random.random() < 0.5 else (smaller, larger)
    a, b, sentence = str(first.colour), str(second.colour), f"The {larger.colour} {larger.kind} is larger."
    return _choice("size", random, str(larger.colour), sentence, (a, b), kind=larger.kind, a=a, b=b)


def side_of_picture(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the side of the picture on which an object is."""
    if not (items := [item for item in truth.unique if place_in_picture(item)]):
        return None
    item = pick(random, items)
    where = place_in_picture(item)
    side, sentence = where.split()[-1], f"The {item.label} is {where}."
    return _choice("side", random, side, sentence, ("left", "middle", "right"), label=item.label)


def table_of(truth: SceneTruth, random: Random) -> Turn:
    """Asks for the kind of table."""
    return _choice("table", random, truth.table, f"It is a {truth.table} table.", _TABLES)


def read_print(truth: SceneTruth, random: Random) -> Turn | None:
    """Asks for the word printed on an object."""
    if not (items := [item for item in truth.unique if item.word]):
        return None
    item = pick(random, items)
    kinds = [other.kind for other in truth.objects]
    name = item.kind if kinds.count(item.kind) == 1 and random.random() < 0.5 else item.label
    question = ask(random, "reading", name=name)
    answer = say(random, "reading", name=name, word=item.word)
    return Turn("reading", question, answer, ExpectedReply("text", answer=item.word))


# Each task with its weight, and whether a full description of a picture answers it as well as the picture.
_TASKS: tuple[tuple[PictureTask, float, bool], ...] = (
    (boxes.caption_short, 2.0, False),
    (boxes.caption_medium, 1.0, False),
    (boxes.caption_detailed, 1.0, False),
    (boxes.caption_grounded, 2.0, False),
    (boxes.find_everything, 1.5, False),
    (boxes.find_by_name, 3.0, True),
    (boxes.find_by_place, 1.0, False),
    (boxes.find_by_print, 0.7, False),
    (boxes.find_all, 1.0, True),
    (boxes.name_in_box, 3.0, True),
    (boxes.list_boxes, 1.5, False),
    (boxes.describe_box, 0.7, False),
    (count_objects, 1.5, True),
    (colour_of, 2.5, True),
    (list_colours, 2.0, False),
    (kind_of_colour, 2.5, True),
    (relation_between, 1.2, True),
    (relation_holds, 1.2, True),
    (exists, 2.0, True),
    (what_is_on, 2.0, True),
    (larger_of, 2.0, False),
    (side_of_picture, 0.8, True),
    (table_of, 0.5, True),
    (read_print, 2.5, True),
)
PICTURE_TASKS = {task: weight for task, weight, _ in _TASKS}
TEXT_TASKS = {task: weight for task, weight, from_text in _TASKS if from_text}


def picture_turns(
    truth: SceneTruth, random: Random, most: int, tasks: Mapping[PictureTask, float] = PICTURE_TASKS
) -> list[Turn]:
    """Returns 1 to `most` different questions about a clear picture; a task may come again about something else."""
    wanted = int(random.integers(1, most + 1))
    turns: dict[str, Turn] = {}
    for task in choose_weighted(random, tasks, _TRIES_PER_TURN * most):
        turn = task(truth, random)
        if turn is not None:
            turns.setdefault(turn.question, turn)
        if len(turns) == wanted:
            break
    return list(turns.values())


def brief_or_sentence(task: str, random: Random, question: str, sentence: str, expected: ExpectedReply) -> Turn:
    """Returns the question with a sentence as its answer, or with a request for a single word and that word."""
    if random.random() < 0.5:
        word = str(expected.number) if expected.kind == "number" else expected.answer
        return Turn(task, f"{question} {pick(random, BRIEFLY)}", word, expected)
    return Turn(task, question, sentence, expected)


def _choice(
    task: str, random: Random, answer: str, sentence: str, options: tuple[str, ...], **fields: str | None
) -> Turn:
    expected = ExpectedReply("choice", answer=answer, options=options)
    return brief_or_sentence(task, random, ask(random, task, **fields), sentence, expected)


def _yes_no(task: str, random: Random, yes: bool, fact: str, **fields: str) -> Turn:
    word = "yes" if yes else "no"
    return _choice(task, random, word, f"{capital(word)}, {fact}", ("yes", "no"), **fields)


def _unnamed_colours(truth: SceneTruth) -> tuple[str | None, ...]:
    """Returns colours that identify no object: none, and orange next to a robot arm, which is partly orange."""
    return (None, "orange") if any(item.kind == "robot arm" for item in truth.objects) else (None,)


def countable(truth: SceneTruth, random: Random) -> tuple[str, str, int]:
    """Returns the singular and plural of what to count, and its number, which is zero now and then."""
    draw = random.random()
    if draw < 0.3:
        return "object", "objects", len(truth.objects)
    if draw < 0.65:
        present = [item.kind for item in truth.objects if item.colour]
        kind = pick(random, present) if present and random.random() < 0.8 else pick(random, list(KINDS))
        return kind, KINDS[kind].plural, sum(item.kind == kind for item in truth.objects)
    unnamed = _unnamed_colours(truth)
    shades = [item.colour for item in truth.objects if item.colour not in unnamed]
    colours = [colour for colour in COLOURS if colour not in unnamed]
    colour = pick(random, shades) if shades and random.random() < 0.8 else pick(random, colours)
    return f"{colour} object", f"{colour} objects", sum(item.colour == colour for item in truth.objects)


def related_pair(truth: SceneTruth, random: Random) -> tuple[VisibleObject, str, VisibleObject] | None:
    """Returns two objects with their relation; each relation that occurs is equally likely."""
    items = {item.id: item for item in truth.unique}
    if not (clear := [r for r in truth.relations if r.subject in items and r.object in items]):
        return None
    name = pick(random, sorted({relation.name for relation in clear}))
    relation = pick(random, [relation for relation in clear if relation.name == name])
    return items[relation.subject], relation.name, items[relation.object]


def absent_object(truth: SceneTruth, random: Random) -> str:
    """Returns colour and kind of an object that is not there; half the time both occur, but not together."""
    present = {(item.colour, item.kind) for item in truth.objects}
    colours = sorted({item.colour for item in truth.objects if item.colour})
    kinds = sorted({item.kind for item in truth.objects if item.colour})
    near_misses = [(colour, kind) for colour in colours for kind in kinds if (colour, kind) not in present]
    if near_misses and random.random() < 0.5:
        colour, kind = pick(random, near_misses)
        return f"{colour} {kind}"
    coloured_kinds = [kind.name for kind in KINDS.values() if kind.coloured]
    while True:
        colour, kind = pick(random, tuple(COLOURS)), pick(random, coloured_kinds)
        if random.random() < 0.6 and colours:  # one of the two is there
            colour, kind = (pick(random, colours), kind) if random.random() < 0.5 else (colour, pick(random, kinds))
        if (colour, kind) not in present:
            return f"{colour} {kind}"
