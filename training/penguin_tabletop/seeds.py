"""Seeds of the splits, random generators that depend on a seed, and choices by weight."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar

import numpy as np

from penguin_models.errors import TabletopError

T = TypeVar("T")
Random = np.random.Generator
_NUMBER_BITS = 40


class Split(IntEnum):
    """The purpose of a scene. Splits never share a seed: the value is stored in the lowest two bits of the seed."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2

    def seed(self, number: int, base: int = 0) -> int:
        """Returns the seed of a scene; raises TabletopError if the number or the base is out of range.

        The base is the number of a separate family of scenes; families of one split share no seed either.
        """
        if not 0 <= number < 1 << _NUMBER_BITS:
            raise TabletopError(f"scene number {number} must be at least 0 and below 2**{_NUMBER_BITS}")
        if base < 0:
            raise TabletopError(f"base {base} must not be negative")
        return ((base << _NUMBER_BITS) + number) << 2 | self.value


def seeded_random(seed: int, purpose: str) -> Random:
    """Returns a random generator that depends only on the seed and on what the numbers are used for."""
    return np.random.default_rng([*purpose.encode(), seed & 0xFFFFFFFF, seed >> 32])


def choose_weighted(random: Random, weights: Mapping[T, float], count: int = 1, repeat: bool = True) -> list[T]:
    """Returns random items with probabilities in proportion to their weights."""
    items, values = list(weights), np.array(list(weights.values()))
    return [items[index] for index in random.choice(len(items), count, replace=repeat, p=values / values.sum())]
