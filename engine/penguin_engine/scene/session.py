"""SceneSession: one camera's memory and the KV cache over it; answers reuse what is already prefilled.

The cache holds a prefix of the prompt: the beginning of a user turn and, in order of capture, "Time 12.3s:" with the
visual tokens of each frame in memory. Frames that arrive are encoded and appended while no question waits
(`prefill_pending`); a question then costs only its own tokens, which are truncated after the answer. A compaction of
the memory invalidates the prefix from the first frame that changed, and nothing before it.

Times are seconds since the first frame of the prefix. If that frame leaves the memory they all change, and the prefix
is invalid anyway.

One thread owns a session. `observe` does not touch the cache: it may be called from `AnswerHooks.on_token`, so that
frames keep arriving while an answer is generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from penguin_engine.runtimes.base import PromptSegment, Runtime, check_fits, segment_length
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.generation import AnswerHooks, prefill_and_generate
from penguin_engine.scene.memory import FrameMemory, HeldFrame, MemoryConfig
from penguin_engine.scene.requests import RESERVED_TOKENS, Request
from penguin_models.errors import NoFramesError, NonFiniteError
from penguin_models.images import patch_image
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.processor import Processor
from penguin_models.types import Frame, FrameKind, PatchedImage, Size

_FRAMES_PER_STEP = 8
"""Frames encoded together; a question waits at most for one such step."""


def session_capacity(runtime: Runtime, processor: Processor, config: MemoryConfig) -> int:
    """Returns the length in tokens of a KV cache that holds a full memory, a question and its answer.

    Raises:
        ContextLengthError: The model's context is too short for it.
    """
    longest_time = len(processor.encode_text(",Time 99999.9s:"))
    capacity = config.token_budget + config.max_frames * longest_time + RESERVED_TOKENS
    check_fits(capacity, runtime.info.context_length, f"a memory of {config.token_budget} visual tokens")
    return capacity


def new_answer(frames: Sequence[HeldFrame]) -> Answer:
    """Returns an empty answer about some frames; its boxes will refer to the last of them."""
    return Answer(
        image_size=frames[-1].source_size,
        frames=len(frames),
        keyframes=sum(frame.kind == FrameKind.KEY for frame in frames),
        visual_tokens=sum(frame.tokens for frame in frames),
    )


@dataclass(frozen=True)
class _Prefilled:
    """A frame in the cache: its number, its size, and the length of the cache after it."""

    seq: int
    size: Size
    end: int


class SceneSession:
    """Observes one camera and answers questions about it."""

    def __init__(self, runtime: Runtime, processor: Processor, policy: KeyframePolicy, config: MemoryConfig):
        """Opens a KV cache that holds a full memory, a question and its answer.

        Raises:
            ContextLengthError: The model's context is too short for this budget.
        """
        self.memory = FrameMemory(config, policy)
        self._runtime, self._processor = runtime, processor
        self._capacity = session_capacity(runtime, processor, config)
        self._cache = runtime.open_cache(self._capacity)
        self._prefilled: list[_Prefilled] = []
        self._base_ns = 0  # stamp of the prefix's first frame

    @property
    def up_to_date(self) -> bool:
        """Whether every frame in memory is prefilled."""
        return self._reusable_prefix_len() == len(self.memory.frames) == len(self._prefilled)

    def observe(self, frame: Frame) -> FrameKind | None:
        """Adds a frame to the memory and returns its kind, or None if it was late and dropped."""
        added = self.memory.add(frame)
        return None if added is None else self.memory.frames[-1].kind

    def set_budget(self, token_budget: int) -> None:
        """Changes the budget of visual tokens; frames that still fit stay, and are prefilled into a new cache.

        Raises:
            BudgetError: The budget cannot hold one frame; nothing has changed.
            ContextLengthError: The model's context is too short for it; nothing has changed.
        """
        config = replace(self.memory.config, token_budget=token_budget)
        capacity = session_capacity(self._runtime, self._processor, config)
        self.memory.set_budget(token_budget)
        self._capacity = capacity
        self._reopen_cache()

    def reset(self) -> None:
        """Clears memory and cache, after an error that may have left them inconsistent."""
        self.memory.clear()
        self._prefilled.clear()
        self._cache.truncate(0)

    def prefill_pending(self) -> bool:
        """Encodes and prefills the next few frames, while no question waits; returns whether more are pending."""
        reusable = self._reusable_prefix_len()
        self._truncate(reusable)
        frames = self.memory.frames
        step = frames[reusable : reusable + _FRAMES_PER_STEP]
        if not step:
            return False
        if reusable == 0:
            self._base_ns = step[0].stamp_ns
        self.encode(step)
        segments = self._prefix_segments(step, reusable, self._base_ns)
        end = self._cache.length
        try:
            self._cache.append(segments)
        except NonFiniteError:
            self._reopen_cache()
            raise
        for frame, time_ids in zip(step, segments[::2], strict=True):
            end += segment_length(time_ids) + frame.tokens
            self._prefilled.append(_Prefilled(frame.seq, frame.size, end))
        return len(self._prefilled) < len(frames)

    def ask(self, request: Request, hooks: AnswerHooks | None = None) -> Answer:
        """Answers a question about what is in memory now; a horizon that excludes frames needs a prefill of its own.

        Raises:
            NoFramesError: No frame has been observed yet.
        """
        hooks = hooks or AnswerHooks()
        frames = self.frames_within(request.horizon_s)
        timer, answer = LapTimer(), new_answer(frames)
        answer.start_ns = frames[0].stamp_ns
        if len(frames) == len(self.memory.frames):
            self._ask_prefix(request, hooks, timer, answer)
        else:
            self._ask_fresh(request, hooks, timer, answer, frames)
        return answer

    def frames_within(self, horizon_s: float) -> Sequence[HeldFrame]:
        """Returns the frames at most `horizon_s` older than the newest one; 0 for all.

        Raises:
            NoFramesError: No frame has been observed yet.
        """
        frames = self.memory.frames
        if not frames:
            raise NoFramesError("no frame has been seen yet; is the camera publishing?")
        if horizon_s == 0:
            return frames
        oldest = frames[-1].stamp_ns - round(horizon_s * 1e9)
        return [frame for frame in frames if frame.stamp_ns >= oldest]

    def encode(self, frames: Sequence[HeldFrame]) -> None:
        """Encodes those frames that have no visual tokens yet, at the size at which the memory holds them."""
        missing = [frame for frame in frames if frame.encoded is None]
        for start in range(0, len(missing), _FRAMES_PER_STEP):
            batch = missing[start : start + _FRAMES_PER_STEP]
            for frame, encoded in zip(batch, self._runtime.encode([*self._patched(batch)]), strict=True):
                frame.encoded = encoded

    def close(self) -> None:
        """Frees the cache."""
        self._cache.close()

    def _reopen_cache(self) -> None:
        """Replaces the cache by an empty one."""
        self._cache.close()
        self._prefilled.clear()
        self._cache = self._runtime.open_cache(self._capacity)

    def _ask_prefix(self, request: Request, hooks: AnswerHooks, timer: LapTimer, answer: Answer) -> None:
        """Completes the prefix, then prefills only the question; the cache ends as the prefix alone."""
        more = True
        while more:
            more = self.prefill_pending()
            if hooks.cancelled():
                answer.ended_by = "cancelled"
                return
        answer.seconds["encode"] = timer.lap()
        prefix = self._cache.length
        tail = [request.token_ids]
        try:
            prefill_and_generate(answer, timer, self._cache, tail, self._processor, request.sampling, hooks)
        except NonFiniteError:
            self._reopen_cache()
            raise
        finally:
            self._cache.truncate(min(prefix, self._cache.length))

    def _ask_fresh(
        self, request: Request, hooks: AnswerHooks, timer: LapTimer, answer: Answer, frames: Sequence[HeldFrame]
    ) -> None:
        self.encode(frames)
        answer.seconds["encode"] = timer.lap()
        segments = [*self._prefix_segments(frames, 0, answer.start_ns), request.token_ids]
        cache = self._runtime.open_cache(self._capacity)
        try:
            prefill_and_generate(answer, timer, cache, segments, self._processor, request.sampling, hooks)
        finally:
            cache.close()

    def _reusable_prefix_len(self) -> int:
        """Returns the number of leading frames in memory that the cache holds unchanged."""
        frames = self.memory.frames
        if not frames or not self._prefilled or frames[0].stamp_ns != self._base_ns:
            return 0
        reusable = 0
        for frame, prefilled in zip(frames, self._prefilled, strict=False):
            if (frame.seq, frame.size) != (prefilled.seq, prefilled.size):
                break
            reusable += 1
        return reusable

    def _truncate(self, reusable: int) -> None:
        if reusable < len(self._prefilled):
            del self._prefilled[reusable:]
            self._cache.truncate(self._prefilled[-1].end if self._prefilled else 0)

    def _patched(self, frames: Sequence[HeldFrame]) -> Iterator[PatchedImage]:
        merge_size = self.memory.config.merge_size
        return (patch_image(frame.pixels, frame.size, merge_size, self._processor.images) for frame in frames)

    def _prefix_segments(self, frames: Sequence[HeldFrame], preceding: int, base_ns: int) -> list[PromptSegment]:
        """Returns time and visual tokens of frames in turn; `preceding` frames come before them in the prompt."""
        segments: list[PromptSegment] = []
        for number, frame in enumerate(frames, start=preceding):
            time_s = (frame.stamp_ns - base_ns) * 1e-9
            segments += [self._processor.video_time_ids(time_s, first=number == 0), frame.encoded]
        return segments
