"""Questions about recorded bags: what is asked when, and which answers are accepted. One JSON object per line.

    {"id": "mug-1", "bag": "kitchen", "camera": "/camera/image_raw", "time_s": 12.5,
     "question": "What colour is the mug?", "evidence_s": [3.0, 4.5],
     "expected": [{"type": "text", "accept": ["red", "dark red"]}]}

Times are seconds since the camera's first image, by image stamps; `stamp_ns` can replace `time_s`. A question sees what
was captured up to its time. If several results are expected, all of them must be met. This module reads no bags.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import EvaluationError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if span[1] < span[0]:
        raise ValueError(f"{list(span)} ends before it starts")
    return span


_MAX_PROBLEM = 300
"""Characters of a problem that are shown; it may quote a field's name or value."""
NonEmpty = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(ge=0, le=2**31)]  # as long as ROS time lasts
Span = Annotated[tuple[Seconds, Seconds], AfterValidator(_ordered)]


class ExpectedText(_Strict):
    """One of several texts, compared by a metric of metrics/text.py."""

    type: Literal["text"] = "text"
    accept: list[NonEmpty] = Field(min_length=1)
    metric: Literal["exact", "normalised", "contains", "anls"] = "normalised"


class ExpectedNumber(_Strict):
    """A number within a tolerance."""

    type: Literal["number"] = "number"
    value: float
    tolerance: Annotated[float, Field(ge=0)] = 0.0


class ExpectedChoice(_Strict):
    """One of the options, by its letter ("A" is the first). The question's text must show the options to the model."""

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
    """An object: its accepted labels, and its box (x1, y1, x2, y2) from the top left corner."""

    label: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)]
    box: tuple[float, float, float, float]

    @property
    def labels(self) -> tuple[str, ...]:
        """All accepted labels."""
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @field_validator("box")
    @classmethod
    def _ordered(cls, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if not (0 <= box[0] <= box[2] and 0 <= box[1] <= box[3]):
            raise ValueError(f"box {list(box)} must be x1, y1, x2, y2 with 0 <= x1 <= x2 and 0 <= y1 <= y2")
        return box


class ExpectedObjects(_Strict):
    """Objects in the newest image: either `objects`, or those in the message of `topic` nearest to the image.

    Topics have the type vision_msgs/Detection2DArray or penguin_vl/GroundedCaption.
    """

    type: Literal["objects"] = "objects"
    objects: list[ExpectedObject] | None = None  # an empty list: the answer must contain no box
    topic: NonEmpty | None = None
    unit: Literal["px", "1000"] = "px"  # of boxes: pixels, or thousandths of the image's width and height

    @model_validator(mode="after")
    def _either(self) -> ExpectedObjects:
        if (self.objects is None) == (self.topic is None):
            raise ValueError("set either objects or topic")
        if self.unit == "1000" and any(max(item.box) > 1000 for item in self.objects or []):
            raise ValueError("a box in unit 1000 must lie within 0 and 1000")
        return self


class ExpectedTime(_Strict):
    """One of several time ranges in seconds."""

    type: Literal["time_range"] = "time_range"
    accept: list[Span] = Field(min_length=1)


class ExpectedAbsence(_Strict):
    """The object in question is absent: the answer must say so and contain no box."""

    type: Literal["not_there"] = "not_there"


Expected: TypeAlias = Annotated[
    ExpectedText | ExpectedNumber | ExpectedChoice | ExpectedObjects | ExpectedTime | ExpectedAbsence,
    Field(discriminator="type"),
]


class Question(_Strict):
    """A question about a bag."""

    id: Annotated[NonEmpty, Field(max_length=200)]  # unique in its file; comparisons pair questions by id
    bag: NonEmpty | None = None  # name of the bag's folder or file; optional if one bag is evaluated
    camera: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)] | None = None  # optional if the bag has one
    time_s: Seconds | None = None  # when it is asked, since the (first) camera's first image
    stamp_ns: Annotated[int, Field(ge=0, lt=2**63)] | None = None  # the same as an absolute stamp, instead of time_s
    question: NonEmpty  # text, as the model receives it
    expected: list[Expected] = Field(min_length=1)  # all of them must be met
    kind: str = ""  # group in the report; by default the type of the first expected result
    evidence_s: Span | None = None  # when the evidence was last visible; by default see results.py
    horizon_s: Seconds = 0.0  # how far back to look; 0 for everything in memory
    max_new_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None  # of the answer; default: the run's

    @model_validator(mode="after")
    def _consistent(self) -> Question:
        if (self.time_s is None) == (self.stamp_ns is None):
            raise ValueError("set either time_s or stamp_ns")
        if not self.question.strip():
            raise ValueError("the question is empty")
        return self

    @property
    def cameras(self) -> tuple[str, ...]:
        """Image topics of the question; empty for the bag's only one."""
        if self.camera is None:
            return ()
        return (self.camera,) if isinstance(self.camera, str) else tuple(self.camera)

    @property
    def truth_topics(self) -> list[str]:
        """Topics from which the question takes its expected boxes."""
        return [item.topic for item in self.expected if item.type == "objects" and item.topic]

    @property
    def group(self) -> str:
        """Group in the report."""
        return self.kind or self.expected[0].type


def read_questions(path: Path) -> list[Question]:
    """Reads a file of questions; raises EvaluationError that names up to ten malformed lines."""
    questions, problems = read_good_questions(path)
    if problems:
        raise EvaluationError(f"{path}: {first_ten(problems)}")
    return questions


def read_good_questions(path: Path) -> tuple[list[Question], list[str]]:
    """Reads a file of questions; returns those of valid lines, and a sentence about each malformed line.

    Raises EvaluationError if the file cannot be read, or no line is valid.
    """
    try:
        lines = read_lines(path)
    except OSError as err:
        raise EvaluationError(f"questions {path} cannot be read: {err.strerror}") from err
    questions: list[Question] = []
    problems: list[str] = []
    line_by_id: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = parse_question(line)
            if question.id in line_by_id:
                raise EvaluationError(f"id {question.id!r} is already used in line {line_by_id[question.id]}")
        except EvaluationError as err:
            problems.append(f"line {number}: {err}")
            continue
        line_by_id[question.id] = number
        questions.append(question)
    if not questions:
        raise EvaluationError(f"{path}: {first_ten(problems)}" if problems else f"{path} has no questions")
    return questions, problems


def first_ten(problems: Sequence[str]) -> str:
    """Returns up to ten problems in one line, and the number of the others."""
    return "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")


def read_lines(path: Path) -> list[bytes]:
    """Returns the lines of a file, without a byte-order mark. Only line feeds end a line, as JSON has other breaks."""
    return path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")


def parse_question(line: str | bytes) -> Question:
    """Parses one line, or raises EvaluationError with its first three problems."""
    try:
        return Question.model_validate_json(line)
    except ValidationError as err:
        raise EvaluationError(describe(err)) from err


def describe(error: ValidationError) -> str:
    """Returns the first three problems of a validation error in one line."""
    problems = []
    for item in error.errors(include_url=False, include_context=False)[:3]:
        place = "".join(f"{part}." for part in item["loc"])[:-1]
        text = (f"{place}: " if place else "") + item["msg"].removeprefix("Value error, ")
        problems.append(text if len(text) <= _MAX_PROBLEM else f"{text[:_MAX_PROBLEM]}...")
    return ", ".join(problems)


def format_question(question: Question) -> str:
    """Returns the line of a question, without fields that have their default value."""
    values = question.model_dump(mode="json", exclude_defaults=True)
    values["expected"] = [
        {"type": item.type, **item.model_dump(mode="json", exclude_defaults=True)} for item in question.expected
    ]
    return json.dumps(values, ensure_ascii=False)


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Writes a file of questions, or raises WriteError."""
    with atomic_write(path) as file:
        file.writelines(format_question(question) + "\n" for question in questions)
