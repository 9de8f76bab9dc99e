"""Which episodes could help to answer a question: found by its words, then spread over its time. Knows no model.

Of many episodes that contain what the question names, those are looked at first that were seen last and first, then
others in between: a question about the past is mostly about how something came or went.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest

from penguin_engine.scene.episode import Episode, EpisodeFilter
from penguin_engine.scene.episode_backend import EpisodeReader
from penguin_engine.scene.recall_terms import sightings

_MATCHES = 256
"""Most episodes with words of the question among which candidates are chosen."""
_SPREAD_EVERY = 4
"""Every fourth episode is one of those spread over time: captions may miss what is asked for."""


@dataclass(frozen=True)
class Candidates:
    """Episodes that could help to answer a question."""

    episodes: list[Episode]  # in the order in which they should be looked at, each once
    sightings: list[list[Episode]]  # those that contain what the question names; see recall_terms.py


def find_candidates(reader: EpisodeReader, question: str, where: EpisodeFilter, limit: int) -> Candidates:
    """Finds episodes with pictures.

    Args:
        reader: Finds episodes.
        question: Plain text; its words are searched for in captions and labels.
        where: Conditions that all meet.
        limit: Maximum number of episodes.

    Raises:
        EpisodeError: The episodes cannot be read.
    """
    found = [episode for episode in reader.search(question, where, _MATCHES) if episode.jpeg]
    groups = sightings(question, found)
    by_words, by_time = _in_turn([_ends_first(group) for group in groups]), spread(reader, where)
    chosen: dict[int, Episode] = {}
    while len(chosen) < limit:
        turn = by_time if len(chosen) % _SPREAD_EVERY == _SPREAD_EVERY - 1 else by_words
        episode = next(turn, None) or next(by_time, None) or next(by_words, None)
        if episode is None:
            break
        chosen.setdefault(episode.id, episode)
    return Candidates(list(chosen.values()), groups)


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


def around(
    reader: EpisodeReader, where: EpisodeFilter, episode: Episode, count: int
) -> tuple[list[Episode], list[Episode]]:
    """Returns the episodes of a camera with pictures right before and right after an episode, `count` of each."""
    same = replace(where, cameras=(episode.camera,), objects=())
    before = reader.search("", replace(same, until_ns=episode.stamp_ns - 1), count)
    after = list(islice(reader.range(replace(same, since_ns=episode.stamp_ns + 1)), count))
    return [item for item in before if item.jpeg], [item for item in after if item.jpeg]


def _in_turn(groups: Sequence[Sequence[Episode]]) -> Iterator[Episode]:
    """Yields the first episode of each group, then the second, and so on."""
    return (episode for episodes in zip_longest(*groups) for episode in episodes if episode is not None)


def _ends_first(episodes: Sequence[Episode]) -> list[Episode]:
    """Returns episodes in order of time so that any first n of them are spread over all: the last, the first, ..."""
    if len(episodes) < 3:
        return list(reversed(episodes))
    order, gaps = [len(episodes) - 1, 0], [(0, len(episodes) - 1)]
    for first, last in gaps:  # grows while it is read
        if last - first > 1:
            middle = (first + last) // 2
            order.append(middle)
            gaps += [(middle, last), (first, middle)]
    return [episodes[index] for index in order]


def _newest(reader: EpisodeReader, where: EpisodeFilter) -> Episode | None:
    return next(iter(reader.search("", where, 1)), None)
