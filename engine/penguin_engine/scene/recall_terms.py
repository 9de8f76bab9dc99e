"""What a question names, and where it was seen: the longest runs of its words that texts of episodes contain.

"Where was the red cup last seen?" names "red cup" if any caption or label has these two words in a row; only else "red"
and "cup" count, each by itself. Knows no model and no grammar.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from penguin_engine.scene.episode import Episode
from penguin_engine.scene.episode_words import search_words, words

_MAX_TERMS = 3
_Run = tuple[str, ...]


def sightings(question: str, episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Returns the episodes that contain what a question names.

    Args:
        question: Plain text.
        episodes: Those that were found by its words, in any order.

    Returns:
        Groups of episodes in order of time: of several terms first the episodes that contain them all, then those of
        each term, the rarest first. A term that is in every episode says nothing, unless there is no other one.
    """
    asked = list(_runs_of_asked(question))
    by_run: dict[_Run, dict[int, Episode]] = {}
    for episode in sorted(episodes, key=lambda item: item.stamp_ns):
        for run in _common_runs(asked, episode):
            by_run.setdefault(run, {})[episode.id] = episode
    longest = max(map(len, by_run), default=0)
    groups = [group for run, group in by_run.items() if len(run) == longest]
    groups = [group for group in groups if len(group) < len(episodes)] or groups[:1]
    groups = sorted(groups, key=len)[:_MAX_TERMS]
    if len(groups) > 1:
        shared = set(groups[0]).intersection(*groups[1:])
        groups = [{number: groups[0][number] for number in groups[0] if number in shared}, *groups]
    return [list(group.values()) for group in groups if group]


def _runs_of_asked(question: str) -> Iterator[list[str]]:
    """Yields the words of a question between those that say nothing about a picture."""
    searched = set(search_words(question))
    for is_searched, run in groupby(words(question), key=searched.__contains__):
        if is_searched:
            yield [_stem(word) for word in run]


def _common_runs(asked: Sequence[list[str]], episode: Episode) -> Iterator[_Run]:
    """Yields the longest runs of asked words that a text of an episode contains as well."""
    texts = [episode.caption, *(item.label for item in episode.objects)]
    found = [[_stem(word) for word in words(text)] for text in texts]
    known, pairs = {word for text in found for word in text}, {pair for text in found for pair in pairwise(text)}
    for run in asked:
        start = 0
        while start < len(run):
            end = start + 1
            while end < len(run) and (run[end - 1], run[end]) in pairs:
                end += 1
            if run[start] in known:
                yield tuple(run[start:end])
            start = end


def _stem(word: str) -> str:
    """Returns what a word and its plural have in common, without accents, about as a store's search compares words."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char))
    return (plain if plain.endswith(("ss", "us")) else plain.removesuffix("s")).removesuffix("e")
