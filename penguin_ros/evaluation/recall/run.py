"""`penguin-vl evaluate recall` as a function: long recordings, questions by the age of their evidence, all methods.

Needs the extra `sim`. Frames of one recording are held at a time, and shared by the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.session import session_capacity
from penguin_models.errors import EvaluationError
from penguin_models.grounding import TimeRange, format_time_range, parse
from penguin_models.types import Frame, Size
from penguin_ros.evaluation.recall.compared import ALL_METHODS
from penguin_ros.evaluation.recall.methods import CAMERA, START_NS, Method, Model, SeenRecording, seconds_since_start
from penguin_ros.evaluation.recall.questions import AskedQuestion, choose_questions
from penguin_ros.evaluation.tabletop.scores import score_answer
from penguin_tabletop.clips.timeline import MAX_RECORDING_S, MIN_RECORDING_S, TabletopRecording
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.seeds import Split, seeded_random

LENGTHS_S = (60.0, 300.0, 1800.0, 7200.0)
SIZE = Size(168, 168)
FPS = 2.0
_MAX_RECORDINGS = 10_000
_FAMILY = 1 << 20  # seeds below are those of other commands


@dataclass(frozen=True)
class RecallRun:
    """Which recordings are made, and what is asked about them."""

    seed: int = 0  # seed of the recordings within the test split
    lengths_s: tuple[float, ...] = LENGTHS_S  # in seconds
    recordings: int = 16  # of each length
    per_band: int = 6  # maximum number of questions about one recording in each band of age
    token_budget: int = 1024  # visual tokens

    def __post_init__(self) -> None:
        for length_s in self.lengths_s:
            if not MIN_RECORDING_S <= length_s <= MAX_RECORDING_S:
                raise EvaluationError(
                    f"a recording of {length_s:g} seconds must have from {MIN_RECORDING_S:g} to {MAX_RECORDING_S:g}"
                )
        if not self.lengths_s or len(set(self.lengths_s)) < len(self.lengths_s):
            raise EvaluationError("name at least one length of recordings, and each only once")
        if not 1 <= self.recordings <= _MAX_RECORDINGS:
            raise EvaluationError(f"{self.recordings} recordings of a length; it must be 1 to {_MAX_RECORDINGS}")


@dataclass(frozen=True)
class Reply:
    """A question about a recording and the answer of a method. Times count from the start of the recording."""

    recording: str
    method: str
    band: str
    age_s: float  # from the end of the evidence to the question
    evidence_s: tuple[float, float]  # when the evidence was in view
    task: str
    question: str
    wanted: str
    answer: str  # as the model wrote it; its times count from `start_s`
    start_s: float
    episodes_s: tuple[float, ...]  # times of the episodes in the prompt
    right: bool
    visual_tokens: int
    first_token_s: float
    alone: bool  # whether `first_token_s` is that of the question alone; else the prompt was shared with an earlier one


def evaluate_recall(
    model: Model,
    run: RecallRun,
    on_replies: Callable[[Sequence[Reply]], None] = lambda replies: None,
    methods: Mapping[str, Method] = ALL_METHODS,
) -> list[list[Reply]]:
    """Asks about every recording and returns the replies of each; `on_replies` gets them after each recording.

    Raises:
        PenguinError: The budget is too small for a method or too large for the model, or there is nothing to ask.
    """
    model.frames_at_full_size(SIZE)
    session_capacity(model.runtime, model.processor, MemoryConfig(model.token_budget))
    renderer, everything = SceneRenderer(SIZE), []
    for length_s in run.lengths_s:
        for number in range(run.recordings):
            everything.append(_ask_about(model, run, length_s, number, renderer, methods))
            on_replies(everything[-1])
    if not any(everything):
        raise EvaluationError("nothing happened in the recordings; choose longer ones, or more of them")
    return everything


def _ask_about(
    model: Model, run: RecallRun, length_s: float, number: int, renderer: SceneRenderer, methods: Mapping[str, Method]
) -> list[Reply]:
    """Renders a recording and asks every method about it."""
    seed = Split.TEST.seed(round(1000 * length_s) * _MAX_RECORDINGS + number, _FAMILY + run.seed)
    recording = TabletopRecording(seed, SIZE, length_s, FPS)
    frames: list[Frame] = []
    for view in recording.frames(renderer):
        frames.append(Frame(view.picture.rgb, START_NS + round(view.stamp_s * 1e9), CAMERA))
    asked = choose_questions(recording, view.truth, SIZE, seeded_random(seed, "recall"), run.per_band)
    if not asked:
        return []
    name, seen, replies = f"{length_s:g}s-{number}", SeenRecording(model, frames), []
    try:
        for method, answer_all in methods.items():
            pairs = zip(asked, answer_all(seen, asked), strict=True)
            replies += [_reply(name, method, item, answer, not rank) for rank, (item, answer) in enumerate(pairs)]
    finally:
        seen.close()
    return replies


def _reply(recording: str, method: str, asked: AskedQuestion, answer: Answer, alone: bool) -> Reply:
    turn, start_s = asked.turn, seconds_since_start(answer.start_ns)
    scored = _on_recordings_clock(answer.raw, start_s) if turn.expected.kind == "span" else answer.raw
    return Reply(
        recording=recording,
        method=method,
        band=asked.band,
        age_s=round(asked.age_s, 2),
        evidence_s=asked.evidence_s,
        task=turn.task,
        question=turn.question,
        wanted=turn.answer,
        answer=answer.raw,
        start_s=start_s,
        episodes_s=tuple(seconds_since_start(item.episode.stamp_ns) for item in answer.evidence),
        right=score_answer(turn, scored).right,
        visual_tokens=answer.visual_tokens,
        first_token_s=answer.first_token_s,
        alone=alone,
    )


def _on_recordings_clock(raw: str, start_s: float) -> str:
    """Returns the first time range of an answer, counted from the start of the recording; the answer if it has none."""
    for span in parse(raw).time_ranges:
        return format_time_range(TimeRange(span.start_s + start_s, span.end_s + start_s))
    return raw
