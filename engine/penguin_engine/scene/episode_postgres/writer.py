"""Writes the episodes of one robot to a PostgreSQL database, within its quota."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case, func, literal_column, select, text, tuple_
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.exc import SQLAlchemyError

from penguin_engine.scene.episode import Episode, Quota
from penguin_engine.scene.episode_backend import size_bytes
from penguin_engine.scene.episode_postgres.database import CONFIGURATION, EPISODES, Database, folded
from penguin_engine.scene.episode_rows import COLUMNS, from_row, to_row
from penguin_engine.scene.episode_words import storable
from penguin_models.errors import EpisodeError

_SLACK = 16 * 2**20
_INDEXED_CHARS = 100_000  # of a caption, and of all labels; PostgreSQL indexes at most a megabyte
_SEPARATOR = " <l> "  # between labels: a word to this configuration, but to no search
# What an episode takes on the disk with its share of the indices. The length of a picture is known without reading it.
_SIZE = "600 + 2 * octet_length(caption) + 2 * octet_length(objects) + octet_length(jpeg)"
_LOCK_KEY = "hashtextextended('penguin_vl/' || :robot, 0)"
_OWNER = text(
    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "
    f"AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = {_LOCK_KEY}"
)
_NEWEST = text("SELECT max(stamp_ns) FROM penguin_vl.episodes WHERE robot = :robot")
_DROP_OLD = text("DELETE FROM penguin_vl.episodes WHERE robot = :robot AND stamp_ns < :oldest")
_MAKE_ROOM = text(
    "DELETE FROM penguin_vl.episodes WHERE id IN (SELECT id FROM (SELECT id, sum(size) OVER (ORDER BY id) - size AS "
    f"before FROM (SELECT id, {_SIZE} AS size FROM penguin_vl.episodes WHERE robot = :robot) sizes) sums "
    "WHERE before < :surplus)"
)


class EpisodeDatabase:
    """Writes to a database (an EpisodeWriter), where a lock keeps out other processes that write for the same robot.

    Raises (when created):
        EpisodeError: The URL is malformed.
    """

    def __init__(self, location: str, quota: Quota):
        self.database = Database(location, keep_connections=False)  # closing one lets go of the lock
        self.name = self.database.name
        self.quota = quota
        self._robot = {"robot": self.database.robot}
        self.oldest_ns = quota.oldest_ns(None)
        self._connection: Connection | None = None
        self._most_bytes = 0  # what was stored when it was last counted, and all that was written since

    @property
    def largest_bytes(self) -> int:
        """Largest size of an episode."""
        return min(self.quota.max_bytes // 16, _SLACK // 4)

    def open(self) -> None:
        """Connects unless it is connected; creates or migrates the tables.

        Raises:
            EpisodeError: Another process writes for this robot, or the tables' version is newer.
            SQLAlchemyError: The database is out of reach, or refuses.
        """
        if self._connection is not None:
            return
        connection = self.database.connect()
        try:
            self._lock(connection)
            self.database.migrate(connection)
            with connection.begin():
                self._most_bytes = self._count_bytes(connection)
                self.oldest_ns = self._oldest_ns(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _lock(self, connection: Connection) -> None:
        with connection.begin():
            if connection.scalar(text(f"SELECT pg_try_advisory_lock({_LOCK_KEY})"), self._robot):
                return
            owner = connection.scalar(_OWNER, self._robot) or "another process"
        raise EpisodeError(
            f"episodes of robot {self.database.robot} in {self.name} are already written by {owner}; stop it, or name "
            "another robot with ?robot=NAME in the URL"
        )

    def write(self, episodes: Sequence[Episode]) -> None:
        """Writes or merges episodes in one transaction, after making room; after an error, none has been written."""
        assert self._connection is not None
        wanted = sum(map(size_bytes, episodes))
        with self._connection.begin():
            self._prune(self._connection, wanted)
            self._connection.execute(_upsert(), self._rows(self._connection, episodes))
            self.oldest_ns = self._oldest_ns(self._connection)
        self._most_bytes += wanted

    def _rows(self, connection: Connection, episodes: Sequence[Episode]) -> list[dict[str, Any]]:
        """Returns a row for each camera and stamp, merged with what is stored there, except for the picture."""
        keys = [(storable(episode.camera), episode.stamp_ns) for episode in episodes]
        query = select(*(EPISODES.c[name] for name in COLUMNS)).where(
            EPISODES.c.robot == self.database.robot, tuple_(EPISODES.c.camera, EPISODES.c.stamp_ns).in_(keys)
        )
        merged = {(row.camera, row.stamp_ns): from_row(0, row, None) for row in connection.execute(query)}
        for key, episode in zip(keys, episodes, strict=True):
            merged[key] = merged[key].merged(episode) if key in merged else episode
        return [self._row(episode) for episode in merged.values()]

    def _row(self, episode: Episode) -> dict[str, Any]:
        labels = _SEPARATOR.join(folded(item.label) for item in episode.objects)
        return {
            **dict(zip(COLUMNS, to_row(episode), strict=True)),
            **self._robot,
            "jpeg": episode.jpeg,
            "label_words": labels[:_INDEXED_CHARS],
            "caption_words": folded(episode.caption[:_INDEXED_CHARS]),
        }

    def prune(self) -> int:
        """Connects, and deletes the robot's oldest episodes that exceed the quota; returns their number.

        Raises:
            EpisodeError: The URL names no robot that has episodes, another process writes for it, or the database is
                out of reach.
        """
        try:
            with self.database.connect() as connection:
                robots = self.database.robots(connection)
            if not (self.database.robot_is_given and self.database.robot in robots):
                names = ", ".join(robots) or "no robot"
                raise EpisodeError(f"{self.name} holds episodes of {names}; say whose to prune: URL?robot=NAME")
            self.open()
            assert self._connection is not None
            with self._connection.begin():
                return self._prune(self._connection)
        except SQLAlchemyError as err:
            raise EpisodeError(f"{self.name} cannot be pruned: {self.database.reason(err)}") from err

    def _prune(self, connection: Connection, wanted_bytes: int = 0) -> int:
        deleted = connection.execute(_DROP_OLD, self._robot | {"oldest": self._oldest_ns(connection)}).rowcount
        room = self.quota.max_bytes - wanted_bytes
        if self._most_bytes > room:
            self._most_bytes = self._count_bytes(connection)
            if self._most_bytes > room:
                surplus = self._most_bytes - room + min(self.quota.max_bytes // 8, _SLACK)
                deleted += connection.execute(_MAKE_ROOM, self._robot | {"surplus": surplus}).rowcount
                self._most_bytes = self._count_bytes(connection)
        return deleted

    def _oldest_ns(self, connection: Connection) -> int:
        return self.quota.oldest_ns(connection.scalar(_NEWEST, self._robot))

    def _count_bytes(self, connection: Connection) -> int:
        query = text(f"SELECT coalesce(sum({_SIZE}), 0)::bigint FROM penguin_vl.episodes WHERE robot = :robot")
        return int(connection.scalar(query, self._robot) or 0)

    def recover(self, error: Exception) -> str:
        """Disconnects; returns the problem without SQL and password."""
        self.close()
        return f"episodes cannot be written to {self.name}: {self.database.reason(error)}"

    def close(self) -> None:
        """Disconnects, which lets another process write for this robot."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()
            self._connection = None


def _upsert() -> Insert:
    """Returns the statement that writes a row, over an earlier one of the same camera and stamp if there is one."""
    configuration: ColumnElement[Any] = literal_column(CONFIGURATION)
    labels = func.setweight(func.to_tsvector(configuration, bindparam("label_words")), literal_column("'B'"))
    words = labels.op("||")(func.to_tsvector(configuration, bindparam("caption_words")))
    statement = insert(EPISODES).values(
        {name: bindparam(name) for name in ("robot", *COLUMNS, "jpeg")} | {"words": words}
    )
    changes: dict[str, Any] = {name: statement.excluded[name] for name in (*COLUMNS, "words")}
    changes["jpeg"] = case((statement.excluded.jpeg == b"", EPISODES.c.jpeg), else_=statement.excluded.jpeg)
    return statement.on_conflict_do_update(index_elements=["robot", "stamp_ns", "camera"], set_=changes)
