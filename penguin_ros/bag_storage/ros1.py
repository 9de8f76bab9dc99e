"""Reads ROS 1 bags with rosbags."""

from __future__ import annotations

import bz2
from collections.abc import Collection, Iterator, Sequence
from heapq import merge
from pathlib import Path
from typing import Any

import lz4.frame
from rosbags.rosbag1 import Reader

from penguin_ros.bag_storage.decompression import decompress
from penguin_ros.bag_storage.messages import Connection, Message

MAGIC = b"#ROSBAG V"
_COMPRESSIONS = {bz2.decompress: "bz2", lz4.frame.decompress: "lz4"}
_MAX_REPEATS = 100
"""A chunk is decompressed at most this often, on average, because messages of others are between its own."""


class Ros1File:
    """An open ROS 1 bag."""

    notes: Sequence[str] = ()

    def __init__(self, path: Path):
        """Reads the index; raises any error if the file is damaged."""
        self._reader = Reader(path)
        self._positions: set[int] = set()  # of chunks
        self._decompressed = 0
        self._reader.read_chunk = self._read_chunk
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
        self._decompressed = 0
        found = self._reader.messages([self._originals[number] for number in ours], start=start_ns)
        entries = merge(*(self._reader.indexes[number] for number in ours))  # as rosbags orders messages
        entries = (entry for entry in entries if entry.time >= start_ns)
        for entry, (original, log_ns, data) in zip(entries, found, strict=True):
            yield Message(ours[original.id], log_ns, entry.chunk_pos << 32 | entry.offset, data)

    def _read_chunk(self) -> Any:
        """Reads the header of a chunk in place of rosbags 0.11, which decompresses without a limit."""
        position = self._reader.bio.tell()
        if position in self._positions:
            raise ValueError("two entries of its index are about the same chunk")
        self._positions.add(position)
        chunk = Reader.read_chunk(self._reader)
        compression = _COMPRESSIONS.get(chunk.decompressor, "")
        return chunk._replace(decompressor=lambda data: self._decompress(data, compression))

    def _decompress(self, data: bytes, compression: str) -> bytes:
        self._decompressed += 1
        if self._decompressed > _MAX_REPEATS * len(self._positions):
            raise ValueError("its chunks overlap so much in time that they cannot be read in order")
        return decompress(data, compression)

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()
