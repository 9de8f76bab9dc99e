"""Questions about images or a clip, from pixels to grounded answers, on any `Runtime`. Knows nothing of ROS.

A clip is read twice: once to label its frames, once to encode them at the sizes that follow from the labels. Between
the two only labels are held, so memory does not grow with the length of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from penguin_engine.runtimes.base import Runtime, check_fits, interleave
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.generation import AnswerHooks, Sampling, prefill_and_generate
from penguin_models.errors import MediaError, PromptError
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

    Raises:
        PromptError: The question is empty or contains reserved tokens.
        BudgetError: The budget is too small for the frames.
        ContextLengthError: Prompt and answer exceed the context; raised before anything is encoded.
        MediaError: The clip cannot be read.
    """
    [answer] = ask_each(runtime, processor, [question], images, clip, policy, max_tokens, size_rule, sampling, hooks)
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
) -> list[Answer]:
    """Answers several independent questions about the same images.

    The images are encoded and prefilled once, and counted in the first answer's seconds. Arguments and errors are those
    of `ask`; a bad question is refused before any is answered.
    """
    sampling, hooks = sampling or Sampling(), hooks or AnswerHooks()
    if not questions or not all(question.strip() for question in questions):
        raise PromptError("the question is empty")
    seconds, timer = {}, LapTimer()
    labelled = None
    if clip is not None:
        assert policy is not None, "a clip needs a policy"
        labelled = label_clip(clip, policy)
    seconds["read"] = timer.lap()

    visuals = [Visual(Size(*image.shape[:2])) for image in images]
    if labelled is not None:
        visuals.append(Visual.video(labelled.size, labelled.kinds))
    allocations = processor.allocate(visuals, max_tokens, size_rule)
    prompts = [processor.prompt_segments([_message(question, len(images), labelled)]) for question in questions]
    answers = [_counted(prompt, visuals, allocations) for prompt in prompts]
    length = max(answer.prompt_tokens for answer in answers) + sampling.max_new_tokens
    check_fits(length, runtime.info.context_length, "the prompt with its answer")

    visual_tokens: list[Any] = []
    seconds["encode"] = 0.0
    for batch in _batches(_patched(processor, images, clip, visuals, allocations)):
        seconds["read"] += timer.lap()
        visual_tokens += runtime.encode(batch)
        seconds["encode"] += timer.lap()
    answers[0].seconds |= seconds

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


def _message(question: str, images: int, labelled: LabelledClip | None) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "image"}] * images
    if labelled is not None:
        content = [*content, {"type": "video", "num_frames": len(labelled.kinds), "timestamps": labelled.times_s}]
    return {"role": "user", "content": [*content, {"type": "text", "text": question}]}


def _counted(prompt: Sequence[Sequence[int]], visuals: Sequence[Visual], allocations: Sequence[Allocation]) -> Answer:
    """Returns an empty answer with the counts of its prompt."""
    kinds = [kind for visual in visuals for kind in visual.kinds]
    visual_tokens = sum(a.total_tokens(v.kinds) for v, a in zip(visuals, allocations, strict=True))
    return Answer(
        image_size=visuals[-1].source_size if visuals else None,
        frames=len(kinds),
        keyframes=kinds.count(FrameKind.KEY),
        visual_tokens=visual_tokens,
        prompt_tokens=visual_tokens + sum(map(len, prompt)),
    )


def _patched(
    processor: Processor,
    images: Sequence[UInt8Array],
    clip: Clip | None,
    visuals: Sequence[Visual],
    allocations: Sequence[Allocation],
) -> Iterator[PatchedImage]:
    for image, visual, allocation in zip(images, visuals, allocations, strict=False):
        yield from processor.patch([image], visual.kinds, allocation)
    if clip is not None:
        yield from processor.patch((frame.rgb for frame in at_first_size(clip)), visuals[-1].kinds, allocations[-1])


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
