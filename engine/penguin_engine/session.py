"""SceneSession: one camera's memory and the KV cache over it; answers that reuse what is already prefilled.

The cache holds a prefix: the beginning of a user turn and, in the order of capture, "Time 12.3s:" with the visual
tokens of each frame held. Frames that arrive are encoded and appended while nobody asks (`advance`); a question then
costs only its own tokens, which are forgotten after the answer. A compaction of the memory invalidates the prefix from
the first frame that changed, no more.

Times are seconds since the first frame of the prefix. They would all change when that frame leaves, and that
invalidates the prefix anyway.

One thread owns a session. `observe` touches no cache: it may be called from `cancelled` or `on_text`, so that frames
keep arriving while an answer is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from penguin_engine.answer import Answer, Clock
from penguin_engine.generation import Generation, Sampling, generate
from penguin_engine.memory import FrameMemory, HeldFrame, MemoryConfig
from penguin_engine.runtime import Cache, Part, Runtime, check_fits, part_length
from penguin_models.errors import NoFramesError, PromptError
from penguin_models.grounding import parse
from penguin_models.images import patch_image
from penguin_models.processor import Processor
from penguin_models.tra import KeyframePolicy
from penguin_models.types import Frame, FrameKind, PatchedImage, Size

_FRAMES_PER_STEP = 8
"""Frames encoded together: also the longest wait of a question behind `advance`."""
_RESERVED_TOKENS = 2048
"""Room in the cache for a question and its answer."""


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
        longest_time = len(processor.encode_text(",Time 99999.9s:"))
        capacity = config.token_budget + config.max_frames * longest_time + _RESERVED_TOKENS
        check_fits(capacity, runtime.info.context_length, f"a memory of {config.token_budget} visual tokens")
        self._capacity = capacity
        self._cache = runtime.open_cache(capacity)
        self._prefilled: list[_Prefilled] = []
        self._base_ns = 0  # stamp of the prefix's first frame

    @property
    def up_to_date(self) -> bool:
        """Whether every frame held is in the cache."""
        return self._common() == len(self.memory.frames) == len(self._prefilled)

    def observe(self, frame: Frame) -> FrameKind | None:
        """Takes a frame into the memory; its kind, or None if it was late and dropped."""
        added = self.memory.add(frame)
        return None if added is None else self.memory.frames[-1].kind

    def advance(self) -> bool:
        """Encodes and prefills the next few frames; whether there are more to do. Call it while nobody asks."""
        common = self._common()
        self._truncate(common)
        frames = self.memory.frames
        step = frames[common : common + _FRAMES_PER_STEP]
        if not step:
            return False
        if common == 0:
            self._base_ns = step[0].stamp_ns
        self._encode(step)
        parts = self._prefix_parts(step, common)
        end = self._cache.length
        self._cache.append(parts)
        for frame, time_ids in zip(step, parts[::2], strict=True):
            end += part_length(time_ids) + frame.tokens
            self._prefilled.append(_Prefilled(frame.seq, frame.size, end))
        return len(self._prefilled) < len(frames)

    def ask(
        self,
        question: str,
        sampling: Sampling | None = None,
        horizon_s: float = 0.0,
        on_text: Callable[[str], None] = lambda piece: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Answers a question about what is in the memory now.

        Args:
            question: plain text.
            sampling: how the answer is generated.
            horizon_s: look back at most so far from the newest frame; 0 for everything held. A horizon that leaves
                frames out needs a prefill of its own.
            on_text: called with each piece of text as it comes.
            cancelled: asked between two tokens.

        Raises:
            NoFramesError: nothing has been seen yet.
            PromptError: an empty question, reserved tokens in it, or a negative horizon.
            ContextLengthError: question and answer do not fit; nothing was run.
        """
        sampling = sampling or Sampling()
        frames = self._within(horizon_s)
        tail = self._tail(question, sampling, len(frames))
        clock, answer = Clock(), Answer(frames=len(frames), image_size=frames[-1].native)
        answer.key_frames = sum(frame.kind == FrameKind.KEY for frame in frames)
        answer.visual_tokens = sum(frame.tokens for frame in frames)
        if len(frames) == len(self.memory.frames):
            while self.advance():
                pass
            answer.seconds["encode"] = clock.lap()
            prefix = self._cache.length
            try:
                self._answer(self._cache, [tail], answer, clock, sampling, on_text, cancelled)
            finally:
                self._cache.truncate(prefix)
            return answer
        self._encode(frames)
        answer.seconds["encode"] = clock.lap()
        cache = self._runtime.open_cache(self._capacity)
        try:
            parts = self._prefix_parts(frames, 0, frames[0].stamp_ns)
            self._answer(cache, [*parts, tail], answer, clock, sampling, on_text, cancelled)
        finally:
            cache.close()
        return answer

    def close(self) -> None:
        """Frees the cache."""
        self._cache.close()

    def _answer(
        self,
        cache: Cache,
        parts: Sequence[Part],
        answer: Answer,
        clock: Clock,
        sampling: Sampling,
        on_text: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> None:
        logits = cache.append(parts)
        answer.prompt_tokens = cache.length
        answer.seconds["prefill"] = clock.lap()
        generation = Generation()
        for piece in generate(cache, logits, self._processor, sampling, generation, cancelled):
            on_text(piece)
        answer.seconds["decode"] = clock.lap()
        answer.raw, answer.ended_by = generation.text, generation.ended_by
        answer.grounding = parse(generation.text)
        answer.generated_tokens = len(generation.ids)

    def _within(self, horizon_s: float) -> Sequence[HeldFrame]:
        frames = self.memory.frames
        if horizon_s < 0:
            raise PromptError(f"the horizon is {horizon_s} s, it must be 0 (everything) or above")
        if not frames:
            raise NoFramesError("no frame has been seen yet; is the camera publishing?")
        if horizon_s == 0:
            return frames
        oldest = frames[-1].stamp_ns - round(horizon_s * 1e9)
        return [frame for frame in frames if frame.stamp_ns >= oldest]

    def _tail(self, question: str, sampling: Sampling, frames: int) -> list[int]:
        """Token ids of everything after the last frame."""
        if not question.strip():
            raise PromptError("the question is empty")
        video = {"type": "video", "num_frames": frames, "timestamps": [0.0] * frames}
        content = [video, {"type": "text", "text": question}]
        tail = self._processor.prompt_parts([{"role": "user", "content": content}])[-1]
        check_fits(len(tail) + sampling.max_new_tokens, _RESERVED_TOKENS, "the question with its answer")
        return tail

    def _common(self) -> int:
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

    def _encode(self, frames: Sequence[HeldFrame]) -> None:
        missing = [frame for frame in frames if frame.encoded is None]
        for start in range(0, len(missing), _FRAMES_PER_STEP):
            batch = missing[start : start + _FRAMES_PER_STEP]
            for frame, encoded in zip(batch, self._runtime.encode([*self._patched(batch)]), strict=True):
                frame.encoded = encoded

    def _patched(self, frames: Sequence[HeldFrame]) -> Iterator[PatchedImage]:
        merge_size = self.memory.config.merge_size
        return (patch_image(frame.pixels, frame.size, merge_size, self._processor.images) for frame in frames)

    def _prefix_parts(self, frames: Sequence[HeldFrame], before: int, base_ns: int | None = None) -> list[Part]:
        """Time and visual tokens of frames in turn; `before` frames precede them in the prompt."""
        base_ns = self._base_ns if base_ns is None else base_ns
        parts: list[Part] = []
        for number, frame in enumerate(frames, start=before):
            time_s = (frame.stamp_ns - base_ns) * 1e-9
            parts += [self._processor.video_time_ids(time_s, first=number == 0), frame.encoded]
        return parts
