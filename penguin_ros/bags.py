"""Recorded bags (rosbag2: sqlite3, mcap, compressed) -> frames, through `rosbags`; no ROS installation needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader

from penguin_models.errors import MediaError, PenguinError
from penguin_models.media import FPS, MAX_FRAMES, ClipFrame, check_sampling
from penguin_ros.images import message_to_rgb
from penguin_ros.message_types import typestore

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class BagClip:
    """One image topic of a bag as a `Clip`.

    Sampled by the times at which messages were recorded: of each span of 1/fps seconds the last message, as the
    released code samples videos; then evenly, where there are more than max_frames. Only sampled images are decoded.
    """

    def __init__(self, path: str | Path, topic: str | None = None, fps: float = FPS, max_frames: int = MAX_FRAMES):
        """Finds the topic and chooses the messages.

        Args:
            path: a bag folder, or a single .mcap or .db3 file.
            topic: image topic; may be left out where the bag has only one.
            fps: sampled frames per second of recording.
            max_frames: most frames.

        Raises:
            MediaError: the bag cannot be read, or has no such topic or no image topic (its topics are listed), or no
                images on it; or fps or max_frames is not positive.
        """
        check_sampling(fps, max_frames)
        self._path = Path(path)
        with open_bag(self._path) as reader:
            self.topic = choose_topic(self._path, reader, topic)
            stamps = [stamp for _, stamp, _ in reader.messages(self._connections(reader))]
        if not stamps:
            raise MediaError(f"bag {self._path} has no images on {self.topic}")
        self._start_ns = stamps[0]
        slots = np.floor((np.array(stamps) - stamps[0]) * 1e-9 * fps).astype(int)
        last_of_slot = np.flatnonzero(np.diff(slots, append=slots[-1] + 1))
        if len(last_of_slot) > max_frames:
            last_of_slot = last_of_slot[np.linspace(0, len(last_of_slot) - 1, max_frames, dtype=int)]
        self._times_s = {int(i): float(slots[i] / fps) for i in last_of_slot}

    def __iter__(self) -> Iterator[ClipFrame]:
        """Reads the bag and yields the sampled frames; times are seconds from the first image.

        Raises:
            MediaError: an image cannot be decoded; it is named.
        """
        with open_bag(self._path) as reader:
            for index, (connection, _, data) in enumerate(reader.messages(self._connections(reader))):
                if index in self._times_s:
                    yield ClipFrame(self._times_s[index], self._decode(reader, connection, data, index))

    def _connections(self, reader: AnyReader) -> list[Any]:
        return [c for c in reader.connections if c.topic == self.topic]

    def _decode(self, reader: AnyReader, connection: Any, data: bytes, index: int) -> Any:
        try:
            return message_to_rgb(reader.deserialize(data, connection.msgtype))
        except Exception as err:  # whatever a parser makes of damaged bytes
            reason = str(err) if isinstance(err, MediaError) else f"the message cannot be read: {_reason(err)}"
            raise MediaError(f"bag {self._path}, image {index} of {self.topic}: {reason}") from err


@contextmanager
def open_bag(path: Path) -> Iterator[AnyReader]:
    """Opens a bag.

    Raises:
        MediaError: it is missing, empty, corrupt or no bag.
    """
    if not path.exists():
        raise MediaError(f"bag {path} does not exist")
    if path.is_file() and path.stat().st_size == 0:
        raise MediaError(f"bag {path} is empty (0 bytes)")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise MediaError(f"{path} has no metadata.yaml; give the folder of a bag, or its .mcap or .db3 file")
    # Bags without message definitions (sqlite3 before Iron) hold the usual types.
    reader = None
    try:
        reader = AnyReader([path], default_typestore=typestore())
        reader.open()
    except Exception as err:
        raise MediaError(f"bag {path} cannot be read: {_reason(err)}{_remedy(path)}") from err
    try:
        yield reader
    except PenguinError:
        raise
    except Exception as err:
        raise MediaError(f"bag {path} cannot be read to its end: {_reason(err)}{_remedy(path)}") from err
    finally:
        reader.close()


def _remedy(path: Path) -> str:
    """What may save an MCAP file whose end was never written, as after a crash."""
    files = [path] if path.suffix == ".mcap" else sorted(path.glob("*.mcap"))
    return f"; what is in it may be saved by: mcap recover {files[0]} -o recovered.mcap" if files else ""


def choose_topic(path: Path, reader: AnyReader, topic: str | None, by: str = "--topic") -> str:
    """The image topic to read: the one asked for, or the only one.

    Args:
        path: of the bag.
        reader: of the bag.
        topic: asked for; None for the only one.
        by: how a user asks for one.

    Raises:
        MediaError: there is none, or the choice is not clear; the bag's topics are listed.
    """
    types = {c.topic: c.msgtype for c in reader.connections}
    images = sorted(name for name, kind in types.items() if kind in IMAGE_TYPES)
    listing = ", ".join(f"{name} ({kind})" for name, kind in sorted(types.items())) or "none"
    if not images:
        raise MediaError(f"bag {path} has no image topic; its topics: {listing}")
    if topic is None:
        if len(images) > 1:
            raise MediaError(f"bag {path} has several image topics, choose one with {by}: {', '.join(images)}")
        return images[0]
    if topic not in types:
        raise MediaError(f"bag {path} has no topic {topic}; its image topics: {', '.join(images)}")
    if topic not in images:
        raise MediaError(
            f"topic {topic} of bag {path} is {types[topic]}, not an image; image topics: {', '.join(images)}"
        )
    return topic


def _reason(err: Exception) -> str:
    return f"{type(err).__name__}: {' '.join(str(err).split())}".rstrip(": ")
