"""Reads MCAP files with the package mcap.

The reader of rosbags 0.11 is not used: it refuses a whole file if one schema in it is not ROS 2's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from operator import attrgetter
from pathlib import Path

from mcap.reader import SeekingReader
from mcap.records import Channel, Schema
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader

from penguin_ros.bag_storage.messages import Connection, Message, ros2_type

MAGIC = b"\x89MCAP0\r\n"
_MAX_NS = 2**63 - 1  # of the times in the other storages; MCAP has one bit more


class McapFile:
    """An open MCAP file. One without an index is read as a whole, and the messages that are wanted are sorted."""

    def __init__(self, path: Path):
        """Reads the index; raises any error if the file is damaged."""
        self._path = path
        with path.open("rb") as file:
            summary = SeekingReader(file).get_summary()
        count = summary.statistics.channel_count if summary and summary.statistics else 0
        self._indexed = summary is not None and bool(summary.chunk_indexes) and len(summary.channels) >= max(count, 1)
        if summary is not None and self._indexed:
            channels, schemas = summary.channels, summary.schemas
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
        for place, message in enumerate(self._in_order(connections, max(start_ns, 0))):
            if message.channel_id in connections:
                log_ns = min(message.log_time, _MAX_NS)
                yield Message(connections[message.channel_id], log_ns, place, message.data)

    def close(self) -> None:
        """Does nothing: the file is opened whenever it is read."""

    def _in_order(self, connections: dict[int, Connection], start_ns: int) -> Iterator[McapMessage]:
        if self._indexed:
            topics = {connection.topic for connection in connections.values()}
            with self._path.open("rb") as file:
                reader = SeekingReader(file, validate_crcs=True)
                yield from (message for _, _, message in reader.iter_messages(topics, starting_at=start_ns))
            return
        messages = (record for record in self._records() if isinstance(record, McapMessage))
        found = [m for m in messages if m.channel_id in connections and m.log_time >= start_ns]
        yield from sorted(found, key=attrgetter("log_time"))

    def _records(self) -> Iterator[object]:
        with self._path.open("rb") as file:
            yield from StreamReader(file, validate_crcs=True).records


def _connection(channel: Channel, schema: Schema | None) -> Connection:
    name, encoding, definition = (schema.name, schema.encoding, schema.data) if schema else ("", "", b"")
    return Connection(channel.id, channel.topic, ros2_type(name), channel.message_encoding, encoding, definition)
