"""The pictures that the console shows: the newest of each camera, and those of stamps that it still has. Without ROS.

A thread of its own takes the newest frame of each camera, at a limited rate, and makes a JPEG of it. Pictures are
bounded in bytes; for frames that the node holds, or has captioned, a copy is kept as long as it is of use.
"""

from __future__ import annotations

import io
import threading
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from time import monotonic
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from penguin_models.types import Frame, UInt8Array

_PERIOD_S = 0.1
_SIDE_PX, _THUMBNAIL_PX = 960, 224
_QUALITY = 80
_RECENT_BYTES = 8_000_000
_CAPTIONED = 24
NEAR_NS = 100_000_000
"""A frame of the node and a picture of the console are the same if their stamps differ by at most this much."""

LoadFrame = Callable[[], Frame]


class Picture(NamedTuple):
    """One picture."""

    stamp_ns: int
    jpeg: bytes


class Pictures:
    """Pictures of all cameras; every method may be called from any thread."""

    def __init__(self, on_picture: Callable[[str, int], None], on_error: Callable[[str, Exception], None]):
        """Starts the thread.

        Args:
            on_picture: Called with camera and stamp when there is a new picture.
            on_error: Called with the camera and what is wrong when a frame cannot be decoded.
        """
        self._on_picture, self._on_error = on_picture, on_error
        self._changed = threading.Condition()
        self._cameras: dict[str, _CameraPictures] = {}
        self._waiting: dict[str, tuple[int, LoadFrame]] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def offer(self, camera: str, stamp_ns: int, load: LoadFrame) -> None:
        """Leaves a frame to the thread and returns; one that waits is replaced."""
        with self._changed:
            self._waiting[camera] = (stamp_ns, load)
            self._changed.notify()

    def newest(self, camera: str) -> Picture | None:
        """Returns the newest picture of a camera; None if there is none."""
        with self._changed:
            recent = self._cameras.get(camera, _NONE).recent
            return recent[-1] if recent else None

    def at(self, camera: str, stamp_ns: int) -> bytes | None:
        """Returns the picture of a captioned frame; None if the console has not seen it."""
        with self._changed:
            found = self._cameras.get(camera, _NONE)
            return found.captioned.get(stamp_ns) or found.near(stamp_ns)

    def thumbnail(self, camera: str, stamp_ns: int) -> bytes | None:
        """Returns the thumbnail of a frame that the node holds; None if the console has not seen it."""
        with self._changed:
            return self._cameras.get(camera, _NONE).thumbnails.get(stamp_ns)

    def keep_caption(self, camera: str, stamp_ns: int) -> None:
        """Keeps the picture of a captioned frame until there are many newer ones."""
        with self._changed:
            self._of(camera).keep_caption(stamp_ns)

    def keep_memory(self, camera: str, stamps_ns: Iterable[int]) -> Collection[int]:
        """Keeps thumbnails of the frames that the node holds, and no others; returns the stamps that have one."""
        with self._changed:
            found = self._of(camera)
            found.keep_memory(stamps_ns)
            return set(found.thumbnails)

    def _of(self, camera: str) -> _CameraPictures:
        return self._cameras.setdefault(camera, _CameraPictures())

    def _run(self) -> None:
        while True:
            start_s = monotonic()
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                waiting, self._waiting = self._waiting, {}
            for camera, (stamp_ns, load) in waiting.items():
                self._add(camera, stamp_ns, load)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, max(0.0, start_s + _PERIOD_S - monotonic()))

    def _add(self, camera: str, stamp_ns: int, load: LoadFrame) -> None:
        try:
            jpeg = _jpeg(_fit(load().rgb, _SIDE_PX))
        except Exception as err:  # noqa: BLE001 - one bad frame ends no stream
            self._on_error(camera, err)
            return
        with self._changed:
            self._of(camera).add(Picture(stamp_ns, jpeg))
        self._on_picture(camera, stamp_ns)


class _CameraPictures:
    """Pictures of one camera."""

    def __init__(self) -> None:
        self.recent: deque[Picture] = deque()  # in order of stamps
        self.thumbnails: dict[int, bytes] = {}
        self.captioned: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def add(self, picture: Picture) -> None:
        if self.recent and picture.stamp_ns < self.recent[-1].stamp_ns:  # time jumped back
            self.recent.clear()
            self._bytes = 0
        self.recent.append(picture)
        self._bytes += len(picture.jpeg)
        while self._bytes > _RECENT_BYTES and len(self.recent) > 1:
            self._bytes -= len(self.recent.popleft().jpeg)

    def near(self, stamp_ns: int) -> bytes | None:
        stamps = [picture.stamp_ns for picture in self.recent]
        index = bisect_left(stamps, stamp_ns)
        nearest = min(stamps[max(0, index - 1) : index + 1], key=lambda found: abs(found - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > NEAR_NS:
            return None
        return self.recent[stamps.index(nearest)].jpeg

    def keep_caption(self, stamp_ns: int) -> None:
        jpeg = self.near(stamp_ns)
        if jpeg is not None:
            self.captioned[stamp_ns] = jpeg
        while len(self.captioned) > _CAPTIONED:
            self.captioned.popitem(last=False)

    def keep_memory(self, stamps_ns: Iterable[int]) -> None:
        held, self.thumbnails = self.thumbnails, {}
        for stamp_ns in stamps_ns:
            jpeg = held.get(stamp_ns) or _thumbnail(self.near(stamp_ns))
            if jpeg is not None:
                self.thumbnails[stamp_ns] = jpeg


_NONE = _CameraPictures()


def _thumbnail(jpeg: bytes | None) -> bytes | None:
    if jpeg is None:
        return None
    with Image.open(io.BytesIO(jpeg)) as image:
        return _jpeg(_fit(np.asarray(image.convert("RGB")), _THUMBNAIL_PX))


def _fit(rgb: UInt8Array, side_px: int) -> UInt8Array:
    """Returns a picture whose longer side has at most `side_px` pixels."""
    height, width = rgb.shape[:2]
    scale = side_px / max(height, width)
    if scale >= 1:
        return rgb
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(rgb: UInt8Array) -> bytes:
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, "OpenCV writes JPEG"
    return bytes(jpeg)
