"""Recordings of hours, and questions about what can no longer be seen in them."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from penguin_models.errors import TabletopError
from penguin_models.types import Size
from penguin_tabletop.clips.timeline import TabletopRecording
from penguin_tabletop.conversations.recall_tasks import Past, balanced, counted_from, recall_questions
from penguin_tabletop.seeds import Split, seeded_random

SIZE = Size(168, 168)


def recorded(number, seconds):
    recording = TabletopRecording(Split.TRAIN.seed(number, 77), SIZE, seconds)
    past = Past(recording, SIZE, recording.seconds)
    return recording, past, recall_questions(past, seeded_random(number, "test"))


@pytest.mark.parametrize("seconds", [60, 300, 1800, 7200])
def test_something_happens_at_every_age_and_little_is_rendered(seconds):
    recorded_ones = [recorded(number, seconds) for number in range(2)]
    recording = recorded_ones[0][0]
    ages = np.array([seconds - question.evidence_s[1] for _, _, questions in recorded_ones for question in questions])
    for low, high in ((0, 15), (15, 60), (134, 300), (735, 1800), (3600, 7200)):
        assert np.any((ages >= low) & (ages < high)) == (seconds >= high), (low, high)
    stamps = np.array(recording.stamps_s)
    assert len(stamps) <= min(2 * seconds, 400 + seconds / 7) and max(np.diff(stamps)) <= 10
    assert np.allclose(stamps * 2, np.round(stamps * 2)) and stamps[-1] == seconds - 0.5
    for event in recording.events:  # every event is seen at the full rate
        inside = stamps[(stamps >= event.start_s - 0.5) & (stamps <= event.end_s + 0.5)]
        assert max(np.diff(inside)) == 0.5
    assert all(a.end_s <= b.start_s for a, b in pairwise(recording.events))


def test_questions_are_about_what_is_gone_and_a_guess_hardly_answers_them():
    answers = {}
    for number in range(24):
        _, past, questions = recorded(number, 300)
        present = {thing.label for thing in past._recording.scene(300.0).things}
        for question in questions:
            turn, expected = question.turn, question.turn.expected
            assert 0 <= question.evidence_s[1] <= 300
            if turn.task == "was_there":
                assert not any(label in turn.question for label in present)
            answer = expected.answer or expected.number
            if turn.task == "which_first":
                answer = expected.options.index(expected.answer)
            elif turn.task == "when":
                answer = turn.answer
            answers.setdefault(turn.task, Counter()).update([answer])
    assert set(answers) == {"was_there", "when", "which_first", "how_often", "what_left", "colour_left", "last_seen"}
    for task, counts in answers.items():
        assert max(counts.values()) < (0.7 if len(counts) == 2 else 0.52) * counts.total(), task


def test_questions_are_balanced_over_tasks_and_times_count_from_any_start():
    _, _, questions = recorded(0, 300)
    some = balanced(questions, 7)
    assert max(Counter(question.turn.task for question in some).values()) == 1
    when = next(question.turn for question in questions if question.turn.task == "when")
    moved = counted_from(when, when.expected.span.start_s)
    assert moved.expected.span.start_s == 0 and "0.00 - " in moved.answer
    assert counted_from(some[0].turn, 0.0).question == some[0].turn.question


@pytest.mark.parametrize(
    ("side", "seconds", "fps"),
    [(168, 5, 2.0), (168, 20_000, 2.0), (168, 60, 0.5), (168, float("nan"), 2.0), (0, 60, 2.0)],
)
def test_impossible_recordings_are_refused(side, seconds, fps):
    with pytest.raises(TabletopError, match="must"):
        TabletopRecording(2, Size(side, side), seconds, fps)
