"""EpisodeStore on real files: what a killed writer leaves, full disks, damage, quotas, and search."""

import io
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from penguin_engine.scene import episode_schema
from penguin_engine.scene.episode import Episode, EpisodeFilter, Place, Pose, Quota
from penguin_engine.scene.episodes import open_episodes, prune_episodes, read_episodes
from penguin_models.errors import EpisodeError, SettingError
from penguin_models.grounding import Box, GroundedObject

S = 10**9
NOW = 1_700_000_000 * S


def episode(caption="a room", stamp_s=0, labels=(), camera="/front", **fields):
    objects = tuple(GroundedObject(label, Box(0, 100, 200, 1000)) for label in labels)
    return Episode(camera, NOW + stamp_s * S, "optical", caption, objects, **fields)


def stored(path, *episodes, quota=None):
    with open_episodes(path, quota or Quota()) as store:
        assert [store.add(item) for item in episodes].count(False) == 0 and store.flush(20)
        return store.status


@contextmanager
def largest_file(size):
    """Writes beyond this size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def eventually(condition):
    """Waits until a condition of another thread is met."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_episode_comes_back_with_a_small_picture(tmp_path, picture):
    pose = Pose("map", (1.0, -2.0, 0.5), (0.0, 0.0, 1.0, 0.0))
    with open_episodes(tmp_path / "new" / "e.db") as store:
        assert store.add(episode("a cup", labels=("red cup",), pose=pose), picture(600, 1200))
        assert (
            store.add(episode("no picture", 1)) and store.add(episode("small", 2), picture(30, 40)) and store.flush(20)
        )
        first, second, third = store.range()
        assert replace(first, jpeg=b"", id=0) == episode("a cup", labels=("red cup",), pose=pose)
        with Image.open(io.BytesIO(first.jpeg)) as image:
            assert image.format == "JPEG" and image.size == (448, 224)
            error = np.asarray(image, float) - np.asarray(Image.fromarray(picture(600, 1200)).resize(image.size), float)
        assert abs(error).mean() < 8 and second.jpeg == b""
        assert Image.open(io.BytesIO(third.jpeg)).size == (40, 30)
        assert store.get(first.id) == first and store.get(99) is None
        assert store.status.written == 3 and not store.status.problem


def test_an_episode_of_the_same_camera_and_stamp_completes_the_earlier_one(tmp_path):
    """Its id stays; what the later one leaves empty does too; and the index finds the new words only."""
    path, pose = tmp_path / "e.db", Pose("map", (1.0, 2.0, 3.0))
    others = (episode("a dog"), episode("a lamp", 1, camera="/rear"))
    stored(path, *others, episode("", 1, jpeg=b"first"), episode("a red cup", 1, ("cup",)))
    stored(path, replace(episode("", 1), frame_id="", pose=pose), episode("", 1, ("blue cup",), jpeg=b"second"))
    stored(path, episode("a table", 1), *others)
    *_, found = read_episodes(path).range(EpisodeFilter(("/front",)))
    assert found == episode("a table", 1, ("blue cup",), pose=pose, jpeg=b"second", id=3)
    assert [item.id for item in read_episodes(path).range()] == [1, 2, 3]
    assert [ids(path, text) for text in ("red", "blue", "table", "dog", "lamp")] == [
        [],
        ["a table"],
        ["a table"],
        ["a dog"],
        ["a lamp"],
    ]
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")


def ids(path, *args, **conditions):
    return [found.caption for found in read_episodes(path).search(*args, where=EpisodeFilter(**conditions))]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A file with a few episodes at different times and places."""
    path = tmp_path_factory.mktemp("seen") / "e.db"
    stored(
        path,
        episode("a red cup on the table", 0, ("red cup", "table"), pose=Pose("map", (0, 0, 0))),
        episode("a blue cup", 10, ("blue cup",), pose=Pose("map", (3, 4, 0))),
        episode("an empty room", 20, ("dark red", "cup holder"), camera="/rear", pose=Pose("odom", (0, 0, 0))),
        episode("the red cups", 30, pose=Pose("map", (3, 4, 1))),
        episode("the red cups", 25),
        episode("Ein Café", 5),
    )
    return path


@pytest.mark.parametrize(
    ("text", "conditions", "found"),
    [
        ("where was the blue cup?", {}, ["a blue cup", "the red cups", "the red cups"]),  # then those with one word
        ("table", {}, ["a red cup on the table"]),
        ("CAFE", {}, ["Ein Café"]),
        ("giraffe", {}, []),
        ("?!", {}, []),
        ("", {"since_ns": NOW + 20 * S, "until_ns": NOW + 25 * S}, ["the red cups", "an empty room"]),
        ("cup", {"until_ns": NOW + 9 * S}, ["a red cup on the table"]),
        ("", {"cameras": ("/rear",)}, ["an empty room"]),
        ("", {"objects": ("red cup",)}, ["a red cup on the table"]),  # and not those of dark red, cup holder
        ("", {"objects": ("CUP", "table")}, ["a red cup on the table"]),
        ("", {"objects": ("?",)}, []),
        ("", {"near": Place("map", (0, 0, 0), 5.0)}, ["a blue cup", "a red cup on the table"]),
        ("red", {"near": Place("map", (0, 0, 0), 4.9)}, ["a red cup on the table"]),
        ("", {"near": Place("odom", (0, 0, 0), 0.0)}, ["an empty room"]),
    ],
)
def test_search_by_text_time_camera_object_and_place(seen, text, conditions, found):
    assert ids(seen, text, **conditions)[:3] == found


def test_results_are_in_order_of_relevance_then_newest_first(seen):
    stamps = [(found.stamp_ns - NOW) // S for found in read_episodes(seen).search("red cups")]
    assert stamps.index(30) + 1 == stamps.index(25) and set(stamps) == {0, 10, 20, 25, 30}
    assert len(read_episodes(seen).search("red", limit=1)) == 1 and read_episodes(seen).search(limit=0) == []
    assert [(e.stamp_ns - NOW) // S for e in read_episodes(seen).range()] == [0, 5, 10, 20, 25, 30]


_TEXT = st.binary(max_size=60).map(lambda data: data.decode("utf-16-le", "replace"))
_FTS = st.lists(st.sampled_from([*'"*^:(){}+-,\0\ud800', " NEAR(", " AND ", " NOT ", "caption:", "cup", "é", "'", "|"]))


@given(st.one_of(_TEXT, _FTS.map("".join)), st.integers(-(2**70), 2**70))
def test_any_text_is_searched_and_stored(seen, text, number):
    reader = read_episodes(seen)
    where = EpisodeFilter((text, "/front"), -abs(number), abs(number) + NOW, near=Place(text, (0, 0, 0), 1))
    assert reader.search(text, where) == [] and isinstance(reader.search(text), list) and reader.get(2**64) is None
    assert isinstance(reader.search(where=EpisodeFilter(objects=(text,))), list)


@pytest.mark.parametrize("text", ['"; DROP TABLE episodes; --', "caption: NEAR(a b) | \0 \ud800", "x" * 50_000])
def test_any_text_is_stored(tmp_path, text):
    item = replace(episode(text, labels=("a|b c", "\ud800")), frame_id=text, camera=text, pose=Pose(text, (0, 0, 0)))
    assert stored(tmp_path / "e.db", item).written == 1
    assert read_episodes(tmp_path / "e.db").search(text)[0].objects[0] == item.objects[0]


WRITER = """
import sys
from pathlib import Path
from penguin_engine.scene.episode import Episode
from penguin_engine.scene.episodes import open_episodes, prune_episodes, read_episodes
store = open_episodes(Path(sys.argv[1]))
for number in range(1_000_000):
    store.add(Episode("/front", 1_700_000_000_000_000_000 + number, caption=f"number {number}", jpeg=b"x" * 5000))
    if number % 50 == 0:
        store.flush(20)
        print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_flushed_and_lets_go(tmp_path):
    """While it writes: another process reads, and a second writer gets an error that names the first."""
    path = tmp_path / "e.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert [int(writer.stdout.readline()) for _ in range(5)][-1] == 200
        for _ in range(2):  # the attempt of one contender must not hide the owner from the next
            with pytest.raises(EpisodeError, match=rf"already written by process {writer.pid} \(.*\) on .*; stop it"):
                open_episodes(path)
        assert ids(path, "150") == ["number 150"] and read_episodes(path).summary().episodes > 200
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        last = [200, *map(int, writer.stdout.read().split())][-1]
    assert read_episodes(path).summary().episodes > last
    status = stored(path, episode("afterwards", 1))
    assert status.written == 1 and not status.problem
    found = [int(e.caption.split()[1]) for e in read_episodes(path).range() if e.caption != "afterwards"]
    assert found == list(range(len(found))) and len(found) > last
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_stores_in_one_process_do_not_share_a_file(tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "e.db")
    with open_episodes(tmp_path / "e.db"), pytest.raises(EpisodeError, match=f"process {os.getpid()} "):
        open_episodes(tmp_path / "link.db")
    open_episodes(tmp_path / "link.db").close()


def test_a_full_disk_is_a_problem_that_passes(tmp_path, monkeypatch):
    monkeypatch.setattr("penguin_engine.scene.episodes._RETRY_S", 0.01)
    path = tmp_path / "e.db"
    with open_episodes(path) as store:
        store.add(episode("before"))
        store.flush(20)
        with largest_file(200_000):
            added = [store.add(episode(f"number {i}", i + 1, jpeg=bytes(9000))) for i in range(400)]
            eventually(lambda: store.status.failing)
            assert store.status.problem.startswith(f"episodes cannot be written to {path}: ")
            assert ids(path, "before") == ["before"]
        assert store.flush(20)
        status = store.status
        assert not status.failing and 0 < status.lost == added.count(False)
        assert status.written == 1 + added.count(True) == store.summary().episodes


def test_what_cannot_be_written_at_the_end_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(episode_schema, "_BUSY_S", 0.05)
    store = open_episodes(tmp_path / "e.db")
    with closing(sqlite3.connect(tmp_path / "e.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # a writer that knows nothing of the lock
        store.add(episode())
        store.close()
    assert store.status.lost == 1 and "database is locked" in store.status.problem
    assert not store.add(episode()) and store.status.lost == 2


@pytest.mark.parametrize("damage", ["random", "truncated", "page"])
def test_a_damaged_file_is_set_aside(tmp_path, damage):
    path = tmp_path / "e.db"
    stored(path, *(episode(f"number {i}", i) for i in range(200)))
    data = path.read_bytes()
    noise = np.random.default_rng(0).bytes(len(data))
    path.write_bytes({"random": noise, "truncated": data[:5000], "page": data[:4096] + noise[4096:]}[damage])
    with pytest.raises(EpisodeError, match=r"cannot be read as an episode file|another program"):
        list(read_episodes(path).range())
    with open_episodes(path) as store:
        store.add(episode("after"))
        assert store.flush(20)
        assert "was damaged" in store.status.problem and "it is now e.db.broken" in store.status.problem
        assert ids(path, "after") == ["after"] and store.status.written == 1 and not store.status.failing
    assert (tmp_path / "e.db.broken").exists()


def test_a_reader_without_end_does_not_let_the_log_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(episode_schema, "_BUSY_S", 0.02)
    monkeypatch.setattr("penguin_engine.scene.episodes._RETRY_S", 0.01)
    with open_episodes(tmp_path / "e.db", Quota(4_000_000)) as store:
        store.add(episode())
        store.flush(20)
        with closing(sqlite3.connect(tmp_path / "e.db", isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM episodes").fetchall()
            for number in range(100):
                store.add(episode("", number + 1, jpeg=bytes(40_000)))
            eventually(lambda: store.status.failing)
            assert "another program keeps a transaction open" in store.status.problem
            assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4_000_000
        assert store.flush(20) and store.status.written == 101 and not store.status.failing


def test_a_removed_file_is_begun_anew(tmp_path):
    path = tmp_path / "e.db"
    with open_episodes(path) as store:
        store.add(episode("before"))
        store.flush(20)
        path.unlink()
        store.add(episode("after"))
        assert store.flush(20) and ids(path) == ["after"]


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("PRAGMA user_version = 2", "has version 2 of the episode format, this program knows up to 1; update"),
        ("PRAGMA application_id = 7", "is a database of another program"),
    ],
)
def test_files_of_others_are_left_alone(tmp_path, statement, error):
    path = tmp_path / "e.db"
    stored(path, episode())
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
    before = path.read_bytes()
    for use in (open_episodes, lambda path: read_episodes(path).search("a")):
        with pytest.raises(EpisodeError, match=error):
            use(path)
    assert path.read_bytes() == before


def test_an_empty_file_and_an_older_version_are_migrated(tmp_path, monkeypatch):
    path = tmp_path / "e.db"
    path.touch()
    with pytest.raises(EpisodeError, match="no episode has been written"):
        read_episodes(path).search()
    stored(path, episode("old"))
    newer = (
        *episode_schema._MIGRATIONS,
        ("ALTER TABLE episodes ADD COLUMN note TEXT", "UPDATE episodes SET note = 'n'"),
    )
    monkeypatch.setattr(episode_schema, "_MIGRATIONS", newer)
    stored(path, episode("new", 1))
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT caption, note FROM episodes").fetchall() == [("old", "n"), ("new", None)]
        assert database.execute("PRAGMA user_version").fetchone() == (2,)


@pytest.mark.parametrize(("count", "jpeg", "least"), [(2800, 0, 1600), (180, 20_000, 120)])
def test_the_size_on_the_disk_stays_within_the_quota(tmp_path, count, jpeg, least):
    path, largest = tmp_path / "e.db", 0
    with open_episodes(path, Quota(4_000_000)) as store:
        for number in range(count):
            store.add(
                episode(f"a cup number {number} on table {number % 7}. " * 30, number, ("cup",), jpeg=bytes(jpeg))
            )
            if number % 150 == 0:
                store.flush(20)
                largest = max(largest, sum(file.stat().st_size for file in tmp_path.iterdir()))
        assert store.flush(20) and store.status.written == count and not store.status.problem
        left = [item.stamp_ns for item in store.range()]
        assert left == [NOW + number * S for number in range(count - len(left), count)] and least <= len(left) < count
        assert largest < 4_000_000 + 2 * 32_768  # that of the shared memory of WAL
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")


def test_a_file_shrinks_to_a_smaller_quota(tmp_path):
    path = tmp_path / "e.db"
    caption = " ".join(f"word{number}" for number in range(120))
    with open_episodes(path) as store:
        for number in range(5000):
            store.add(episode(f"{caption} a{number}", number))
            if number % 200 == 0:
                store.flush(20)
        assert store.flush(20) and store.status.lost == 0
    before = read_episodes(path).summary()
    deleted = prune_episodes(path, Quota(4_000_000))
    after = read_episodes(path).summary()
    assert before.bytes > 5_500_000 and 2_000_000 < after.bytes < 4_000_000
    assert deleted == before.episodes - after.episodes and ids(path, "a4999 word7")[0].endswith("a4999")
    assert ids(path, "a0") == [] and after.newest_ns == before.newest_ns
    assert prune_episodes(path, Quota(max_age_s=10)) == after.episodes - 11
    assert read_episodes(path).summary().bytes < 500_000


def test_old_episodes_leave_and_a_stamp_in_the_future_removes_none(tmp_path):
    path = tmp_path / "e.db"
    stored(path, *(episode(f"{i}", 10 * i) for i in range(5)))
    stored(path, episode("5", 50), quota=Quota(max_age_s=25))  # removes what was too old before it
    stored(path, replace(episode("future"), stamp_ns=2**62), quota=Quota(max_age_s=10**9))
    assert ids(path) == ["future", "5", "4", "3", "2"]


def test_what_cannot_be_stored_is_lost_alone(tmp_path):
    with open_episodes(tmp_path / "e.db", Quota(4_000_000)) as store:
        for bad in (replace(episode(), stamp_ns=2**63), episode(jpeg=bytes(500_000))):
            assert store.add(bad) and store.add(episode()) and store.flush(20)
        assert store.add(episode(), np.zeros((2, 0, 3), np.uint8)) and store.flush(20)
        assert (store.status.written, store.status.lost) == (2, 3) and "cannot be stored" in store.status.problem
    for wrong in (lambda: Quota(1000), lambda: Quota(max_age_s=0), lambda: Place("map", (0, 0, float("nan")), 1)):
        with pytest.raises(SettingError):
            wrong()


def test_sqlite_without_full_text_search_is_named(tmp_path, monkeypatch):
    class Lean(sqlite3.Connection):
        def execute(self, statement, *values):
            return super().execute(statement.replace("fts5", "absent"), *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Lean, **options))
    with pytest.raises(EpisodeError, match=r"need SQLite with FTS5, this Python has SQLite \d"):
        open_episodes(tmp_path / "e.db")
