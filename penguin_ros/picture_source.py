"""Pictures to be encoded one by one: image files, folders of them, and the keyframes of a bag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from penguin_models.errors import MediaError
from penguin_models.media import load_image
from penguin_models.types import UInt8Array
from penguin_ros.recorded_keyframes import KeyframeSampler
from penguin_ros.recording import choose_topic, image_topics, read_recording


class Picture(NamedTuple):
    """One image."""

    name: str  # path of a file; for a bag, the image topic
    stamp_ns: int  # capture time; 0 for a file
    rgb: UInt8Array  # [H, W, 3]


class Pictures:
    """Iterates over image files, then over the keyframes of a bag; an image that cannot be read is left out.

    Attributes:
        total: Number of images to look at.
        done: Number of images looked at so far.
        problems: What is wrong with each image that was left out.
    """

    def __init__(self, paths: Sequence[Path], bag: Path | None = None, cameras: Sequence[str] = (), fps: float = 2.0):
        """Lists what there is.

        Args:
            paths: Image files, and folders whose image files are taken in the order of their names, subfolders too.
            bag: Bag folder, or a single .mcap, .db3 or ROS 1 .bag file.
            cameras: Image topics of the bag; all if empty.
            fps: Images per second of each camera among which keyframes are chosen.

        Raises:
            MediaError: A folder holds no images, or the bag cannot be read or has no such image topic.
        """
        self._files = [file for path in paths for file in (_images_in(path) if path.is_dir() else [path])]
        self._fps = fps
        self._recording = None
        if bag is not None:
            self._recording = read_recording(
                bag, lambda opened: [choose_topic(opened, c, "--camera") for c in cameras] or image_topics(opened)
            )
        self.total = len(self._files) + (len(self._recording.images) if self._recording else 0)
        self.done = 0
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[Picture]:
        for file in self._files:
            self.done += 1
            try:
                yield Picture(str(file), 0, load_image(file))
            except MediaError as err:
                self.problems.append(str(err))
        if self._recording is None:
            return
        samplers = {camera: KeyframeSampler(self._fps) for camera in self._recording.cameras}
        for image in self._recording.read():
            self.done += 1
            try:
                frame = samplers[image.ref.camera].chosen(image)
            except MediaError as err:
                self.problems.append(str(err))
                continue
            if frame is not None:
                yield Picture(frame.camera, frame.stamp_ns, frame.rgb)


def _images_in(folder: Path) -> list[Path]:
    endings = Image.registered_extensions()
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file()
    )
    if not found:
        raise MediaError(f"{folder} holds no image files; for a bag, use --bag {folder}")
    return found
