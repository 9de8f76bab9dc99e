"""The times of searches in docs/episodes.md: fills a store with made-up episodes, and searches it.

    python scripts/episodes_benchmark.py /tmp/million.db --episodes 1000000
    python scripts/episodes_benchmark.py postgresql:///benchmark --episodes 1000000

A store that holds that many is searched as it is. Captions have six of 30 nouns and colours, each in a fifth of all,
which is harder than real captions; every episode has three objects, a pose in a house of 40 x 40 m, one of four
cameras, and no picture; two are a second apart.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import replace

from penguin_engine.scene.episode import Episode, EpisodeFilter, Place, Pose, Quota
from penguin_engine.scene.episodes import open_episodes, read_episodes
from penguin_models.errors import EpisodeError
from penguin_models.grounding import Box, GroundedObject

COLOURS = "red green blue yellow black white grey brown orange purple"
NOUNS = "cup plate bottle box book lamp chair table door window shoe bag phone cable plant towel spoon knife bowl key"
WORDS = [*COLOURS.split(), *NOUNS.split()]
START_NS, STEP_NS = 1_700_000_000 * 10**9, 10**9
CAMERAS = ("/front", "/rear", "/left", "/right")
RARE_EVERY = 100_000
BATCH = 200
REPEATS = 5


def episode(number: int) -> Episode:
    chosen = random.Random(number)
    words = chosen.sample(WORDS, 6)
    rare = " helicopter" if number % RARE_EVERY == 0 else ""
    box = Box(100, 100, 300, 300)
    return Episode(
        CAMERAS[number % len(CAMERAS)],
        START_NS + number * STEP_NS,
        "camera",
        f"a {words[0]} {words[1]} next to a {words[2]} {words[3]} and a {words[4]} {words[5]}{rare}",
        tuple(GroundedObject(" ".join(words[i : i + 2]), box) for i in (0, 2, 4)),
        Pose("map", (chosen.uniform(0, 40), chosen.uniform(0, 40), 0.0)),
    )


def fill(location: str, count: int) -> None:
    try:
        held = read_episodes(location).summary().episodes
    except EpisodeError:
        held = 0
    with open_episodes(location, Quota(2**62, float("inf"))) as store:
        for number in range(held, count):
            store.add(episode(number))
            if number % BATCH == 0 and not store.flush(60):
                raise SystemExit(f"cannot be written: {store.status.problem}")
        if not store.flush(60) or store.status.lost:
            raise SystemExit(f"{store.status.lost} episodes were lost: {store.status.problem}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("location", help="file or postgresql:// URL of the store")
    parser.add_argument("--episodes", type=int, default=1_000_000)
    arguments = parser.parse_args()
    fill(arguments.location, arguments.episodes)
    everywhere = EpisodeFilter()
    middle_ns = START_NS + arguments.episodes // 2 * STEP_NS
    near = replace(everywhere, near=Place("map", (20.0, 20.0, 0.0), 3.0))
    searches = {
        "one rare word": ("helicopter", everywhere),
        "two common words": ("red cup", everywhere),
        "five common words": ("red cup blue bottle table", everywhere),
        "two words, within an hour": ("red cup", EpisodeFilter((), middle_ns, middle_ns + 3600 * 10**9)),
        "two words, one camera of four": ("red cup", EpisodeFilter(("/front",))),
        "a word, with an object": ("red", EpisodeFilter(objects=("cup",))),
        "two words, within 3 m": ("red cup", near),
        "the newest within 3 m": ("", near),
    }
    reader = read_episodes(arguments.location)
    print("| search | median, ms |\n| --- | --- |")
    for name, (text, where) in searches.items():
        seconds = []
        for _ in range(REPEATS):
            start_s = time.perf_counter()
            found = reader.search(text, where)
            seconds.append(time.perf_counter() - start_s)
            assert found, name
        print(f"| {name} | {1000 * statistics.median(seconds):.0f} |")


if __name__ == "__main__":
    main()
