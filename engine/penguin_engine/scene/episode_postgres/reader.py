"""Reads the episodes of all robots from a PostgreSQL database: search by text, time, camera, object and place.

PostgreSQL has no BM25. Ranking adds `ts_rank` of each word, which grows slowly with its repetitions and falls with the
length of the text, times a weight that falls with the number of episodes that have the word.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, literal_column, select, text, tuple_
from sqlalchemy.exc import SQLAlchemyError

from penguin_engine.scene.episode import Episode, EpisodeFilter, Place
from penguin_engine.scene.episode_backend import Summary
from penguin_engine.scene.episode_postgres.database import CONFIGURATION, EPISODES, Database, folded
from penguin_engine.scene.episode_rows import COLUMNS, from_row
from penguin_engine.scene.episode_words import RANKED, search_words, stages, storable
from penguin_models.errors import EpisodeError

_PAGE = 256
_INT64 = 2**63 - 1
_ROW = select(EPISODES.c.id, EPISODES.c.robot, EPISODES.c.jpeg, *(EPISODES.c[name] for name in COLUMNS))


class EpisodeDatabaseReader:
    """Reads a database (an EpisodeReader).

    Raises (when created):
        EpisodeError: The URL is malformed.
    """

    def __init__(self, location: str):
        self._database = Database(location, keep_connections=True)
        self.name = self._database.name

    def search(self, text: str = "", where: EpisodeFilter = EpisodeFilter(), limit: int = 32) -> list[Episode]:  # noqa: B008
        """Returns episodes in order of relevance, equally relevant ones the newest first; without a text the newest."""
        limit = max(0, min(limit, _INT64))
        sought = list(dict.fromkeys(word for found in search_words(text) for word in folded(found).split()))
        conditions = _conditions(where)
        with self._opened() as connection:
            if sought:
                ids = _ranked(connection, sought, conditions, limit)
            elif text.strip():  # only signs, which no caption contains as words
                ids = []
            else:
                newest = (EPISODES.c.stamp_ns.desc(), EPISODES.c.id.desc())
                ids = list(connection.scalars(select(EPISODES.c.id).where(*conditions).order_by(*newest).limit(limit)))
            found = {item.id: item for item in _episodes(connection, _ROW.where(EPISODES.c.id == func.any(ids)))}
            return [found[number] for number in ids if number in found]

    def get(self, number: int) -> Episode | None:
        """Returns the episode with an id; None if there is none, or no more."""
        with self._opened() as connection:
            if abs(number) > _INT64:
                return None
            return next(_episodes(connection, _ROW.where(EPISODES.c.id == number)), None)

    def range(self, where: EpisodeFilter = EpisodeFilter()) -> Iterator[Episode]:  # noqa: B008
        """Yields all episodes that meet the conditions in order of time."""
        order = (EPISODES.c.stamp_ns, EPISODES.c.id)
        query = _ROW.where(*_conditions(where)).order_by(*order).limit(_PAGE)
        last = (-_INT64 - 1, 0)
        while True:  # in pages, so that a slow consumer does not hold back the server
            with self._opened() as connection:
                page = list(_episodes(connection, query.where(tuple_(*order) > last)))
            yield from page
            if len(page) < _PAGE:
                return
            last = (page[-1].stamp_ns, page[-1].id)

    def summary(self) -> Summary:
        """Returns what the database holds."""
        stamp = EPISODES.c.stamp_ns
        size = func.pg_total_relation_size(text("'penguin_vl.episodes'"))
        with self._opened() as connection:
            row = connection.execute(select(func.count(EPISODES.c.id), func.min(stamp), func.max(stamp), size)).one()
            return Summary(*row)

    @contextmanager
    def _opened(self) -> Iterator[Connection]:
        try:
            with self._database.connect() as connection:
                if self._database.version(connection) == 0:
                    raise EpisodeError(f"{self.name} is empty: no episode has been written to it")
                yield connection
        except SQLAlchemyError as err:
            raise EpisodeError(f"{self.name} cannot be read: {self._database.reason(err)}") from err


def _episodes(connection: Connection, query: Select[Any]) -> Iterator[Episode]:
    for number, robot, jpeg, *columns in connection.execute(query):
        yield from_row(number, columns, bytes(jpeg), robot)


def _ranked(
    connection: Connection, sought: Sequence[str], conditions: Sequence[ColumnElement[bool]], limit: int
) -> list[int]:
    """Returns the ids of the most relevant episodes."""
    counts = {word: _count(connection, word) for word in sought}
    ids: dict[int, None] = {}
    for operator, chosen in stages(counts):
        if len(ids) < limit:
            expression = f" {'&' if operator == 'AND' else '|'} ".join(chosen)
            query = _best(expression, {word: counts[word] for word in chosen}, conditions).limit(limit)
            ids |= dict.fromkeys(connection.scalars(query))
    return list(ids)[:limit]


def _best(expression: str, counts: Mapping[str, int], conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Returns the query of the ids of what matches an expression, the best first."""
    columns = (EPISODES.c.id, EPISODES.c.stamp_ns, EPISODES.c.words)
    newest = select(*columns).where(_matches(expression), *conditions).order_by(EPISODES.c.id.desc()).limit(RANKED)
    matches = newest.subquery()
    equally: ColumnElement[Any] = literal_column("'{1,1,1,1}'::float4[]")  # labels count as captions do
    scores = (
        math.log(1 + (RANKED + 1) / count) * func.ts_rank(equally, matches.c.words, _query(word), 1)
        for word, count in counts.items()
    )
    return select(matches.c.id).order_by(reduce(add, scores).desc(), matches.c.stamp_ns.desc(), matches.c.id.desc())


def _count(connection: Connection, word: str) -> int:
    """Returns the number of episodes with a word, or one more than are ranked."""
    found = select(literal_column("1")).select_from(EPISODES).where(_matches(word)).limit(RANKED + 1).subquery()
    return connection.scalar(select(func.count()).select_from(found)) or 0


def _query(expression: str) -> ColumnElement[Any]:
    return func.to_tsquery(literal_column(CONFIGURATION), expression)


def _matches(expression: str) -> ColumnElement[bool]:
    return EPISODES.c.words.op("@@", is_comparison=True)(_query(expression))


def _conditions(where: EpisodeFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if where.cameras:
        conditions.append(EPISODES.c.camera.in_([storable(camera) for camera in where.cameras]))
    if where.since_ns is not None:
        conditions.append(EPISODES.c.stamp_ns >= max(-_INT64, min(where.since_ns, _INT64)))
    if where.until_ns is not None:
        conditions.append(EPISODES.c.stamp_ns <= max(-_INT64, min(where.until_ns, _INT64)))
    for label in where.objects:  # consecutive words with the weight of labels
        conditions.append(_matches(" <-> ".join(f"{word}:B" for word in folded(label).split())))
    if where.near is not None:
        conditions += _near(where.near)
    return conditions


def _near(place: Place) -> Iterator[ColumnElement[bool]]:
    axes = [(EPISODES.c[name], float(centre)) for name, centre in zip("xyz", place.position, strict=True)]
    radius = float(place.radius_m)
    yield EPISODES.c.pose_frame == storable(place.frame_id)
    yield from (axis.between(centre - radius, centre + radius) for axis, centre in axes)
    yield reduce(add, ((axis - centre) * (axis - centre) for axis, centre in axes)) <= radius * radius
