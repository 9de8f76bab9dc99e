"""Checks bags and questions against each other before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from penguin_models.errors import EvaluationError, MediaError
from penguin_ros.bag_storage.bag import open_bag
from penguin_ros.evaluation.bags.ground_truth import TruthTopic, read_truth
from penguin_ros.evaluation.bags.jobs import BagJob, question_clock
from penguin_ros.evaluation.bags.recording import open_recording
from penguin_ros.evaluation.question_file import Question, first_ten
from penguin_ros.evaluation.records import ModelSpec, RunSettings
from penguin_ros.recording import Recording, bag_name, choose_topic

_SLACK_NS = 1_000_000
"""A question may be this much before the first or after the last image, because times in files are rounded."""


def make_plan(
    paths: Sequence[Path], questions: Sequence[Question], model: ModelSpec, settings: RunSettings
) -> tuple[list[BagJob], dict[str, str], list[str]]:
    """Opens the bags and checks that every question can be asked.

    Returns:
        The jobs of readable bags, with the questions that can be asked; the name of each unreadable bag -> reason; and
        a sentence about each question that names a bag, topic or time that does not exist.

    Raises:
        EvaluationError: No question can be asked, because of what the questions say; the first ten are listed.
    """
    jobs: list[BagJob] = []
    failed: dict[str, str] = {}
    problems: list[str] = []
    by_bag = _group_by_bag([bag_name(path) for path in paths], questions, problems)
    for path, (name, asked) in zip(paths, by_bag.items(), strict=True):
        try:
            job = _plan_bag(path, asked, model, settings, problems) if asked else None
        except MediaError as err:
            failed[name] = str(err)
            continue
        if job is not None:
            jobs.append(job)
    if problems and not jobs and not failed:
        raise EvaluationError(first_ten(problems))
    return jobs, failed, problems


def check_time(recording: Recording, question: Question) -> None:
    """Raises EvaluationError if a question is asked before the first or after the last image of its camera."""
    camera = (question.cameras or recording.cameras)[0]
    if camera not in recording.cameras:
        raise EvaluationError(f"bag {recording.name} has no images of {camera}, only of {', '.join(recording.cameras)}")
    _, start_ns, asked_ns = question_clock(recording, question)
    end_ns = recording.span_ns(camera)[1]
    if not start_ns - _SLACK_NS <= asked_ns <= end_ns + _SLACK_NS:
        raise EvaluationError(
            f"question {question.id} is asked at {(asked_ns - start_ns) * 1e-9:.2f} s, but bag {recording.name} has "
            f"images of {camera} from 0 to {(end_ns - start_ns) * 1e-9:.2f} s"
        )


def _group_by_bag(
    names: Sequence[str], questions: Sequence[Question], problems: list[str]
) -> dict[str, list[Question]]:
    by_bag: dict[str, list[Question]] = {name: [] for name in names}
    if len(by_bag) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise EvaluationError(f"two bags are named {duplicate}; rename one, because questions refer to bags by name")
    for question in questions:
        bag = question.bag or names[0]
        if question.bag is None and len(names) > 1:
            problems.append(f"question {question.id} does not name one of the {len(names)} bags")
        elif bag not in by_bag:
            problems.append(f"question {question.id} is about bag {bag}; the bags are {', '.join(names)}")
        else:
            by_bag[bag].append(question)
    return by_bag


def _plan_bag(
    path: Path, questions: Sequence[Question], model: ModelSpec, settings: RunSettings, problems: list[str]
) -> BagJob | None:
    """Returns the job of a bag, and adds the problems found: those of topics first, then those of times.

    Raises MediaError if the bag cannot be read, its times jump, or no image of a camera can be decoded.
    """
    unavailable: dict[str, list[str]] = {}  # reason -> question ids
    cameras = _find_cameras(path, questions, unavailable)
    truth = _read_truths(path, questions, unavailable)
    problems += [f"question {_list_ids(ids)}: {reason}" for reason, ids in unavailable.items()]
    reported = {question_id for ids in unavailable.values() for question_id in ids}
    if len(reported) == len(questions):
        return None
    try:
        recording = replace(open_recording(path, cameras), decoding=settings.node().decoding)
    except EvaluationError as err:
        raise MediaError(str(err)) from err
    _check_pictures(recording)
    notes = (*recording.notes, *(note for topic in truth.values() for note in topic.notes))
    recording = replace(recording, notes=notes)
    job = BagJob(recording, (), truth, model, settings)
    asked = []
    for question in questions:
        if question.id not in reported:
            try:
                check_time(recording, question)
                _check_truth(job, question)
                asked.append(question)
            except EvaluationError as err:
                problems.append(str(err))
    return replace(job, questions=tuple(asked)) if asked else None


def _check_pictures(recording: Recording) -> None:
    """Raises MediaError if no image of a camera can be decoded; reads up to the first good image of each."""
    reasons: dict[str, list[str]] = {camera: [] for camera in recording.cameras}  # of cameras without a good image
    for image in recording.read():
        if image.ref.camera in reasons:
            try:
                image.decode()
                del reasons[image.ref.camera]
            except MediaError as err:
                reasons[image.ref.camera].append(str(err))
        if not reasons:
            return
    camera, found = next(iter(reasons.items()))
    counts = f"{len(found)} of {len(found)} images of {camera}"
    raise MediaError(f"bag {recording.path}: {counts} cannot be decoded; the first: {found[0]}")


def _list_ids(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def _find_cameras(path: Path, questions: Sequence[Question], unavailable: dict[str, list[str]]) -> list[str]:
    cameras: list[str] = []
    with open_bag(path) as bag:
        for question in questions:
            try:
                cameras += [
                    choose_topic(bag, topic, option="its field camera") for topic in question.cameras or (None,)
                ]
            except MediaError as err:
                unavailable.setdefault(str(err), []).append(question.id)
    return list(dict.fromkeys(cameras))


def _read_truths(path: Path, questions: Sequence[Question], unavailable: dict[str, list[str]]) -> dict[str, TruthTopic]:
    truth: dict[str, TruthTopic] = {}
    for topic in dict.fromkeys(topic for question in questions for topic in question.truth_topics):
        try:
            truth[topic] = read_truth(path, topic)
        except EvaluationError as err:
            unavailable.setdefault(str(err), []).extend(q.id for q in questions if topic in q.truth_topics)
    return truth


def _check_truth(job: BagJob, question: Question) -> None:
    cameras, start_ns, asked_ns = question_clock(job.recording, question)
    seen_ns = [ref.stamp_ns for ref in job.recording.images if ref.camera in cameras and ref.stamp_ns <= asked_ns]
    try:
        job.truth_at(question, max(seen_ns, default=start_ns))
    except EvaluationError as err:
        raise EvaluationError(f"question {question.id}: {err}") from err
