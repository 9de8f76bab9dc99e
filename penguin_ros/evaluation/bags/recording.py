"""The images of a bag in the order of their stamps, whatever the order in which they were recorded.

A bag is read once to learn the stamps, and again for each replay; between the two nothing is held but numbers. An
image without a stamp counts at the time when it was recorded, as it would for a node that receives it.
"""

from __future__ import annotations

from bisect import bisect_left
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
"""Stamps that go back by more than this are no disorder: time jumped."""


@dataclass(frozen=True)
class ImageRef:
    """One image of a recording.

    Attributes:
        camera: its topic.
        stamp_ns: of capture.
        recorded_ns: when it was recorded.
        number: its place in the bag among the images of all cameras that are read.
    """

    camera: str
    stamp_ns: int
    recorded_ns: int
    number: int


@dataclass(frozen=True)
class StampedImage:
    """An image and a function that decodes it, which raises MediaError where it is damaged."""

    ref: ImageRef
    load: Callable[[], Frame]


@dataclass(frozen=True)
class Recording:
    """What is known of a bag.

    Attributes:
        path: of the bag.
        cameras: image topics that are read.
        images: of all of them, in the order of their stamps.
        unstamped: images by topic that have no stamp of their own.
        checksum: CRC-32 of all messages, in the order of their recording.
    """

    path: Path
    cameras: tuple[str, ...]
    images: tuple[ImageRef, ...]
    unstamped: dict[str, int]
    checksum: int

    @property
    def name(self) -> str:
        """Name of the bag's folder or file, by which questions know it."""
        return bag_name(self.path)

    def span_ns(self, camera: str) -> tuple[int, int]:
        """Stamps of a camera's first and last image."""
        stamps = [ref.stamp_ns for ref in self.images if ref.camera == camera]
        return stamps[0], stamps[-1]

    def read(self, refs: Sequence[ImageRef] | None = None) -> Iterator[StampedImage]:
        """Reads images, in the order of their stamps; those between them are skipped without being decoded.

        Args:
            refs: some of `images`, in the same order; all if None.

        Raises:
            MediaError: the bag cannot be read to its end.
        """
        refs = self.images if refs is None else refs
        if not refs:
            return
        wanted = {ref.number: ref for ref in refs}
        ahead: dict[int, StampedImage] = {}  # images whose stamp is later than that of one recorded after them
        turn = iter(refs)
        due: ImageRef | None = next(turn)
        start_ns, before = self._start(min(wanted))
        with open_bag(self.path) as reader:
            store = reader.typestore  # the reader forgets it when it is closed
            read = store.deserialize_cdr if reader.is2 else store.deserialize_ros1
            messages = reader.messages(self._connections(reader), start=start_ns)
            for number, (connection, _, data) in enumerate(messages, start=before):
                if number in wanted:
                    deserialize = partial(read, data, connection.msgtype)
                    ahead[number] = StampedImage(wanted[number], partial(_load, self.path, wanted[number], deserialize))
                while due is not None and due.number in ahead:
                    yield ahead.pop(due.number)
                    due = next(turn, None)
                if due is None:
                    break

    def _start(self, first: int) -> tuple[int, int]:
        """From when to read so that an image is reached soon, and how many images were recorded before."""
        recorded = [ref.recorded_ns for ref in sorted(self.images, key=lambda ref: ref.number)]
        start_ns = recorded[first]
        return start_ns, bisect_left(recorded, start_ns)

    def _connections(self, reader: Any) -> list[Any]:
        return [c for c in reader.connections if c.topic in self.cameras]


def bag_name(path: Path) -> str:
    """Name of a bag: of its folder, or of its file without the ending."""
    return path.resolve().name if path.is_dir() else path.stem


def open_recording(path: Path, topics: Sequence[str | None]) -> Recording:
    """Reads the stamps of a bag's images.

    Args:
        path: a bag folder, or a single .mcap or .db3 file.
        topics: image topics to read; None stands for the only one there is.

    Raises:
        MediaError: the bag cannot be read, a message in it is damaged, or a topic has no images.
        EvaluationError: a topic is missing or ambiguous; those there are, are listed. Or time jumps back.
    """
    refs, unstamped, checksum = [], dict[str, int](), 0
    with open_bag(path) as reader:
        try:
            cameras = tuple(dict.fromkeys(choose_topic(path, reader, topic, by="--camera") for topic in topics))
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
        _check_order(path, camera, [ref for ref in refs if ref.camera == camera])
    refs.sort(key=lambda ref: (ref.stamp_ns, ref.number))
    return Recording(path, cameras, tuple(refs), unstamped, checksum)


def _check_order(path: Path, camera: str, refs: Sequence[ImageRef]) -> None:
    if not refs:
        raise MediaError(f"bag {path} has no images on {camera}")
    stamps = np.array([ref.stamp_ns for ref in refs])
    back_s = (np.maximum.accumulate(stamps) - stamps) * 1e-9
    if back_s.max() > MAX_DISORDER_S:
        at = int(np.argmax(back_s > MAX_DISORDER_S))
        raise EvaluationError(
            f"bag {path}: time jumps back by {back_s[at]:.1f} s at image {at} of {camera}; split the bag there: "
            "times in it must be unique"
        )


def _load(path: Path, ref: ImageRef, deserialize: Callable[[], Any]) -> Frame:
    try:
        message = deserialize()
        return Frame(message_to_rgb(message), ref.stamp_ns, ref.camera, message.header)
    except MediaError as err:
        raise MediaError(f"bag {path}, an image of {ref.camera} with stamp {ref.stamp_ns}: {err}") from err
