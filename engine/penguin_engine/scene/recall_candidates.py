"""Which episodes could help to answer a question: found by its words, then spread over its time. Knows no model."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace

from penguin_engine.scene.episode import Episode, EpisodeFilter
from penguin_engine.scene.episode_backend import EpisodeReader

_SPREAD_EVERY = 4
"""Every fourth episode is one of those spread over time: captions may miss what is asked for."""


def find_candidates(reader: EpisodeReader, question: str, where: EpisodeFilter, limit: int) -> list[Episode]:
    """Returns episodes with pictures in the order in which they should be looked at, each once.

    Args:
        reader: Finds episodes.
        question: Plain text; its words are searched for in captions and labels.
        where: Conditions that all meet.
        limit: Maximum number of episodes.

    Raises:
        EpisodeError: The episodes cannot be read.
    """
    by_words = iter([episode for episode in reader.search(question, where, limit) if episode.jpeg])
    by_time = spread(reader, where)
    found: dict[int, Episode] = {}
    while len(found) < limit:
        turn = by_time if len(found) % _SPREAD_EVERY == _SPREAD_EVERY - 1 else by_words
        episode = next(turn, None) or next(by_time, None) or next(by_words, None)
        if episode is None:
            break
        found.setdefault(episode.id, episode)
    return list(found.values())


def spread(reader: EpisodeReader, where: EpisodeFilter) -> Iterator[Episode]:
    """Yields episodes with pictures so that the first n of them are spread over the time of all, the newest first.

    Each next one lies in the middle of the longest time without one, as far as there are episodes.
    """
    newest = _newest(reader, where)
    oldest = newest and next(reader.range(where), None)
    if newest is None or oldest is None:
        return
    ends = {episode.id: episode for episode in (newest, oldest)}
    yield from (episode for episode in ends.values() if episode.jpeg)
    gaps = [(oldest.stamp_ns - newest.stamp_ns, oldest.stamp_ns + 1, newest.stamp_ns - 1)]
    while gaps:
        _, first_ns, last_ns = heapq.heappop(gaps)
        middle_ns = (first_ns + last_ns) // 2
        for since_ns, until_ns in ((first_ns, middle_ns), (middle_ns + 1, last_ns)):
            episode = _newest(reader, replace(where, since_ns=since_ns, until_ns=until_ns))
            if episode is None:
                continue
            if episode.jpeg:
                yield episode
            for start_ns, end_ns in ((since_ns, episode.stamp_ns - 1), (until_ns + 1, last_ns)):
                if start_ns <= end_ns:
                    heapq.heappush(gaps, (start_ns - end_ns, start_ns, end_ns))
            break


def _newest(reader: EpisodeReader, where: EpisodeFilter) -> Episode | None:
    return next(iter(reader.search("", where, 1)), None)
