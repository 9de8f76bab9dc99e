"""A PostgreSQL database of episodes: its URL, the versions of its tables, and connections to it.

Everything is in the schema `penguin_vl`, so the database may serve other programs, too. Messages name the database by
host and name, without user and password.
"""

from __future__ import annotations

import os
import socket
import sys
import unicodedata
import weakref
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
from sqlalchemy import Connection, NullPool, QueuePool, column, create_engine, event, select, table, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from penguin_engine.scene.episode_backend import sentence
from penguin_engine.scene.episode_rows import COLUMNS
from penguin_engine.scene.episode_words import storable, words
from penguin_models.errors import EpisodeError

EPISODES = table(
    "episodes", *(column(name) for name in ("id", "robot", *COLUMNS, "words", "jpeg")), schema="penguin_vl"
)
CONFIGURATION = "'penguin_vl.words'::regconfig"
"""Configuration of full-text search: Porter's stems, no stop words; a tag such as <l> is a word, too."""
_MIGRATIONS = (
    (
        "CREATE TEXT SEARCH DICTIONARY penguin_vl.porter (TEMPLATE = pg_catalog.snowball, Language = porter)",
        "CREATE TEXT SEARCH CONFIGURATION penguin_vl.words (COPY = pg_catalog.simple)",
        "ALTER TEXT SEARCH CONFIGURATION penguin_vl.words ALTER MAPPING FOR asciiword, word, numword"
        " WITH penguin_vl.porter",
        "ALTER TEXT SEARCH CONFIGURATION penguin_vl.words ADD MAPPING FOR tag WITH pg_catalog.simple",
        "CREATE TABLE penguin_vl.episodes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, robot text NOT NULL,"
        " camera text NOT NULL, stamp_ns bigint NOT NULL, frame_id text NOT NULL, caption text NOT NULL,"
        " labels text NOT NULL, objects text NOT NULL, pose_frame text, x float8, y float8, z float8, qx float8,"
        " qy float8, qz float8, qw float8, words tsvector NOT NULL, jpeg bytea NOT NULL,"
        " UNIQUE (robot, stamp_ns, camera))",
        "ALTER TABLE penguin_vl.episodes ALTER COLUMN jpeg SET STORAGE EXTERNAL",  # compressed already
        "CREATE INDEX episodes_by_stamp ON penguin_vl.episodes (stamp_ns, id)",
        "CREATE INDEX episodes_by_place ON penguin_vl.episodes (pose_frame, x, y, z) WHERE pose_frame IS NOT NULL",
        "CREATE INDEX episodes_by_words ON penguin_vl.episodes USING gin (words)",
    ),
)
"""Statements that lead from version n to n + 1 of the schema."""
_VERSION_TABLE = (
    "CREATE SCHEMA IF NOT EXISTS penguin_vl",
    "CREATE TABLE penguin_vl.version (version int NOT NULL)",
    "INSERT INTO penguin_vl.version VALUES (0)",
)
_MIGRATION_LOCK = 0x50454E47
_ROBOT_CHARS = 100
_WORD_CHARS = 500  # PostgreSQL leaves words of more than 2 kB out
# A dead connection is noticed within about half a minute, here and on the server, which holds locks until then.
_ARGUMENTS = {
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_SETTINGS = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; SET jit = off"
_EXAMPLE = "postgresql://USER@HOST/DATABASE?robot=NAME"


class Database:
    """Where a URL leads, as `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?robot=NAME` and parameters of libpq.

    Raises (when created):
        EpisodeError: The URL is malformed.
    """

    def __init__(self, location: str, keep_connections: bool):
        """Takes the URL; closed connections are kept open for the next use, or not."""
        url, robot = _parsed(location)
        self.robot_is_given = robot is not None
        self.robot = socket.gethostname() if robot is None else robot
        self.name = f"postgresql://{url.host or ''}{f':{url.port}' if url.port else ''}/{url.database or ''}"
        self._secrets = [str(secret) for secret in (url.password, url.query.get("password")) if secret]
        owner = f"process {os.getpid()} ({Path(sys.argv[0]).name[:20]}) on {socket.gethostname()}"
        arguments: dict[str, Any] = {name: value for name, value in _ARGUMENTS.items() if name not in url.query}
        arguments |= {"application_name": storable(owner)[:60], "client_encoding": "utf8"}
        pool = QueuePool if keep_connections else NullPool
        self._engine = create_engine(url, poolclass=pool, pool_pre_ping=keep_connections, connect_args=arguments)
        event.listen(self._engine, "connect", _configure)
        weakref.finalize(self, self._engine.dispose)

    def connect(self) -> Connection:
        """Opens a connection; raises SQLAlchemyError if that fails."""
        return self._engine.connect()

    def version(self, connection: Connection) -> int:
        """Returns the version of the tables; 0 if there are none.

        Raises:
            EpisodeError: The version is newer.
        """
        if connection.scalar(text("SELECT to_regclass('penguin_vl.version')")) is None:
            return 0
        version = int(connection.scalar(text("SELECT version FROM penguin_vl.version")) or 0)
        if version > len(_MIGRATIONS):
            raise EpisodeError(
                f"{self.name} has version {version} of the episode format, this program knows up to "
                f"{len(_MIGRATIONS)}; update penguin_vl, or choose another database"
            )
        return version

    def migrate(self, connection: Connection) -> None:
        """Brings the tables to the newest version.

        Raises:
            EpisodeError: The version is newer, or the database cannot hold every text.
        """
        with connection.begin():
            encoding = connection.scalar(text("SHOW server_encoding"))
            if encoding != "UTF8":
                raise EpisodeError(f"{self.name} has the encoding {encoding}; create a database with ENCODING 'UTF8'")
            if self.version(connection) == len(_MIGRATIONS):  # so that a robot needs no right to create tables
                return
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            version = self.version(connection)
            if version == 0:
                for statement in _VERSION_TABLE:
                    connection.exec_driver_sql(statement)
            for statements in _MIGRATIONS[version:]:
                for statement in statements:
                    connection.exec_driver_sql(statement)
            connection.execute(text("UPDATE penguin_vl.version SET version = :new"), {"new": len(_MIGRATIONS)})

    def robots(self, connection: Connection) -> list[str]:
        """Returns the names of the robots that have episodes, in alphabetical order."""
        if self.version(connection) == 0:
            return []
        return list(connection.scalars(select(EPISODES.c.robot).distinct().order_by(EPISODES.c.robot)))

    def reason(self, error: Exception) -> str:
        """Returns what an error says, without SQL and password."""
        original = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
        message = str(original)
        for secret in self._secrets:
            message = message.replace(secret, "***")
        # SQLAlchemy adds a line with a link, libpq one per address that it tried.
        lines = [line for line in message.splitlines() if line.strip() and "Background on this error" not in line]
        said = sentence(SQLAlchemyError(lines[0] if lines else type(original).__name__))
        if isinstance(original, psycopg.OperationalError) and original.sqlstate is None:  # there is no connection
            said += "; check the URL, the password, and whether the server runs"
        return said


def _configure(connection: psycopg.Connection, _: object) -> None:
    """Sets what holds for a new connection."""
    connection.execute(_SETTINGS)
    connection.commit()


def folded(text: str) -> str:
    """Returns the words of a text in lower case and without accents, as they are indexed and sought."""
    letters = unicodedata.normalize("NFKD", storable(text).lower())
    letters = "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")
    return " ".join(word[:_WORD_CHARS] for word in words(unicodedata.normalize("NFC", letters)))


def _parsed(location: str) -> tuple[URL, str | None]:
    """Returns a URL for SQLAlchemy, and the robot that it names."""
    problem = ""
    try:
        url = make_url(location)
    except (SQLAlchemyError, ValueError):
        problem = "is malformed"
    else:
        if "@" in (url.host or ""):
            problem = "has an @ too many; write @ as %40 in user and password"
    if problem:  # the URL itself may hold a password
        raise EpisodeError(f"the PostgreSQL URL {problem}; it should be like {_EXAMPLE}") from None
    robots = parse_qs(urlsplit(location).query, keep_blank_values=True).get("robot", [])  # SQLAlchemy drops blank ones
    if len(robots) > 1 or any(not (0 < len(robot) <= _ROBOT_CHARS and robot.isprintable()) for robot in robots):
        raise EpisodeError(
            f"the PostgreSQL URL should name one robot in at most {_ROBOT_CHARS} characters, like {_EXAMPLE}"
        )
    return url.difference_update_query(["robot"]).set(drivername="postgresql+psycopg"), next(iter(robots), None)
