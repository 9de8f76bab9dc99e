"""Conversations without pictures, in the words of the tasks with pictures: for the language model that comes first.

Scenes are planned but not rendered; the text says what a picture would show, and the questions are about the text.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from penguin_models.grounding import Box, GroundedObject, TimeRange, format_grounding, format_object, format_time_range
from penguin_models.types import Size
from penguin_tabletop import image_tasks
from penguin_tabletop.captions import detailed_caption, short_caption
from penguin_tabletop.catalogue import CODE_LETTERS, COLOURS, KINDS, WORDS
from penguin_tabletop.director import Director
from penguin_tabletop.event_words import told, told_in_order, told_together, told_with_time
from penguin_tabletop.events import Event
from penguin_tabletop.language import NUMBERS, amounts, an, capital, pick, plural, say
from penguin_tabletop.planning import plan_clip_scene, plan_scene
from penguin_tabletop.pointing import box_words
from penguin_tabletop.truth import SceneTruth, planned_truth
from penguin_tabletop.turns import Expected, Turn

Random = np.random.Generator
_SIZE = Size(224, 224)
_CLEARLY = 120
"""How much boxes must differ to be compared, in thousandths."""
_BOX_WORDS: tuple[tuple[str, Callable[[Box], int]], ...] = (
    ("further left", lambda box: -(box.x1 + box.x2)),
    ("further right", lambda box: box.x1 + box.x2),
    ("higher up", lambda box: -(box.y1 + box.y2)),
    ("further down", lambda box: box.y1 + box.y2),
    ("wider", lambda box: box.x2 - box.x1),
)
FACTS = {
    "cube": "A cube has six equal sides.",
    "ball": "A ball is round and can roll.",
    "cylinder": "A cylinder is round and has a flat top.",
    "cone": "A cone is round at the bottom and has a point.",
    "ring": "A ring is round and has a hole in the middle.",
    "bottle": "A bottle is tall and has a small top.",
    "bowl": "A bowl is round and open at the top.",
    "mug": "A mug is a cup with a handle.",
    "duck": "A duck is a toy bird with an orange beak.",
    "teddy": "A teddy is a toy bear.",
    "rabbit": "A rabbit is a toy animal with long ears.",
    "brick": "A brick is a toy block with small round studs.",
    "tray": "A tray is flat and can carry other objects.",
    "odd shape": "An odd shape looks like no other object.",
    "card": "A card is thin and has a word on it.",
    "box": "A box is tall and has a word on it.",
    "robot arm": "A robot arm is orange and grey and can move things.",
}


def text_turns(random: Random, most: int) -> list[Turn]:
    """A conversation without pictures, of at most this many turns."""
    makers: tuple[tuple[Callable[[Random], Turn], float], ...] = (
        (_fact, 1.0),
        (_spelling, 1.5),
        (_amounts, 1.0),
        (_sum, 1.0),
        (_counting_a_list, 1.5),
        (_which_box, 2.0),
        (_middle_of_box, 1.0),
        (_box_of, 1.5),
        (_duration, 1.0),
        (_earlier, 1.0),
    )
    draw = random.random()
    if draw < 0.55:
        return _about_scene(random, most)
    if draw < 0.75:
        return _about_events(random, most)
    weights = np.array([weight for _, weight in makers])
    chosen = random.choice(len(makers), int(random.integers(1, most + 1)), p=weights / weights.sum())
    return [makers[index][0](random) for index in chosen]


def _about_scene(random: Random, most: int) -> list[Turn]:
    """A description of a scene, then questions about it that the description answers."""
    truth = planned_truth(plan_scene(random, _SIZE), _SIZE)
    if not truth.objects:
        return [_fact(random)]
    told_scene = f"{_full_description(truth, random)} {format_grounding([item.told for item in truth.objects])}."
    turns = image_tasks.turns_about(truth, random, most, image_tasks.TEXT_TASKS)
    if random.random() < 0.3:
        question = f"{pick(random, ('Say it in one sentence.', 'Make it shorter.', 'In short?'))}"
        expected = Expected("caption", tuple(item.grounded for item in truth.objects))
        turns = [Turn("text_summary", question, short_caption(truth, random), expected), *turns][:most]
    first = turns[0]
    introduction = pick(random, ("Here is a picture: {t}", "A picture shows this: {t}", "{t}")).format(t=told_scene)
    return [Turn(first.task, f"{introduction} {first.question}", first.answer, first.expected), *turns[1:]]


def _full_description(truth: SceneTruth, random: Random) -> str:
    sentences = [detailed_caption(truth, random)]
    by_id = {item.id: item.label for item in truth.objects}
    sentences += [f"The {by_id[r.subject]} is {r.name} the {by_id[r.object]}." for r in truth.relations]
    return " ".join(dict.fromkeys(" ".join(sentences).replace(". ", ".\n").split("\n")))


def _about_events(random: Random, most: int) -> list[Turn]:
    """A list of events with times, then questions about it."""
    events = _any_events(random)
    if not events:
        return [_earlier(random)]
    listed_events = " ".join(told_with_time(random, event) for event in events)
    all_events = Expected("events", events=events)
    turns = []
    for _ in range(int(random.integers(1, most + 1))):
        event = events[int(random.integers(len(events)))]
        span = format_time_range(event.span)
        choices = (
            Turn("text_when", f"When is this: {told(random, event)}?", span, Expected("span", span=event.span)),
            Turn(
                "text_what",
                f"What happens during the period {event.start_s:.2f} - {event.end_s:.2f} seconds?",
                f"{capital(told(random, event))}.",
                Expected("events", events=(event,)),
            ),
            Turn("text_count", "How many events are there?", str(len(events)), Expected("number", number=len(events))),
            Turn("text_whole", "Say it in one sentence.", told_together(random, events), all_events),
            Turn("text_order", "Tell it without times.", told_in_order(random, events), all_events),
        )
        turns.append(choices[int(random.integers(len(choices)))])
    first = turns[0]
    return [Turn(first.task, f"{listed_events} {first.question}", first.answer, first.expected), *turns[1:]]


def _any_events(random: Random) -> tuple[Event, ...]:
    scene, events, time_s = plan_clip_scene(random, _SIZE), [], round(float(random.uniform(0.5, 4)), 1)
    director = Director(random, _SIZE, with_falls=False)
    for _ in range(int(random.integers(1, 5))):
        step = director.next_step(scene, time_s)
        if step is None:
            continue
        events.append(step.event)
        scene, time_s = step.after, round(step.event.end_s + float(random.uniform(0.5, 8)), 1)
    return tuple(events)


def _fact(random: Random) -> Turn:
    kind = pick(random, tuple(FACTS))
    question = say(random, ("what is {an}?", "tell me about {an}.", "what does {an} look like?"), an=an(kind))
    return Turn("text_fact", question, FACTS[kind], Expected("text", answer=FACTS[kind].rstrip(".")))


def _spelling(random: Random) -> Turn:
    """Printed words letter by letter, and back."""
    word = pick(random, WORDS)
    if random.random() < 0.3:
        word = f"{pick(random, CODE_LETTERS)}{random.integers(1, 100)}"
    letters = " ".join(word)
    if random.random() < 0.5:
        return Turn("text_spell", f'Spell "{word}".', letters, Expected("text", answer=letters))
    question = say(random, ("which word is {letters}?", "read these letters: {letters}"), letters=letters)
    return Turn("text_join", question, f'"{word}"', Expected("text", answer=word))


def _amounts(random: Random) -> Turn:
    number, kind = int(random.integers(2, 8)), pick(random, tuple(KINDS))
    label = f"{pick(random, tuple(COLOURS))} {kind}" if KINDS[kind].coloured else kind
    if random.random() < 0.5:
        question = f"What is more than one {label}?"
        return Turn("text_plural", question, plural(label), Expected("text", answer=plural(label)))
    question = f"How many are {NUMBERS[number]} {plural(label)}?"
    return Turn("text_number", question, str(number), Expected("number", number=number))


def _sum(random: Random) -> Turn:
    a, b = (int(value) for value in random.integers(0, 7, 2))
    label = f"{pick(random, tuple(COLOURS))} object"
    if random.random() < 0.5:
        question = f"There are {a} {label}s. {b} more appear. How many are there?"
        return Turn("text_sum", question, str(a + b), Expected("number", number=a + b))
    question = f"There are {a + b} {label}s. {b} leave. How many are there?"
    return Turn("text_sum", question, str(a), Expected("number", number=a))


def _counting_a_list(random: Random) -> Turn:
    labels = [_any_label(random) for _ in range(int(random.integers(2, 6)))]
    counts = {label: int(random.integers(1, 4)) for label in dict.fromkeys(labels)}
    total = sum(counts.values())
    question = f"There are {amounts(counts)}. How many objects are there?"
    if random.random() < 0.5:
        chosen = pick(random, tuple(counts))
        question, total = f"There are {amounts(counts)}. How many {plural(chosen)} are there?", counts[chosen]
    return Turn("text_list", question, str(total), Expected("number", number=total))


def _which_box(random: Random) -> Turn:
    """Which of two objects with boxes is further left, right, up, down, or larger."""
    first, second = _any_label(random), _any_label(random)
    a, b = _any_box(random), _any_box(random)
    while second == first:
        second = _any_label(random)
    word, values = _BOX_WORDS[int(random.integers(len(_BOX_WORDS)))]
    while abs(values(a) - values(b)) < _CLEARLY:
        b = _any_box(random)
    answer = first if values(a) > values(b) else second
    question = f"{format_grounding([GroundedObject(first, a), GroundedObject(second, b)])}. Which one is {word}?"
    return Turn("text_which_box", question, f"The {answer}.", Expected("label", answer=answer))


def _middle_of_box(random: Random) -> Turn:
    """On which side of the picture a box is."""
    box = _any_box(random)
    middle = (box.x1 + box.x2) / 2
    while 340 < middle < 430 or 570 < middle < 660:
        box = _any_box(random)
        middle = (box.x1 + box.x2) / 2
    side = "left" if middle <= 340 else "right" if middle >= 660 else "middle"
    question = f"Is the box {box_words(box)} on the left, in the middle or on the right?"
    return Turn("text_side", question, side, Expected("choice", answer=side, options=("left", "middle", "right")))


def _box_of(random: Random) -> Turn:
    """Finds one of several objects with boxes."""
    labels = list(dict.fromkeys(_any_label(random) for _ in range(int(random.integers(2, 5)))))
    items = [GroundedObject(label, _any_box(random)) for label in labels]
    item = items[int(random.integers(len(items)))]
    if random.random() < 0.5:
        question = f"{format_grounding(items)}. Where is the {item.label}?"
        return Turn("text_box_of", question, format_object(item), Expected("boxes", (item,)))
    question = f"{format_grounding(items)}. What is in the box {box_words(item.box)}?"
    return Turn("text_in_box", question, f"{capital(an(item.label))}.", Expected("label", answer=item.label))


def _duration(random: Random) -> Turn:
    span = _any_span(random)
    seconds = span.end_s - span.start_s
    question = f"{format_time_range(span)} How long is this?"
    return Turn("text_duration", question, f"{seconds:.2f} seconds.", Expected("text", answer=f"{seconds:.2f} seconds"))


def _earlier(random: Random) -> Turn:
    first, second = _any_label(random), _any_label(random)
    while second == first:
        second = _any_label(random)
    spans = sorted((_any_span(random), _any_span(random)), key=lambda span: span.start_s)
    early = first if random.random() < 0.5 else second
    late = second if early == first else first
    told_both = [
        f"{format_time_range(span)[:-1]}, the {name} is moved." for span, name in zip(spans, (early, late), strict=True)
    ]
    if random.random() < 0.5:
        told_both.reverse()
    word, answer = ("first", early) if random.random() < 0.5 else ("last", late)
    question = f"{' '.join(told_both)} Which object is moved {word}?"
    return Turn("text_earlier", question, f"The {answer}.", Expected("label", answer=answer))


def _any_label(random: Random) -> str:
    kind = pick(random, tuple(KINDS))
    return f"{pick(random, tuple(COLOURS))} {kind}" if KINDS[kind].coloured else kind


def _any_box(random: Random) -> Box:
    """With sides in tens, as `VisibleObject.told` has them."""
    x, y = (sorted((10 * random.integers(0, 101, 2)).tolist()) for _ in range(2))
    return Box(x[0], y[0], x[1], y[1])


def _any_span(random: Random) -> TimeRange:
    start = round(float(random.uniform(0, 30)), 1)
    return TimeRange(start, round(start + float(random.uniform(1, 5)), 1))
