"""A bag as a clip of images for `penguin-vl ask`, without a ROS installation; needs rosbags (extra `eval`)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from penguin_models.errors import MediaError
from penguin_models.media import (
    FPS,
    MAX_FRAMES,
    MAX_IMAGE_PIXELS,
    ClipFrame,
    at_first_size,
    check_sampling,
    sample_uniformly,
)
from penguin_ros.images import Decoding
from penguin_ros.recording import RecordedImage, choose_topic, read_recording

_REPLACEMENTS = 8
"""Number of undecoded images that are kept to replace a damaged one."""


class BagClip:
    """The images of one topic of a bag as a `Clip`.

    Only sampled images are decoded, and images near them in place of damaged ones.

    Attributes:
        topic: The image topic.
        bad_images: Number of images that could not be decoded so far.
    """

    def __init__(
        self,
        path: str | Path,
        topic: str | None = None,
        fps: float = FPS,
        max_frames: int = MAX_FRAMES,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ):
        """Reads the times of the topic's images and selects `fps` images per second, at most `max_frames` in total.

        The path is a bag folder, or a single .mcap, .db3 or .bag file; the topic is None if the bag has only one; an
        image with more than `max_pixels` pixels counts as damaged.
        Raises MediaError if the bag cannot be read, the topic is missing, ambiguous or empty, or a number is invalid.
        """
        check_sampling(fps, max_frames)
        recording = read_recording(Path(path), lambda bag: [choose_topic(bag, topic)])
        self._recording = replace(recording, decoding=Decoding(max_pixels=max_pixels))
        self.topic = self._recording.cameras[0]
        self._fps = fps
        self._samples = sample_stamps([ref.stamp_ns for ref in self._recording.images], fps, max_frames)
        self._bad: dict[int, str] = {}  # number of the image -> reason
        self._resized: dict[str, None] = {}  # sentences about other sizes, without repetitions

    @property
    def bad_images(self) -> int:
        """Number of images that could not be decoded so far."""
        return len(self._bad)

    @property
    def notes(self) -> list[str]:
        """Sentences about what is unusual; complete once the clip has been read."""
        skipped = [f"skipped: {self._describe_bad()}"] if self._bad else []
        return [*self._recording.notes, *self._resized, *skipped]

    def __iter__(self) -> Iterator[ClipFrame]:
        """Yields the sampled frames at the size of the first, with times in seconds since the first image.

        In place of an image that cannot be decoded, the one before it in its interval is taken. Raises MediaError if no
        image can be decoded, or the bag cannot be read to its end.
        """
        name = f"{self.topic} of bag {self._recording.path}"
        return at_first_size(self._frames(), name, lambda sentence: self._resized.update({sentence: None}))

    def _frames(self) -> Iterator[ClipFrame]:
        refs, found = self._recording.images, False
        sampled = {refs[index] for index, _ in self._samples}
        recent: deque[RecordedImage] = deque(maxlen=_REPLACEMENTS)  # since the last sample
        for image in self._recording.read(refs[: self._samples[-1][0] + 1]):
            recent.append(image)
            if image.ref in sampled:
                frame = self._first_good(recent.pop() for _ in range(len(recent)))
                recent.clear()
                if frame is not None:
                    found = True
                    yield frame
        if not found:
            frame = self._first_good(self._recording.read())
            if frame is None:
                raise MediaError(f"bag {self._recording.path}: {self._describe_bad()}")
            yield frame

    def _first_good(self, images: Iterable[RecordedImage]) -> ClipFrame | None:
        return next((frame for image in images if (frame := self._load(image)) is not None), None)

    def _describe_bad(self) -> str:
        number, reason = min(self._bad.items())
        counts = f"{len(self._bad)} of {len(self._recording.images)} images of {self.topic}"
        return f"{counts} cannot be decoded; the first is image {number}: {reason}"

    def _load(self, image: RecordedImage) -> ClipFrame | None:
        try:
            rgb = image.decode()
        except MediaError as err:
            self._bad[image.ref.number] = str(err)
            return None
        slot = math.floor((image.ref.stamp_ns - self._recording.images[0].stamp_ns) * 1e-9 * self._fps)
        return ClipFrame(slot / self._fps, rgb)


def sample_stamps(stamps_ns: Sequence[int], fps: float, max_frames: int) -> list[tuple[int, float]]:
    """Samples images as the released code samples videos: the last of each interval of 1/fps seconds.

    More than max_frames are thinned out evenly. Returns (index of the image, start of its interval in seconds since the
    first image) of each.
    """
    slots = np.floor((np.array(stamps_ns) - stamps_ns[0]) * 1e-9 * fps).astype(int)
    last_of_slot = np.flatnonzero(np.diff(slots, append=slots[-1] + 1)).tolist()
    return [(i, float(slots[i] / fps)) for i in sample_uniformly(last_of_slot, max_frames)]
