"""In which order episodes are shown: where what the question names was seen last and first, then the likeliest ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from PIL import UnidentifiedImageError

from penguin_engine.scene.episode import Episode, EpisodeFilter
from penguin_engine.scene.episode_backend import EpisodeReader
from penguin_engine.scene.memory import FrameMemory, HeldFrame
from penguin_engine.scene.recall_candidates import around
from penguin_models.decoding import MAX_IMAGE_PIXELS, opened
from penguin_models.errors import MediaError
from penguin_models.media import to_rgb
from penguin_models.token_allocation import grid_size
from penguin_models.types import FrameKind, Size

_HELPS = 0.5
"""A sighting probably helps if its probability is at least this share of the highest one of the same thing."""
_NEIGHBOURS = 2
"""Number of episodes shown right after the last sighting that helps, and right before the first."""


@dataclass(eq=False)
class Recalled:
    """An episode with its picture, and the probability that it helps to answer."""

    episode: Episode
    frame: HeldFrame
    probability: float = math.nan  # NaN if it was not judged


def load(episode: Episode, memory: FrameMemory) -> Recalled | None:
    """Returns an episode with its picture as the memory would hold it at full size; None if the picture is damaged."""
    try:
        with opened(episode.jpeg, "the picture of an episode", ("JPEG",), MAX_IMAGE_PIXELS) as image:
            rgb = to_rgb(image)
    except (MediaError, UnidentifiedImageError):
        return None
    source_size = Size(*rgb.shape[:2])
    size = grid_size(source_size, memory.config.factor)
    frame = HeldFrame(0, episode.stamp_ns, FrameKind.KEY, source_size, size, memory.tokens_of(size), rgb, None)
    return Recalled(episode, frame)


def ranked(
    reader: EpisodeReader,
    where: EpisodeFilter,
    memory: FrameMemory,
    recalled: Sequence[Recalled],
    judged: int,
    sightings: Sequence[Sequence[Episode]],
) -> list[Recalled]:
    """Returns episodes in the order in which they should be shown.

    Of the sightings of each thing that the question names, the last one that probably helps and the first one come
    first, then what was seen right after the last and right before the first: how something came or left is not in the
    pictures that show it best. Then come the others that were judged, the likeliest first.

    Args:
        reader: Finds the episodes before and after a sighting.
        where: Conditions that these meet.
        memory: Its sizes apply to their pictures.
        recalled: Candidates.
        judged: Number of candidates that were judged, the first ones.
        sightings: Groups of episodes that contain what the question names; if there are none, all that were judged
            are taken for sightings of one thing.

    Raises:
        EpisodeError: The episodes cannot be read.
    """
    by_id = {item.episode.id: item for item in recalled}
    turns: list[list[Recalled | None]] = []
    for group in sightings or [[item.episode for item in recalled[:judged]]]:
        helping = _helping([by_id[episode.id] for episode in group if episode.id in by_id])
        if not helping:
            continue
        after = around(reader, where, helping[-1].episode, _NEIGHBOURS)[1]
        before = around(reader, where, helping[0].episode, _NEIGHBOURS)[0]
        beyond = [item for pair in zip_longest(after, before) for item in pair if item is not None]
        neighbours = [by_id.get(item.id) or load(item, memory) for item in beyond]
        turns.append([helping[-1], helping[0], *neighbours])
    first = [item for items in zip_longest(*turns) for item in items if item is not None]
    likely = sorted(recalled[:judged], key=lambda item: -item.probability)
    return list(dict.fromkeys([*first, *likely, *recalled[judged:]]))


def _helping(seen: Sequence[Recalled]) -> list[Recalled]:
    """Returns the sightings that probably help, in order of time; all if none was judged."""
    best = max((item.probability for item in seen if not math.isnan(item.probability)), default=None)
    helping = [item for item in seen if best is None or item.probability >= _HELPS * best]
    return sorted(helping, key=lambda item: item.episode.stamp_ns)
