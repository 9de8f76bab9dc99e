"""Reads ROS 1 bags with rosbags."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from heapq import merge
from pathlib import Path

from rosbags.rosbag1 import Reader

from penguin_ros.bag_storage.messages import Connection, Message

MAGIC = b"#ROSBAG V"


class Ros1File:
    """An open ROS 1 bag."""

    def __init__(self, path: Path):
        """Reads the index; raises any error if the file is damaged."""
        self._reader = Reader(path)
        self._reader.open()
        self.start_ns: int = self._reader.start_time
        self._originals = {connection.id: connection for connection in self._reader.connections}
        self.connections = [
            Connection(number, found.topic, found.msgtype, "ros1", "ros1msg", found.msgdef.data.encode())
            for number, found in self._originals.items()
        ]

    def messages(self, wanted: Collection[Connection], start_ns: int) -> Iterator[Message]:
        """Yields the messages of some connections recorded at or after a time, in the order of their log times."""
        ours = {connection.id: connection for connection in wanted}
        found = self._reader.messages([self._originals[number] for number in ours], start=start_ns)
        entries = merge(*(self._reader.indexes[number] for number in ours))  # as rosbags orders messages
        entries = (entry for entry in entries if entry.time >= start_ns)
        for entry, (original, log_ns, data) in zip(entries, found, strict=True):
            yield Message(ours[original.id], log_ns, entry.chunk_pos << 32 | entry.offset, data)

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()
