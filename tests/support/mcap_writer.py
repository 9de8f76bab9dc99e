"""Writes MCAP files of any content, also such as rosbags' writer would refuse. See https://mcap.dev/spec."""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from zlib import crc32

import lz4.frame

MAGIC = b"\x89MCAP0\r\n"


@dataclass
class Channel:
    """A topic; `schema` is None for a channel without one."""

    topic: str
    schema: str | None = "sensor_msgs/msg/CompressedImage"
    schema_encoding: str = "ros2msg"
    definition: bytes = b"std_msgs/Header header\nstring format\nuint8[] data\n"
    encoding: str = "cdr"


def write_mcap(
    path,
    channels,
    messages,
    profile="ros2",
    chunk_size=3,
    indexed=True,
    summary=True,
    statistics=True,
    repeat=True,
    compression="",
):
    """Writes messages, (index of the channel, log time in ns, data), in chunks of `chunk_size`; 0 for no chunks.

    Without `indexed`, chunks have no message index; with `repeat`, the summary repeats schemas and channels.
    """
    descriptions = b"".join(_describe(number, channel) for number, channel in enumerate(channels, start=1))
    content = MAGIC + _record(1, _text(profile) + _text("test"))
    records = [
        (number + 1, log_ns, _record(5, pack("<HIQQ", number + 1, 0, log_ns, log_ns) + data))
        for number, log_ns, data in messages
    ]
    if not chunk_size:
        content += descriptions + b"".join(record for _, _, record in records)
    for start in range(0, len(records), chunk_size or len(records) or 1) if chunk_size else ():
        part = records[start : start + chunk_size]
        plain = (descriptions if start == 0 else b"") + b"".join(record for _, _, record in part)
        times = [log_ns for _, log_ns, _ in part]
        header = pack("<QQQI", min(times), max(times), len(plain), crc32(plain))
        packed = lz4.frame.compress(plain) if compression == "lz4" else plain
        content += _record(6, header + _text(compression) + pack("<Q", len(packed)) + packed)
        for number in {number for number, _, _ in part} if indexed else ():
            content += _record(7, pack("<HI", number, 0))
    content += _record(15, pack("<I", 0))
    summary_start = len(content) if summary else 0
    if summary and repeat:
        content += descriptions
    if summary and statistics:
        content += _record(11, pack("<QHIIIIQQI", len(messages), 1, len(channels), 0, 0, 1, 0, 0, 0))
    path.write_bytes(content + _record(2, pack("<QQI", summary_start, 0, 0)) + MAGIC)
    return path


def _describe(number, channel):
    schema = b""
    if channel.schema is not None:
        fields = pack("<H", number) + _text(channel.schema) + _text(channel.schema_encoding)
        schema = _record(3, fields + pack("<I", len(channel.definition)) + channel.definition)
    fields = pack("<HH", number, number if schema else 0) + _text(channel.topic) + _text(channel.encoding)
    return schema + _record(4, fields + pack("<I", 0))


def _record(kind, content):
    return pack("<BQ", kind, len(content)) + content


def _text(value):
    return pack("<I", len(value.encode())) + value.encode()
