"""Methods of answering at the end of a recording, all within one budget of visual tokens.

The first frame of a recording has the stamp START_NS; times in an answer count from its `start_ns`. Where frames are
far apart because nothing happens, methods that sample by time see the last one again, as from a real camera.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.offline import ask_each, label_clip
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import EvaluationError
from penguin_models.media import FPS, MAX_FRAMES, ClipFrame, sample_uniformly
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Processor, Visual
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.token_allocation import grid_size
from penguin_models.types import Frame, FrameKind, Size
from penguin_ros.evaluation.recall.encoded_once import EncodedOnce
from penguin_ros.evaluation.recall.questions import LAST_FRAMES, AskedQuestion

SAMPLING = Sampling(max_new_tokens=96)
CAMERA = "camera"
START_NS = 1_700_000_000 * 10**9
_SHOWN_FRAMES = 8
_AROUND_S = 1.0
"""The evidence is shown with this much time before and after."""
_ANY_NUMBER = 1 << 30
"""A budget of visual tokens with which frames keep their size."""


def seconds_since_start(stamp_ns: int) -> float:
    """Returns a stamp as seconds since the first frame of its recording."""
    return (stamp_ns - START_NS) / 1e9


@dataclass(frozen=True)
class Model:
    """A loaded model and its budget."""

    runtime: Runtime
    processor: Processor
    token_budget: int  # maximum number of visual tokens in a prompt

    def frames_at_full_size(self, size: Size) -> int:
        """Returns how many frames of a size fit into the budget without being shrunk.

        Raises:
            EvaluationError: Fewer than the last frames, which every comparison needs.
        """
        factor = Visual.video(size, ()).merge_size * self.processor.images.patch_size
        tokens = grid_size(size, factor).area // factor**2
        if self.token_budget < LAST_FRAMES * tokens:
            raise EvaluationError(
                f"a budget of {self.token_budget} visual tokens cannot hold the last {LAST_FRAMES} frames of {tokens} "
                f"each; make it at least {LAST_FRAMES * tokens}"
            )
        return self.token_budget // tokens


class SeenRecording:
    """A recording that has been seen to its end, at which questions are asked.

    Attributes:
        model: Answers.
        frames: All frames.
        remembering: The model's runtime for methods that look at the same frames for many questions.
    """

    def __init__(self, model: Model, frames: Sequence[Frame]):
        self.model, self.frames = model, frames
        self.remembering = EncodedOnce(model.runtime)

    @property
    def session(self) -> SceneSession:
        """The node's memory and session after the last frame."""
        return self._watched[0]

    @property
    def keyframes(self) -> Sequence[Frame]:
        """The frames that were keyframes for the memory."""
        return self._watched[1]

    @cached_property
    def _watched(self) -> tuple[SceneSession, Sequence[Frame]]:
        """Shows the frames to a memory, and prefills those that it holds at the end.

        What it holds does not depend on when frames are prefilled; an hour then costs only the frames that are left.
        """
        config = MemoryConfig(self.model.token_budget)
        session = SceneSession(self.remembering, self.model.processor, NoveltyPolicy(), config)
        keyframes = [frame for frame in self.frames if session.observe(frame) == FrameKind.KEY]
        while session.prefill_pending():
            pass
        return session, keyframes

    def at(self, times_s: Sequence[float]) -> list[ClipFrame]:
        """Returns the frame that was the newest at each time, in seconds since the first frame."""
        stamps_s = [seconds_since_start(frame.stamp_ns) for frame in self.frames]
        indices = np.searchsorted(stamps_s, np.array(times_s) + 1e-6, "right") - 1
        return [ClipFrame(time_s, self.frames[i].rgb) for time_s, i in zip(times_s, indices, strict=True)]

    def close(self) -> None:
        """Frees the memory's cache, and visual tokens."""
        if "_watched" in self.__dict__:
            self.session.close()
        self.remembering.close()


Method = Callable[[SeenRecording, Sequence[AskedQuestion]], list[Answer]]
"""Answers questions about a recording. The seconds of an answer are those of a question that is asked alone, at least
of the first answer."""


def from_memory(seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers from the node's memory."""
    processor = seen.model.processor
    return [seen.session.ask(Request.prepare(processor, item.turn.question, SAMPLING)) for item in asked]


def from_window(seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers from the newest frames that fit at full size."""
    return ask_full_size(
        seen.model.runtime, seen, seen.frames[-seen.model.frames_at_full_size(seen.frames[0].size) :], _texts(asked)
    )


def from_last_frames(seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers from the last four frames."""
    return ask_full_size(seen.model.runtime, seen, seen.frames[-LAST_FRAMES:], _texts(asked))


def from_last_frame(seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers from the last frame alone: how far questions can be guessed from how it all ended."""
    return ask_full_size(seen.model.runtime, seen, seen.frames[-1:], _texts(asked))


def from_text(seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers without any frame: how far questions can be guessed from their words."""
    model = seen.model
    answers = ask_each(model.runtime, model.processor, _texts(asked), sampling=SAMPLING)
    for answer in answers:
        answer.start_ns = START_NS
    return answers


def from_uniform_sample(seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers from frames at equal distances in time, the first and the last included, that fit at full size."""
    most = seen.model.frames_at_full_size(seen.frames[0].size)
    times_s = np.linspace(0, seconds_since_start(seen.frames[-1].stamp_ns), most).tolist()
    return _ask(seen.model.runtime, seen, seen.at(times_s), START_NS, _texts(asked))


def from_offline_sample(seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers as the released code does: sampled, labelled and allocated by its rules.

    Its allocation may exceed the budget; then the sample is thinned out evenly until it does not.
    """
    model, size = seen.model, seen.frames[0].size
    seconds = seconds_since_start(seen.frames[-1].stamp_ns)
    times_s: Sequence[float] = np.arange(0, seconds + 1e-6, 1 / FPS).tolist()
    most = min(MAX_FRAMES, len(times_s))
    while True:
        clip = seen.at(sample_uniformly(times_s, most))
        kinds = label_clip(clip, ReferencePolicy()).kinds
        [allocation] = model.processor.allocate([Visual.video(size, kinds)], model.token_budget, "reference")
        tokens = allocation.total_tokens(kinds)
        if tokens <= model.token_budget or most == 1:
            return _ask(model.runtime, seen, clip, START_NS, _texts(asked), "reference", model.token_budget)
        most = max(1, min(most - 1, most * model.token_budget // tokens))


def from_evidence(seen: SeenRecording, asked: Sequence[AskedQuestion]) -> list[Answer]:
    """Answers from the frames around the evidence of each question, and the last four: what recall could achieve."""
    answers = []
    for item in asked:
        start_s, end_s = item.evidence_s[0] - _AROUND_S, item.evidence_s[1] + _AROUND_S
        before = seen.frames[:-LAST_FRAMES]
        around = [frame for frame in before if start_s <= seconds_since_start(frame.stamp_ns) <= end_s]
        frames = [*sample_uniformly(around, _SHOWN_FRAMES), *seen.frames[-LAST_FRAMES:]]
        answers += ask_full_size(seen.remembering, seen, frames, [item.turn.question])
    return answers


def ask_full_size(
    runtime: Runtime, seen: SeenRecording, frames: Sequence[Frame], questions: Sequence[str]
) -> list[Answer]:
    """Answers from one prompt with some frames of a recording at full size."""
    start_ns = frames[0].stamp_ns
    clip = [ClipFrame((frame.stamp_ns - start_ns) * 1e-9, frame.rgb) for frame in frames]
    return _ask(runtime, seen, clip, start_ns, questions)


def _ask(
    runtime: Runtime,
    seen: SeenRecording,
    clip: Sequence[ClipFrame],
    start_ns: int,
    questions: Sequence[str],
    rule: str = "strict",
    max_tokens: int = _ANY_NUMBER,
) -> list[Answer]:
    """Answers from one prompt whose times count from `start_ns`."""
    policy = ReferencePolicy()
    answers = ask_each(runtime, seen.model.processor, questions, (), clip, policy, max_tokens, rule, sampling=SAMPLING)
    for answer in answers:
        answer.start_ns = start_ns
    return answers


def _texts(asked: Sequence[AskedQuestion]) -> list[str]:
    return [item.turn.question for item in asked]
