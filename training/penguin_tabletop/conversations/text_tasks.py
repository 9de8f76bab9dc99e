"""Conversations without pictures, in the words of the tasks with pictures: for a language model trained before them.

Scenes are planned but not rendered; the text states what a picture would show, and the questions are about the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from penguin_models.grounding import Box, GroundedObject, TimeRange, format_grounding, format_object, format_time_range
from penguin_models.types import Size
from penguin_tabletop.clips.director import Director
from penguin_tabletop.clips.events import Event
from penguin_tabletop.conversations.captions_and_boxes import box_words, detailed_caption, short_caption
from penguin_tabletop.conversations.event_sentences import (
    event_clause,
    event_sequence,
    event_summary,
    timed_event_sentence,
)
from penguin_tabletop.conversations.language import NUMBERS, amounts, an, ask, capital, pick, plural, sentences_of
from penguin_tabletop.conversations.phrases import FACTS
from penguin_tabletop.conversations.picture_tasks import TEXT_TASKS, picture_turns
from penguin_tabletop.conversations.turns import ExpectedReply, Turn
from penguin_tabletop.scene.catalogue import CODE_LETTERS, COLOURS, KINDS, WORDS
from penguin_tabletop.scene.planning import plan_clip_scene, plan_scene
from penguin_tabletop.seeds import Random, choose_weighted
from penguin_tabletop.truth import SceneTruth, planned_truth

_SIZE = Size(224, 224)
_MIN_DIFFERENCE = 120  # smallest difference of boxes that are compared, in thousandths
_SHUFFLED_PROBABILITY = 0.6
_COMPARISONS: tuple[tuple[str, Callable[[Box], int]], ...] = (
    ("further left", lambda box: -(box.x1 + box.x2)),
    ("further right", lambda box: box.x1 + box.x2),
    ("higher up", lambda box: -(box.y1 + box.y2)),
    ("further down", lambda box: box.y1 + box.y2),
    ("wider", lambda box: box.x2 - box.x1),
)


def text_turns(random: Random, most: int) -> list[Turn]:
    """Returns a conversation without pictures, of at most this many turns."""
    draw = random.random()
    if draw < 0.55:
        return _about_scene(random, most)
    if draw < 0.75:
        return _about_events(random, most)
    return [task(random) for task in choose_weighted(random, _SINGLE_TASKS, int(random.integers(1, most + 1)))]


def repeat(text: str, random: Random) -> Turn:
    """Asks to repeat random words, which cannot be guessed, or a few sentences of a text.

    Every word of the answer occurs at one known place of the prompt. An untrained model learns to look things up here
    long before it learns it from questions whose answer contains one such word. Not part of the evaluation.
    """
    if random.random() < _SHUFFLED_PROBABILITY:
        items = [*COLOURS, *KINDS, *WORDS]
        chosen = " ".join(pick(random, items) for _ in range(int(random.integers(4, 17))))
    else:
        sentences = sentences_of(text)
        count = int(random.integers(1, min(6, len(sentences)) + 1))
        start = int(random.integers(len(sentences) - count + 1))
        chosen = " ".join(sentences[start : start + count])
    return Turn("repeat", ask(random, "repeat", text=chosen), chosen, ExpectedReply("words", answer=chosen))


def _about_scene(random: Random, most: int) -> list[Turn]:
    """Returns questions that the description of a scene answers; the first one starts with the description."""
    truth = planned_truth(plan_scene(random, _SIZE), _SIZE)
    if not truth.objects:
        return [_fact(random)]
    description = f"{_full_description(truth, random)} {format_grounding([item.rounded for item in truth.objects])}."
    turns = picture_turns(truth, random, most, TEXT_TASKS)
    if random.random() < 0.3:
        expected = ExpectedReply("caption", tuple(item.grounded for item in truth.objects))
        summary = Turn("text_summary", ask(random, "text_summary"), short_caption(truth, random), expected)
        turns = [summary, *turns][:most]
    introduction = pick(random, ("Here is a picture: {t}", "A picture shows this: {t}", "{t}")).format(t=description)
    return _with_introduction(introduction, turns)


def _full_description(truth: SceneTruth, random: Random) -> str:
    labels = {item.id: item.label for item in truth.objects}
    caption = detailed_caption(truth, random)
    relations = [f"The {labels[r.subject]} is {r.name} the {labels[r.object]}." for r in truth.relations]
    return " ".join(dict.fromkeys(sentences_of(" ".join([caption, *relations]))))


def _about_events(random: Random, most: int) -> list[Turn]:
    """Returns questions that a list of events with times answers; the first one starts with the list."""
    events = _random_events(random)
    if not events:
        return [_earlier(random)]
    introduction = " ".join(timed_event_sentence(random, event) for event in events)
    all_events = ExpectedReply("events", events=events)
    turns = []
    for _ in range(int(random.integers(1, most + 1))):
        event = pick(random, events)
        when = f"When is this: {event_clause(random, event)}?"
        what = f"What happens during the period {event.start_s:.2f} - {event.end_s:.2f} seconds?"
        clause = capital(event_clause(random, event))
        choices = (
            Turn("text_when", when, format_time_range(event.span), ExpectedReply("span", span=event.span)),
            Turn("text_what", what, f"{clause}.", ExpectedReply("events", events=(event,))),
            _number_turn("text_count", "How many events are there?", len(events)),
            Turn("text_whole", "Say it in one sentence.", event_summary(random, events), all_events),
            Turn("text_order", "Tell it without times.", event_sequence(random, events), all_events),
        )
        turns.append(pick(random, choices))
    return _with_introduction(introduction, turns)


def _with_introduction(introduction: str, turns: list[Turn]) -> list[Turn]:
    return [replace(turns[0], question=f"{introduction} {turns[0].question}"), *turns[1:]]


def _random_events(random: Random) -> tuple[Event, ...]:
    scene, events, time_s = plan_clip_scene(random, _SIZE), [], round(random.uniform(0.5, 4), 1)
    director = Director(random, _SIZE, with_falls=False)
    for _ in range(int(random.integers(1, 5))):
        step = director.next_step(scene, time_s)
        if step is None:
            continue
        events.append(step.event)
        scene, time_s = step.after, round(step.event.end_s + random.uniform(0.5, 8), 1)
    return tuple(events)


def _fact(random: Random) -> Turn:
    kind = pick(random, tuple(FACTS))
    question = ask(random, "text_fact", an=an(kind))
    return Turn("text_fact", question, FACTS[kind], ExpectedReply("text", answer=FACTS[kind].rstrip(".")))


def _spelling(random: Random) -> Turn:
    """Asks for a printed word letter by letter, or letters joined to a word."""
    word = pick(random, WORDS)
    if random.random() < 0.3:
        word = f"{pick(random, CODE_LETTERS)}{random.integers(1, 100)}"
    letters = " ".join(word)
    if random.random() < 0.5:
        return Turn("text_spell", f'Spell "{word}".', letters, ExpectedReply("text", answer=letters))
    return Turn("text_join", ask(random, "text_join", letters=letters), f'"{word}"', ExpectedReply("text", answer=word))


def _plurals(random: Random) -> Turn:
    number, label = int(random.integers(2, 8)), _random_label(random)
    if random.random() < 0.5:
        question = f"What is more than one {label}?"
        return Turn("text_plural", question, plural(label), ExpectedReply("text", answer=plural(label)))
    return _number_turn("text_number", f"How many are {NUMBERS[number]} {plural(label)}?", number)


def _sum(random: Random) -> Turn:
    a, b = (int(value) for value in random.integers(0, 7, 2))
    label = f"{pick(random, tuple(COLOURS))} object"
    if random.random() < 0.5:
        return _number_turn("text_sum", f"There are {a} {label}s. {b} more appear. How many are there?", a + b)
    return _number_turn("text_sum", f"There are {a + b} {label}s. {b} leave. How many are there?", a)


def _counting_a_list(random: Random) -> Turn:
    labels = [_random_label(random) for _ in range(int(random.integers(2, 6)))]
    counts = {label: int(random.integers(1, 4)) for label in dict.fromkeys(labels)}
    total, counted = sum(counts.values()), "objects"
    if random.random() < 0.5:
        chosen = pick(random, tuple(counts))
        total, counted = counts[chosen], plural(chosen)
    return _number_turn("text_list", f"There are {amounts(counts)}. How many {counted} are there?", total)


def _which_box(random: Random) -> Turn:
    """Asks which of two objects with boxes is further left, right, up or down, or wider."""
    first, second = _random_label(random), _random_label(random)
    a, b = _random_box(random), _random_box(random)
    while second == first:
        second = _random_label(random)
    word, value = pick(random, _COMPARISONS)
    while abs(value(a) - value(b)) < _MIN_DIFFERENCE:
        b = _random_box(random)
    question = f"{format_grounding([GroundedObject(first, a), GroundedObject(second, b)])}. Which one is {word}?"
    return _label_turn("text_which_box", question, first if value(a) > value(b) else second)


def _side_of_box(random: Random) -> Turn:
    """Asks for the side of the picture on which a box is."""
    while True:
        box = _random_box(random)
        middle = (box.x1 + box.x2) / 2
        if middle <= 340 or 430 <= middle <= 570 or middle >= 660:
            break
    side = "left" if middle <= 340 else "right" if middle >= 660 else "middle"
    question = f"Is the box {box_words(box)} on the left, in the middle or on the right?"
    return Turn("text_side", question, side, ExpectedReply("choice", answer=side, options=("left", "middle", "right")))


def _box_of(random: Random) -> Turn:
    """Asks for the box of one of several objects, or the object in a box."""
    labels = list(dict.fromkeys(_random_label(random) for _ in range(int(random.integers(2, 5)))))
    items = [GroundedObject(label, _random_box(random)) for label in labels]
    item = pick(random, items)
    if random.random() < 0.5:
        question = f"{format_grounding(items)}. Where is the {item.label}?"
        return Turn("text_box_of", question, format_object(item), ExpectedReply("boxes", (item,)))
    question = f"{format_grounding(items)}. What is in the box {box_words(item.box)}?"
    return Turn("text_in_box", question, f"{capital(an(item.label))}.", ExpectedReply("label", answer=item.label))


def _duration(random: Random) -> Turn:
    span = _random_span(random)
    duration = f"{span.end_s - span.start_s:.2f} seconds"
    question = f"{format_time_range(span)} How long is this?"
    return Turn("text_duration", question, f"{duration}.", ExpectedReply("text", answer=duration))


def _earlier(random: Random) -> Turn:
    """Asks which of two objects is moved first or last."""
    first, second = _random_label(random), _random_label(random)
    while second == first:
        second = _random_label(random)
    spans = sorted((_random_span(random), _random_span(random)), key=lambda span: span.start_s)
    early, late = (first, second) if random.random() < 0.5 else (second, first)
    sentences = [
        f"{format_time_range(span)[:-1]}, the {name} is moved." for span, name in zip(spans, (early, late), strict=True)
    ]
    if random.random() < 0.5:
        sentences.reverse()
    word, answer = ("first", early) if random.random() < 0.5 else ("last", late)
    return _label_turn("text_earlier", f"{' '.join(sentences)} Which object is moved {word}?", answer)


_SINGLE_TASKS: dict[Callable[[Random], Turn], float] = {
    _fact: 1.0,
    _spelling: 1.5,
    _plurals: 1.0,
    _sum: 1.0,
    _counting_a_list: 1.5,
    _which_box: 2.0,
    _side_of_box: 1.0,
    _box_of: 1.5,
    _duration: 1.0,
    _earlier: 1.0,
}


def _number_turn(task: str, question: str, number: int) -> Turn:
    return Turn(task, question, str(number), ExpectedReply("number", number=number))


def _label_turn(task: str, question: str, label: str) -> Turn:
    return Turn(task, question, f"The {label}.", ExpectedReply("label", answer=label))


def _random_label(random: Random) -> str:
    kind = pick(random, tuple(KINDS))
    return f"{pick(random, tuple(COLOURS))} {kind}" if KINDS[kind].coloured else kind


def _random_box(random: Random) -> Box:
    """Returns a box whose sides are multiples of ten, as `VisibleObject.rounded` has them."""
    x, y = (sorted((10 * random.integers(0, 101, 2)).tolist()) for _ in range(2))
    return Box(x[0], y[0], x[1], y[1])


def _random_span(random: Random) -> TimeRange:
    start_s = round(random.uniform(0, 30), 1)
    return TimeRange(start_s, round(start_s + random.uniform(1, 5), 1))
