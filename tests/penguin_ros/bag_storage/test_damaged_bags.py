"""Bags with damaged or hostile bytes: every one is read, or is a MediaError, within limits of time and memory."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from struct import pack

import pytest
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st
from mcap_writer import Channel, write_mcap
from mutation import damaged

from penguin_models.errors import MediaError
from penguin_ros.bag_storage.bag import Bag
from penguin_ros.recording import choose_topic, image_topics, read_recording

SECOND = 10**9
IMAGE = "sensor_msgs/msg/CompressedImage"


def message(number):
    """Returns a serialised CompressedImage with one byte of data."""
    header = pack("<4xII", number, 0) + pack("<I", 2) + b"c\0\0\0"
    return b"\0\1\0\0" + header[4:] + pack("<I", 5) + b"jpeg\0\0\0\0" + pack("<I", 1) + b"x"


def topics(bag: Bag):
    return image_topics(bag) or [choose_topic(bag, None)]


def read(path):
    """Reads a bag as its users do, but for the pixels; returns the number of messages."""
    recording = read_recording(path, topics, for_questions=True)
    found = 0
    for image in recording.read():
        found += 1
        with suppress(MediaError):
            image.message.deserialize()
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("bags")


def mcap(scratch, **options):
    messages = [(0, number * SECOND, message(number)) for number in (3, 1, 2)]
    return write_mcap(scratch / "a.mcap", [Channel("/camera", definition=b"")], messages, chunk_size=2, **options)


def ros1(scratch):
    from rosbags.rosbag1 import Writer

    path = scratch / "a.bag"
    path.unlink(missing_ok=True)
    writer = Writer(path)
    writer.set_compression(Writer.CompressionFormat.BZ2)
    with writer:
        camera = writer.add_connection("/camera", IMAGE, msgdef="", md5sum="8f7a")
        for number in (1, 2):
            data = pack("<III", 7, number, 0) + pack("<I", 1) + b"c" + pack("<I", 4) + b"jpeg" + pack("<I", 1) + b"x"
            writer.write(camera, number * SECOND, data)
    return path


def sqlite(scratch, topic=(1, "/camera", IMAGE, "cdr"), row=(1, 2 * SECOND, message(2))):
    path = scratch / "a.db3"
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.executescript(
        "PRAGMA page_size = 512; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
        "CREATE TABLE topics(id, name, type, serialization_format);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data);"
    )
    database.execute("INSERT INTO topics VALUES(1, '/camera', ?, 'cdr')", (IMAGE,))
    database.execute("INSERT INTO topics VALUES(?, ?, ?, ?)", topic)
    insert = "INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)"
    database.executemany(insert, [(1, SECOND, message(1)), row])
    database.commit()
    database.close()
    return path


def unindexed(scratch):
    (scratch / "b").mkdir(exist_ok=True)
    return mcap(scratch / "b", compression="lz4", indexed=False, summary=False)


BAGS = (mcap, unindexed, ros1, sqlite)


def test_damaged_bytes(scratch):
    paths = [make(scratch) for make in BAGS]
    contents = {path: path.read_bytes() for path in paths}
    assert [read(path) for path in paths] == [3, 3, 2, 2]

    @FUZZ
    @given(st.sampled_from(paths).flatmap(lambda path: st.tuples(st.just(path), damaged(contents[path]))))
    def check(example):
        path, data = example
        path.write_bytes(data)
        with suppress(MediaError):
            read(path)

    check()
