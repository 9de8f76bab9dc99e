"""Reads the SQLite files of rosbag2, without changing them or anything next to them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from penguin_models.errors import MediaError
from penguin_ros.bag_storage.messages import Connection, Message

MAGIC = b"SQLite format 3\0"
_ATTEMPTS = 3
_MAX_NS = 2**63 - 1
_STEPS, _STEPS_PER_BYTE = 100_000_000, 10
"""Limit of a query, in instructions of SQLite: pages that refer to each other in a circle have no end."""


class SqliteFile:
    """An open database; a copy of it if a crash or a running recorder left messages in files next to it."""

    def __init__(self, path: Path, scratch: Path):
        """Reads the topics; `scratch` is an empty folder for a copy. Raises any error if the file is damaged."""
        # SQLite merges pending files into the database when it is opened, so that must be a copy.
        uri = _copy(path, scratch).as_uri() if pending_files(path) else f"{path.resolve().as_uri()}?immutable=1"
        self._database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        self._database.text_factory = lambda text: text.decode(errors="backslashreplace")
        self._limit_steps(path.stat().st_size)
        self.notes: list[str] = []
        try:
            # Virtual tables have no root page. They, and generated columns, would compute any amount of data.
            query = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
            tables = [name for (name,) in self._database.execute(query)]
            if not {"topics", "messages"} <= set(tables):
                held = ", ".join(tables[:5]) or "none"
                raise MediaError(f"{path.name} is another SQLite database, not a bag; its tables: {held}")
            for table in ("topics", "messages", "message_definitions"):
                if any(column[6] for column in self._database.execute(f"PRAGMA table_xinfo({table})")):
                    raise MediaError(f"{path.name} is not a bag: its table {table} has generated columns")
            self.connections = self._read_topics()
            self.start_ns: int = self._read_start(path)
        except BaseException:
            self.close()
            raise

    def messages(self, wanted: Collection[Connection], start_ns: int) -> Iterator[Message]:
        """Yields the messages of some connections recorded at or after a time, in the order of their log times."""
        topics = {connection.id: connection for connection in wanted}
        rows = self._database.execute(
            "SELECT topic_id, timestamp, id, data FROM messages "
            f"WHERE topic_id IN ({','.join('?' * len(topics))}) AND timestamp BETWEEN ? AND ? ORDER BY timestamp, id",
            (*topics, max(start_ns, 0), _MAX_NS),
        )
        for topic, log_ns, place, data in rows:
            # SQLite stores any type in any column; data of another type are a message that is damaged.
            yield Message(topics[topic], int(log_ns), int(place), data if isinstance(data, bytes) else b"")

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def _limit_steps(self, file_bytes: int) -> None:
        steps = iter(range((_STEPS + _STEPS_PER_BYTE * file_bytes) // 1_000_000))
        self._database.set_progress_handler(lambda: next(steps, None) is None, 1_000_000)

    def _read_start(self, path: Path) -> int:
        """Returns the earliest time, and notes how many messages have none."""
        count = "SELECT count(*) FROM messages WHERE timestamp IS NULL OR timestamp < 0 OR timestamp > ?"
        (bad,) = self._database.execute(count, (_MAX_NS,)).fetchone()
        if bad:
            self.notes.append(f"{bad} messages of {path.name} have no valid time, and are left out")
        start = "SELECT min(timestamp) FROM messages WHERE timestamp BETWEEN 0 AND ?"
        return int(self._database.execute(start, (_MAX_NS,)).fetchone()[0] or 0)

    def _read_topics(self) -> list[Connection]:
        definitions = {}
        if self._database.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'message_definitions' AND rootpage > 0"
        ).fetchone():
            rows = self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            )
            definitions = {_text(name): (_text(encoding), _bytes(text)) for name, encoding, text in rows}
        topics = self._database.execute("SELECT id, name, type, serialization_format FROM topics ORDER BY id")
        return [
            Connection(number, _text(name), _text(kind), _text(encoding), *definitions.get(_text(kind), ("", b"")))
            for number, name, kind, encoding in topics
        ]


def pending_files(path: Path) -> list[Path]:
    """Returns the files next to a database with messages that it lacks (-wal), or with what to undo (-journal)."""
    files = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal"))
    return [file for file in files if file.is_file() and file.stat().st_size]


def _copy(path: Path, folder: Path) -> Path:
    """Copies a database and the files next to it as they were at one time, and returns the copy."""
    for _ in range(_ATTEMPTS):
        files = [path, *pending_files(path)]
        before = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        needed, free = sum(size for _, size, _ in before), shutil.disk_usage(folder).free
        if needed > free:
            raise MediaError(
                f"{files[-1].name} holds messages that {path.name} lacks; a copy of both needs {needed >> 20} MiB, but "
                f"{folder.parent} has {free >> 20} MiB: set TMPDIR to a folder with more space"
            )
        for file in files:
            shutil.copyfile(file, folder / file.name)
        if before == [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in [path, *pending_files(path)]]:
            return folder / path.name
        for file in folder.iterdir():
            file.unlink()
    raise MediaError(f"{path.name} is being written to; stop the recorder, or copy the bag")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else _text(value).encode()
