"""The images of a bag in the order of their stamps, even if they were recorded in another order.

A bag is read once for its stamps and again for each replay, so that no images are held in memory. An image without a
stamp counts at its recording time, as it would for a node that receives it then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from penguin_models.errors import EvaluationError, MediaError
from penguin_models.types import Frame
from penguin_ros.bags import choose_topic, open_bag
from penguin_ros.images import message_to_rgb

MAX_DISORDER_S = 1.0
"""Stamps that go back by more than this are a jump in time, not messages recorded out of order."""


@dataclass(frozen=True)
class ImageRef:
    """One image of a recording."""

    camera: str  # image topic
    stamp_ns: int  # capture stamp
    recorded_ns: int  # recording time
    number: int  # index among the images that are read, in recording order


@dataclass(frozen=True)
class StampedImage:
    """An image and the function that decodes it, which raises MediaError if the image is damaged."""

    ref: ImageRef
    load: Callable[[], Frame]


@dataclass(frozen=True)
class Recording:
    """The images of a bag, without their pixels."""

    path: Path
    cameras: tuple[str, ...]  # image topics that are read
    images: tuple[ImageRef, ...]  # of all cameras, in the order of their stamps
    unstamped: dict[str, int]  # number of images without a stamp of their own, by topic
    checksum: int  # CRC-32 of all messages, in recording order

    @property
    def name(self) -> str:
        """Name by which questions refer to the bag."""
        return bag_name(self.path)

    def span_ns(self, camera: str) -> tuple[int, int]:
        """Returns the stamps of a camera's first and last image."""
        stamps = [ref.stamp_ns for ref in self.images if ref.camera == camera]
        return stamps[0], stamps[-1]

    def read(self, refs: Sequence[ImageRef] | None = None) -> Iterator[StampedImage]:
        """Yields these images, or all, in the order of their stamps; `refs` must be in this order.

        Raises MediaError if the bag cannot be read to its end.
        """
        pending = deque(self.images if refs is None else refs)
        if not pending:
            return
        wanted = {ref.number: ref for ref in pending}
        recorded_ns = sorted(ref.recorded_ns for ref in self.images)  # in the order of their numbers
        start_ns = recorded_ns[min(wanted)]
        ahead: dict[int, StampedImage] = {}  # images that were recorded before one with an earlier stamp
        with open_bag(self.path) as reader:
            store = reader.typestore  # stays valid when the reader is closed, unlike reader.deserialize
            read = store.deserialize_cdr if reader.is2 else store.deserialize_ros1
            messages = reader.messages([c for c in reader.connections if c.topic in self.cameras], start=start_ns)
            for number, (connection, _, data) in enumerate(messages, start=bisect_left(recorded_ns, start_ns)):
                if number in wanted:
                    deserialize = partial(read, data, connection.msgtype)
                    ahead[number] = StampedImage(wanted[number], partial(_load, self.path, wanted[number], deserialize))
                while pending and pending[0].number in ahead:
                    yield ahead.pop(pending.popleft().number)
                if not pending:
                    break


def bag_name(path: Path) -> str:
    """Returns the name of a bag's folder, or of its file without the suffix."""
    return path.resolve().name if path.is_dir() else path.stem


def open_recording(path: Path, topics: Sequence[str | None]) -> Recording:
    """Reads the stamps of the images on some topics of a bag; None stands for its only image topic.

    Raises:
        MediaError: The bag cannot be read, a message in it is damaged, or a topic has no images.
        EvaluationError: A topic is missing or ambiguous, or time jumps back.
    """
    refs: list[ImageRef] = []
    unstamped: dict[str, int] = {}
    checksum = 0
    with open_bag(path) as reader:
        try:
            cameras = tuple(dict.fromkeys(choose_topic(path, reader, topic, option="--camera") for topic in topics))
        except MediaError as err:
            raise EvaluationError(str(err)) from err
        connections = [c for c in reader.connections if c.topic in cameras]
        for number, (connection, recorded_ns, data) in enumerate(reader.messages(connections)):
            checksum = crc32(data, checksum)
            stamp = reader.deserialize(data, connection.msgtype).header.stamp
            stamp_ns = int(stamp.sec) * 10**9 + int(stamp.nanosec)
            if stamp_ns == 0:
                stamp_ns = recorded_ns
                unstamped[connection.topic] = unstamped.get(connection.topic, 0) + 1
            refs.append(ImageRef(connection.topic, stamp_ns, recorded_ns, number))
    for camera in cameras:
        _check_order(path, camera, [ref.stamp_ns for ref in refs if ref.camera == camera])
    refs.sort(key=lambda ref: (ref.stamp_ns, ref.number))
    return Recording(path, cameras, tuple(refs), unstamped, checksum)


def _check_order(path: Path, camera: str, stamps_ns: Sequence[int]) -> None:
    if not stamps_ns:
        raise MediaError(f"bag {path} has no images on {camera}")
    back_s = (np.maximum.accumulate(stamps_ns) - np.array(stamps_ns)) * 1e-9
    if back_s.max() > MAX_DISORDER_S:
        index = int(np.argmax(back_s > MAX_DISORDER_S))
        raise EvaluationError(
            f"bag {path}: time jumps back by {back_s[index]:.1f} s at image {index} of {camera}; split the bag there, "
            "because times in a bag must be unique"
        )


def _load(path: Path, ref: ImageRef, deserialize: Callable[[], Any]) -> Frame:
    try:
        message = deserialize()
        return Frame(message_to_rgb(message), ref.stamp_ns, ref.camera, message.header)
    except MediaError as err:
        raise MediaError(f"bag {path}, an image of {ref.camera} with stamp {ref.stamp_ns}: {err}") from err
