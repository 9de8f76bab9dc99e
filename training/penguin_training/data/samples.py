"""One sample -> token ids, labels and patches, with the sizes that inference would give its pictures.

Done in two parts: `measure` finds the sizes (for a clip its frames are labelled), which a length index can keep;
`encode` reads the pixels, each frame once. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from penguin_models.chat import checked_text
from penguin_models.errors import DataError, MediaError
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.media import DECODING_ERRORS, Clip, VideoFile, load_image, sample_uniformly
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import IGNORE_INDEX, Processor, Visual
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.token_allocation import Allocation
from penguin_models.types import Frame, Int64Array, PatchedImage, Size, UInt8Array
from penguin_training.data.annotations import Annotation, Picture
from penguin_training.data.frame_folder import FrameFolder
from penguin_training.data.independent_turns import encode_independent_turns
from penguin_training.settings.data import DataSettings

POLICIES: dict[str, Callable[[], KeyframePolicy]] = {"novelty": NoveltyPolicy, "reference": ReferencePolicy}
END_OF_TEXT = "<|endoftext|>"
_AGAIN = "make the length index again: `penguin-vl prepare lengths STAGE.yaml --again`"
_ORIENTATION = 0x0112  # EXIF; 5 to 8 are turned by a quarter


@dataclass(frozen=True)
class Shown:
    """What is known of a picture before its pixels are read.

    Attributes:
        visual: native size, kinds of frames, merge size.
        times_s: time of each frame of a clip in seconds; empty for an image.
    """

    visual: Visual
    times_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measured:
    """How long a sample is.

    Attributes:
        tokens: of its sequence, visual tokens included; 0 where the decoder does not see it.
        visual_tokens: of its pictures.
        patches: of its pictures.
        shown: one for each picture.
    """

    tokens: int
    visual_tokens: int
    patches: int
    shown: tuple[Shown, ...]

    @property
    def size(self) -> int:
        """What it takes of a budget of tokens."""
        return max(self.tokens, self.visual_tokens)


@dataclass(frozen=True, eq=False)
class Example:
    """A sample as the model reads it.

    Attributes:
        id: of the sample.
        ids: int64 [tokens]; empty where the decoder does not see it.
        labels: int64 [tokens], -100 where nothing is learnt.
        images: patches of its frames, in the order of their places in `ids`.
        turns: tokens of each turn behind what all turns share; empty where turns see those before them.
    """

    id: str
    ids: Int64Array
    labels: Int64Array
    images: tuple[PatchedImage, ...]
    turns: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class SampleReader:
    """Measures and encodes samples for one stage; can be sent to worker processes.

    Attributes:
        processor: of the model that is trained.
        data: how clips are sampled, sizes allotted, and what is learnt.
        max_tokens: longest sample.
        max_visual_tokens: of one sample.
        sees: whether the stage shows pictures to the model.
        reconstructs: whether the stage can use pictures without a conversation.
    """

    processor: Processor
    data: DataSettings
    max_tokens: int
    max_visual_tokens: int
    sees: bool = True
    reconstructs: bool = True

    def measure(self, annotation: Annotation) -> Measured:
        """Sizes of a sample; reads no pixels of images, but all frames of clips.

        Raises:
            DataError: the stage cannot use it, or it is longer than `max_tokens`.
            PenguinError: its pictures cannot be read or do not fit the budget, or its conversation is malformed.
        """
        if annotation.pictures and not self.sees:
            raise DataError("a text stage has no use for pictures")
        if not annotation.has_text and not self.reconstructs:
            raise DataError("it has no conversation, and the stage reconstructs nothing; choose samples with `only`")
        shown = tuple(self._look_at(picture) for picture in annotation.pictures)
        visuals = [s.visual for s in shown]
        allocations = self._allocate(visuals)
        patches = [
            allocation.tokens(kind) * visual.merge_size**2
            for visual, allocation in zip(visuals, allocations, strict=True)
            for kind in visual.kinds
        ]
        tokens = [a.tokens(kind) for v, a in zip(visuals, allocations, strict=True) for kind in v.kinds]
        ids, _, _ = self._ids(annotation, shown, tokens)
        measured = Measured(len(ids), sum(tokens), sum(patches), shown)
        if measured.size > self.max_tokens:
            raise DataError(
                f"it has {measured.size} tokens, {self.max_tokens} are allowed: shorten it, or raise budgets.tokens "
                "(at most to the decoder's context)"
            )
        return measured

    def encode(self, annotation: Annotation, measured: Measured) -> Example:
        """Reads a sample whose sizes are known.

        Raises:
            DataError: a picture is not what was measured.
            PenguinError: as `measure`.
        """
        allocations = self._allocate([shown.visual for shown in measured.shown])
        images: list[PatchedImage] = []
        for picture, shown, allocation in zip(annotation.pictures, measured.shown, allocations, strict=True):
            frames = self._frames(picture, shown)
            images += self.processor.patch(frames, shown.visual.kinds, allocation)
        ids, labels, turns = self._ids(annotation, measured.shown, [image.tokens for image in images])
        if len(ids) != measured.tokens:
            raise DataError(f"it has {len(ids)} tokens, {measured.tokens} when it was measured; {_AGAIN}")
        return Example(annotation.id, ids, labels, tuple(images), turns)

    def _look_at(self, picture: Picture) -> Shown:
        if not picture.is_clip:
            return Shown(Visual(_image_size(picture)))
        policy = POLICIES[self.data.key_frames]()
        kinds, times, size = [], [], None
        for time_s, rgb in self._clip(picture):
            frame = Frame(rgb, round(time_s * 1e9))
            if size not in (None, frame.size):
                raise MediaError(f"{picture.path}: a frame of {frame.size} follows frames of {size}")
            kinds.append(policy.observe(frame))
            times.append(time_s)
            size = frame.size
        if size is None:
            raise MediaError(f"{picture.path} has no frames")
        return Shown(Visual.video(size, kinds), tuple(times))

    def _clip(self, picture: Picture) -> Clip:
        if picture.frames:
            return sample_uniformly(picture.frames, self.data.max_frames)
        of = FrameFolder if picture.path.is_dir() else VideoFile
        return of(picture.path, self.data.fps, self.data.max_frames)

    def _frames(self, picture: Picture, shown: Shown) -> Iterator[UInt8Array]:
        """Frames of a picture, which must be as they were measured."""
        moving = picture.is_clip or bool(picture.frames)
        frames = (rgb for _, rgb in self._clip(picture)) if moving else iter([load_image(picture.path)])
        for _ in shown.visual.kinds:
            rgb = next(frames, None)
            if rgb is None or rgb.shape[:2] != tuple(shown.visual.source_size):
                break
            yield rgb
        else:
            if next(frames, None) is None:
                return
        raise DataError(f"{picture.path} has changed since it was measured; {_AGAIN}")

    def _allocate(self, visuals: Sequence[Visual]) -> list[Allocation]:
        return self.processor.allocate(visuals, self.max_visual_tokens, self.data.sizes)

    def _ids(
        self, annotation: Annotation, shown: Sequence[Shown], visual_tokens: Sequence[int]
    ) -> tuple[Int64Array, Int64Array, tuple[int, ...]]:
        """Ids, labels and turns of an `Example`; empty where the decoder does not see the sample."""
        if annotation.text is not None:
            ids = np.array([*self.processor.encode_text(checked_text(annotation.text)), self._end_of_text()], np.int64)
            return ids, ids, ()
        if annotation.messages is None:
            return np.empty(0, np.int64), np.empty(0, np.int64), ()
        messages, turns = _with_times(annotation.messages, shown), ()
        if annotation.independent_turns:
            ids, labels, turns = encode_independent_turns(self.processor, messages, visual_tokens)
        else:
            ids, labels = self.processor.training_ids(messages, visual_tokens)
        if self.data.train_on == "all":
            labels = np.where(ids == self.processor.image_token_id, IGNORE_INDEX, ids)
        return ids, labels, turns

    def _end_of_text(self) -> int:
        end = self.processor.tokenizer.token_to_id(END_OF_TEXT)
        return self.processor.end_token_ids[0] if end is None else int(end)


def _with_times(messages: Sequence[Any], shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """The conversation with frames and times of its videos filled in."""
    rest = iter(shown)
    filled = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            parts = []
            for part in content:
                if part["type"] == "text":
                    parts.append(part)
                    continue
                times = next(rest).times_s
                video = {"type": "video", "num_frames": len(times), "timestamps": times}
                parts.append(video if part["type"] == "video" else part)
            content = parts
        filled.append({**message, "content": content})
    return filled


def _image_size(picture: Picture) -> Size:
    """Size of an image as it is meant to be seen, from its header."""
    if picture.frames:
        height, width = picture.frames[0][1].shape[:2]
        return Size(height, width)
    try:
        with Image.open(picture.path) as image:
            # Pillow decodes a whole PNG to look for EXIF behind its pixels, where nobody writes it.
            known = image.format != "PNG" or "exif" in image.info
            turned = known and image.getexif().get(_ORIENTATION, 1) >= 5
            width, height = reversed(image.size) if turned else image.size
    except FileNotFoundError as err:
        raise MediaError(f"image {picture.path} does not exist") from err
    except (*DECODING_ERRORS, Image.DecompressionBombError) as err:
        raise MediaError(f"image {picture.path} cannot be read: {err}") from err
    return Size(height, width)
