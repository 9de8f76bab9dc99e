"""Reads MCAP files, specified at https://mcap.dev/spec.

The reader of rosbags 0.11 is not used: it refuses files with a schema that is not ROS 2's or not text, files without
the profile "ros2", and unindexed files whose log times are not in order; and it skips chunks without a message index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from heapq import merge
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import BinaryIO
from zlib import crc32

from lz4.frame import decompress as decompress_lz4

from penguin_ros.bag_storage import zstd
from penguin_ros.bag_storage.messages import Connection, Message, ros2_type

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _STATISTICS = 2, 3, 4, 5, 6, 7, 11
_RECORD, _MESSAGE_HEADER, _CHUNK_HEADER, _COUNTS = Struct("<BQ"), Struct("<HIQQ"), Struct("<QQQI"), Struct("<QHI")
_MAX_NS = 2**63 - 1  # of the times in the other storages; MCAP has one bit more
_UINT16, _UINT32, _UINT64 = Struct("<H"), Struct("<I"), Struct("<Q")


@dataclass
class _Chunk:
    """A chunk of messages, or a single message outside of chunks, which is its own chunk of an unknown content."""

    start_ns: int
    end_ns: int
    number: int  # in the order of the file
    offset: int  # of the record's content
    length: int  # of the record's content in bytes
    is_message: bool = False
    channels: set[int] = field(default_factory=set)  # that have messages in it; empty if the file does not say


class McapFile:
    """An open MCAP file; it is indexed by the headers of its records, of which the summary repeats some."""

    def __init__(self, path: Path):
        """Reads the index; raises any error if the file is damaged."""
        self._file = path.open("rb")
        self._schemas: dict[int, tuple[str, str, bytes]] = {0: ("", "", b"")}
        self._channels: dict[int, Connection] = {}
        self._chunks: list[_Chunk] = []
        try:
            self._index()
        except BaseException:
            self.close()
            raise
        self._chunks.sort(key=lambda chunk: (chunk.start_ns, chunk.number))

    @property
    def connections(self) -> list[Connection]:
        """The topics of the file."""
        return list(self._channels.values())

    @property
    def start_ns(self) -> int:
        """The earliest log time; 0 if there are no messages."""
        return self._chunks[0].start_ns if self._chunks else 0

    def messages(self, wanted: Collection[Connection], start_ns: int) -> Iterator[Message]:
        """Yields the messages of some connections recorded at or after a time, in the order of their log times."""
        channels = {connection.id: connection for connection in wanted}
        # A chunk is read when the messages before its start have been yielded: its first item is only its start.
        parts = (
            self._messages_of(chunk, channels, start_ns)
            for chunk in self._chunks
            if chunk.end_ns >= start_ns and (not chunk.channels or chunk.channels & channels.keys())
        )
        for log_ns, place, found in merge(*parts, key=lambda item: item[:2]):
            if found is not None:
                yield Message(channels[found[0]], min(log_ns, _MAX_NS), place, found[1])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _index(self) -> None:
        if _read(self._file, len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin as an MCAP file")
        channel_count = 0
        for kind, offset, length in _records(self._file):
            if kind in (_SCHEMA, _CHANNEL):
                self._add_channel(kind, _read(self._file, length))
            elif kind == _CHUNK:
                start_ns, end_ns, *_ = _CHUNK_HEADER.unpack(_read(self._file, _CHUNK_HEADER.size))
                self._chunks.append(_Chunk(start_ns, end_ns, len(self._chunks), offset, length))
            elif kind == _MESSAGE_INDEX and self._chunks:
                self._chunks[-1].channels |= {_UINT16.unpack(_read(self._file, 2))[0]}
            elif kind == _MESSAGE:
                channel, _, log_ns, _ = _MESSAGE_HEADER.unpack(_read(self._file, _MESSAGE_HEADER.size))
                self._chunks.append(_Chunk(log_ns, log_ns, len(self._chunks), offset, length, True, {channel}))
            elif kind == _STATISTICS:
                channel_count = _COUNTS.unpack(_read(self._file, _COUNTS.size))[2]
            self._file.seek(offset + length)
            if kind == _FOOTER:
                break
        if self._file.read() != MAGIC:
            raise ValueError("its end is missing, as after a crash or while it is being recorded")
        # The summary need not repeat the channels.
        if len(self._channels) < max(channel_count, 1):
            for chunk in self._chunks:
                if not chunk.is_message:
                    self._scan(chunk)

    def _scan(self, chunk: _Chunk) -> None:
        content = BytesIO(self._content(chunk))
        for kind, offset, length in _records(content):
            if kind in (_SCHEMA, _CHANNEL):
                self._add_channel(kind, _read(content, length))
            content.seek(offset + length)

    def _add_channel(self, kind: int, record: bytes) -> None:
        fields = BytesIO(record)
        (number,) = _UINT16.unpack(_read(fields, 2))
        if kind == _SCHEMA:
            self._schemas[number] = (_text(fields), _text(fields), _bytes(fields))
            return
        name, definition_format, definition = self._schemas.get(_UINT16.unpack(_read(fields, 2))[0], ("", "", b""))
        topic, encoding = _text(fields), _text(fields)
        self._channels[number] = Connection(number, topic, ros2_type(name), encoding, definition_format, definition)

    def _messages_of(
        self, chunk: _Chunk, channels: dict[int, Connection], start_ns: int
    ) -> Iterator[tuple[int, int, tuple[int, bytes] | None]]:
        first_place = chunk.number << 32
        yield chunk.start_ns, first_place, None
        found = []
        content = BytesIO(self._content(chunk))
        for place, (kind, offset, length) in enumerate(_records(content), start=first_place):
            if kind == _MESSAGE:
                channel, _, log_ns, _ = _MESSAGE_HEADER.unpack(_read(content, _MESSAGE_HEADER.size))
                if channel in channels and log_ns >= start_ns:
                    found.append((log_ns, place, (channel, _read(content, length - _MESSAGE_HEADER.size))))
            content.seek(offset + length)
        yield from sorted(found, key=lambda item: item[:2])

    def _content(self, chunk: _Chunk) -> bytes:
        """Returns the records of a chunk; raises ValueError if its checksum is wrong."""
        self._file.seek(chunk.offset)
        if chunk.is_message:
            return _RECORD.pack(_MESSAGE, chunk.length) + _read(self._file, chunk.length)
        _, _, size, checksum = _CHUNK_HEADER.unpack(_read(self._file, _CHUNK_HEADER.size))
        compression = _text(self._file)
        (length,) = _UINT64.unpack(_read(self._file, 8))
        content = _decompress(compression, _read(self._file, length))
        if len(content) != size or (checksum and crc32(content) != checksum):
            raise ValueError(f"the checksum of chunk {chunk.number} is wrong")
        return content


def _decompress(compression: str, data: bytes) -> bytes:
    if compression == "zstd":
        return bytes(zstd.decompress(data))
    if compression == "lz4":
        return bytes(decompress_lz4(data))
    if compression:
        raise ValueError(f"compression {compression!r} is unknown")
    return data


def _records(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yields the kind, the offset of the content and its length of each record; the caller moves to the next one."""
    while header := file.read(_RECORD.size):
        if len(header) < _RECORD.size:
            raise ValueError(f"it ends within a record after {file.tell()} bytes")
        kind, length = _RECORD.unpack(header)
        yield kind, file.tell(), length


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"it ends within a record after {file.tell()} bytes")
    return data


def _bytes(fields: BinaryIO) -> bytes:
    return _read(fields, _UINT32.unpack(_read(fields, 4))[0])


def _text(fields: BinaryIO) -> str:
    return _bytes(fields).decode(errors="replace")
