"""The questions of a report, each with its pictures, what was expected, and the answers of all columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from penguin_ros.evaluation.metrics.scoring import METRICS
from penguin_ros.evaluation.question_file import Expected, Question
from penguin_ros.evaluation.report.pictures import Pictures, expected_boxes, given_boxes
from penguin_ros.evaluation.results import Results, ScoredRecord, expected_of, records_of
from penguin_ros.evaluation.summary import perception


@dataclass(frozen=True)
class Column:
    """A way of answering that is shown beside others: an method of a run.

    Attributes:
        name: shown.
        colour: of its boxes and points.
        results: of its run.
        folder: of its run, where the pictures are.
        method: of the run.
    """

    name: str
    colour: str
    results: Results
    folder: Path
    method: str

    @property
    def records(self) -> dict[str, ScoredRecord]:
        """Its answers by question."""
        return records_of(self.results, self.method)


@dataclass(frozen=True)
class ShownAnswer:
    """An answer as it is shown."""

    column: Column
    record: ScoredRecord
    facts: str


@dataclass(frozen=True)
class ShownPicture:
    """A frame with boxes, and when it was seen; None where the file of the frame is missing."""

    drawing: Markup | None
    caption: str


@dataclass(frozen=True)
class Card:
    """A question as it is shown.

    Attributes:
        question: as it stands in the file.
        bag: name of its bag.
        camera: of the frame it is about.
        time_s: when it was asked; None where it was not, and its file gives a stamp.
        facts: when its evidence was seen.
        expected: in words.
        pictures: the newest frames that its answers knew.
        answers: of the columns, in their order.
        tags: words by which it can be found with the filters.
        unasked: why it was not asked; empty where it was.
    """

    question: Question
    bag: str
    camera: str
    time_s: float | None
    facts: str
    expected: list[str]
    pictures: list[ShownPicture]
    answers: list[ShownAnswer]
    tags: str
    unasked: str = ""

    @property
    def words(self) -> str:
        """What a search looks through."""
        said = [answer.record.text for answer in self.answers]
        return " ".join([self.question.id, self.question.question, *self.expected, *said]).lower()


def make_cards(columns: Sequence[Column], pictures: Pictures) -> list[Card]:
    """A card for every question, in the order of the file."""
    by_column = [column.records for column in columns]
    questions = {question.id: (question, column.results) for column in columns for question in column.results.questions}
    cards = []
    for name, (question, results) in questions.items():
        answers = {index: records[name] for index, records in enumerate(by_column) if name in records}
        cards.append(_card(question, answers, columns, pictures) if answers else _unasked(question, results))
    return cards


def _unasked(question: Question, results: Results) -> Card:
    """A question that no column has answered."""
    bag = question.bag or results.bags[0].name
    failed = next((info.failed for info in results.bags if info.name == bag and info.failed), None)
    return Card(
        question=question,
        bag=bag,
        camera=", ".join(question.cameras),
        time_s=question.time_s,
        facts="",
        expected=[in_words(item) for item in question.expected],
        pictures=[],
        answers=[],
        tags="unasked",
        unasked=f"bag {bag} could not be evaluated to its end: {failed}" if failed else "no way of answering takes it",
    )


def _card(
    question: Question, answers: Mapping[int, ScoredRecord], columns: Sequence[Column], pictures: Pictures
) -> Card:
    first = next(iter(answers.values()))
    return Card(
        question=question,
        bag=first.bag,
        camera=first.frame.camera if first.frame else ", ".join(question.cameras),
        time_s=first.time_s,
        facts=_evidence(first, columns[0].results.recent_s),
        expected=[in_words(item) for item in expected_of(question, first)],
        pictures=_pictures(question, answers, columns, pictures),
        answers=[ShownAnswer(columns[index], record, _facts(record)) for index, record in answers.items()],
        tags=_tags(answers),
    )


def _pictures(
    question: Question, answers: Mapping[int, ScoredRecord], columns: Sequence[Column], pictures: Pictures
) -> list[ShownPicture]:
    """One picture for each frame that answers refer to; answers about the same frame share it."""
    by_frame: dict[tuple[str, int], list[int]] = {}
    for index, record in answers.items():
        if record.frame is not None:
            by_frame.setdefault((record.frame.camera, record.frame.stamp_ns), []).append(index)
    shown = []
    for indices in by_frame.values():
        record = answers[indices[0]]
        frame = record.frame
        assert frame is not None
        boxes = expected_boxes(expected_of(question, record), frame)
        boxes += [box for index in indices for box in given_boxes(answers[index], columns[index].colour)]
        names = f" ({', '.join(columns[index].name for index in indices)})" if len(by_frame) > 1 else ""
        caption = f"{frame.camera} at {frame.time_s:.2f} s{names}"
        shown.append(ShownPicture(pictures.draw(columns[indices[0]].folder, frame, boxes), caption))
    return shown


def _tags(answers: Mapping[int, ScoredRecord]) -> str:
    words = []
    first = answers.get(0)
    for index, record in answers.items():
        words.append(f"{'right' if record.correct else 'wrong'}-{index}")
        if record.error is not None:
            words.append(f"error-{index}")
        if first is not None and record.correct != first.correct:
            words.append(f"{'better' if record.correct else 'worse'}-{index}")
    return " ".join(words)


def in_words(item: Expected) -> str:
    """An expected result for people."""
    if item.type == "text":
        return " or ".join(f"“{text}”" for text in item.accept)
    if item.type == "number":
        return f"{item.value:g}" + (f" ± {item.tolerance:g}" if item.tolerance else "")
    if item.type == "choice":
        return f"{item.answer}. {item.options[ord(item.answer) - ord('A')]}"
    if item.type == "objects":
        if item.objects is None:
            return f"boxes of {item.topic}"
        labels = [found.labels[0] for found in item.objects]
        return f"boxes: {', '.join(labels)}" if labels else "no boxes"
    if item.type == "time_range":
        return " or ".join(f"{start:.2f} to {end:.2f} s" for start, end in item.accept)
    return "that it is not there"


def _evidence(record: ScoredRecord, recent_s: float) -> str:
    if record.age_s is None:
        return ""
    return f"evidence {record.age_s:.1f} s old ({perception(record.age_s, recent_s)})"


def _facts(record: ScoredRecord) -> str:
    """Scores and costs in a line."""
    parts = [
        f"{METRICS[name].title} {numerator / denominator:.2f}"
        for name, (numerator, denominator) in record.scores.items()
        if denominator and name != "accuracy"
    ]
    if record.spans:
        parts.append("said " + ", ".join(f"{start:.2f} to {end:.2f} s" for start, end in record.spans))
    if record.error is None:
        parts.append(f"{record.frames} frames, {record.visual_tokens} visual tokens, {record.generated_tokens} out")
        parts.append(f"first token {record.first_token_s:.3f} s, answer {record.total_s:.3f} s")
    if record.joules is not None:
        parts.append(f"{record.joules:.3g} J")
    if record.waited_s:
        parts.append(f"waited {record.waited_s:.2f} s")
    if record.malformed:
        parts.append(f"{record.malformed} boxes or times unreadable")
    return " · ".join(parts)
