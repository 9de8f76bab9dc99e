"""Questions about recorded bags: what is asked when, and what is accepted as an answer. One JSON object a line.

    {"id": "mug-1", "bag": "kitchen", "camera": "/camera/image_raw", "time_s": 12.5,
     "question": "What colour is the mug?", "evidence_s": [3.0, 4.5],
     "expected": [{"type": "text", "accept": ["red", "dark red"]}]}

Times are seconds since the camera's first image, by the stamps of the images; `stamp_ns` may be given in place of
`time_s`. A question sees what was captured at its time or before. Where several results are expected, all must be
right. Knows nothing of models; reads no bag.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.metrics.text import TEXT_METRICS


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


NonEmpty = Annotated[str, Field(min_length=1)]
Time = Annotated[float, Field(ge=0)]


class ExpectedText(_Strict):
    """Any of these texts, compared by a metric of text_metrics.py."""

    type: Literal["text"] = "text"
    accept: list[NonEmpty] = Field(min_length=1)
    metric: str = "normalised"

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in TEXT_METRICS:
            raise ValueError(f"unknown metric {name!r}; known are {', '.join(TEXT_METRICS)}")
        return name


class ExpectedNumber(_Strict):
    """A number; right within the tolerance."""

    type: Literal["number"] = "number"
    value: float
    tolerance: Annotated[float, Field(ge=0)] = 0.0


class ExpectedChoice(_Strict):
    """One of the options, by its letter: "A" is the first. The question itself must show them to the model."""

    type: Literal["choice"] = "choice"
    options: list[NonEmpty] = Field(min_length=2, max_length=26)
    answer: str

    @model_validator(mode="after")
    def _among(self) -> ExpectedChoice:
        letters = [chr(ord("A") + i) for i in range(len(self.options))]
        if self.answer not in letters:
            raise ValueError(f"answer {self.answer!r} must be a letter from A to {letters[-1]}")
        return self


class ExpectedObject(_Strict):
    """An object: the labels accepted for it, and its box (x1, y1, x2, y2), origin top left."""

    label: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)]
    box: tuple[float, float, float, float]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels accepted."""
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @field_validator("box")
    @classmethod
    def _ordered(cls, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if not (0 <= box[0] <= box[2] and 0 <= box[1] <= box[3]):
            raise ValueError(f"box {list(box)} must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, not negative")
        return box


class ExpectedObjects(_Strict):
    """Objects in the newest image, given here or by a topic of the bag.

    Attributes:
        objects: in `unit`; an empty list means that nothing must be pointed at.
        topic: vision_msgs/Detection2DArray or penguin_vl/GroundedCaption, whose message nearest to the image counts.
        unit: "px" of the image, or "1000" for thousandths of its width and height.
    """

    type: Literal["objects"] = "objects"
    objects: list[ExpectedObject] | None = None
    topic: NonEmpty | None = None
    unit: Literal["px", "1000"] = "px"

    @model_validator(mode="after")
    def _either(self) -> ExpectedObjects:
        if (self.objects is None) == (self.topic is None):
            raise ValueError("give either objects or topic")
        if self.unit == "1000" and any(max(item.box) > 1000 for item in self.objects or []):
            raise ValueError("a box in unit 1000 must lie within 0 and 1000")
        return self


class ExpectedTime(_Strict):
    """A span of time in seconds; any of several."""

    type: Literal["time_range"] = "time_range"
    accept: list[tuple[Time, Time]] = Field(min_length=1)

    @field_validator("accept")
    @classmethod
    def _ordered(cls, spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
        for start, end in spans:
            if end < start:
                raise ValueError(f"time range [{start}, {end}] ends before it starts")
        return spans


class ExpectedAbsence(_Strict):
    """What is asked for is not there: the answer must say so and point at nothing."""

    type: Literal["not_there"] = "not_there"


Expected: TypeAlias = Annotated[
    ExpectedText | ExpectedNumber | ExpectedChoice | ExpectedObjects | ExpectedTime | ExpectedAbsence,
    Field(discriminator="type"),
]


class Question(_Strict):
    """One question.

    Attributes:
        id: unique in its file; comparisons pair questions by it.
        bag: name of the bag's folder or file; may be left out where one bag is evaluated.
        camera: image topic, or several of them; may be left out where the bag has one.
        time_s: when it is asked, in seconds since the camera's first image.
        stamp_ns: the same as an absolute stamp, in place of time_s.
        question: as the model gets it.
        expected: all of these must be met.
        kind: group in the report; the type of the first expected result if not given.
        evidence_s: when what must be known was last to be seen, as (start, end); derived for time ranges (from their
            start) and boxes.
        horizon_s: look back at most so far; 0 for everything in memory.
        max_new_tokens: longest answer; the run's setting if not given.
    """

    id: NonEmpty
    bag: NonEmpty | None = None
    camera: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)] | None = None
    time_s: Time | None = None
    stamp_ns: Annotated[int, Field(ge=0)] | None = None
    question: NonEmpty
    expected: list[Expected] = Field(min_length=1)
    kind: str = ""
    evidence_s: tuple[Time, Time] | None = None
    horizon_s: Time = 0.0
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Question:
        if (self.time_s is None) == (self.stamp_ns is None):
            raise ValueError("give either time_s or stamp_ns")
        if not self.question.strip():
            raise ValueError("the question is empty")
        if self.evidence_s is not None and self.evidence_s[1] < self.evidence_s[0]:
            raise ValueError(f"evidence_s {list(self.evidence_s)} ends before it starts")
        return self

    @property
    def cameras(self) -> tuple[str, ...]:
        """Image topics that it is about; empty for the bag's only one."""
        if self.camera is None:
            return ()
        return (self.camera,) if isinstance(self.camera, str) else tuple(self.camera)

    @property
    def group(self) -> str:
        """Its kind, for the report."""
        return self.kind or self.expected[0].type


def read_questions(path: Path) -> list[Question]:
    """Reads a file of questions; empty lines are skipped.

    Raises:
        EvaluationError: the file cannot be read or has none, or lines are malformed (each is named, up to ten).
    """
    try:
        lines = read_lines(path)
    except UnicodeDecodeError as err:
        raise EvaluationError(f"questions {path} are not UTF-8 text: {err.reason} at byte {err.start}") from err
    except OSError as err:
        raise EvaluationError(f"questions {path} cannot be read: {err.strerror}") from err
    questions, wrong, seen = [], [], dict[str, int]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = parse_question(line)
        except EvaluationError as err:
            wrong.append(f"line {number}: {err}")
            continue
        if question.id in seen:
            wrong.append(f"line {number}: id {question.id!r} is already that of line {seen[question.id]}")
        seen[question.id] = number
        questions.append(question)
    if wrong:
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise EvaluationError(f"{path}: {'; '.join(wrong[:10])}{more}")
    if not questions:
        raise EvaluationError(f"{path} has no questions")
    return questions


def read_lines(path: Path) -> list[str]:
    """Lines of a text in UTF-8, with or without a byte-order mark; JSON may hold other line breaks than line feeds."""
    return path.read_text(encoding="utf-8-sig").split("\n")


def parse_question(line: str) -> Question:
    """Reads one line.

    Raises:
        EvaluationError: it is no JSON, or fields are missing, unknown or out of range; they are named.
    """
    try:
        return Question.model_validate(json.loads(line))
    except json.JSONDecodeError as err:
        raise EvaluationError(f"no JSON: {err.msg} at column {err.colno}") from err
    except ValidationError as err:
        raise EvaluationError(describe(err)) from err


def describe(error: ValidationError) -> str:
    """What is wrong with a value, in one line."""
    return ", ".join(_describe(item) for item in error.errors(include_url=False, include_context=False)[:3])


def _describe(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def format_question(question: Question) -> str:
    """The line of a file for a question; what has its default is left out."""
    values = question.model_dump(mode="json", exclude_defaults=True)
    values["expected"] = [
        {"type": e.type, **e.model_dump(mode="json", exclude_defaults=True)} for e in question.expected
    ]
    return json.dumps(values, ensure_ascii=False)


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Writes a file of questions.

    Raises:
        EvaluationError: the file cannot be written.
    """
    try:
        path.write_text("".join(format_question(question) + "\n" for question in questions), encoding="utf-8")
    except OSError as err:
        raise EvaluationError(f"questions {path} cannot be written: {err.strerror}") from err


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """A question with its options beneath, as the usual harnesses show them."""
    listed = "\n".join(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))
    return f"{question}\n{listed}\nAnswer with the option's letter from the given choices directly."
