"""The questions of a report, each with its pictures, the expected results, and the answers of all columns."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from penguin_models.errors import EvaluationError
from penguin_models.grounding import SCALE
from penguin_models.types import Size
from penguin_ros.evaluation.metrics.boxes import BoxTuple
from penguin_ros.evaluation.metrics.scoring import METRICS, to_thousandths
from penguin_ros.evaluation.question_file import Expected, Question
from penguin_ros.evaluation.records import FrameRecord
from penguin_ros.evaluation.results import Results, ScoredRecord, expected_of
from penguin_ros.evaluation.summary import perception

EXPECTED_COLOUR = "#1f7a1f"
_JPEG = b"\xff\xd8\xff"  # first bytes of every JPEG file


@dataclass(frozen=True)
class Column:
    """A method of a run, shown next to others."""

    name: str  # title of the column
    colour: str  # CSS colour of its boxes and points
    results: Results
    folder: Path  # results folder, which holds the frames
    method: str

    @cached_property
    def records(self) -> dict[str, ScoredRecord]:
        """Records by question id."""
        return self.results.by_question(self.method)

    @property
    def answered(self) -> list[ScoredRecord]:
        """Records without an error."""
        return [record for record in self.records.values() if record.error is None]

    @property
    def summary(self) -> dict[str, Any]:
        """Summary of the method."""
        found: dict[str, Any] = self.results.summary["methods"][self.method]
        return found


@dataclass(frozen=True)
class DrawnBox:
    """A box over a picture, (x1, y1, x2, y2) in pixels; `kind` is "expected" or "predicted"."""

    kind: str
    label: str
    corners: BoxTuple
    colour: str


@dataclass(frozen=True)
class Picture:
    """A frame with boxes; `image` is the id of its data in the page, None if the file is missing."""

    frame: FrameRecord
    image: str | None
    boxes: list[DrawnBox]
    caption: str


@dataclass(frozen=True)
class Card:
    """A question in the report."""

    question: Question
    bag: str
    camera: str  # of the newest frame
    time_s: float | None  # when it was asked; None if it was not asked and its file gives a stamp
    expected: Sequence[str]  # expected results in words
    evidence: str = ""  # age of the evidence in words
    pictures: Sequence[Picture] = ()  # the newest frames available to the answers
    answers: Sequence[tuple[Column, ScoredRecord, str]] = ()  # with facts, in the order of the columns
    tags: Sequence[str] = ()  # verdicts that the filter can select
    unasked: str = ""  # why the question was not asked; empty if it was

    @property
    def search_text(self) -> str:
        """Lower-case text for the search."""
        answers = [record.text for _, record, _ in self.answers]
        return " ".join([self.question.id, self.question.question, *self.expected, *answers]).lower()


class CardMaker:
    """Makes the cards of a page, and collects the images they show."""

    def __init__(self, columns: Sequence[Column]):
        self._columns = columns
        self.images: dict[Path, tuple[str, FrameRecord, str]] = {}  # file -> (id, frame, JPEG in base64)

    def cards(self) -> list[Card]:
        """Returns a card for every question, in the order of the file."""
        runs = {question.id: (question, c.results) for c in self._columns for question in c.results.questions}
        cards = []
        for name, (question, results) in runs.items():
            answers = {index: c.records[name] for index, c in enumerate(self._columns) if name in c.records}
            cards.append(self._card(question, answers) if answers else _unasked_card(question, results))
        return cards

    def _card(self, question: Question, answers: Mapping[int, ScoredRecord]) -> Card:
        first = next(iter(answers.values()))
        age_s, recent_s = first.age_s, self._columns[0].results.recent_s
        return Card(
            question=question,
            bag=first.bag,
            camera=first.frame.camera if first.frame else ", ".join(question.cameras),
            time_s=first.time_s,
            expected=[in_words(item) for item in expected_of(question, first)],
            evidence="" if age_s is None else f"evidence {age_s:.1f} s old ({perception(age_s, recent_s)})",
            pictures=self._pictures(question, answers),
            answers=[(self._columns[index], record, _facts(record)) for index, record in answers.items()],
            tags=_tags(answers),
        )

    def _pictures(self, question: Question, answers: Mapping[int, ScoredRecord]) -> list[Picture]:
        """Returns one picture per frame; answers about the same frame share it."""
        by_frame: dict[tuple[str, int], list[int]] = {}
        for index, record in answers.items():
            if record.frame is not None:
                by_frame.setdefault((record.frame.camera, record.frame.stamp_ns), []).append(index)
        pictures = []
        for indices in by_frame.values():
            record = answers[indices[0]]
            frame = record.frame
            assert frame is not None
            boxes = _expected_boxes(expected_of(question, record), frame)
            for index in indices:
                colour = self._columns[index].colour
                objects = answers[index].objects
                boxes += [DrawnBox("predicted", item.label, _pixels(item.box, frame), colour) for item in objects]
            names = f" ({', '.join(self._columns[index].name for index in indices)})" if len(by_frame) > 1 else ""
            image = self._image(self._columns[indices[0]].folder / "frames", frame)
            pictures.append(Picture(frame, image, boxes, f"{frame.camera} at {frame.time_s:.2f} s{names}"))
        return pictures

    def _image(self, folder: Path, frame: FrameRecord) -> str | None:
        file = (folder / frame.file).resolve()
        if file not in self.images:
            if not file.is_relative_to(folder.resolve()):  # a link
                raise EvaluationError(f"frame {folder / frame.file} leads out of the results folder")
            try:
                content = file.read_bytes()
            except OSError:
                return None
            if not content.startswith(_JPEG):
                raise EvaluationError(f"frame {file} is not a JPEG image")
            self.images[file] = (f"frame-{len(self.images)}", frame, base64.b64encode(content).decode())
        return self.images[file][0]


def anchor(question: str) -> str:
    """Returns the id of a question's card in the page."""
    return f"q-{quote(question)}"


def in_words(item: Expected) -> str:
    """Returns an expected result in words."""
    if item.type == "text":
        return " or ".join(f"“{text}”" for text in item.accept)
    if item.type == "number":
        return f"{item.value:g}" + (f" ± {item.tolerance:g}" if item.tolerance else "")
    if item.type == "choice":
        return f"{item.answer}. {item.options[ord(item.answer) - ord('A')]}"
    if item.type == "objects":
        if item.objects is None:
            return f"boxes of {item.topic}"
        return f"boxes: {', '.join(found.labels[0] for found in item.objects)}" if item.objects else "no boxes"
    if item.type == "time_range":
        return " or ".join(f"{start:.2f} to {end:.2f} s" for start, end in item.accept)
    return "that it is not there"


def _unasked_card(question: Question, results: Results) -> Card:
    bag = question.bag or results.bags[0].name
    failed = next((info.failed for info in results.bags if info.name == bag and info.failed), None)
    if failed:
        reason = f"bag {bag} could not be evaluated completely: {failed}"
    elif results.problems:
        reason = "the reason is among the problems at the top of the page"
    else:
        reason = "no method supports it"
    return Card(
        question=question,
        bag=bag,
        camera=", ".join(question.cameras),
        time_s=question.time_s,
        expected=[in_words(item) for item in question.expected],
        tags=["unasked"],
        unasked=reason,
    )


def _expected_boxes(expected: Sequence[Expected], frame: FrameRecord) -> list[DrawnBox]:
    size = Size(frame.height, frame.width)
    return [
        DrawnBox("expected", box.labels[0], _pixels(to_thousandths(box, item.unit, size), frame), EXPECTED_COLOUR)
        for item in expected
        if item.type == "objects"
        for box in item.objects or []
    ]


def _pixels(box: BoxTuple, frame: FrameRecord) -> BoxTuple:
    x, y = frame.width / SCALE, frame.height / SCALE
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _tags(answers: Mapping[int, ScoredRecord]) -> list[str]:
    tags = []
    first = answers.get(0)
    for index, record in answers.items():
        tags.append(f"{'right' if record.correct else 'wrong'}-{index}")
        if record.error is not None:
            tags.append(f"error-{index}")
        if first is not None and record.correct != first.correct:
            tags.append(f"{'better' if record.correct else 'worse'}-{index}")
    return tags


def _facts(record: ScoredRecord) -> str:
    """Returns scores and costs in one line."""
    parts = [
        f"{METRICS[name].title} {numerator / denominator:.2f}"
        for name, (numerator, denominator) in record.scores.items()
        if denominator and name != "accuracy"
    ]
    if record.spans:
        parts.append("answered " + ", ".join(f"{start:.2f} to {end:.2f} s" for start, end in record.spans))
    if record.error is None:
        parts.append(f"{record.frames} frames, {record.visual_tokens} visual tokens, {record.generated_tokens} out")
        parts.append(f"first token {record.first_token_s:.3f} s, answer {record.total_s:.3f} s")
    if record.joules is not None:
        parts.append(f"{record.joules:.3g} J")
    if record.waited_s:
        parts.append(f"waited {record.waited_s:.2f} s")
    if record.malformed:
        parts.append(f"{record.malformed} malformed boxes or times")
    return " · ".join(parts)
