"""Reads MCAP files with the package mcap.

The reader of rosbags 0.11 is not used: it refuses a whole file if one schema in it is not ROS 2's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import merge
from io import BytesIO
from operator import itemgetter
from os import SEEK_END
from pathlib import Path
from struct import Struct
from typing import IO, TypeAlias
from zlib import crc32

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, ChunkIndex, Footer, Schema, Statistics
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader

from penguin_ros.bag_storage.decompression import MAX_HELD_BYTES, MAX_PART_BYTES, decompress
from penguin_ros.bag_storage.messages import Connection, Message, ros2_type

MAGIC = b"\x89MCAP0\r\n"
_RECORD_HEADER, _FOOTER_BYTES = Struct("<BQ"), 29
_MAX_RECORDS = 2_000_000
"""Limit of the records of a chunk; reading this many takes some seconds."""
_READERS: dict[int, Callable[[ReadDataStream, int], object]] = {
    Opcode.SCHEMA: lambda content, length: Schema.read(content),
    Opcode.CHANNEL: lambda content, length: Channel.read(content),
    Opcode.MESSAGE: McapMessage.read,
}
_Placed: TypeAlias = tuple[int, int, McapMessage]
"""Log time, place in the order of writing, message."""


class McapFile:
    """An open MCAP file. One without an index is read as a whole, and the messages that are wanted are sorted."""

    notes: Sequence[str] = ()

    def __init__(self, path: Path):
        """Reads the index; raises any error if the file is damaged."""
        self._path = path
        with path.open("rb") as file:
            if not _has_end(file):
                raise ValueError("its end is missing, as after a crash or while it is being recorded")
            summary = list(_summary(file))
        channels = {record.id: record for record in summary if isinstance(record, Channel)}
        schemas = {record.id: record for record in summary if isinstance(record, Schema)}
        chunks = {record.chunk_start_offset: record for record in summary if isinstance(record, ChunkIndex)}
        count = max((record.channel_count for record in summary if isinstance(record, Statistics)), default=0)
        self._chunks = list(chunks.values()) if len(channels) >= max(count, 1) else []
        starts = [chunk.message_start_time for chunk in self._chunks]
        if not self._chunks:
            for record in self._records():
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, McapMessage):
                    starts.append(record.log_time)
        _check_memory(self._chunks)
        self.start_ns: int = min(starts, default=0)
        self.connections = [_connection(channel, schemas.get(channel.schema_id)) for channel in channels.values()]

    def messages(self, wanted: Collection[Connection], start_ns: int) -> Iterator[Message]:
        """Yields the messages of some connections recorded at or after a time, in the order of their log times."""
        connections = {connection.id: connection for connection in wanted}
        for log_ns, place, message in self._in_order(set(connections), max(start_ns, 0)):
            yield Message(connections[message.channel_id], log_ns, place, message.data)

    def close(self) -> None:
        """Does nothing: the file is opened whenever it is read."""

    def _in_order(self, channels: set[int], start_ns: int) -> Iterator[_Placed]:
        if not self._chunks:
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
            for record in StreamReader(file, validate_crcs=True, emit_chunks=True).records:
                yield from _break_up(record) if isinstance(record, Chunk) else (record,)


def _has_end(file: IO[bytes]) -> bool:
    size = file.seek(0, SEEK_END)
    file.seek(max(len(MAGIC), size - len(MAGIC)))
    end = file.read()
    file.seek(0)
    return end == MAGIC


def _summary(file: IO[bytes]) -> Iterator[object]:
    """Yields the records of the summary. The package's own function would also decompress chunks, without a limit."""
    file.seek(-_FOOTER_BYTES - len(MAGIC), SEEK_END)
    footer = next(StreamReader(file, skip_magic=True).records)
    if not isinstance(footer, Footer):
        raise ValueError("it has no footer")
    if footer.summary_start:
        file.seek(footer.summary_start)
        yield from StreamReader(file, skip_magic=True, emit_chunks=True).records


def _check_memory(chunks: Iterable[ChunkIndex]) -> None:
    """Raises ValueError if chunks that overlap in time, which are in memory together, have too many bytes."""
    changes = [(chunk.message_start_time, 0, chunk.uncompressed_size) for chunk in chunks]
    changes += [(chunk.message_end_time, 1, -chunk.uncompressed_size) for chunk in chunks]
    held = 0
    for _, _, change in sorted(changes):
        held += change
        if held > MAX_HELD_BYTES:
            raise ValueError(
                f"{held >> 20} MiB of its chunks overlap in time, the limit is {MAX_HELD_BYTES >> 20} MiB; sort it "
                "with `mcap sort`"
            )


def _break_up(chunk: Chunk) -> Iterator[object]:
    """Yields the records of a chunk. The package's own function limits neither their number nor their bytes."""
    if chunk.uncompressed_size > MAX_PART_BYTES:
        size_mib = chunk.uncompressed_size >> 20
        raise ValueError(f"a chunk has {size_mib} MiB after decompression, the limit is {MAX_PART_BYTES >> 20} MiB")
    data = decompress(chunk.data, chunk.compression, chunk.uncompressed_size)
    if chunk.uncompressed_crc and crc32(data) != chunk.uncompressed_crc:
        raise ValueError("the checksum of a chunk is wrong")
    place = 0
    for _ in range(_MAX_RECORDS):
        if place >= len(data):
            return
        kind, length = _RECORD_HEADER.unpack_from(data, place)
        start = place + _RECORD_HEADER.size
        place = start + length
        if kind in _READERS:
            yield _READERS[kind](ReadDataStream(BytesIO(data[start:place])), length)
    raise ValueError(f"a chunk has more than {_MAX_RECORDS} records")


def _may_hold(chunk: ChunkIndex, channels: set[int]) -> bool:
    return not chunk.message_index_offsets or not channels.isdisjoint(chunk.message_index_offsets)


def _messages_of(
    file: IO[bytes], index: ChunkIndex, channels: set[int], start_ns: int
) -> Iterator[tuple[int, int, McapMessage | None]]:
    """Yields the messages of a chunk; first only its start, so that it is read when those before it have been used."""
    place = index.chunk_start_offset << 32
    yield index.message_start_time, place, None
    file.seek(index.chunk_start_offset + _RECORD_HEADER.size)
    chunk = Chunk.read(ReadDataStream(file))
    if chunk.uncompressed_size > index.uncompressed_size:
        raise ValueError("a chunk is larger than the index says")
    for item in _sorted(_break_up(chunk), channels, start_ns, place):
        if not index.message_start_time <= item[0] <= index.message_end_time:
            raise ValueError("a message is outside of the time that the index gives for its chunk")
        yield item


def _sorted(records: Iterable[object], channels: set[int], start_ns: int, first_place: int = 0) -> list[_Placed]:
    found, held = [], 0
    for place, record in enumerate(records, start=first_place):
        if isinstance(record, McapMessage) and record.channel_id in channels and record.log_time >= start_ns:
            found.append((record.log_time, place, record))
            held += len(record.data)
            if held > MAX_HELD_BYTES:
                raise ValueError(f"it has more than {MAX_HELD_BYTES >> 20} MiB of images, but no index")
    return sorted(found, key=itemgetter(0, 1))


def _connection(channel: Channel, schema: Schema | None) -> Connection:
    name, encoding, definition = (schema.name, schema.encoding, schema.data) if schema else ("", "", b"")
    return Connection(channel.id, channel.topic, ros2_type(name), channel.message_encoding, encoding, definition)
