"""The SQLite file of an episode store: its one writer, and its quota.

The file is in WAL mode, so other processes read while one writes. A lock next to it keeps a second writer out. What is
committed survives the death of the process; after a power failure the last commits may be missing, but the file is
whole.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from penguin_engine.scene.episode import Episode, Quota
from penguin_engine.scene.episode_backend import sentence, size_bytes
from penguin_engine.scene.episode_rows import COLUMNS, to_row
from penguin_engine.scene.episode_schema import (
    APPLICATION_ID,
    check_full_text,
    check_schema,
    connect,
    migrate,
    reason,
    transaction,
)
from penguin_engine.scene.episode_search import find
from penguin_engine.scene.episode_words import storable
from penguin_models.atomic_write import writing
from penguin_models.errors import EpisodeError
from penguin_models.quoting import shortened

_INSERT = f"INSERT OR REPLACE INTO episodes (id, {', '.join(COLUMNS)}) VALUES (?{', ?' * len(COLUMNS)})"
_MAGIC = b"SQLite format 3\0"
_DELETED_AT_ONCE = 1000
_SLACK = 16 * 2**20
_FULL_BYTES = 100_000
_MERGED_PAGES = 200  # of the index, after each deletion: a deleted word takes room until its pages are merged


class EpisodeFile:
    """Writes the file (an EpisodeWriter); one object at a time, in one thread at a time.

    Raises (when created):
        EpisodeError: Another process writes the file, it is something else, or SQLite has no full-text search.
        WriteError: The folder or the lock cannot be created.
    """

    def __init__(self, path: Path, quota: Quota):
        check_full_text()
        self.name = str(path)
        self.path = path.resolve()
        self.quota = quota
        self.oldest_ns = quota.oldest_ns(None)
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self._lock = FileLock(f"{self.path}.lock", timeout=0, thread_local=False)  # any thread may close it
        with writing(path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._check_own()
            try:
                self._lock.acquire()
            except Timeout as err:
                raise EpisodeError(
                    f"{path} is already written by {_owner(self.path)}; stop it, or choose another file"
                ) from err

    def _check_own(self) -> None:
        """Refuses what is not a file, or of another kind; an episode file that is damaged is known by its lock."""
        if self.path.exists() and not self.path.is_file():
            raise EpisodeError(f"{self.name} is a folder or a device; name a file for the episodes")
        if not self.path.is_file() or Path(self._lock.lock_file).exists():
            return
        with self.path.open("rb") as file:
            head = file.read(len(_MAGIC))
        if head and head != _MAGIC:
            raise EpisodeError(f"{self.name} is not a database, so episodes cannot be kept there; choose another file")

    @property
    def limit_bytes(self) -> int:
        """Largest size of the database without its log."""
        return self.quota.max_bytes - min(self.quota.max_bytes // 8, _SLACK)

    @property
    def largest_bytes(self) -> int:
        """Largest size of an episode."""
        return min(self.limit_bytes // 16, _SLACK // 4)

    def open(self) -> None:
        """Opens the file, or makes sure that the open one is still in its place; creates or migrates it.

        Raises:
            EpisodeError: The file holds something else, or its version is newer.
            sqlite3.Error: The file cannot be read or written.
        """
        if self._database is not None:
            with suppress(OSError):
                if self.path.stat().st_ino == self._inode:
                    return
            self.disconnect()  # somebody removed or replaced the file
        database = connect(self.path)
        try:
            if check_schema(database, self.path) == 0:
                database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # must precede the first table
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            self._set_log_size(database)
            migrate(database, self.path)
            self._inode = self.path.stat().st_ino
            self.oldest_ns = self._oldest_ns(database)
        except BaseException:
            database.close()
            raise
        self._database = database

    def _limit_pages(self, size: int) -> None:
        """Lets the file grow to a size in bytes, and not beyond."""
        assert self._database is not None
        (page,) = self._database.execute("PRAGMA page_size").fetchone()
        self._database.execute(f"PRAGMA max_page_count = {min(size // page, 2**30)}")

    def _set_log_size(self, database: sqlite3.Connection) -> None:
        (page,) = database.execute("PRAGMA page_size").fetchone()
        log_pages = min(1000, self.quota.max_bytes // 32 // page)
        database.execute(f"PRAGMA wal_autocheckpoint = {log_pages}")
        database.execute(f"PRAGMA journal_size_limit = {log_pages * page}")

    def write(self, episodes: Sequence[Episode]) -> None:
        """Writes episodes in one transaction, after making room for them; after an error, none has been written."""
        wanted = sum(map(size_bytes, episodes))
        self._check_log()
        self._prune(wanted)
        self._limit_pages(self.limit_bytes)
        try:
            self._insert(episodes)
        except sqlite3.OperationalError:
            if self._pages()[0] + wanted > self.limit_bytes:  # the index needs more than was left for it
                with suppress(sqlite3.Error):
                    self._prune(wanted + self.limit_bytes // 8)
            raise
        assert self._database is not None
        self.oldest_ns = self._oldest_ns(self._database)

    def _insert(self, episodes: Sequence[Episode]) -> None:
        assert self._database is not None
        with transaction(self._database) as database:
            for episode in episodes:
                earlier = find(database, storable(episode.camera), episode.stamp_ns)
                if earlier is not None:
                    _delete_words(database, [earlier.id])
                row = (earlier and earlier.id, *to_row(earlier.merged(episode) if earlier else episode))
                number = database.execute(_INSERT, row).lastrowid
                words = (number, row[4], row[5])
                database.execute("INSERT INTO words (rowid, caption, labels) VALUES (?, ?, ?)", words)
                if episode.jpeg:
                    database.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?)", (number, episode.jpeg))

    def _check_log(self) -> None:
        """Raises OperationalError if a program that reads without end lets the log grow beyond the quota."""
        assert self._database is not None
        log = self.path.with_name(f"{self.path.name}-wal")
        largest = (self.quota.max_bytes - self.limit_bytes) // 2
        if log.exists() and log.stat().st_size > largest:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if log.exists() and log.stat().st_size > largest:
                raise sqlite3.OperationalError("its log is full, because another program keeps a transaction open")

    def prune(self) -> int:
        """Opens the file, deletes the oldest episodes that exceed the quota, and shrinks it; returns their number.

        Raises:
            EpisodeError: The file cannot be read or written.
        """
        try:
            self.open()
            deleted = self._prune()
            self._shrink()
        except sqlite3.Error as err:
            raise EpisodeError(f"{self.name} cannot be pruned: {reason(err)}") from err
        return deleted

    def _prune(self, wanted_bytes: int = 0) -> int:
        """Deletes the oldest episodes that exceed the quota or are in the way of some bytes; returns their number."""
        assert self._database is not None
        self._limit_pages(2**62)  # the index grows before it shrinks
        deleted = self._drop_old() + self._make_room(wanted_bytes)
        if self._pages()[0] > self.limit_bytes:
            self._shrink()
        return deleted

    def _shrink(self) -> None:
        """Gives free pages back to the file system."""
        assert self._database is not None
        self._database.executescript("PRAGMA incremental_vacuum")  # `execute` frees one page only
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _drop_old(self) -> int:
        """Deletes what is too old."""
        assert self._database is not None
        oldest = self._oldest_ns(self._database)
        (count,) = self._database.execute("SELECT count(*) FROM episodes WHERE stamp_ns < ?", (oldest,)).fetchone()
        if count > _DELETED_AT_ONCE:
            return self._delete_many("stamp_ns < ?", oldest)
        return self._delete("stamp_ns < ?", oldest) if count else 0

    def _oldest_ns(self, database: sqlite3.Connection) -> int:
        return self.quota.oldest_ns(database.execute("SELECT max(stamp_ns) FROM episodes").fetchone()[0])

    def _make_room(self, wanted_bytes: int) -> int:
        """Deletes the episodes that arrived first until some more bytes fit."""
        assert self._database is not None
        deleted = 0
        room = self.limit_bytes - min(self.limit_bytes // 8, _SLACK) - wanted_bytes
        while (used := self._used_bytes()) > room:
            first, last = self._database.execute("SELECT min(id), max(id) FROM episodes").fetchone()
            if first is None:
                break
            surplus = round((last - first) * (1 - max(room, 0) / used))
            if surplus > 2 * _DELETED_AT_ONCE:  # the quota is smaller than before
                deleted += self._delete_many("id < ?", first + surplus)
            else:
                deleted += self._delete("1 ORDER BY id LIMIT ?", min(_DELETED_AT_ONCE, (last - first) // 64 + 1))
        return deleted

    def _delete_many(self, condition: str, value: int) -> int:
        """Deletes episodes and makes the index anew, which is much faster than to delete the words of many episodes."""
        assert self._database is not None
        with transaction(self._database) as database:
            database.execute(f"DELETE FROM pictures WHERE id IN (SELECT id FROM episodes WHERE {condition})", (value,))
            count = database.execute(f"DELETE FROM episodes WHERE {condition}", (value,)).rowcount
            database.execute("INSERT INTO words (words) VALUES ('rebuild')")
        return count

    def _delete(self, condition: str, *values: int) -> int:
        assert self._database is not None
        with transaction(self._database) as database:
            ids = [number for (number,) in database.execute(f"SELECT id FROM episodes WHERE {condition}", values)]
            _delete_words(database, ids)
            marks = [(number,) for number in ids]
            database.executemany("DELETE FROM pictures WHERE id = ?", marks)
            database.executemany("DELETE FROM episodes WHERE id = ?", marks)
            if ids:
                database.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (_MERGED_PAGES,))
        return len(ids)

    def _pages(self) -> tuple[int, int]:
        """Returns the bytes of the file, and the bytes in it that are free."""
        assert self._database is not None
        names = ("page_size", "page_count", "freelist_count")
        page, pages, free = (self._database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return page * pages, page * free

    def _used_bytes(self) -> int:
        size, free = self._pages()
        return size - free

    def recover(self, error: Exception) -> str:
        """Closes the file, and renames it if it is damaged, so that the next attempt begins a new one."""
        self.disconnect()
        if type(error) is not sqlite3.DatabaseError:  # not a database, or malformed; subclasses are other problems
            return f"episodes cannot be written to {self.name}: {self._reason(error)}"
        try:
            target = self._set_aside()
        except OSError as err:
            return f"{self.name} is damaged ({sentence(error)}) and cannot be renamed: {sentence(err)}"
        return f"{self.name} was damaged ({sentence(error)}); it is now {target.name}, and a new one begins"

    def _reason(self, error: Exception) -> str:
        with suppress(OSError):
            if shutil.disk_usage(self.path.parent).free < _FULL_BYTES:  # SQLite may report it as an I/O error
                return "the disk is full; free space there, or choose another file"
        return reason(error)

    def _set_aside(self) -> Path:
        """Renames the file, in place of one that was set aside before; returns its new path."""
        target = self.path.with_name(f"{self.path.name}.broken")
        self.path.replace(target)
        for suffix in ("-wal", "-shm"):  # the log may hold what the file has lost
            target.with_name(f"{target.name}{suffix}").unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self.path.with_name(f"{self.path.name}{suffix}").replace(f"{target}{suffix}")
        return target

    def disconnect(self) -> None:
        """Closes the database, if it is open; the lock stays."""
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def close(self) -> None:
        """Closes the database and lets another process write it."""
        self.disconnect()
        self._lock.release()


def _delete_words(database: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Takes episodes out of the index; their texts must still be those that are in it."""
    database.executemany(
        "INSERT INTO words (words, rowid, caption, labels) SELECT 'delete', id, caption, labels FROM episodes "
        "WHERE id = ?",
        [(number,) for number in ids],
    )


def _owner(path: Path) -> str:
    """Returns the process that wrote last, which is the one that holds the lock."""
    with suppress(sqlite3.Error, TypeError), closing(connect(path, read_only=True)) as database:
        pid, host, program = database.execute("SELECT pid, host, program FROM owner").fetchone()
        return f"process {pid} ({shortened(str(program))}) on {shortened(str(host))}"
    return "another process"
