"""Results of an evaluation: one JSON file with everything that was asked, answered and scored. Its schema is versioned.

Scores are made here from the answers, so that results can be scored again when metrics or expectations change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from penguin_models.errors import EvaluationError
from penguin_models.types import Size
from penguin_ros.evaluation.metrics.scoring import Prediction, score
from penguin_ros.evaluation.metrics.statistics import Ratio
from penguin_ros.evaluation.metrics.time import Span, find_span
from penguin_ros.evaluation.question_file import Expected, ExpectedObjects, Question, describe
from penguin_ros.evaluation.records import AnswerRecord, FileSettings, ModelSpec, RunSettings, Timeline

RESULTS_FILE = "results.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelInfo(_Part):
    """What answered.

    Attributes:
        spec: as asked for.
        hash: SHA-256 of the checkpoint's files.
        runtime: name of the runtime.
        dtype: type of the weights.
        device: what it ran on, on a cluster that of the machine which began the run; None in results of older versions.
    """

    spec: ModelSpec
    hash: str
    runtime: str
    dtype: str
    device: str | None = None


class BagInfo(_Part):
    """A bag, or a benchmark.

    Attributes:
        name: by which questions know it.
        path: of the recording.
        cameras: topics that were read.
        failed: why it could not be evaluated to its end; None if it could.
    """

    name: str
    path: str
    cameras: list[str] = []
    failed: str | None = None


class ScoredRecord(AnswerRecord):
    """An answer and what it is worth.

    Attributes:
        bag: name of its bag.
        correct: whether everything expected was met.
        scores: (numerator, denominator) by metric, see scoring.py.
        age_s: how old the newest evidence was that the answer needs; None where the question does not tell.
    """

    bag: str
    correct: bool
    scores: dict[str, tuple[float, float]]
    age_s: float | None = None

    def part(self, metric: str) -> Ratio:
        """Its part in a metric; nothing where the metric does not apply."""
        return Ratio(*self.scores.get(metric, (0.0, 0.0)))


class BagTimeline(Timeline):
    """What happened to a memory, and in which bag."""

    bag: str


class Results(_Part):
    """Everything that is known of a run.

    Attributes:
        format: names this kind of file.
        version: of its schema.
        created: when, in ISO 8601.
        package: version of this package.
        title: for the report.
        model: what answered.
        settings: what answers depend on.
        machine: where it ran.
        recent_s: evidence at most this old counts as recent perception.
        seed: of the intervals.
        bags: that were evaluated.
        questions: as asked, with what was expected.
        records: a record for each question and method.
        timelines: of the memories.
        summary: scores with intervals, see summary.py.
    """

    format: Literal["penguin-vl/evaluation"] = "penguin-vl/evaluation"
    version: Literal[2] = 2
    created: str
    package: str
    title: str
    model: ModelInfo
    settings: RunSettings | FileSettings
    machine: dict[str, Any]
    recent_s: float = 2.0
    seed: int = 0
    bags: list[BagInfo]
    questions: list[Question]
    records: list[ScoredRecord]
    timelines: list[BagTimeline] = []
    summary: dict[str, Any] = {}


def score_record(bag: str, question: Question, record: AnswerRecord) -> ScoredRecord:
    """Scores an answer; a question without an answer is scored as if nothing had been said."""
    record = record.model_copy(update={"spans": _spans(question, record)})
    expected = [_resolve(item, record) for item in question.expected]
    known = [item for item in expected if item is not None]
    prediction = record.prediction()
    size = prediction.image_size or Size(1, 1)
    empty = Prediction("", image_size=size)
    prediction = empty if record.error is not None else replace(prediction, image_size=size)
    found = score(prediction, known)
    correct = found.correct and len(known) == len(expected) and record.error is None
    parts = {name: (part.numerator, part.denominator) for name, part in found.parts.items()}
    parts["accuracy"] = (float(correct), 1.0)
    age_s = None if record.method == "file" else evidence_age_s(question, record.time_s)
    return ScoredRecord(**record.model_dump(), bag=bag, correct=correct, scores=parts, age_s=age_s)


def _spans(question: Question, record: AnswerRecord) -> list[Span]:
    """Times that an answer gives; where a time is expected and none is written as trained, one in free words counts."""
    if record.spans or all(item.type != "time_range" for item in question.expected):
        return record.spans
    found = find_span(record.text)
    return [] if found is None else [(found[0] + record.start_s, found[1] + record.start_s)]


def expected_of(question: Question, record: AnswerRecord) -> list[Expected]:
    """What was expected of an answer, boxes of topics filled in as far as they are known."""
    return [found for item in question.expected if (found := _resolve(item, record)) is not None]


def _resolve(item: Expected, record: AnswerRecord) -> Expected | None:
    if not isinstance(item, ExpectedObjects) or item.topic is None:
        return item
    objects = record.truth.get(item.topic)
    return None if objects is None else ExpectedObjects(objects=objects)


def evidence_age_s(question: Question, asked_s: float) -> float | None:
    """How long before the question the newest evidence was that its answer needs.

    The end of what the question states. Else boxes are those of the newest image; and of a span of time the start
    counts, as who says when something began must have seen it begin.
    """
    if question.evidence_s is not None:
        return max(0.0, asked_s - question.evidence_s[1])
    ages = []
    for item in question.expected:
        if item.type == "objects":
            ages.append(0.0)
        elif item.type == "time_range":
            ages.append(max(0.0, asked_s - min(start for start, _ in item.accept)))
    return max(ages) if ages else None


def checkpoint_hash(folder: Path) -> str:
    """SHA-256 of a checkpoint's files, by name and content; notes (.md) and hidden files do not count."""
    total = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix != ".md" and not p.name.startswith(".")):
        total.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def save_results(folder: Path, results: Results) -> Path:
    """Writes the results; an earlier file is replaced when the new one is complete.

    Raises:
        EvaluationError: the file cannot be written.
    """
    target = folder / RESULTS_FILE
    part = target.with_name(f"{RESULTS_FILE}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(target)
    except OSError as err:
        raise EvaluationError(f"results {target} cannot be written: {err.strerror}") from err
    return target


def load_results(path: Path) -> Results:
    """Reads results: the file, or the folder that it lies in.

    Raises:
        EvaluationError: it is missing, damaged or of another version.
    """
    file = path / RESULTS_FILE if path.is_dir() else path
    try:
        return Results.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as err:
        raise EvaluationError(f"results {file} cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise EvaluationError(f"results {file} are not UTF-8 text") from err
    except ValidationError as err:
        raise EvaluationError(
            f"{file} is no result of this version (penguin-vl/evaluation 2): {describe(err)}"
        ) from err


def records_of(results: Results, method: str) -> dict[str, ScoredRecord]:
    """Records of one method by question."""
    return {record.question: record for record in results.records if record.method == method}


def methods_of(records: Iterable[ScoredRecord]) -> list[str]:
    """Methods in the order in which they first appear."""
    return list(dict.fromkeys(record.method for record in records))


def unanswered(results: Results) -> Sequence[Question]:
    """Questions without any record: of bags that failed before they were asked."""
    asked = {record.question for record in results.records}
    return [question for question in results.questions if question.id not in asked]
