"""Questions about images or a clip, from pixels to grounded answers, on any `Runtime`. Knows nothing of ROS.

A clip is read twice: once to label its frames, once to encode them at the sizes that follow from the labels. Between
the two only labels are held, so memory does not grow with the length of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from penguin_engine.runtimes.base import Runtime, check_fits, interleave
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.generation import AnswerHooks, Sampling, prefill_and_generate
from penguin_models.chat import Message
from penguin_models.errors import CancelledError, MediaError, PromptError
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.media import Clip, at_first_size
from penguin_models.processor import Processor, Visual
from penguin_models.token_allocation import Allocation
from penguin_models.types import Frame, FrameKind, PatchedImage, Size, UInt8Array

_PATCHES_PER_BATCH = 4096
"""Frames are encoded in batches of about this many patches; their pixels are freed before the next are read."""


@dataclass(frozen=True)
class LabelledClip:
    """Times, kinds and size of the frames of a clip that was read once."""

    times_s: tuple[float, ...]
    kinds: tuple[FrameKind, ...]
    size: Size


@dataclass(frozen=True)
class PolicedClip:
    """A clip, and the policy that labels its frames."""

    clip: Clip
    policy: KeyframePolicy


Media: TypeAlias = UInt8Array | PolicedClip


def ask(
    runtime: Runtime,
    processor: Processor,
    question: str,
    images: Sequence[UInt8Array] = (),
    clip: Clip | None = None,
    policy: KeyframePolicy | None = None,
    max_tokens: int | None = None,
    size_rule: str = "strict",
    sampling: Sampling | None = None,
    hooks: AnswerHooks | None = None,
    system: str = "",
) -> Answer:
    """Answers a question.

    Args:
        runtime: Runs the model.
        processor: Processor of the same checkpoint.
        question: Plain text.
        images: Images of any sizes, uint8 [H, W, 3] each.
        clip: A video or bag, placed after the images in the prompt.
        policy: Labels the clip's frames; required with a clip.
        max_tokens: Budget of visual tokens; the checkpoint's if None.
        size_rule: "strict" or "reference", see token_allocation.py.
        sampling: How the answer is generated.
        hooks: Callbacks for streamed text and cancellation.
        system: The system prompt; empty for none.

    Raises:
        PromptError: The question is empty, or it or the system prompt contains reserved tokens.
        BudgetError: The budget is too small for the frames.
        ContextLengthError: Prompt and answer exceed the context; raised before anything is encoded.
        MediaError: The clip cannot be read.
    """
    options = max_tokens, size_rule, sampling, hooks, system
    [answer] = ask_each(runtime, processor, [question], images, clip, policy, *options)
    return answer


def ask_each(
    runtime: Runtime,
    processor: Processor,
    questions: Sequence[str],
    images: Sequence[UInt8Array] = (),
    clip: Clip | None = None,
    policy: KeyframePolicy | None = None,
    max_tokens: int | None = None,
    size_rule: str = "strict",
    sampling: Sampling | None = None,
    hooks: AnswerHooks | None = None,
    system: str = "",
) -> list[Answer]:
    """Answers several independent questions about the same images.

    The images are encoded and prefilled once, and counted in the first answer's seconds. Arguments and errors are those
    of `ask`; a bad question is refused before any is answered.
    """
    if not questions or not all(question.strip() for question in questions):
        raise PromptError("the question is empty")
    media: list[Media] = list(images)
    if clip is not None:
        assert policy is not None, "a clip needs a policy"
        media.append(PolicedClip(clip, policy))
    parts = [{"type": "image" if isinstance(item, np.ndarray) else "video"} for item in media]
    before: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    conversations: list[list[Message]] = [
        [*before, {"role": "user", "content": [*parts, {"type": "text", "text": question}]}] for question in questions
    ]
    return ask_conversations(runtime, processor, conversations, media, max_tokens, size_rule, sampling, hooks)


def ask_conversations(
    runtime: Runtime,
    processor: Processor,
    conversations: Sequence[Sequence[Message]],
    media: Sequence[Media] = (),
    max_tokens: int | None = None,
    size_rule: str = "strict",
    sampling: Sampling | None = None,
    hooks: AnswerHooks | None = None,
) -> list[Answer]:
    """Answers the last turn of several conversations that show the same media, which are encoded once.

    Args:
        runtime: Runs the model.
        processor: Processor of the same checkpoint.
        conversations: Messages as in chat.py, at least one each. They may differ after the last image or video only.
            A video part needs neither its number of frames nor timestamps.
        media: The images, uint8 [H, W, 3], and clips, in the order of the parts of type "image" and "video".
        max_tokens: Budget of visual tokens; the checkpoint's if None.
        size_rule: "strict" or "reference", see token_allocation.py.
        sampling: How the answers are generated.
        hooks: Callbacks for streamed text and cancellation; `cancelled` ends the work between two batches of frames.

    Raises:
        PromptError: A conversation is malformed, contains reserved tokens, or shows another number of media.
        CancelledError: Cancelled before the prompt was complete.
        BudgetError, ContextLengthError, MediaError: As for `ask`.
    """
    sampling, hooks, timer = sampling or Sampling(), hooks or AnswerHooks(), LapTimer()
    shown = ShownMedia(processor, media, timer, max_tokens, size_rule)
    prompts = [processor.prompt_segments(shown.with_times(messages)) for messages in conversations]
    answers = [shown.new_answer(sum(map(len, prompt))) for prompt in prompts]
    length = max(answer.prompt_tokens for answer in answers) + sampling.max_new_tokens
    check_fits(length, runtime.info.context_length, "the prompt with its answer")
    visual_tokens = shown.encode(runtime, timer, hooks)
    answers[0].seconds |= shown.seconds

    cache = runtime.open_cache(length)
    try:
        shared = 0
        for answer, prompt in zip(answers, prompts, strict=True):
            cache.truncate(shared)
            segments = interleave(prompt, visual_tokens)
            if shared:
                segments = segments[-1:]  # everything before it is the same for every question
            elif len(prompts) > 1 and len(segments) > 1:
                cache.append(segments[:-1])
                shared, segments = cache.length, segments[-1:]
            prefill_and_generate(answer, timer, cache, segments, processor, sampling, hooks)
    finally:
        cache.close()
    return answers


class ShownMedia:
    """Images and clips of a prompt, and how large each is shown.

    Attributes:
        seconds: What reading and encoding them took.
    """

    def __init__(
        self, processor: Processor, media: Sequence[Media], timer: LapTimer, max_tokens: int | None, size_rule: str
    ):
        """Labels the clips and allocates the budget; arguments are those of `ask_conversations`."""
        self._processor, self._media = processor, media
        self._seen = [_visual(item) for item in media]
        self._visuals = [visual for visual, _ in self._seen]
        self.seconds = {"read": timer.lap(), "encode": 0.0}
        self._allocations = processor.allocate(self._visuals, max_tokens, size_rule)

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens."""
        return sum(a.total_tokens(v.kinds) for v, a in zip(self._visuals, self._allocations, strict=True))

    def with_times(self, messages: Sequence[Message]) -> list[Message]:
        """Returns messages whose video parts have the number and the times of their frames."""
        return _with_times(messages, self._seen)

    def new_answer(self, text_tokens: int) -> Answer:
        """Returns an empty answer with the counts of its prompt."""
        kinds = [kind for visual in self._visuals for kind in visual.kinds]
        return Answer(
            image_size=self._visuals[-1].source_size if self._visuals else None,
            frames=len(kinds),
            keyframes=kinds.count(FrameKind.KEY),
            visual_tokens=self.visual_tokens,
            prompt_tokens=self.visual_tokens + text_tokens,
        )

    def encode(self, runtime: Runtime, timer: LapTimer, hooks: AnswerHooks) -> list[Any]:
        """Returns the visual tokens of every frame; raises CancelledError if it is cancelled between two batches."""
        visual_tokens: list[Any] = []
        for batch in _batches(_patched(self._processor, self._media, self._visuals, self._allocations)):
            self.seconds["read"] += timer.lap()
            if hooks.cancelled():
                raise CancelledError("cancelled while the images were encoded")
            visual_tokens += runtime.encode(batch)
            self.seconds["encode"] += timer.lap()
        return visual_tokens


def label_clip(clip: Clip, policy: KeyframePolicy) -> LabelledClip:
    """Reads a clip once and labels its frames, holding one frame at a time.

    Raises:
        MediaError: The clip is empty or cannot be read.
    """
    policy.reset()
    times, kinds, size = [], [], None
    for time_s, rgb in at_first_size(clip):
        frame = Frame(rgb, round(time_s * 1e9))
        kinds.append(policy.observe(frame))
        times.append(time_s)
        size = frame.size
    if size is None:
        raise MediaError("the clip has no frames")
    return LabelledClip(tuple(times), tuple(kinds), size)


def _visual(item: Media) -> tuple[Visual, Sequence[float]]:
    """Returns what allocation needs to know of an image or a clip, and the times of its frames."""
    if isinstance(item, np.ndarray):
        return Visual(Size(*item.shape[:2])), ()
    labelled = label_clip(item.clip, item.policy)
    return Visual.video(labelled.size, labelled.kinds), labelled.times_s


def _with_times(messages: Sequence[Message], visuals: Sequence[tuple[Visual, Sequence[float]]]) -> list[Message]:
    """Returns messages whose video parts have the number and the times of their frames."""
    shown = sum(map(_shows, (part for message in messages for part in _parts(message))))
    if shown != len(visuals):
        raise PromptError(f"the conversation shows {shown} images and videos, but {len(visuals)} were passed")
    remaining = iter(visuals)

    def completed(part: Any) -> Any:
        if not _shows(part):
            return part
        visual, times_s = next(remaining)
        if part["type"] == "image":
            return part
        return {"type": "video", "num_frames": len(visual.kinds), "timestamps": times_s}

    return [
        {**message, "content": [completed(part) for part in _parts(message)]} if _parts(message) else message
        for message in messages
    ]


def _parts(message: Message) -> Sequence[Any]:
    """Returns the parts of a message; none if its content is text."""
    content = message.get("content")
    return content if isinstance(content, list | tuple) else ()


def _shows(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in ("image", "video")


def _patched(
    processor: Processor, media: Sequence[Media], visuals: Sequence[Visual], allocations: Sequence[Allocation]
) -> Iterator[PatchedImage]:
    for item, visual, allocation in zip(media, visuals, allocations, strict=True):
        frames = [item] if isinstance(item, np.ndarray) else (frame.rgb for frame in at_first_size(item.clip))
        yield from processor.patch(frames, visual.kinds, allocation)


def _batches(images: Iterator[PatchedImage]) -> Iterator[list[PatchedImage]]:
    batch: list[PatchedImage] = []
    patches = 0
    for image in images:
        if batch and patches + image.grid.area > _PATCHES_PER_BATCH:
            yield batch
            batch, patches = [], 0
        batch.append(image)
        patches += image.grid.area
    if batch:
        yield batch
