"""Episodes for tests of stores."""

import time

from penguin_engine.scene.episode import Episode, EpisodeFilter, Quota
from penguin_engine.scene.episodes import open_episodes, read_episodes
from penguin_models.grounding import Box, GroundedObject

S = 10**9
NOW = 1_700_000_000 * S


def episode(caption="a room", stamp_s=0, labels=(), camera="/front", **fields):
    objects = tuple(GroundedObject(label, Box(0, 100, 200, 1000)) for label in labels)
    return Episode(camera, NOW + stamp_s * S, "optical", caption, objects, **fields)


def stored(location, *episodes, quota=None):
    """Writes episodes with a store of its own; returns its status."""
    with open_episodes(location, quota or Quota()) as store:
        assert [store.add(item) for item in episodes].count(False) == 0 and store.flush(20)
        return store.status


def captions(location, *args, **conditions):
    """Returns the captions that a search finds, the best first."""
    return [found.caption for found in read_episodes(location).search(*args, where=EpisodeFilter(**conditions))]


def eventually(condition):
    """Waits until a condition of another thread is met."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
