"""Bags with damaged or hostile bytes: every one is read, or is a MediaError, within limits of time and memory."""

from __future__ import annotations

import bz2
import shutil
import sqlite3
from contextlib import suppress
from struct import pack

import lz4.frame
import pytest
import zstandard
from damage import STRANGE, damaged
from fuzzing import FUZZ
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap_writer import Channel, write_mcap

from penguin_models.errors import MediaError
from penguin_ros.bag_storage import bag as bag_storage
from penguin_ros.bag_storage import decompression
from penguin_ros.bag_storage import mcap as mcap_storage
from penguin_ros.bag_storage import sqlite as sqlite_storage
from penguin_ros.bag_storage.bag import Bag
from penguin_ros.bag_storage.folder import storage_files
from penguin_ros.recording import choose_topic, image_topics, read_recording

SECOND = 10**9
IMAGE = "sensor_msgs/msg/CompressedImage"


def message(number):
    """Returns a serialised CompressedImage with one byte of data."""
    header = pack("<4xII", number, 0) + pack("<I", 2) + b"c\0\0\0"
    return b"\0\1\0\0" + header[4:] + pack("<I", 5) + b"jpeg\0\0\0\0" + pack("<I", 1) + b"x"


ROW = (1, 2 * SECOND, message(2))


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


def sqlite(scratch, topic=(1, "/camera", IMAGE, "cdr"), row=ROW):
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


def test_strange_values_in_a_database(scratch):
    """SQLite stores any type in any column; the other message is read all the same."""
    numbers = [
        value for value in STRANGE if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
    ]
    others = [value for value in STRANGE if value is None or isinstance(value, str)]
    cells = st.tuples(*[st.sampled_from([*numbers, *others, b"", b"\xff\0"])] * 7)

    @settings(FUZZ, max_examples=FUZZ.max_examples // 20)  # each is a new database
    @given(cells)
    def check(found):
        assert read(sqlite(scratch, found[:4], (found[4], found[5], found[6]))) >= 1

    check()


@pytest.mark.parametrize("at", ["late", b"late", None, -SECOND])
def test_messages_without_a_valid_time_are_counted_and_the_others_read(scratch, at):
    path = sqlite(scratch, row=(1, at, message(2)))
    assert read(path) == 1
    assert read_recording(path, topics).notes == ("1 messages of a.db3 have no valid time, and are left out",)


TOPICS = (
    "CREATE TABLE topics(id INTEGER PRIMARY KEY, name, type, serialization_format);"
    f"INSERT INTO topics VALUES(1, '/camera', '{IMAGE}', 'cdr');"
)
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x id, 1 topic_id, x timestamp FROM c"


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        (f"CREATE VIEW messages AS {ENDLESS};", "another SQLite database, not a bag; its tables: topics"),
        (
            "CREATE TABLE messages(id, topic_id, timestamp, data AS (zeroblob(900000000)));",
            "not a bag: its table messages has generated columns",
        ),
        ("CREATE TABLE messages(a, b);", "damaged: OperationalError: no such column: timestamp"),
    ],
)
def test_a_database_that_would_compute_its_rows_is_refused(tmp_path, tables, reason):
    with sqlite3.connect(tmp_path / "a.db3") as database:
        database.executescript(TOPICS + tables)
    database.close()
    with pytest.raises(MediaError, match=f"a.db3 is {reason}"):
        read(tmp_path / "a.db3")


def test_a_database_without_end_is_refused(tmp_path, monkeypatch):
    """All pages of a level refer to the same page of the next one."""
    monkeypatch.setattr(sqlite_storage, "_STEPS", 1_000_000)
    path = tmp_path / "a.db3"
    with sqlite3.connect(path) as database:
        rows = "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data);"
        database.executescript(f"PRAGMA page_size = 512;{TOPICS}{rows}")
        database.executemany("INSERT INTO messages VALUES(?, 1, 5, zeroblob(400))", [(n,) for n in range(40)])
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'").fetchone()
    database.close()
    data = bytearray(path.read_bytes())
    page = data[(root - 1) * 512 : root * 512]
    assert page[0] == 5  # an interior page of a table
    cells = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(int.from_bytes(page[3:5], "big"))]
    leaf, last = bytes(page[cells[0] : cells[0] + 4]), len(data) // 512 + 8
    for number in [root, *range(last - 7, last + 1)]:
        level, child = bytearray(page), last - 7 if number == root else number + 1
        for cell in (*cells, 8):
            level[cell : cell + 4] = leaf if number == last else pack(">I", child)
        data[(number - 1) * 512 : number * 512] = level
    data[28:32] = pack(">I", last)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"a\.db3 is damaged: OperationalError: interrupted"):
        read(path)


@pytest.fixture
def small_limits(monkeypatch):
    """Limits of 9 kB, and of 100 records, so that bombs are small."""
    for module in (decompression, mcap_storage):
        for name in ("MAX_PART_BYTES", "MAX_HELD_BYTES"):
            monkeypatch.setattr(module, name, 9_000)
    monkeypatch.setattr(mcap_storage, "_MAX_RECORDS", 100)
    monkeypatch.setattr(decompression.decompress, "__defaults__", (9_000,))


@pytest.mark.parametrize(
    ("messages", "options", "reason"),
    [
        ([(0, 1, bytes(10_000))], {"compression": "lz4", "summary": False}, "a chunk has 0 MiB after decompression"),
        ([(0, 1, bytes(3_000))] * 4, {"chunk_size": 0}, "it has more than 0 MiB of images, but no index"),
        ([(0, 1, b"")] * 101, {"chunk_size": 101}, "a chunk has more than 100 records"),
    ],
)
def test_mcap_files_beyond_the_limits_are_refused(scratch, small_limits, messages, options, reason):
    path = write_mcap(scratch / "a.mcap", [Channel("/camera", definition=b"")], messages, **options)
    with pytest.raises(MediaError, match=rf"a.mcap is damaged: {reason}.*; to recover"):
        read(path)


@pytest.mark.parametrize("compression", ["lz4", "zstd", "bz2"])
def test_decompressed_data_have_a_limit(small_limits, compression):
    compress = {"lz4": lz4.frame.compress, "zstd": zstandard.compress, "bz2": bz2.compress}[compression]
    assert decompression.decompress(compress(bytes(9_000)), compression) == bytes(9_000)
    with pytest.raises(ValueError, match="more than 9000 bytes after decompression"):
        decompression.decompress(compress(bytes(3_000_000)), compression)


def test_a_message_that_becomes_too_large_costs_no_other(scratch, small_limits):
    bomb = zstandard.compress(bytes(3_000_000))
    path = write_mcap(scratch / "a.mcap", [Channel("/camera")], [(0, 1, bomb), (0, 2, message(2))])
    bad, good = read_recording(path, topics).read()
    with pytest.raises(MediaError, match="the message cannot be decompressed: it is damaged, or has more than"):
        bad.message.deserialize()
    assert bytes(good.message.deserialize().data) == b"x"


def test_a_compressed_file_stops_before_the_disk_is_full(tmp_path, monkeypatch):
    (tmp_path / "a.mcap.zstd").write_bytes(zstandard.compress(bytes(1000)))
    monkeypatch.setattr(bag_storage.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(MediaError, match=r"a.mcap.zstd has more than 0 MiB .* set TMPDIR to a folder with more space"):
        read(tmp_path / "a.mcap.zstd")


METADATA = """\
rosbag2_bagfile_information:
  relative_file_paths:
    - a.mcap
  topics_with_message_count:
    - topic_metadata:
        name: /camera
      message_count: 3
"""


def test_damaged_metadata_cost_nothing(scratch):
    """Neither do aliases, values of any type, or paths that lead out of the folder."""
    folder = scratch / "folder"
    folder.mkdir()
    mcap(scratch).rename(folder / "a.mcap")
    strange = [
        "1e300",
        ".inf",
        "*a",
        "&a [*a]",
        "[[[[",
        "../../etc/passwd",
        "/etc/passwd",
        "!!python/name:os.system",
        "{}",
    ]
    replaced = st.tuples(
        st.sampled_from(["a.mcap", "/camera", "3", "- a.mcap"]), st.sampled_from([*strange, "9" * 5000])
    )

    @settings(FUZZ, max_examples=FUZZ.max_examples // 10)  # the parser is slow
    @given(replaced.map(lambda pair: METADATA.replace(*pair).encode()) | damaged(METADATA.encode()))
    def check(text):
        (folder / "metadata.yaml").write_bytes(text)
        assert [file.name for file in storage_files(folder).files] == ["a.mcap"]

    check()
