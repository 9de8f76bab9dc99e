"""SceneSession: one camera's memory and the KV cache over it; answers that reuse what is already prefilled.

The cache holds a prefix: the beginning of a user turn and, in the order of capture, "Time 12.3s:" with the visual
tokens of each frame held. Frames that arrive are encoded and appended while nobody asks (`advance`); a question then
costs only its own tokens, which are forgotten after the answer. A compaction of the memory invalidates the prefix from
the first frame that changed, no more.

Times are seconds since the first frame of the prefix. They would all change when that frame leaves, and that
invalidates the prefix anyway.

One thread owns a session. `observe` touches no cache: it may be called from `on_token`, so that frames keep arriving
while an answer is generated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from penguin_engine.runtimes.base import PromptSegment, Runtime, check_fits, segment_length
from penguin_engine.scene.answer import Answer, Clock
from penguin_engine.scene.generation import Sampling, prefill_and_generate
from penguin_engine.scene.memory import FrameMemory, HeldFrame, MemoryConfig
from penguin_models.errors import NoFramesError, PromptError
from penguin_models.images import patch_image
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.processor import Processor
from penguin_models.types import Frame, FrameKind, PatchedImage, Size

_FRAMES_PER_STEP = 8
"""Frames encoded together: also the longest wait of a question behind `advance`."""
RESERVED_TOKENS = 2048
"""Room in the cache for a question and its answer."""
_LONGEST_QUESTION = 8 * RESERVED_TOKENS
"""In characters: to count the tokens of a megabyte takes seconds, and whoever waits for that may be an executor."""


def session_capacity(runtime: Runtime, processor: Processor, config: MemoryConfig) -> int:
    """Length in tokens of a cache that holds a full memory, a question and its answer.

    Raises:
        ContextLengthError: the model's context is too short for it.
    """
    longest_time = len(processor.encode_text(",Time 99999.9s:"))
    capacity = config.token_budget + config.max_frames * longest_time + RESERVED_TOKENS
    check_fits(capacity, runtime.info.context_length, f"a memory of {config.token_budget} visual tokens")
    return capacity


def check_question(question: str) -> None:
    """Raises PromptError where there is nothing asked, or more than any session has room for."""
    if len(question) > _LONGEST_QUESTION:
        raise PromptError(f"the question has {len(question)} characters, it may have at most {_LONGEST_QUESTION}")
    if not question.strip():
        raise PromptError("the question is empty")


def question_ids(processor: Processor, question: str, sampling: Sampling, frames: int = 1) -> list[int]:
    """Token ids of everything after the last frame of a scene.

    Raises:
        PromptError: an empty or endless question, or reserved tokens in it.
        ContextLengthError: question and answer are longer than what a session keeps free for them.
    """
    check_question(question)
    video = {"type": "video", "num_frames": frames, "timestamps": [0.0] * frames}
    content = [video, {"type": "text", "text": question}]
    tail = processor.prompt_segments([{"role": "user", "content": content}])[-1]
    check_fits(len(tail) + sampling.max_new_tokens, RESERVED_TOKENS, "the question with its answer")
    return tail


def check_horizon(horizon_s: float) -> None:
    """Raises PromptError where a horizon is negative or no number."""
    if not 0 <= horizon_s < math.inf:
        raise PromptError(f"the horizon is {horizon_s} s, it must be 0 (everything) or above")


def new_answer(frames: Sequence[HeldFrame]) -> Answer:
    """An answer that has yet to be written, about these frames; boxes will refer to the last of them."""
    return Answer(
        image_size=frames[-1].source_size,
        frames=len(frames),
        key_frames=sum(frame.kind == FrameKind.KEY for frame in frames),
        visual_tokens=sum(frame.tokens for frame in frames),
    )


@dataclass(frozen=True)
class _Prefilled:
    """A frame in the cache: which one, at which size, and the length of the cache after it."""

    seq: int
    size: Size
    end: int


class SceneSession:
    """Watches one camera and answers questions about it."""

    def __init__(self, runtime: Runtime, processor: Processor, policy: KeyframePolicy, config: MemoryConfig):
        """Opens a cache that holds a full memory, a question and its answer.

        Raises:
            ContextLengthError: the model's context is too short for this budget.
        """
        self.memory = FrameMemory(config, policy)
        self._runtime, self._processor = runtime, processor
        self._capacity = session_capacity(runtime, processor, config)
        self._cache = runtime.open_cache(self._capacity)
        self._prefilled: list[_Prefilled] = []
        self._base_ns = 0  # stamp of the prefix's first frame

    @property
    def up_to_date(self) -> bool:
        """Whether every frame held is in the cache."""
        return self._reusable_prefix_len() == len(self.memory.frames) == len(self._prefilled)

    def observe(self, frame: Frame) -> FrameKind | None:
        """Takes a frame into the memory; its kind, or None if it was late and dropped."""
        added = self.memory.add(frame)
        return None if added is None else self.memory.frames[-1].kind

    def set_budget(self, token_budget: int) -> None:
        """Changes the budget of visual tokens; frames that still fit stay, and are prefilled into a new cache.

        Raises:
            BudgetError: it cannot hold one frame.
            ContextLengthError: the model's context is too short for it. Nothing has changed in either case.
        """
        config = replace(self.memory.config, token_budget=token_budget)
        capacity = session_capacity(self._runtime, self._processor, config)
        self.memory.set_budget(token_budget)
        self._cache.close()
        self._prefilled.clear()
        self._capacity = capacity
        self._cache = self._runtime.open_cache(capacity)

    def reset(self) -> None:
        """Forgets everything, after an error that may have left cache and memory apart."""
        self.memory.clear()
        self._prefilled.clear()
        self._cache.truncate(0)

    def prefill_pending(self) -> bool:
        """Encodes and prefills the next few frames; whether there are more to do. Call it while nobody asks."""
        common = self._reusable_prefix_len()
        self._truncate(common)
        frames = self.memory.frames
        step = frames[common : common + _FRAMES_PER_STEP]
        if not step:
            return False
        if common == 0:
            self._base_ns = step[0].stamp_ns
        self.encode(step)
        parts = self._prefix_segments(step, common)
        end = self._cache.length
        try:
            self._cache.append(parts)
        except BaseException:
            self._cache.truncate(end)
            raise
        for frame, time_ids in zip(step, parts[::2], strict=True):
            end += segment_length(time_ids) + frame.tokens
            self._prefilled.append(_Prefilled(frame.seq, frame.size, end))
        return len(self._prefilled) < len(frames)

    def ask(
        self,
        question: str,
        sampling: Sampling | None = None,
        horizon_s: float = 0.0,
        on_text: Callable[[str], None] = lambda piece: None,
        cancelled: Callable[[], bool] = lambda: False,
        on_token: Callable[[int], None] = lambda count: None,
    ) -> Answer:
        """Answers a question about what is in the memory now.

        Args:
            question: plain text.
            sampling: how the answer is generated.
            horizon_s: look back at most so far from the newest frame; 0 for everything held. A horizon that leaves
                frames out needs a prefill of its own.
            on_text: called with each piece of text as it comes.
            cancelled: asked between two tokens, and between the frames that are prefilled first.
            on_token: called after each token with their number; `observe` may be called from it.

        Raises:
            NoFramesError: nothing has been seen yet.
            PromptError: an empty question, reserved tokens in it, or a negative horizon.
            ContextLengthError: question and answer do not fit; nothing was run.
        """
        sampling = sampling or Sampling()
        frames = self.held(horizon_s)
        tail = question_ids(self._processor, question, sampling, len(frames))
        clock, answer = Clock(), new_answer(frames)
        answer.start_ns = frames[0].stamp_ns
        generating = (self._processor, sampling, on_text, cancelled, on_token)
        if len(frames) == len(self.memory.frames):
            more = True
            while more:
                more = self.prefill_pending()
                if cancelled():
                    answer.ended_by = "cancelled"
                    return answer
            answer.seconds["encode"] = clock.lap()
            prefix = self._cache.length
            try:
                prefill_and_generate(answer, clock, self._cache, [tail], *generating)
            finally:
                self._cache.truncate(prefix)
            return answer
        self.encode(frames)
        answer.seconds["encode"] = clock.lap()
        cache = self._runtime.open_cache(self._capacity)
        try:
            parts = self._prefix_segments(frames, 0, frames[0].stamp_ns)
            prefill_and_generate(answer, clock, cache, [*parts, tail], *generating)
        finally:
            cache.close()
        return answer

    def held(self, horizon_s: float = 0.0) -> Sequence[HeldFrame]:
        """Frames not older than the newest by more than a horizon; 0 for all.

        Raises:
            NoFramesError: nothing has been seen yet.
            PromptError: the horizon is negative.
        """
        frames = self.memory.frames
        check_horizon(horizon_s)
        if not frames:
            raise NoFramesError("no frame has been seen yet; is the camera publishing?")
        if horizon_s == 0:
            return frames
        oldest = frames[-1].stamp_ns - round(horizon_s * 1e9)
        return [frame for frame in frames if frame.stamp_ns >= oldest]

    def encode(self, frames: Sequence[HeldFrame]) -> None:
        """Encodes those of the frames that have not been, at the size at which they are held."""
        missing = [frame for frame in frames if frame.encoded is None]
        for start in range(0, len(missing), _FRAMES_PER_STEP):
            batch = missing[start : start + _FRAMES_PER_STEP]
            for frame, encoded in zip(batch, self._runtime.encode([*self._patched(batch)]), strict=True):
                frame.encoded = encoded

    def close(self) -> None:
        """Frees the cache."""
        self._cache.close()

    def _reusable_prefix_len(self) -> int:
        """Leading frames of the memory that are in the cache as they are."""
        frames = self.memory.frames
        if not frames or not self._prefilled or frames[0].stamp_ns != self._base_ns:
            return 0
        common = 0
        for frame, prefilled in zip(frames, self._prefilled, strict=False):
            if (frame.seq, frame.size) != (prefilled.seq, prefilled.size):
                break
            common += 1
        return common

    def _truncate(self, common: int) -> None:
        if common < len(self._prefilled):
            del self._prefilled[common:]
            self._cache.truncate(self._prefilled[-1].end if self._prefilled else 0)

    def _patched(self, frames: Sequence[HeldFrame]) -> Iterator[PatchedImage]:
        merge_size = self.memory.config.merge_size
        return (patch_image(frame.pixels, frame.size, merge_size, self._processor.images) for frame in frames)

    def _prefix_segments(
        self, frames: Sequence[HeldFrame], before: int, base_ns: int | None = None
    ) -> list[PromptSegment]:
        """Time and visual tokens of frames in turn; `before` frames precede them in the prompt."""
        base_ns = self._base_ns if base_ns is None else base_ns
        parts: list[PromptSegment] = []
        for number, frame in enumerate(frames, start=before):
            time_s = (frame.stamp_ns - base_ns) * 1e-9
            parts += [self._processor.video_time_ids(time_s, first=number == 0), frame.encoded]
        return parts
