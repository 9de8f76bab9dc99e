"""A thread that decodes the video of one camera as it arrives, so that every packet is seen while frames are sampled.

Pictures stay as the decoder returns them: the worker converts those that it takes to RGB.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from penguin_ros.video_decoder import VideoDecoder
from penguin_ros.video_packets import VideoPacket

if TYPE_CHECKING:
    import av

T = TypeVar("T")
_MAX_WAITING = 90  # packets, three seconds at 30 Hz


class _Item(NamedTuple, Generic[T]):
    packet: VideoPacket
    tag: T
    interruption: str


class VideoStream(Generic[T]):
    """Decodes packets in their order.

    Attributes:
        decoder: Its counters say what was skipped.
        overrun: Number of packets that were dropped because decoding is slower than the camera.
    """

    def __init__(self, on_picture: Callable[[T, av.VideoFrame], None], max_pixels: int):
        """Starts the thread, which calls `on_picture` with each picture and the tag of its packet."""
        self.decoder, self.overrun = VideoDecoder(max_pixels), 0
        self._on_picture = on_picture
        self._waiting: deque[_Item[T]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._interruption = ""
        self._thread = threading.Thread(target=self._work, name="video-decoder", daemon=True)
        self._thread.start()

    def put(self, packet: VideoPacket, tag: T, interruption: str = "") -> None:
        """Queues a packet; `interruption` says why it does not continue the one before, if it does not."""
        with self._changed:
            self._interruption = interruption or self._interruption
            if len(self._waiting) >= _MAX_WAITING:
                self.overrun += len(self._waiting)
                self._waiting.clear()
                self._interruption = "decoding is slower than the camera; waiting for the next keyframe"
            self._waiting.append(_Item(packet, tag, self._interruption))
            self._interruption = ""
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the packet that is being decoded."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                packet, tag, interruption = self._waiting.popleft()
            try:
                done = self.decoder.interrupt(interruption) if interruption else []
                for found, picture in done + self.decoder.decode(packet, tag):
                    self._on_picture(found, picture)
            except Exception as err:  # noqa: BLE001  # the thread must not end
                self.decoder.waiting = f"decoding failed: {type(err).__name__}: {err}"
