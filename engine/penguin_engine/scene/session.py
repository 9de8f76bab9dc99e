"""SceneSession: one camera's memory and the KV cache over it; answers reuse what is already prefilled.

The cache holds a prefix of the prompt: the beginning of a user turn and, in order of capture, "Time 12.3s:" with the
visual tokens of each frame in memory. Frames that arrive are encoded and appended while no question waits
(`prefill_pending`); a question then costs only its own tokens. It stays with its answer until something else is
appended, so that the next turn of a conversation costs only what is new. A compaction of the memory invalidates the
prefix from the first frame that changed, and nothing before it.

Times are seconds since the first frame of the prefix. If that frame leaves the memory they all change, and the prefix
is invalid anyway.

One thread owns a session. `observe` does not touch the cache: it may be called from `AnswerHooks.on_token`, so that
frames keep arriving while an answer is generated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from penguin_engine.runtimes.base import KVCache, PromptSegment, Runtime, VisualTokens, segment_length
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.evidence import Candidate, Shown, choose
from penguin_engine.scene.frame_encoder import FrameEncoder
from penguin_engine.scene.generation import AnswerHooks, prefill_and_generate
from penguin_engine.scene.memory import FrameMemory, HeldFrame, MemoryConfig
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.paced_cache import PacedCache, append, never
from penguin_engine.scene.requests import RESERVED_TOKENS, Request
from penguin_engine.scene.suffix import Suffix
from penguin_models.chat import render
from penguin_models.errors import CancelledError, ContextLengthError, NoFramesError, NonFiniteError, PromptError
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.processor import Processor
from penguin_models.types import Float32Array, Frame, FrameKind, Size

LONGEST_TIME = ",Time 99999.9s:"
"""The text before a frame, where it has the most tokens."""


def _of_checkpoint(config: MemoryConfig, processor: Processor) -> MemoryConfig:
    """Returns the configuration with the patches and the smallest frames that the checkpoint was trained with."""
    return replace(config, min_tokens=processor.images.min_tokens, patch_size=processor.images.patch_size)


def system_ids(processor: Processor, system: str) -> list[int]:
    """Returns the token ids of a system prompt, with which a prompt begins; none if it is empty.

    Raises:
        PromptError: It contains a reserved token.
    """
    if not system.strip():
        return []
    try:
        text = render([{"role": "system", "content": system}], add_generation_prompt=False)
    except PromptError as err:
        raise PromptError(f"the system prompt cannot be used: {err}") from err
    return processor.encode_text(text)


def session_capacity(runtime: Runtime, processor: Processor, config: MemoryConfig, system: str = "") -> int:
    """Returns the length in tokens of a KV cache that holds a system prompt, a full memory, a question and its answer.

    Raises:
        PromptError: The system prompt contains a reserved token.
        ContextLengthError: The model's context is too short for it.
    """
    config, longest_time = _of_checkpoint(config, processor), len(processor.encode_text(LONGEST_TIME))
    before = len(system_ids(processor, system))
    capacity = before + config.token_budget + config.max_frames * longest_time + RESERVED_TOKENS
    if capacity > (context := runtime.info.context_length):
        with_system = f" with a system prompt of {before} tokens" if before else ""
        frames, rest = divmod(context - before - RESERVED_TOKENS, config.floor_tokens + longest_time)
        largest = frames * config.floor_tokens + min(rest, config.floor_tokens - 1)
        remedy = f"lower the token budget (parameter token_budget) to at most {largest} per camera"
        if largest < config.floor_tokens:
            remedy = "shorten the system prompt" if before else "use a model with a longer context"
        raise ContextLengthError(
            f"a memory of {config.token_budget} visual tokens{with_system} needs a context of {capacity} tokens, and "
            f"the model has {context}; {remedy}"
        )
    return capacity


def new_answer(frames: Sequence[HeldFrame], shown: Sequence[Shown]) -> Answer:
    """Returns an empty answer about frames as they are held, then others as they are shown."""
    everything = [*frames, *(item.frame for item in shown)]
    return Answer(
        image_size=everything[-1].source_size,
        frames=len(everything),
        keyframes=sum(frame.kind == FrameKind.KEY for frame in everything),
        visual_tokens=sum(frame.tokens for frame in frames) + sum(item.tokens for item in shown),
    )


@dataclass(frozen=True)
class _Prefilled:
    """A frame in the cache: its number, its size, and the length of the cache after it."""

    seq: int
    size: Size
    end: int


class SceneSession:
    """Observes one camera and answers questions about it.

    Attributes:
        memory: The frames.
        encoder: Encodes them.
        text_tokens: Most tokens of the text before a frame.
        system: The system prompt; empty for none.
    """

    def __init__(
        self,
        runtime: Runtime,
        processor: Processor,
        policy: KeyframePolicy,
        config: MemoryConfig,
        pace: Pace | None = None,
        system: str = "",
    ):
        """Opens a KV cache that holds a full memory, a question and its answer.

        Args:
            runtime: Runs the model.
            processor: Processor of the same checkpoint.
            policy: Labels the frames.
            config: Configuration of the memory; `min_tokens` and `patch_size` are those of the checkpoint.
            pace: Bounds single operations and decides what fits a deadline; None for neither.
            system: The system prompt; empty for none.

        Raises:
            PromptError: The system prompt contains a reserved token.
            ContextLengthError: The model's context is too short for this budget.
        """
        config = _of_checkpoint(config, processor)
        self.memory = FrameMemory(config, policy)
        self._runtime, self._processor, self._pace = runtime, processor, pace
        self.text_tokens = len(processor.encode_text(LONGEST_TIME))
        self.encoder = FrameEncoder(runtime, processor, config.merge_size, self.text_tokens, pace)
        self.system = system
        self._capacity = session_capacity(runtime, processor, config, system)
        self._cache = self.open_cache(self._capacity)
        self._prefilled: list[_Prefilled] = []
        self._suffix = Suffix()
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
        capacity = session_capacity(self._runtime, self._processor, config, self.system)
        self.memory.set_budget(token_budget)
        self._capacity = capacity
        self._reopen_cache()

    def set_system(self, system: str) -> None:
        """Changes the system prompt; the frames, which are encoded already, are prefilled after it again.

        Raises:
            PromptError: It contains a reserved token; nothing has changed.
            ContextLengthError: The model's context is too short for it; nothing has changed.
        """
        self._capacity = session_capacity(self._runtime, self._processor, self.memory.config, system)
        self.system = system
        self._reopen_cache()

    def reset(self) -> None:
        """Clears memory and cache, after an error that may have left them inconsistent."""
        self.memory.clear()
        self._truncate(0)

    def prefill_pending(self, interrupted: Callable[[], bool] = never) -> bool:
        """Encodes and prefills the next few frames, while no question waits; returns whether more are pending.

        With a pace, `interrupted` is polled between operations; once it is true, the step ends unfinished.
        """
        if self.up_to_date:
            return False
        reusable = self._reusable_prefix_len()
        self._truncate(reusable)
        pending = self.memory.frames[reusable:]
        if not pending:
            return False
        if reusable == 0:
            self._base_ns = pending[0].stamp_ns
        step = pending[: self.encoder.at_once(pending[0])]
        try:
            self.encoder.encode(step, interrupted)
            segments = self._prefix_segments(step, [frame.encoded for frame in step], reusable, self._base_ns)
            end = self._cache.length
            append(self._cache, segments, interrupted)
        except CancelledError:
            return True
        except NonFiniteError:
            self._reopen_cache()
            raise
        for frame, time_ids in zip(step, segments[::2], strict=True):
            end += segment_length(time_ids) + frame.tokens
            self._prefilled.append(_Prefilled(frame.seq, frame.size, end))
        return len(step) < len(pending)

    def judge(self, token_ids: Sequence[int], interrupted: Callable[[], bool] = never) -> Float32Array:
        """Returns the logits after the end of a prompt, float32 [vocab]; the cache ends as the prefix alone.

        Args:
            token_ids: Token ids of the prompt after its last frame. The session must be up to date.
            interrupted: Polled before the work begins and, with a pace, between its operations.

        Raises:
            CancelledError: Interrupted; nothing has changed.
            NonFiniteError: The logits are not finite.
        """
        assert self.up_to_date
        if interrupted():
            raise CancelledError("interrupted before a judgement")
        self._truncate(len(self._prefilled))
        try:
            return append(self._cache, [token_ids], interrupted)
        except NonFiniteError:
            self._reopen_cache()
            raise
        finally:
            self._truncate(len(self._prefilled))

    def cached(self, request: Request) -> int:
        """Returns how many tokens of a conversation's turns the cache holds after the frames in memory."""
        return self._suffix.shared(request.token_ids) if request.conversation_id and self.up_to_date else 0

    def ask(self, request: Request, hooks: AnswerHooks | None = None, due_s: float = math.inf) -> Answer:
        """Answers a question about what is in memory now; a horizon that excludes frames needs a prefill of its own.

        Args:
            request: The question.
            hooks: Callbacks for streamed text and cancellation.
            due_s: When the first token is due, on the clock of the pace; without a pace there are no deadlines.

        Raises:
            NoFramesError: No frame has been observed yet.
        """
        hooks = hooks or AnswerHooks()
        timer = LapTimer(self._pace.clock) if self._pace else LapTimer()
        frames = self.frames_within(request.horizon_s)
        whole = len(frames) == len(self.memory.frames)
        kept = self._reusable_prefix_len() if whole else 0
        pending = [Candidate(frame, self.memory, required=frame is frames[-1]) for frame in frames[kept:]]
        question_tokens = len(request.token_ids) - (self.cached(request) if whole else 0)
        shown, predicted_s = choose(self._pace, pending, self.text_tokens, question_tokens, due_s)
        answer = new_answer(frames[:kept], shown)
        answer.frames_pending, answer.predicted_s = len(pending) - len(shown), predicted_s
        answer.start_ns = frames[0].stamp_ns if kept else shown[0].frame.stamp_ns
        try:
            if not whole:
                self._ask_fresh(request, hooks, timer, answer, shown)
            elif len(shown) == len(pending) and all(item.as_held for item in shown):
                self._ask_prefix(request, hooks, timer, answer)
            else:
                self._truncate(kept)
                self._ask_behind(request, hooks, timer, answer, kept, shown)
        except CancelledError:
            answer.ended_by = "cancelled"
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

    def open_cache(self, max_length: int) -> KVCache | PacedCache:
        """Opens a KV cache that keeps the pace, if there is one."""
        cache = self._runtime.open_cache(max_length)
        return PacedCache(cache, self._pace) if self._pace else cache

    def close(self) -> None:
        """Frees the cache."""
        self._cache.close()

    def _reopen_cache(self) -> None:
        """Replaces the cache by an empty one."""
        self._cache.close()
        self._prefilled.clear()
        self._suffix.clear()
        self._cache = self.open_cache(self._capacity)

    def _ask_prefix(self, request: Request, hooks: AnswerHooks, timer: LapTimer, answer: Answer) -> None:
        """Completes the prefix, then prefills only what is new; question and answer stay in the cache."""
        more = True
        while more:
            more = self.prefill_pending(hooks.cancelled)
            if hooks.cancelled():
                raise CancelledError("cancelled during the prefill")
        answer.seconds["encode"] = timer.lap()
        if not request.conversation_id:
            self._suffix.clear()
        prefix, ids = self._prefix_tokens, request.token_ids
        try:
            self._suffix.answer(answer, timer, self._cache, prefix, ids, self._processor, request.sampling, hooks)
        except NonFiniteError:
            self._reopen_cache()
            raise

    def _ask_behind(
        self, request: Request, hooks: AnswerHooks, timer: LapTimer, answer: Answer, kept: int, shown: Sequence[Shown]
    ) -> None:
        """Prefills some frames for this answer only, behind the prefix; the cache ends as the prefix alone."""
        visual_tokens = self.encoder.encode_shown(shown, hooks.cancelled)
        answer.seconds["encode"] = timer.lap()
        frames = [item.frame for item in shown]
        segments = [*self._prefix_segments(frames, visual_tokens, kept, answer.start_ns), request.token_ids]
        try:
            prefill_and_generate(answer, timer, self._cache, segments, self._processor, request.sampling, hooks)
        except NonFiniteError:
            self._reopen_cache()
            raise
        finally:
            self._truncate(len(self._prefilled))

    def _ask_fresh(
        self, request: Request, hooks: AnswerHooks, timer: LapTimer, answer: Answer, shown: Sequence[Shown]
    ) -> None:
        visual_tokens = self.encoder.encode_shown(shown, hooks.cancelled)
        answer.seconds["encode"] = timer.lap()
        frames = [item.frame for item in shown]
        segments = [*self._prefix_segments(frames, visual_tokens, 0, answer.start_ns), request.token_ids]
        cache = self.open_cache(self._capacity)
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

    @property
    def _prefix_tokens(self) -> int:
        """Length of the prefix in tokens."""
        return self._prefilled[-1].end if self._prefilled else 0

    def _truncate(self, frames: int) -> None:
        """Truncates the cache to the first frames of the prefix."""
        del self._prefilled[frames:]
        self._suffix.clear()
        self._cache.truncate(self._prefix_tokens)

    def _prefix_segments(
        self, frames: Sequence[HeldFrame], visual_tokens: Sequence[VisualTokens], preceding: int, base_ns: int
    ) -> list[PromptSegment]:
        """Returns time and visual tokens of frames in turn; `preceding` frames come before them in the prompt."""
        segments: list[PromptSegment] = []
        for number, (frame, tokens) in enumerate(zip(frames, visual_tokens, strict=True), start=preceding):
            time_s = (frame.stamp_ns - base_ns) * 1e-9
            before = self._processor.video_time_ids(time_s, first=number == 0)
            segments += [[*system_ids(self._processor, self.system), *before] if number == 0 else before, tokens]
        return segments
