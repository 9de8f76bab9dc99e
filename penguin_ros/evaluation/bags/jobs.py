"""The work on one bag: its questions, the expected boxes that it contains, and the answers that are already known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penguin_engine.scene.generation import Sampling
from penguin_ros.evaluation.bags.ground_truth import TruthTopic
from penguin_ros.evaluation.question_file import ExpectedObject, Question
from penguin_ros.evaluation.records import AnswerKey, AnswerRecord, ModelSpec, RunSettings, answer_key
from penguin_ros.recording import Recording

_SINGLE_CAMERA_METHODS = ("last-4", "offline")


@dataclass(frozen=True)
class Asked:
    """A question of a bag."""

    question: Question
    cameras: tuple[str, ...]  # at least one
    stamp_ns: int  # when it is asked
    start_ns: int  # when its clock starts: at the first image of its first camera
    sampling: Sampling


@dataclass(frozen=True)
class BagJob:
    """Everything needed to evaluate one bag, in any process."""

    recording: Recording
    questions: tuple[Question, ...]
    truth: dict[str, TruthTopic]  # topics of the bag with expected boxes, by name
    model: ModelSpec
    settings: RunSettings
    done: Mapping[AnswerKey, AnswerRecord] = field(default_factory=dict)  # answers of an earlier run

    def asked(self) -> list[Asked]:
        """Returns the questions in the order in which they are asked."""
        return sorted(map(self._asked, self.questions), key=lambda asked: asked.stamp_ns)

    def wanted(self) -> set[AnswerKey]:
        """Returns the keys of all answers of this bag, known or not."""
        return {
            answer_key(question, method)
            for question in self.questions
            for method in self.settings.methods
            if len(question.cameras) < 2 or method not in _SINGLE_CAMERA_METHODS
        }

    def missing(self) -> set[AnswerKey]:
        """Returns the keys of the answers that are not known yet."""
        return self.wanted() - self.done.keys()

    def finished(self, asked: Asked, method: str) -> AnswerRecord | None:
        """Returns the answer of an earlier run, if any."""
        return self.done.get(answer_key(asked.question, method))

    def truth_at(self, question: Question, stamp_ns: int) -> dict[str, list[ExpectedObject]]:
        """Returns the expected boxes of a question by topic; raises EvaluationError if no message is near the stamp."""
        return {topic: list(self.truth[topic].at(stamp_ns)) for topic in question.truth_topics}

    def _asked(self, question: Question) -> Asked:
        cameras, start_ns, stamp_ns = question_clock(self.recording, question)
        sampling = self.settings.node().sampling
        if question.max_new_tokens is not None:
            sampling = replace(sampling, max_new_tokens=question.max_new_tokens)
        return Asked(question, cameras, stamp_ns, start_ns, sampling)


def question_clock(recording: Recording, question: Question) -> tuple[tuple[str, ...], int, int]:
    """Returns the cameras of a question, the stamp at which its clock starts, and the stamp at which it is asked."""
    cameras = question.cameras or recording.cameras[:1]
    start_ns = recording.span_ns(cameras[0])[0]
    asked_ns = question.stamp_ns if question.time_s is None else start_ns + round(question.time_s * 1e9)
    return cameras, start_ns, asked_ns or 0
