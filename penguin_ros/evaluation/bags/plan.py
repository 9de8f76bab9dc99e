"""Bags and questions, checked against each other before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penguin_models.errors import EvaluationError, MediaError
from penguin_ros.bags import choose_topic, open_bag
from penguin_ros.evaluation.bags.ground_truth import TruthTopic, read_truth
from penguin_ros.evaluation.bags.recording import Recording, bag_name, open_recording
from penguin_ros.evaluation.bags.replay import ask_stamp_ns, truth_topics
from penguin_ros.evaluation.question_file import Question

_SLACK_NS = 1_000_000
"""A question may be asked this much before the first image or after the last one: times in files are rounded."""


@dataclass(frozen=True)
class PlannedBag:
    """A bag that can be read, and what is asked about it."""

    recording: Recording
    questions: tuple[Question, ...]
    truth: dict[str, TruthTopic]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        bags: that can be read.
        failed: name of each bag that cannot be read -> why.
        unasked: bags about which there is no question.
    """

    bags: list[PlannedBag]
    failed: dict[str, str]
    unasked: list[str]


def make_plan(paths: Sequence[Path], questions: Sequence[Question]) -> Plan:
    """Checks bags and questions.

    Raises:
        EvaluationError: questions are about bags, topics or times that are not there; each is named, up to ten.
    """
    by_bag = _by_bag(paths, questions)
    plan = Plan([], {}, [])
    problems: list[str] = []
    for path in paths:
        name = bag_name(path)
        asked = by_bag[name]
        if not asked:
            plan.unasked.append(name)
            continue
        try:
            planned, wrong = _plan_bag(path, asked)
        except MediaError as err:
            plan.failed[name] = str(err)
            continue
        problems += wrong
        if planned is not None:
            plan.bags.append(planned)
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise EvaluationError("; ".join(problems[:10]) + more)
    return plan


def _by_bag(paths: Sequence[Path], questions: Sequence[Question]) -> dict[str, list[Question]]:
    names = [bag_name(path) for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise EvaluationError(f"two bags are named {twice}; questions know bags by their names")
    by_bag: dict[str, list[Question]] = {name: [] for name in names}
    nameless = [question.id for question in questions if question.bag is None]
    if nameless and len(names) > 1:
        raise EvaluationError(f"question {nameless[0]} does not say which bag it is about, and {len(names)} are given")
    for question in questions:
        bag = question.bag or names[0]
        if bag not in by_bag:
            raise EvaluationError(f"question {question.id} is about bag {bag}, given are {', '.join(names)}")
        by_bag[bag].append(question)
    return by_bag


def check_time(recording: Recording, question: Question) -> None:
    """Raises EvaluationError where a question is asked before the first or after the last image of its camera."""
    camera = (question.cameras or recording.cameras)[0]
    if camera not in recording.cameras:
        raise EvaluationError(f"bag {recording.name} has no images of {camera} that are read")
    start_ns, end_ns = recording.span_ns(camera)
    asked_ns = ask_stamp_ns(question, start_ns)
    if not start_ns - _SLACK_NS <= asked_ns <= end_ns + _SLACK_NS:
        raise EvaluationError(
            f"question {question.id} is asked at {(asked_ns - start_ns) * 1e-9:.2f} s, but bag {recording.name} has "
            f"images of {camera} from 0 to {(end_ns - start_ns) * 1e-9:.2f} s"
        )


def _plan_bag(path: Path, questions: Sequence[Question]) -> tuple[PlannedBag | None, list[str]]:
    """A bag with what is asked about it, and what is wrong with that: first of topics, then of times.

    Raises:
        MediaError: the bag cannot be read.
    """
    wrong: dict[str, list[str]] = {}  # what is wrong -> ids of questions
    cameras = _cameras(path, questions, wrong)
    truth = _truth(path, questions, wrong)
    problems = [f"question {_named(ids)}: {reason}" for reason, ids in wrong.items()]
    if not cameras:
        return None, problems
    try:
        recording = open_recording(path, cameras)
    except EvaluationError as err:
        return None, [*problems, str(err)]
    named = {question for ids in wrong.values() for question in ids}
    for question in questions:
        if question.id in named:
            continue
        try:
            check_time(recording, question)
            _check_truth(recording, question, truth)
        except EvaluationError as err:
            problems.append(str(err))
    return PlannedBag(recording, tuple(questions), truth), problems


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def _cameras(path: Path, questions: Sequence[Question], wrong: dict[str, list[str]]) -> list[str]:
    """Image topics that questions are about."""
    found = []
    with open_bag(path) as reader:
        for question in questions:
            for topic in question.cameras or (None,):
                try:
                    found.append(choose_topic(path, reader, topic, by="its field camera"))
                except MediaError as err:
                    wrong.setdefault(str(err), []).append(question.id)
    return list(dict.fromkeys(found))


def _truth(path: Path, questions: Sequence[Question], wrong: dict[str, list[str]]) -> dict[str, TruthTopic]:
    """Topics from which questions take their expected boxes."""
    found: dict[str, TruthTopic] = {}
    for topic in truth_topics(questions):
        try:
            found |= read_truth(path, [topic])
        except EvaluationError as err:
            wrong.setdefault(str(err), []).extend(q.id for q in questions if topic in truth_topics([q]))
    return found


def _check_truth(recording: Recording, question: Question, truth: dict[str, TruthTopic]) -> None:
    cameras = question.cameras or recording.cameras[:1]
    start_ns = recording.span_ns(cameras[0])[0]
    asked_ns = ask_stamp_ns(question, start_ns)
    shown = [ref.stamp_ns for ref in recording.images if ref.camera in cameras and ref.stamp_ns <= asked_ns]
    for topic in truth_topics([question]):
        try:
            truth[topic].at(max(shown, default=start_ns))
        except EvaluationError as err:
            raise EvaluationError(f"question {question.id}: {err}") from err
