"""One sample -> token ids, labels and patches, with the media sizes that inference would choose.

Works in two steps: `measure` finds the sizes (the frames of clips are labelled), which a length index can store;
`encode` reads the pixels, each frame once. Does not need torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from penguin_models.chat import checked_text
from penguin_models.errors import DataError, MediaError
from penguin_models.images import patch_image
from penguin_models.media import (
    Clip,
    ClipFrame,
    VideoFile,
    at_first_size,
    load_image,
    open_image,
    orientation,
    sample_uniformly,
    warn_once,
)
from penguin_models.processor import IGNORE_INDEX, VIDEO_MERGE_SIZE, Processor, Visual
from penguin_models.token_allocation import Allocation
from penguin_models.types import Frame, FrameKind, Int64Array, PatchedImage, Size, UInt8Array
from penguin_training.data.annotations import FORMS, Annotation
from penguin_training.data.frame_folder import FrameFolder, at_rate
from penguin_training.data.independent_turns import encode_independent_turns, split_turns
from penguin_training.data.media_reference import MediaReference
from penguin_training.data.memory_clips import POLICIES, DrawnMemory, draw_memory, through_memory
from penguin_training.data.questions import Question, questions_of
from penguin_training.settings.data import DataSettings

END_OF_TEXT = "<|endoftext|>"
_ALL_FRAMES = 10**9  # of a clip on its way through a memory, which bounds them itself
_REMEASURE = "rebuild the length index with `penguin-vl prepare lengths STAGE.yaml --again`"


@dataclass(frozen=True)
class MediaInfo:
    """What is known of an image or clip before its pixels are read; `times_s` of its frames is empty for an image."""

    visual: Visual
    times_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class MeasuredSample:
    """The lengths of a sample."""

    tokens: int  # Length of its sequence, visual tokens included; 0 if the decoder does not see it
    visual_tokens: int
    patches: int
    media: tuple[MediaInfo, ...]  # One for each image or clip

    @property
    def size(self) -> int:
        """What it takes of a token budget."""
        return max(self.tokens, self.visual_tokens)


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """A sample as the model reads it."""

    ids: Int64Array  # int64 [tokens]; empty if the decoder does not see it
    labels: Int64Array  # int64 [tokens], -100 where nothing is learnt
    images: tuple[PatchedImage, ...]  # Patches of its frames, in the order of their placeholders in `ids`
    # Tokens of each independent turn after the shared tokens; empty if turns see the earlier ones
    turns: tuple[int, ...] = ()
    dropped_turns: int = 0  # See `Annotation.dropped_turns`
    questions: tuple[Question, ...] = ()  # One for each independent turn, if answers are to be sampled


@dataclass(frozen=True, eq=False)
class SampleReader:
    """Measures and encodes samples for one stage; can be sent to worker processes."""

    processor: Processor
    data: DataSettings
    max_tokens: int  # Maximum length of a sample
    max_visual_tokens: int  # Maximum number of visual tokens of a sample
    multimodal: bool = True  # Whether the stage has an encoder
    reconstructs: bool = True  # Whether the stage can use media without a conversation
    seed: int = 0  # Of what is drawn at random
    rewards: bool = False  # Whether answers are sampled: each question is then a turn by itself

    def through_memory(self, annotation: Annotation) -> Annotation:
        """Returns a sample with its clip as a robot's memory holds it, if the settings say so and it is not yet."""
        settings = self.data.memory
        if settings is None or not any(reference.is_clip and not reference.held for reference in annotation.media):
            return annotation

        def draw(number: int) -> DrawnMemory:
            return draw_memory(settings, self.processor.images, annotation.id, self.seed, number)

        return through_memory(annotation, lambda rate_hz: self._clip(annotation.media[0], rate_hz, _ALL_FRAMES), draw)

    def measure(self, annotation: Annotation) -> MeasuredSample:
        """Returns the lengths of a sample, or raises an error; reads the frames of clips, but no pixels of images."""
        if annotation.media and not self.multimodal:
            raise DataError("it has images or videos, which a text stage cannot use")
        if not annotation.has_text and not self.reconstructs:
            raise DataError(
                f"it has none of {FORMS}, only {', '.join(annotation.keys)}, and the stage has no reconstruction; "
                "convert it, or filter samples with `only`"
            )
        if self.rewards:
            questions_of(annotation)  # raises an error if there are none to sample answers to
        annotation = self.through_memory(annotation)
        frames = [(tokens, VIDEO_MERGE_SIZE) for tokens in self._held_tokens(annotation)]
        media = tuple(self._inspect(reference) for reference in annotation.media)
        if not frames:
            visuals = [info.visual for info in media]
            frames = [
                (allocation.tokens(kind), visual.merge_size)
                for visual, allocation in zip(visuals, self._allocate(visuals), strict=True)
                for kind in visual.kinds
            ]
        tokens = [count for count, _ in frames]
        ids, _, _ = self._ids(annotation, media, tokens)
        patches = sum(count * merge_size**2 for count, merge_size in frames)
        measured = MeasuredSample(len(ids), sum(tokens), patches, media)
        if measured.size > self.max_tokens:
            raise DataError(
                f"it has {measured.size} tokens, the limit is {self.max_tokens}: shorten it, or raise budgets.tokens "
                "(at most to the decoder's context)"
            )
        return measured

    def encode(self, annotation: Annotation, measured: MeasuredSample) -> EncodedSample:
        """Reads a measured sample; raises PenguinError if its media cannot be read, or have changed since then."""
        annotation = self.through_memory(annotation)
        images = self._held_images(annotation, measured) if _is_held(annotation) else self._images(annotation, measured)
        ids, labels, turns = self._ids(annotation, measured.media, [image.tokens for image in images])
        if len(ids) != measured.tokens:
            raise DataError(f"it has {len(ids)} tokens, but had {measured.tokens} when it was measured; {_REMEASURE}")
        questions = questions_of(annotation) if self.rewards else ()
        return EncodedSample(ids, labels, tuple(images), turns, annotation.dropped_turns, questions)

    def _images(self, annotation: Annotation, measured: MeasuredSample) -> list[PatchedImage]:
        allocations = self._allocate([info.visual for info in measured.media])
        images: list[PatchedImage] = []
        for reference, info, allocation in zip(annotation.media, measured.media, allocations, strict=True):
            images += self.processor.patch(self._frames(reference, info), info.visual.kinds, allocation)
        return images

    def _held_images(self, annotation: Annotation, measured: MeasuredSample) -> list[PatchedImage]:
        """Returns the patches of the frames that a memory holds, each at its own size."""
        (reference,), (info,) = annotation.media, measured.media
        if _times(reference) != info.times_s:
            raise DataError(f"{reference.path} has changed since it was measured; {_REMEASURE}")
        images = self.processor.images
        return [patch_image(rgb, Size(*rgb.shape[:2]), VIDEO_MERGE_SIZE, images) for _, rgb in reference.frames]

    def _held_tokens(self, annotation: Annotation) -> list[int]:
        """Returns the visual tokens of each frame that a memory holds; none if the sample shows others."""
        if not _is_held(annotation):
            return []
        if len(annotation.media) != 1:
            raise DataError(f"it shows {len(annotation.media)} images and videos; held frames must be shown alone")
        side = self.processor.images.patch_size * VIDEO_MERGE_SIZE
        tokens = []
        for _, rgb in annotation.media[0].frames:
            height, width = rgb.shape[:2]
            if height % side or width % side:
                raise DataError(f"a held frame has {width}x{height} pixels, but its sides must be multiples of {side}")
            tokens.append(height * width // side**2)
        if sum(tokens) > self.max_visual_tokens:
            raise DataError(
                f"its frames have {sum(tokens)} visual tokens, the limit is {self.max_visual_tokens}: "
                "raise budgets.visual_tokens, or hold fewer"
            )
        return tokens

    def _inspect(self, reference: MediaReference) -> MediaInfo:
        if reference.held:
            kinds = [FrameKind.KEY] * len(reference.frames)  # of no consequence: each frame has its size already
            source_size = Size(*reference.frames[0].rgb.shape[:2])
            return MediaInfo(Visual.video(source_size, kinds), _times(reference))
        if not reference.is_clip:
            return MediaInfo(Visual(_image_size(reference, self.data.max_image_pixels)))
        policy = POLICIES[self.data.keyframe_policy]()
        kinds, times, size = [], [], None
        for time_s, rgb in self._clip(reference, self.data.fps, self.data.max_frames):
            frame = Frame(rgb, round(time_s * 1e9))
            kinds.append(policy.observe(frame))
            times.append(time_s)
            size = frame.size
        if size is None:
            raise MediaError(f"{reference.path} has no frames")
        return MediaInfo(Visual.video(size, kinds), tuple(times))

    def _clip(self, reference: MediaReference, fps: float, max_frames: int) -> Iterator[ClipFrame]:
        clip: Clip
        if reference.frames:
            clip = sample_uniformly([*at_rate(reference.frames, fps)], max_frames)
        else:
            clip_class = FrameFolder if reference.path.is_dir() else VideoFile
            clip = clip_class(reference.path, fps, max_frames, self.data.max_image_pixels)
        yield from at_first_size(clip, f"clip {reference.path}")
        for note in clip.notes if isinstance(clip, VideoFile) else ():
            warn_once(note)

    def _frames(self, reference: MediaReference, info: MediaInfo) -> Iterator[UInt8Array]:
        """Yields the frames, which must be as they were measured."""
        is_file = not (reference.is_clip or reference.frames)
        max_pixels = self.data.max_image_pixels
        clip = self._clip(reference, self.data.fps, self.data.max_frames)
        frames = [load_image(reference.path, max_pixels)] if is_file else (rgb for _, rgb in clip)
        for rgb, kind in zip_longest(frames, info.visual.kinds):
            if rgb is None or kind is None or rgb.shape[:2] != tuple(info.visual.source_size):
                raise DataError(f"{reference.path} has changed since it was measured; {_REMEASURE}")
            yield rgb

    def _allocate(self, visuals: Sequence[Visual]) -> list[Allocation]:
        return self.processor.allocate(visuals, self.max_visual_tokens, self.data.sizes)

    def _ids(
        self, annotation: Annotation, media: Sequence[MediaInfo], visual_tokens: Sequence[int]
    ) -> tuple[Int64Array, Int64Array, tuple[int, ...]]:
        """Returns the ids, labels and turns of an `EncodedSample`."""
        if annotation.text is not None:
            ids = np.array([*self.processor.encode_text(checked_text(annotation.text)), self._end_of_text()], np.int64)
            return ids, ids, ()
        if annotation.messages is None:
            return np.empty(0, np.int64), np.empty(0, np.int64), ()
        messages = _with_times(annotation.messages, media)
        turns: tuple[int, ...] = ()
        if annotation.independent_turns or self.rewards:
            split = split_turns(messages) if annotation.independent_turns else [messages]  # one question, see `measure`
            ids, labels, turns = encode_independent_turns(self.processor, split, visual_tokens)
        else:
            ids, labels = self.processor.training_ids(messages, visual_tokens)
        if self.data.train_on == "all":
            labels = np.where(ids == self.processor.image_token_id, IGNORE_INDEX, ids)
        return ids, labels, turns

    def _end_of_text(self) -> int:
        end = self.processor.tokenizer.token_to_id(END_OF_TEXT)
        return self.processor.end_token_ids[0] if end is None else int(end)


def _is_held(annotation: Annotation) -> bool:
    return any(reference.held for reference in annotation.media)


def _times(reference: MediaReference) -> tuple[float, ...]:
    return tuple(time_s for time_s, _ in reference.frames) if reference.timed else ()


def _with_times(messages: Sequence[Any], media: Sequence[MediaInfo]) -> list[dict[str, Any]]:
    """Fills in the frame times of the videos in a conversation."""
    remaining = iter(media)

    def fill(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            return part
        info = next(remaining)
        if part["type"] != "video":
            return part
        times = {"timestamps": info.times_s} if info.times_s else {}
        return {**part, "num_frames": len(info.visual.kinds), **times}

    return [
        message if isinstance(message["content"], str) else {**message, "content": [*map(fill, message["content"])]}
        for message in messages
    ]


def _image_size(reference: MediaReference, max_pixels: int) -> Size:
    """Reads the size of an image from its header, with its EXIF orientation applied."""
    if reference.frames:
        height, width = reference.frames[0][1].shape[:2]
        return Size(height, width)
    with open_image(reference.path, max_pixels) as image:
        # For a PNG, Pillow would decode all pixels to look for EXIF data after them, where nobody writes it.
        has_exif = image.format != "PNG" or "exif" in image.info
        rotated = has_exif and orientation(image, f"image {reference.path}") >= 5
        width, height = reversed(image.size) if rotated else image.size
    return Size(height, width)
