"""Reads images from recorded bags (rosbag2 sqlite3 and mcap, compressed or not, and ROS 1) without a ROS installation.

Needs the package rosbags (extra `eval`), which is imported when the first bag is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penguin_models.errors import MediaError, PenguinError
from penguin_models.media import FPS, MAX_FRAMES, ClipFrame, check_sampling, sample_uniformly
from penguin_ros.images import message_to_rgb

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class BagClip:
    """The images of one topic of a bag as a `Clip`, sampled by recording time. Only sampled images are decoded."""

    def __init__(self, path: str | Path, topic: str | None = None, fps: float = FPS, max_frames: int = MAX_FRAMES):
        """Reads the recording times of the topic and selects `fps` images per second, at most `max_frames` in total.

        The path is a bag folder, or a single .mcap, .db3 or .bag file; the topic is None if the bag has only one.
        Raises MediaError if the bag cannot be read, the topic is missing, ambiguous or empty, or a number is invalid.
        """
        check_sampling(fps, max_frames)
        self._path = Path(path)
        with open_bag(self._path) as reader:
            self.topic = choose_topic(self._path, reader, topic)
            stamps_ns = [stamp_ns for _, stamp_ns, _ in self._messages(reader)]
        if not stamps_ns:
            raise MediaError(f"bag {self._path} has no images on {self.topic}")
        self._times_s = dict(sample_stamps(stamps_ns, fps, max_frames))

    def __iter__(self) -> Iterator[ClipFrame]:
        """Yields the sampled frames, with times in seconds since the first image, or raises MediaError."""
        with open_bag(self._path) as reader:
            for index, (connection, _, data) in enumerate(self._messages(reader)):
                if index not in self._times_s:
                    continue
                try:
                    rgb = message_to_rgb(reader.deserialize(data, connection.msgtype))
                except Exception as err:  # the parser raises many types of error on damaged bytes
                    reason = str(err) if isinstance(err, MediaError) else f"the message cannot be read: {_reason(err)}"
                    raise MediaError(f"bag {self._path}, image {index} of {self.topic}: {reason}") from err
                yield ClipFrame(self._times_s[index], rgb)

    def _messages(self, reader: AnyReader) -> Iterator[tuple[Any, int, bytes]]:
        yield from reader.messages([c for c in reader.connections if c.topic == self.topic])


def sample_stamps(stamps_ns: Sequence[int], fps: float, max_frames: int) -> list[tuple[int, float]]:
    """Samples images as the released code samples videos: the last of each interval of 1/fps seconds.

    More than max_frames are thinned out evenly. Returns (index of the image, start of its interval in seconds since the
    first image) of each.
    """
    slots = np.floor((np.array(stamps_ns) - stamps_ns[0]) * 1e-9 * fps).astype(int)
    last_of_slot = np.flatnonzero(np.diff(slots, append=slots[-1] + 1)).tolist()
    return [(i, float(slots[i] / fps)) for i in sample_uniformly(last_of_slot, max_frames)]


@contextmanager
def open_bag(path: Path) -> Iterator[AnyReader]:
    """Opens a bag; raises MediaError if rosbags is not installed, or the bag is missing, empty or corrupt."""
    try:
        from rosbags.highlevel import AnyReader

        from penguin_ros.message_types import typestore
    except ImportError as err:
        raise MediaError("reading bags needs the Python package rosbags: pip install rosbags") from err
    if not path.exists():
        raise MediaError(f"bag {path} does not exist")
    if path.is_file() and path.stat().st_size == 0:
        raise MediaError(f"bag {path} is empty (0 bytes)")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise MediaError(f"{path} has no metadata.yaml; give the folder of a bag, or its .mcap or .db3 file")
    try:
        # Bags without message definitions (sqlite3 before Iron) are read with the types of the default typestore.
        reader = AnyReader([path], default_typestore=typestore())
        reader.open()
    except Exception as err:
        raise MediaError(f"bag {path} cannot be read: {_reason(err)}{_recovery_hint(path)}") from err
    try:
        yield reader
    except PenguinError:
        raise
    except Exception as err:
        raise MediaError(f"bag {path} cannot be read to its end: {_reason(err)}{_recovery_hint(path)}") from err
    finally:
        reader.close()


def choose_topic(path: Path, reader: AnyReader, topic: str | None, option: str = "--topic") -> str:
    """Returns the requested image topic of an opened bag, or its only one if None is requested.

    Raises MediaError if there is no such image topic, or several and none was requested; the message names the option
    that chooses a topic.
    """
    types: dict[str, str] = {c.topic: c.msgtype for c in reader.connections}
    images = sorted(name for name, kind in types.items() if kind in IMAGE_TYPES)
    if not images:
        listing = ", ".join(f"{name} ({kind})" for name, kind in sorted(types.items())) or "none"
        raise MediaError(f"bag {path} has no image topic; its topics: {listing}")
    if topic is None:
        if len(images) > 1:
            raise MediaError(f"bag {path} has several image topics, choose one with {option}: {', '.join(images)}")
        return images[0]
    if topic not in types:
        raise MediaError(f"bag {path} has no topic {topic}; its image topics: {', '.join(images)}")
    if topic not in images:
        raise MediaError(
            f"topic {topic} of bag {path} is {types[topic]}, not an image; image topics: {', '.join(images)}"
        )
    return topic


def _recovery_hint(path: Path) -> str:
    """Names the command that can repair an MCAP file whose end is missing, as after a crash."""
    files = [path] if path.suffix == ".mcap" else sorted(path.glob("*.mcap"))
    return f"; to recover what it holds, run: mcap recover {files[0]} -o recovered.mcap" if files else ""


def _reason(err: Exception) -> str:
    return f"{type(err).__name__}: {' '.join(str(err).split())}".rstrip(": ")
