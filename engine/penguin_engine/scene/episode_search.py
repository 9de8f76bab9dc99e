"""Reads an episode file, also while a store writes it: search by text (ranked by BM25), time, camera, object, place."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from penguin_engine.scene.episode import Episode, EpisodeFilter, Place
from penguin_engine.scene.episode_backend import Summary
from penguin_engine.scene.episode_rows import COLUMNS, from_row
from penguin_engine.scene.episode_schema import check_full_text, check_schema, connect, reason
from penguin_engine.scene.episode_words import RANKED, search_words, stages, storable, words
from penguin_models.errors import EpisodeError

_PAGE = 256
_COMMON = RANKED
"""Of a place with more episodes than this, it would take longer to look them all up than to test the newest ones."""
_INT64 = 2**63 - 1
_SELECT = (
    f"SELECT e.id, p.jpeg, {', '.join(f'e.{name}' for name in COLUMNS)} FROM episodes e "
    "LEFT JOIN pictures p ON p.id = e.id"
)

_IS_NEAR = " AND ".join(
    [
        "e.pose_frame = ?",
        *(f"e.{axis} BETWEEN ? AND ?" for axis in "xyz"),
        f"{' + '.join(f'(e.{axis} - ?) * (e.{axis} - ?)' for axis in 'xyz')} <= ?",
    ]
)


class EpisodeFileReader:
    """Reads a file (an EpisodeReader); each call opens the file anew."""

    def __init__(self, path: Path):
        check_full_text()
        self.path = path.absolute()
        self.name = str(path)

    def search(self, text: str = "", where: EpisodeFilter = EpisodeFilter(), limit: int = 32) -> list[Episode]:  # noqa: B008
        """Returns episodes in order of relevance, equally relevant ones the newest first; without a text the newest."""
        limit = max(0, min(limit, _INT64))
        with self._opened() as database:
            sought = search_words(text)
            # With the plus sign, SQLite checks ids before it looks at `episodes`, and does not search for each of them.
            number = "+words.rowid" if sought else "e.id"
            conditions, values = _conditions(where, number, is_common=_is_common(database, where.near))
            if sought:
                ids = _ranked(database, sought, conditions + _rowids(database, where), values, limit)
            elif text.strip():  # only signs, which no caption contains as words
                ids = []
            else:
                order = "ORDER BY e.stamp_ns DESC, e.id DESC LIMIT ?"
                query = f"SELECT e.id FROM episodes e WHERE {_all(conditions)} {order}"
                ids = [number for (number,) in database.execute(query, (*values, limit))]
            return [episode for number in ids if (episode := _get(database, number))]

    def get(self, number: int) -> Episode | None:
        """Returns the episode with an id; None if there is none, or no more."""
        with self._opened() as database:
            return _get(database, number) if abs(number) <= _INT64 else None

    def range(self, where: EpisodeFilter = EpisodeFilter()) -> Iterator[Episode]:  # noqa: B008
        """Yields all episodes that meet the conditions in order of time."""
        with self._opened() as database:
            conditions, values = _conditions(where, is_common=_is_common(database, where.near))
        after = _all([*conditions, "(e.stamp_ns, e.id) > (?, ?)"])
        query = f"{_SELECT} WHERE {after} ORDER BY e.stamp_ns, e.id LIMIT ?"
        last = (-_INT64 - 1, 0)
        while True:  # in pages, so that a slow consumer does not hold back the writer's checkpoints
            with self._opened() as database:
                page = [_episode(row) for row in database.execute(query, (*values, *last, _PAGE))]
            yield from page
            if len(page) < _PAGE:
                return
            last = (page[-1].stamp_ns, page[-1].id)

    def summary(self) -> Summary:
        """Returns what the file holds."""
        with self._opened() as database:
            query = "SELECT count(*), min(stamp_ns), max(stamp_ns) FROM episodes"
            count, oldest_ns, newest_ns = database.execute(query).fetchone()
        target = self.path.resolve()
        files = (target, target.with_name(f"{target.name}-wal"))
        return Summary(count, oldest_ns, newest_ns, sum(file.stat().st_size for file in files if file.exists()))

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if not self.path.is_file():
            raise EpisodeError(f"there is no episode file {self.path}")
        try:
            self.path.open("rb").close()  # says why a file cannot be opened, which SQLite does not
            with closing(connect(self.path, read_only=True)) as database:
                if check_schema(database, self.path) == 0:
                    raise EpisodeError(f"{self.path} is empty: no episode has been written to it")
                yield database
        except (sqlite3.Error, OSError, ValueError, TypeError) as err:
            if isinstance(err, EpisodeError):
                raise
            raise EpisodeError(f"{self.path} cannot be read as an episode file: {reason(err)}") from err


def _ranked(
    database: sqlite3.Connection, sought: Sequence[str], conditions: Sequence[str], values: Sequence[Any], limit: int
) -> list[int]:
    """Returns the ids of the most relevant episodes."""
    query = (
        "SELECT id FROM (SELECT e.id, e.stamp_ns, bm25(words) AS score FROM words CROSS JOIN episodes e "
        f"ON e.id = words.rowid WHERE words MATCH ? AND {_all(conditions)} ORDER BY words.rowid DESC LIMIT {RANKED}) "
        "ORDER BY score, stamp_ns DESC, id DESC LIMIT ?"
    )
    counts = {word: _count(database, word) for word in sought}
    ids: dict[int, None] = {}
    for operator, chosen in stages(counts):
        if len(ids) < limit:
            expression = f" {operator} ".join(map(_phrase, chosen))
            ids |= dict.fromkeys(number for (number,) in database.execute(query, (expression, *values, limit)))
    return list(ids)[:limit]


def _count(database: sqlite3.Connection, word: str) -> int:
    """Returns the number of episodes with a word, or one more than are ranked."""
    query = f"SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT {RANKED + 1})"
    return int(database.execute(query, (_phrase(word),)).fetchone()[0])


def _phrase(word: str) -> str:
    return f'"{word}"'  # quoted, it has no meaning to FTS5


def _conditions(where: EpisodeFilter, number: str = "e.id", is_common: bool = False) -> tuple[list[str], list[Any]]:
    """Returns SQL conditions on `episodes e`, and their values.

    Args:
        where: What they say.
        number: Expression of the id.
        is_common: Whether many episodes are near the place. Then one after another is tested until there are enough;
            else those near it are looked up first.
    """
    conditions: list[str] = []
    values: list[Any] = []
    if where.cameras:
        conditions.append(f"e.camera IN ({', '.join('?' * len(where.cameras))})")
        values += map(storable, where.cameras)
    for sign, stamp_ns in ((">=", where.since_ns), ("<=", where.until_ns)):
        if stamp_ns is not None:
            conditions.append(f"e.stamp_ns {sign} ?")
            values.append(max(-_INT64, min(stamp_ns, _INT64)))
    for label in where.objects:
        conditions.append(f"{number} IN (SELECT rowid FROM words WHERE words MATCH ?)")
        values.append(f'labels : "{" ".join(words(label))}"')
    if where.near is not None:
        condition = f"{number} IN (SELECT e.id FROM episodes e WHERE {_IS_NEAR})"
        # With the plus sign, SQLite does not look up the place in its index after all.
        conditions.append(f"+{_IS_NEAR}" if is_common else condition)
        values += _near(where.near)
    return conditions, values


def _is_common(database: sqlite3.Connection, near: Place | None) -> bool:
    """Returns whether many episodes are near a place."""
    if near is None:
        return False
    query = f"SELECT count(*) FROM (SELECT 1 FROM episodes e WHERE {_IS_NEAR} LIMIT {_COMMON + 1})"
    return bool(database.execute(query, _near(near)).fetchone()[0] > _COMMON)


def _near(place: Place) -> list[Any]:
    r = place.radius_m
    bounds = [bound for centre in place.position for bound in (centre - r, centre + r)]
    return [storable(place.frame_id), *bounds, *(centre for centre in place.position for _ in range(2)), r * r]


def _rowids(database: sqlite3.Connection, where: EpisodeFilter) -> list[str]:
    """Returns the condition on ids that follows from a time range; ids grow with time, nearly."""
    if where.since_ns is None and where.until_ns is None:
        return []
    conditions, values = _conditions(EpisodeFilter(since_ns=where.since_ns, until_ns=where.until_ns))
    query = f"SELECT min(e.id), max(e.id) FROM episodes e WHERE {_all(conditions)}"
    first, last = database.execute(query, values).fetchone()
    return [f"words.rowid BETWEEN {first or 0} AND {last or 0}"]


def _all(conditions: Sequence[str]) -> str:
    return " AND ".join(conditions) or "1"


def _get(database: sqlite3.Connection, number: int) -> Episode | None:
    row = database.execute(f"{_SELECT} WHERE e.id = ?", (number,)).fetchone()
    return None if row is None else _episode(row)


def find(database: sqlite3.Connection, camera: str, stamp_ns: int) -> Episode | None:
    """Returns the episode of a camera at a stamp, if there is one."""
    row = database.execute(f"{_SELECT} WHERE e.stamp_ns = ? AND e.camera = ?", (stamp_ns, camera)).fetchone()
    return None if row is None else _episode(row)


def _episode(row: Sequence[Any]) -> Episode:
    number, jpeg, *columns = row
    return from_row(number, columns, jpeg)
