"""Episodes in an SQLite file: full disks, damage, the log, other files, versions, and the quota."""

import os
import resource
import sqlite3
from contextlib import closing, contextmanager

import numpy as np
import pytest
from stored_episodes import NOW, S, captions, episode, eventually, stored

from penguin_engine.scene import episode_schema
from penguin_engine.scene.episode import Quota
from penguin_engine.scene.episodes import open_episodes, prune_episodes, read_episodes
from penguin_models.errors import EpisodeError


@contextmanager
def largest_file(size):
    """Writes beyond this size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
            assert captions(path, "before") == ["before"]
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
        assert captions(path, "after") == ["after"] and store.status.written == 1 and not store.status.failing
    assert (tmp_path / "e.db.broken").exists()


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("What I did today.")
    for _ in range(2):
        with pytest.raises(EpisodeError, match=r"notes\.md is not a database, .* choose another file"):
            open_episodes(path)
    with pytest.raises(EpisodeError, match="is a folder or a device"):
        open_episodes(tmp_path)
    assert path.read_text() == "What I did today." and list(tmp_path.iterdir()) == [path]


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
        assert store.flush(20) and captions(path) == ["after"]


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
    assert deleted == before.episodes - after.episodes and captions(path, "a4999 word7")[0].endswith("a4999")
    assert captions(path, "a0") == [] and after.newest_ns == before.newest_ns
    assert prune_episodes(path, Quota(max_age_s=10)) == after.episodes - 11
    assert read_episodes(path).summary().bytes < 500_000


def test_sqlite_without_full_text_search_is_named(tmp_path, monkeypatch):
    class Lean(sqlite3.Connection):
        def execute(self, statement, *values):
            return super().execute(statement.replace("fts5", "absent"), *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Lean, **options))
    with pytest.raises(EpisodeError, match=r"need SQLite with FTS5, this Python has SQLite \d"):
        open_episodes(tmp_path / "e.db")
