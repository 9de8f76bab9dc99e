"""The episodes of a bag: its keyframes, with poses from its transforms and the captions that a node has published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from penguin_engine.scene.episode import Episode
from penguin_models.errors import MediaError, PromptError
from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Frame, Size, UInt8Array
from penguin_ros.bag_storage.bag import Bag, BagMessage, open_bag
from penguin_ros.bag_storage.messages import READABLE_ENCODINGS
from penguin_ros.recorded_keyframes import KeyframeSampler
from penguin_ros.recording import RecordedImage, choose_topic, header_stamp_ns, image_topics, read_recording
from penguin_ros.transforms import Transforms

_CAPTIONS = "penguin_vl/msg/GroundedCaption"


@dataclass
class CameraCounts:
    """What was found of a camera."""

    images: int = 0
    episodes: int = 0
    captions: int = 0  # that the bag holds
    poses: int = 0
    bad_images: int = 0


class BagEpisodes:
    """Iterates over the episodes of a bag in the order of their times, each with its image if the bag has it.

    An episode is a keyframe of a camera, sampled as the node does, or an image or moment with a caption on a topic
    `.../captions`.

    Attributes:
        counts: What was found so far, for each camera.
        total: Number of images.
    """

    def __init__(self, path: Path, cameras: Sequence[str], fps: float, fixed_frame: str):
        """Reads the times, transforms and captions of a bag.

        Args:
            path: Bag folder, or a single .mcap, .db3 or ROS 1 .bag file.
            cameras: Image topics; all if empty.
            fps: Images per second of each camera that the keyframe policy sees.
            fixed_frame: Frame of the poses.

        Raises:
            MediaError: The bag cannot be read, has no such image topic, or neither images nor captions.
        """
        self._fixed_frame = fixed_frame
        self._problems: dict[str, list[str]] = {}  # of one kind each
        with open_bag(path) as bag:
            topics = [choose_topic(bag, camera, "--camera") for camera in cameras] or _topics_with_images(bag)
            self._transforms = Transforms(bag)
            self._captions = self._read_captions(bag, cameras)
            if not topics and not self._captions:
                choose_topic(bag, None, "--camera")  # raises the error that lists topics
                raise MediaError(f"bag {path} has neither images nor captions")
        self._recording = read_recording(path, lambda bag: topics) if topics else None
        self._samplers = {topic: KeyframeSampler(fps) for topic in topics}
        self.total = len(self._recording.images) if self._recording else 0
        self.counts = {name: CameraCounts() for name in (*topics, *(camera for camera, _ in self._captions))}

    @property
    def images(self) -> int:
        """Number of images read so far."""
        return sum(counts.images for counts in self.counts.values())

    @property
    def notes(self) -> list[str]:
        """Sentences about what is unusual; complete at the end."""
        notes = [*(self._recording.notes if self._recording else ()), *self._transforms.notes]
        if not self._transforms:
            notes.append("the bag has no transforms, so episodes have no pose")
        return notes + [f"{len(found)} {kind}; the first: {found[0]}" for kind, found in self._problems.items()]

    def __iter__(self) -> Iterator[tuple[Episode, UInt8Array | None]]:
        """Yields each episode without its picture, and the image; raises MediaError if the bag cannot be read."""
        for image in self._recording.read() if self._recording else ():
            caption = self._captions.pop((image.ref.camera, header_stamp_ns(image.message)), None)
            frame = self._chosen(image, caption is not None)
            if frame is not None:
                episode = caption or Episode(frame.camera, frame.stamp_ns)
                episode = replace(episode, stamp_ns=frame.stamp_ns, frame_id=str(frame.header.frame_id))
                yield self._placed(episode, header_stamp_ns(image.message) or frame.stamp_ns), frame.rgb
            elif caption is not None:
                yield self._placed(caption, caption.stamp_ns), None
        for caption in sorted(self._captions.values(), key=lambda caption: caption.stamp_ns):
            yield self._placed(caption, caption.stamp_ns), None  # its image was not recorded

    def _chosen(self, image: RecordedImage, has_caption: bool) -> Frame | None:
        """Returns the decoded image if it is to be stored; None if not, or if it is damaged."""
        counts = self.counts[image.ref.camera]
        counts.images += 1
        try:
            return self._samplers[image.ref.camera].chosen(image, has_caption)
        except MediaError as err:
            counts.bad_images += 1
            self._note("images cannot be decoded", str(err))
            return None

    def _placed(self, episode: Episode, stamp_ns: int) -> Episode:
        counts = self.counts[episode.camera]
        counts.episodes += 1
        counts.captions += bool(episode.caption)
        if not self._transforms:
            return episode
        try:
            pose = self._transforms.pose(episode.frame_id, self._fixed_frame, stamp_ns)
        except MediaError as err:
            self._note("episodes have no pose", str(err))
            return episode
        counts.poses += 1
        return replace(episode, pose=pose)

    def _read_captions(self, bag: Bag, cameras: Sequence[str]) -> dict[tuple[str, int], Episode]:
        """Returns the captions by camera and stamp."""
        connections = [
            found
            for found in bag.connections
            if found.msgtype == _CAPTIONS and found.topic.endswith("/captions") and found.encoding in READABLE_ENCODINGS
        ]
        captions = {}
        for message in bag.messages(connections):
            try:
                episode = _caption(message)
            except MediaError as err:
                self._note("captions cannot be read", str(err))
                continue
            if not cameras or episode.camera in cameras:
                captions[episode.camera, episode.stamp_ns] = episode
        return captions

    def _note(self, kind: str, problem: str) -> None:
        self._problems.setdefault(kind, []).append(problem)


def _topics_with_images(bag: Bag) -> list[str]:
    """Returns the image topics that are not empty."""
    found = {topic: [c for c in bag.connections if c.topic == topic] for topic in image_topics(bag)}
    return [topic for topic, connections in found.items() if next(bag.messages(connections), None) is not None]


def _caption(message: BagMessage) -> Episode:
    """Returns a caption without image; raises MediaError if it is damaged."""
    found = message.deserialize()
    try:
        size = Size(found.image_height_px, found.image_width_px)
        objects = tuple(
            GroundedObject(
                item.label, Box.from_pixels(item.x_min_px, item.y_min_px, item.x_max_px, item.y_max_px, size)
            )
            for item in found.objects
        )
        stamp_ns = header_stamp_ns(message) or message.log_ns
        return Episode(str(found.camera), stamp_ns, str(found.header.frame_id), str(found.text), objects)
    except (AttributeError, TypeError, ValueError, ArithmeticError, PromptError) as err:
        raise MediaError(f"the message with stamp {header_stamp_ns(message)} is not a caption: {err}") from err
