"""The words of a search, and in which order they are tried; the same for every store of episodes.

So that a search in a million episodes stays short, only the newest matches of each stage are ranked: first episodes
with all words, then those with the rarest ones, then the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

RANKED = 2_500
"""Maximum number of matches that are ranked; the newest are."""
_MAX_WORDS = 32
# Words of questions that say nothing about a picture.
_STOP_WORDS = re.compile(
    "an?|and|any|are|at|be|been|by|did|do|does|for|from|had|has|have|he|how|i|in|is|it|its|me|my|of|on|or|our|she|that|"
    "the|their|there|they|this|to|was|we|were|what|when|where|which|who|why|with|you|your"
)


def storable(text: str) -> str:
    """Returns a text without lone surrogates and NUL, which databases cannot hold."""
    return text.encode(errors="replace").decode().replace("\0", " ")


def words(text: str) -> list[str]:
    """Returns the words of a text; they contain only letters and digits."""
    return re.findall(r"[^\W_]+", storable(text).lower())


def search_words(text: str) -> list[str]:
    """Returns the different words to search for."""
    found = list(dict.fromkeys(words(text)))
    return ([word for word in found if not _STOP_WORDS.fullmatch(word)] or found)[:_MAX_WORDS]


def stages(counts: Mapping[str, int]) -> Iterator[tuple[str, list[str]]]:
    """Yields the searches to do, one after another until there are enough episodes.

    Args:
        counts: For each word the number of episodes that have it; at most one more than are ranked.

    Yields:
        AND or OR, and the words that it connects.
    """
    known = sorted((word for word in counts if counts[word]), key=counts.__getitem__)
    rarest = [word for i, word in enumerate(known) if i == 0 or sum(counts[w] for w in known[: i + 1]) <= RANKED]
    if known:
        yield from (("AND", known), ("OR", rarest), ("OR", known))
