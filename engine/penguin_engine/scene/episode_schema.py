"""How episodes lie in an SQLite file: tables, versions and their migration, and how the file is opened."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from penguin_engine.scene.episode_backend import sentence
from penguin_engine.scene.episode_rows import LABEL_SEPARATOR
from penguin_models.errors import EpisodeError

APPLICATION_ID = 0x50454E47
_MIGRATIONS = (
    (
        "CREATE TABLE episodes (id INTEGER PRIMARY KEY AUTOINCREMENT, camera TEXT NOT NULL, stamp_ns INTEGER NOT NULL,"
        " frame_id TEXT NOT NULL, caption TEXT NOT NULL, labels TEXT NOT NULL, objects TEXT NOT NULL, pose_frame TEXT,"
        " x REAL, y REAL, z REAL, qx REAL, qy REAL, qz REAL, qw REAL)",
        "CREATE TABLE pictures (id INTEGER PRIMARY KEY, jpeg BLOB NOT NULL)",
        "CREATE TABLE owner (pid INTEGER, host TEXT, program TEXT)",
        "CREATE INDEX by_stamp ON episodes (stamp_ns)",
        "CREATE INDEX by_place ON episodes (pose_frame, x, y, z) WHERE pose_frame IS NOT NULL",
        "CREATE VIRTUAL TABLE words USING fts5 (caption, labels, content='episodes', content_rowid='id',"
        f""" tokenize="porter unicode61 remove_diacritics 2 tokenchars '{LABEL_SEPARATOR}'")""",
    ),
)
"""Statements that lead from version n to n + 1 of the schema."""
_BUSY_S = 1.0


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Opens a connection in autocommit mode."""
    if not read_only:
        return sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    # SQLite writes its shared memory next to the file; in a folder that cannot be written there is no writer either.
    path = path.resolve()
    uri = f"{path.as_uri()}?{'mode=ro' if os.access(path.parent, os.W_OK) else 'immutable=1'}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)


def check_schema(database: sqlite3.Connection, path: Path) -> int:
    """Returns the version of the schema; 0 for an empty file.

    Raises:
        EpisodeError: The file holds something else, or its version is newer.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise EpisodeError(f"{path} is a database of another program; choose another file for episodes")
    if version > len(_MIGRATIONS):
        raise EpisodeError(
            f"{path} has version {version} of the episode format, this program knows up to {len(_MIGRATIONS)}; "
            "update penguin_vl, or choose another file"
        )
    return int(version)


def reason(error: Exception) -> str:
    """Returns what an error says, and what to do about it."""
    said = sentence(error)
    if type(error) is sqlite3.DatabaseError:  # not a database, or malformed; subclasses are other problems
        return f"{said}; choose another file, or restore a copy of it"
    return f"{said}; close the other program that uses it, or try again later" if "locked" in said else said


def check_full_text() -> None:
    """Raises EpisodeError if Python's SQLite was built without full-text search."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute("CREATE VIRTUAL TABLE words USING fts5 (text)")
        except sqlite3.OperationalError as err:
            raise EpisodeError(
                f"episodes need SQLite with FTS5, this Python has SQLite {sqlite3.sqlite_version} without it; use the "
                "Python of your system, or of python.org"
            ) from err


def migrate(database: sqlite3.Connection, path: Path) -> None:
    """Brings the schema to the newest version, and notes this process as the owner of the file."""
    with transaction(database):
        for statements in _MIGRATIONS[check_schema(database, path) :]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        database.execute("DELETE FROM owner")
        values = (os.getpid(), socket.gethostname(), Path(sys.argv[0]).name)
        database.execute("INSERT INTO owner VALUES (?, ?, ?)", values)


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commits what the block has changed, or nothing if it raises."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite has rolled back already after some errors
            database.execute("ROLLBACK")
        raise
