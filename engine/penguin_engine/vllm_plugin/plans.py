"""How the images and videos of one prompt are shown: which frames, at which sizes, with which text. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from penguin_engine.vllm_plugin import CHAT_TEMPLATE
from penguin_models.chat import IMAGE, video_time
from penguin_models.errors import MediaError, PromptError, SettingError
from penguin_models.media import to_rgb
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Processor, Visual
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.token_allocation import SIZE_RULES, Allocation
from penguin_models.types import Frame, FrameKind, Size, UInt8Array

VIDEO = "<video>"
"""The place of a video in a prompt; an image has `<image>`."""
POLICIES = {"novelty": NoveltyPolicy, "reference": ReferencePolicy}


@dataclass(frozen=True)
class Options:
    """What `mm_processor_kwargs` may set, for the server or a request."""

    max_tokens: int | None = None  # budget of visual tokens of a prompt; the checkpoint's if None
    allocation: str = "strict"  # name of a rule in token_allocation.py
    policy: str = "novelty"  # which frames of a video are keyframes

    def __post_init__(self) -> None:
        tokens = self.max_tokens
        if tokens is not None and (type(tokens) is not int or tokens < 1):
            raise SettingError(f"max_tokens is {tokens!r}, it must be a number of visual tokens above 0")
        for name, allowed in (("allocation", SIZE_RULES), ("policy", POLICIES)):
            if (value := getattr(self, name)) not in list(allowed):  # which may be of any type
                raise SettingError(f"{name} is {value!r}, it must be one of {', '.join(allowed)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Options:
        """Reads options; raises SettingError if one is unknown or out of range."""
        if unknown := set(values) - set(cls.__dataclass_fields__):
            raise SettingError(
                f"mm_processor_kwargs has {', '.join(sorted(unknown))}; Penguin-VL knows "
                f"{', '.join(cls.__dataclass_fields__)}"
            )
        return cls(**values)


@dataclass(frozen=True)
class Plan:
    """How an image or video is shown in one prompt."""

    kinds: tuple[FrameKind, ...]
    times_s: tuple[float, ...]  # of a video's frames; none for an image
    allocation: Allocation

    @property
    def text(self) -> str:
        """The text that replaces its place in the prompt, with one `<image>` per visual token."""
        places = [IMAGE * self.allocation.tokens(kind) for kind in self.kinds]
        if not self.times_s:
            return places[0]
        return ",".join(video_time(time) + place for time, place in zip(self.times_s, places, strict=True))

    @property
    def name(self) -> str:
        """Tells plans of one image or video apart."""
        sizes = "-".join(f"{size.height}x{size.width}" for size in (self.allocation.key, self.allocation.intermediate))
        return f"{sizes}-{''.join(str(int(kind)) for kind in self.kinds)}"


Plans = Mapping[str, Sequence[Plan]]
"""Plans of the images ("image") and videos ("video") of a prompt."""


def plan_all(processor: Processor, items: Mapping[str, Sequence[Any]], options: Options) -> Plans:
    """Plans how the images ("image") and videos ("video") of a prompt are shown.

    An image is a Pillow image or uint8 [H, W, 3], a video its frames, uint8 [frames, H, W, 3], and a mapping with their
    `timestamps` in seconds.

    Raises:
        BudgetError: The budget is too small for the frames.
        MediaError: An image or video has another form.
        PromptError: An image or video is missing.
    """
    visuals = {modality: [_visual(item, modality, options) for item in items[modality]] for modality in items}
    flat = [visual for of_modality in visuals.values() for visual, _ in of_modality]
    allocations = iter(processor.allocate(flat, options.max_tokens, options.allocation))
    return {
        modality: [Plan(visual.kinds, times_s, next(allocations)) for visual, times_s in of_modality]
        for modality, of_modality in visuals.items()
    }


def _visual(item: Any, modality: str, options: Options) -> tuple[Visual, tuple[float, ...]]:
    """Returns what allocation needs to know of an image or video, and the times of its frames in seconds."""
    if item is None:
        raise PromptError(f"the {modality} was not sent; its uuid is not enough, as sizes depend on all of a prompt")
    frames = frames_of(item, modality)
    size = Size(*frames[0].shape[:2])
    if modality == "image":
        return Visual(size), ()
    times_s = _times(item[1], len(frames))
    policy = POLICIES[options.policy]()
    kinds = [policy.observe(Frame(rgb, round(time * 1e9))) for rgb, time in zip(frames, times_s, strict=True)]
    return Visual.video(size, kinds), times_s


def frames_of(item: Any, modality: str) -> Sequence[UInt8Array]:
    """Returns the frames of an image or video, uint8 [H, W, 3] each."""
    if isinstance(item, Image.Image):
        return [to_rgb(item)]
    pixels = np.asarray(item if modality == "image" else item[0])
    frames = pixels[None] if modality == "image" else pixels
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        expected = "[H, W, 3]" if modality == "image" else "[frames, H, W, 3]"
        raise MediaError(f"the {modality} is {pixels.dtype} {list(pixels.shape)}, it must be uint8 {expected}")
    return list(frames)


def check_places(text: str, sent: Mapping[str, int]) -> None:
    """Raises PromptError unless a prompt has a place for each image and video; `sent` are their numbers.

    Without videos, `<video>` is a text like any other.
    """
    images, videos = text.count(IMAGE), text.count(VIDEO)
    if images != sent.get("image", 0) or videos != sent.get("video", videos):
        raise PromptError(
            f"the prompt has {images} {IMAGE} and {videos} {VIDEO}, but {sent.get('image', 0)} images and "
            f"{sent.get('video', 0)} videos were sent; each must be in it once: --chat-template {CHAT_TEMPLATE}"
        )


def _times(metadata: Mapping[str, Any], frames: int) -> tuple[float, ...]:
    times = metadata.get("timestamps")
    if times is None and metadata.get("fps") and metadata.get("frames_indices") is not None:
        times = [index / metadata["fps"] for index in metadata["frames_indices"]]
    if times is None or len(times) != frames:
        given = "no" if times is None else f"{len(times)}"
        raise MediaError(f"{given} timestamps for a video of {frames} frames; pass (frames, {{'timestamps': seconds}})")
    return tuple(map(float, times))
