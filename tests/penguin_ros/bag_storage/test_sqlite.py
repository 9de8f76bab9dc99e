"""SQLite bags: messages that are still in files next to the database, other versions of the tables, damage."""

from __future__ import annotations

import shutil
import sqlite3
from hashlib import sha256

import pytest

from penguin_models.errors import MediaError
from penguin_ros.bag_storage import sqlite
from penguin_ros.bags import BagClip

SECOND = 10**9
TABLES = """
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT{});
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);
"""


@pytest.fixture
def jpegs(bags, picture):
    """Eight serialised images."""
    return [bags.serialize(bags.jpeg(picture(16, 24, number))) for number in range(8)]


def interrupted(folder, jpegs, journal_mode, committed=2):
    """Writes a bag whose recorder was killed: its last messages are in the file next to the database.

    Returns the database in a folder of its own, with no process that has it open.
    """
    original = folder / "recording.db3"
    database = sqlite3.connect(original, isolation_level=None)
    database.execute(f"PRAGMA journal_mode = {journal_mode}")
    database.executescript(TABLES.format(""))
    database.execute("INSERT INTO topics VALUES(1, '/camera', 'sensor_msgs/msg/CompressedImage', 'cdr')")
    insert = "INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)"
    rows = [(number * SECOND, data) for number, data in enumerate(jpegs, start=1)]
    database.executemany(insert, rows[:committed])
    if journal_mode == "WAL":
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.executemany(insert, rows[committed:])
    else:
        database.execute("PRAGMA cache_size = 1")  # pages reach the file before the transaction ends
        database.execute("BEGIN")
        database.execute("UPDATE messages SET timestamp = 0, data = zeroblob(9000)")
        database.executemany(insert, [(99, bytes(9000))] * 20)
    bag = folder / "bag"
    bag.mkdir()
    for file in folder.glob("recording.db3*"):
        shutil.copyfile(file, bag / file.name.replace("recording", "bag_0"))
    database.close()
    return bag / "bag_0.db3"


def hashes(folder):
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("shared_memory", [True, False])
@pytest.mark.parametrize("metadata", ["none", "written"])
@pytest.mark.parametrize("give", ["file", "folder"])
def test_messages_in_a_write_ahead_log_are_read(jpegs, tmp_path, shared_memory, metadata, give):
    """Nothing in the folder is changed, so that it may be read-only."""
    file = interrupted(tmp_path, jpegs, "WAL")
    if not shared_memory:
        file.with_name("bag_0.db3-shm").unlink()
    if metadata == "written":
        text = "rosbag2_bagfile_information: {relative_file_paths: [bag_0.db3]}"
        (file.parent / "metadata.yaml").write_text(text)
    before = hashes(file.parent)
    assert "bag_0.db3-wal" in before
    file.parent.chmod(0o555)
    try:
        assert [frame.time_s for frame in BagClip(file if give == "file" else file.parent)] == list(range(8))
    finally:
        file.parent.chmod(0o755)
    assert hashes(file.parent) == before


def test_a_transaction_that_did_not_end_is_undone(jpegs, tmp_path):
    file = interrupted(tmp_path, jpegs, "DELETE")
    before = hashes(file.parent)
    assert "bag_0.db3-journal" in before
    assert [frame.time_s for frame in BagClip(file)] == [0, 1]
    assert hashes(file.parent) == before


def test_a_recorder_that_is_running_is_not_disturbed(jpegs, tmp_path, monkeypatch):
    file = interrupted(tmp_path, jpegs, "WAL")
    assert len(list(BagClip(file))) == 8
    copy = shutil.copyfile

    def write_meanwhile(source, target):
        with (file.parent / "bag_0.db3-wal").open("ab") as log:
            log.write(bytes(10))
        return copy(source, target)

    monkeypatch.setattr(sqlite.shutil, "copyfile", write_meanwhile)
    with pytest.raises(MediaError, match=r"bag_0.db3 is being written to; stop the recorder, or copy the bag"):
        BagClip(file)


def test_too_little_space_for_a_copy_is_an_error(jpegs, tmp_path, monkeypatch):
    file = interrupted(tmp_path, jpegs, "WAL")
    monkeypatch.setattr(sqlite.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(MediaError, match=r"bag_0.db3-wal holds messages that bag_0.db3 lacks; .* set TMPDIR"):
        BagClip(file)


@pytest.mark.parametrize("columns", ["", ", offered_qos_profiles TEXT", ", offered_qos_profiles TEXT, hash TEXT"])
@pytest.mark.parametrize("qos", ["", "- history: 3\n  depth: 0", "not: [yaml"])
def test_tables_of_every_version_are_read_and_foreign_topics_skipped(jpegs, tmp_path, columns, qos):
    """One topic was recorded from two publishers, whose QoS may differ."""
    path = tmp_path / "a.db3"
    database = sqlite3.connect(path)
    database.executescript(TABLES.format(columns))
    image = ("/camera", "sensor_msgs/msg/CompressedImage", "cdr")
    topics = [image, image, ("/wheel", "robot/msg/Wheel", "cdr"), ("/front", "sensor_msgs/msg/Image", "protobuf")]
    extra = [qos] * columns.count("TEXT")
    for topic in topics:
        marks = ", ".join("?" * (3 + len(extra)))
        database.execute(f"INSERT INTO topics VALUES(NULL, {marks})", (*topic, *extra))
    rows = [(1 + number % 2, number * SECOND, data) for number, data in enumerate(jpegs, start=1)]
    rows = [*rows[::2], *rows[1::2], (3, SECOND, b"\1"), (4, SECOND, b"\2")]
    database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)", rows)
    database.commit()
    database.close()
    assert [frame.time_s for frame in BagClip(path)] == list(range(8))
    with pytest.raises(MediaError, match=r"/front .* is sensor_msgs/msg/Image in encoding 'protobuf', not an image"):
        BagClip(path, "/front")


def test_another_database_is_no_bag_and_not_damaged(tmp_path):
    path = tmp_path / "a.db3"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE songs(name TEXT)")
    database.close()
    with pytest.raises(MediaError) as raised:
        BagClip(path)
    assert str(raised.value).endswith("a.db3 is another SQLite database, not a bag; its tables: songs")


def test_a_damaged_database_gets_advice_of_its_own(jpegs, tmp_path):
    file = interrupted(tmp_path, jpegs, "DELETE")
    file.with_name("bag_0.db3-journal").unlink()
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(MediaError, match=rf"to recover what it holds, run: sqlite3 {file} .recover"):
        list(BagClip(file))
