"""Reads MCAP files with the package mcap.

The reader of rosbags 0.11 is not used: it refuses a whole file if one schema in it is not ROS 2's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from heapq import merge
from operator import itemgetter
from os import SEEK_END
from pathlib import Path
from typing import IO, TypeAlias

from mcap.data_stream import ReadDataStream
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, ChunkIndex, Schema
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader, breakup_chunk

from penguin_ros.bag_storage.messages import Connection, Message, ros2_type

MAGIC = b"\x89MCAP0\r\n"
_MAX_NS = 2**63 - 1  # of the times in the other storages; MCAP has one bit more
_RECORD_HEADER_BYTES = 9
_Placed: TypeAlias = tuple[int, int, McapMessage]
"""Log time, place in the order of writing, message."""


class McapFile:
    """An open MCAP file. One without an index is read as a whole, and the messages that are wanted are sorted."""

    def __init__(self, path: Path):
        """Reads the index; raises any error if the file is damaged."""
        self._path = path
        with path.open("rb") as file:
            if not _has_end(file):
                raise ValueError("its end is missing, as after a crash or while it is being recorded")
            summary = SeekingReader(file).get_summary()
        count = summary.statistics.channel_count if summary and summary.statistics else 0
        self._indexed = summary is not None and bool(summary.chunk_indexes) and len(summary.channels) >= max(count, 1)
        if summary is not None and self._indexed:
            channels, schemas, self._chunks = summary.channels, summary.schemas, summary.chunk_indexes
            starts = [chunk.message_start_time for chunk in summary.chunk_indexes]
        else:
            channels, schemas, starts = {}, {}, []
            for record in self._records():
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, McapMessage):
                    starts.append(record.log_time)
        self.start_ns: int = min(starts, default=0)
        self.connections = [_connection(channel, schemas.get(channel.schema_id)) for channel in channels.values()]

    def messages(self, wanted: Collection[Connection], start_ns: int) -> Iterator[Message]:
        """Yields the messages of some connections recorded at or after a time, in the order of their log times."""
        connections = {connection.id: connection for connection in wanted}
        for log_ns, place, message in self._in_order(set(connections), max(start_ns, 0)):
            yield Message(connections[message.channel_id], min(log_ns, _MAX_NS), place, message.data)

    def close(self) -> None:
        """Does nothing: the file is opened whenever it is read."""

    def _in_order(self, channels: set[int], start_ns: int) -> Iterator[_Placed]:
        if not self._indexed:
            yield from _sorted(self._records(), channels, start_ns)
            return
        with self._path.open("rb") as file:
            # The package's own iter_messages (mcap 1.6) does not say in which order messages were written.
            chunks = [c for c in self._chunks if c.message_end_time >= start_ns and _may_hold(c, channels)]
            parts = (_messages_of(file, chunk, channels, start_ns) for chunk in chunks)
            for log_ns, place, message in merge(*parts, key=itemgetter(0, 1)):
                if message is not None:
                    yield log_ns, place, message

    def _records(self) -> Iterator[object]:
        with self._path.open("rb") as file:
            yield from StreamReader(file, validate_crcs=True).records


def _has_end(file: IO[bytes]) -> bool:
    size = file.seek(0, SEEK_END)
    file.seek(max(len(MAGIC), size - len(MAGIC)))
    end = file.read()
    file.seek(0)
    return end == MAGIC


def _may_hold(chunk: ChunkIndex, channels: set[int]) -> bool:
    return not chunk.message_index_offsets or not channels.isdisjoint(chunk.message_index_offsets)


def _messages_of(
    file: IO[bytes], index: ChunkIndex, channels: set[int], start_ns: int
) -> Iterator[tuple[int, int, McapMessage | None]]:
    """Yields the messages of a chunk; first only its start, so that it is read when those before it have been used."""
    place = index.chunk_start_offset << 32
    yield index.message_start_time, place, None
    file.seek(index.chunk_start_offset + _RECORD_HEADER_BYTES)
    chunk = Chunk.read(ReadDataStream(file))
    yield from _sorted(breakup_chunk(chunk, validate_crc=True), channels, start_ns, place)


def _sorted(records: Iterable[object], channels: set[int], start_ns: int, first_place: int = 0) -> list[_Placed]:
    found = [
        (record.log_time, place, record)
        for place, record in enumerate(records, start=first_place)
        if isinstance(record, McapMessage) and record.channel_id in channels and record.log_time >= start_ns
    ]
    return sorted(found, key=itemgetter(0, 1))


def _connection(channel: Channel, schema: Schema | None) -> Connection:
    name, encoding, definition = (schema.name, schema.encoding, schema.data) if schema else ("", "", b"")
    return Connection(channel.id, channel.topic, ros2_type(name), channel.message_encoding, encoding, definition)
