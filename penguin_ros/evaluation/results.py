"""Results of an evaluation: one versioned JSON file with everything that was asked, answered and scored.

Scores are computed from the recorded answers, so results can be scored again when metrics or expectations change.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import EvaluationError
from penguin_models.types import Size
from penguin_ros.evaluation.metrics.boxes import LabelledBox
from penguin_ros.evaluation.metrics.scoring import Prediction, score
from penguin_ros.evaluation.metrics.statistics import Ratio
from penguin_ros.evaluation.metrics.time import Span, find_span
from penguin_ros.evaluation.question_file import Expected, ExpectedObjects, Question, describe
from penguin_ros.evaluation.records import AnswerRecord, JsonRecord, ModelSpec, RunSettings, Timeline

RESULTS_FILE = "results.json"
VERSION: Final = 3


class ModelInfo(JsonRecord):
    """The model that answered."""

    spec: ModelSpec  # as requested
    hash: str  # SHA-256 of the checkpoint's files
    runtime: str
    dtype: str  # type of the weights
    device: str | None = None  # on a cluster, that of the machine that started the run


class BagInfo(JsonRecord):
    """A bag of the run."""

    name: str  # by which questions refer to it
    path: str
    cameras: list[str] = Field(default=[])  # image topics that were read
    failed: str | None = None  # why it could not be evaluated completely; None if it could
    notes: list[str] = Field(default=[])  # what is unusual about it, in sentences


class ScoredRecord(AnswerRecord):
    """An answer with its scores."""

    bag: str
    correct: bool  # whether every expected result was met
    scores: dict[str, Ratio]  # by metric, see metrics/scoring.py
    age_s: float | None = None  # age of the newest evidence that the answer needs; None if the question does not say

    def part(self, metric: str) -> Ratio:
        """Returns this answer's part of a metric; 0/0 if the metric does not apply."""
        return self.scores.get(metric, Ratio(0, 0))


class Results(JsonRecord):
    """Everything known about a run."""

    format: Literal["penguin-vl/evaluation"] = "penguin-vl/evaluation"
    version: Literal[3] = VERSION
    created: str  # ISO 8601
    package: str  # version of this package
    title: str
    model: ModelInfo
    settings: RunSettings
    machine: dict[str, Any]
    recent_s: float = 2.0  # evidence at most this old counts as recent perception
    seed: int = 0  # of the bootstrap intervals
    bags: list[BagInfo]
    problems: list[str] = Field(default=[])  # sentences about questions that could not be read or asked
    questions: list[Question]
    records: list[ScoredRecord]  # one per question and method
    timelines: list[Timeline] = Field(default=[])
    summary: dict[str, Any] = Field(default={})  # scores with intervals, see summary.py

    @property
    def methods(self) -> list[str]:
        """Methods in the order in which they first appear in the records."""
        return list(dict.fromkeys(record.method for record in self.records))

    def by_question(self, method: str) -> dict[str, ScoredRecord]:
        """Returns the records of one method by question id."""
        return {record.question: record for record in self.records if record.method == method}


def score_record(bag: str, question: Question, record: AnswerRecord) -> ScoredRecord:
    """Scores an answer; a record with an error is scored like an empty answer and is never correct."""
    record = record.model_copy(update={"spans": _spans(question, record)})
    expected = expected_of(question, record)
    found = score(_prediction(record), expected)
    correct = found.correct and len(expected) == len(question.expected) and record.error is None
    parts = {**found.parts, "accuracy": Ratio(float(correct))}
    age_s = evidence_age_s(question, record.time_s)
    return ScoredRecord(**record.model_dump(), bag=bag, correct=correct, scores=parts, age_s=age_s)


def _prediction(record: AnswerRecord) -> Prediction:
    size = Size(record.frame.height, record.frame.width) if record.frame else Size(1, 1)
    if record.error is not None:
        return Prediction("", (), (), size)
    boxes = [LabelledBox((item.label,), item.box) for item in record.objects]
    return Prediction(record.text, boxes, record.spans, size)


def _spans(question: Question, record: AnswerRecord) -> list[Span]:
    """Returns the time ranges of an answer; if one is expected and none is in the notation, one in free text counts."""
    if record.spans or all(item.type != "time_range" for item in question.expected):
        return record.spans
    found = find_span(record.text)
    return [] if found is None else [(found[0] + record.start_s, found[1] + record.start_s)]


def expected_of(question: Question, record: AnswerRecord) -> list[Expected]:
    """Returns the expected results with the boxes of topics filled in; those without known boxes are left out."""
    expected: list[Expected] = []
    for item in question.expected:
        if not isinstance(item, ExpectedObjects) or item.topic is None:
            expected.append(item)
        elif item.topic in record.truth:
            expected.append(ExpectedObjects(objects=record.truth[item.topic]))
    return expected


def evidence_age_s(question: Question, asked_s: float) -> float | None:
    """Returns how old the newest evidence that the answer needs was when the question was asked, None if unknown.

    This is the end of `evidence_s` if the question states it. Otherwise expected boxes have age 0, and a time range is
    as old as its start, because the answer must have seen it begin.
    """
    if question.evidence_s is not None:
        return max(0.0, asked_s - question.evidence_s[1])
    ages = []
    for item in question.expected:
        if item.type == "objects":
            ages.append(0.0)
        elif item.type == "time_range":
            ages.append(max(0.0, asked_s - min(start for start, _ in item.accept)))
    return max(ages, default=None)


def checkpoint_hash(folder: Path) -> str:
    """Returns the SHA-256 of a checkpoint's file names and contents, without notes (.md) and hidden files."""
    total = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix != ".md" and not p.name.startswith(".")):
        total.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def save_results(folder: Path, results: Results) -> Path:
    """Writes the results file and returns its path, or raises WriteError."""
    target = folder / RESULTS_FILE
    with atomic_write(target) as file:
        file.write(results.model_dump_json(indent=1) + "\n")
    return target


def load_results(path: Path) -> Results:
    """Reads a results file or the one in a folder; raises EvaluationError if it is damaged or of another version."""
    file = path / RESULTS_FILE if path.is_dir() else path
    try:
        return Results.model_validate_json(file.read_bytes())
    except OSError as err:
        raise EvaluationError(f"results {file} cannot be read: {err.strerror}") from err
    except ValidationError as err:
        raise EvaluationError(
            f"{file} is not a results file of version {VERSION}: {describe(err)}; run the evaluation again"
        ) from err
